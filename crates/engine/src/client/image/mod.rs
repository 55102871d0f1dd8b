//! Bases that come from container images.

mod import;
mod local;
mod prune;

use anyhow::Result;
use apt_ostree_fsx::escape_cut;
use apt_ostree_model::client::UpdateRequest;
use apt_ostree_model::reference::{ContainerReference, Revision, Transport};
use apt_ostree_model::{Arch, ErrorKind, Kinded, Reporter, Step};
use apt_ostree_oci::pull::{Policy, RemoteImage, Skopeo};
use apt_ostree_store::TargetRepo;

pub(super) use prune::drop_unused;

use super::system::System;
use crate::compose::context::Run;
use local::Pulled;

/// An image that was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Its commit; `None` when it was only looked at.
    pub(super) commit: Option<String>,
    /// Its digest.
    pub(super) digest: String,
    /// The version in its labels.
    pub(super) version: Option<String>,
    /// Bytes that were fetched.
    pub(super) fetched: u64,
}

/// What to look for.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub(super) system: &'a System,
    /// The image that the system follows, or will.
    pub(super) reference: &'a ContainerReference,
    pub(super) request: &'a UpdateRequest,
    /// When the deployed base was made; older images are refused before they are fetched.
    pub(super) not_before: u64,
    pub(super) reporter: &'a dyn Reporter,
}

impl Search<'_> {
    /// The newest image under the reference. One that is deployed under it is not looked at again.
    pub(super) fn newest(&self) -> Result<Found> {
        if self.request.options.cache_only {
            let pulled = local::newest(self)?;
            return Ok(pulled.ok_or_else(|| self.not_here())?.found());
        }
        self.pull(self.reference, |_| Ok(()))
    }

    /// A certain image. The reference of the origin is kept.
    pub(super) fn revision(&self, revision: &Revision) -> Result<Found> {
        if let Some(pulled) = local::revision(self, revision)? {
            return Ok(pulled.found());
        }
        if self.request.options.cache_only {
            return Err(self.not_here().into());
        }
        match revision {
            Revision::Checksum(checksum) => {
                let message = format!("commit {checksum} is no image of this system");
                Err(invalid(message)
                    .with_hint("name the digest or the version of an image")
                    .into())
            }
            Revision::Digest(digest) => {
                let registry = self.reference.transport == Transport::Registry;
                let source = if registry {
                    self.reference.at_digest(digest)?
                } else {
                    self.reference.clone()
                };
                self.pull(&source, |image| {
                    // A registry serves what is asked for, which may be a list that has it.
                    if registry || image.digest.to_oci() == *digest {
                        return Ok(());
                    }
                    let found = image.digest.to_oci();
                    let message = format!("'{}' is {found}, not {digest}", self.reference);
                    Err(invalid(message).into())
                })
            }
            Revision::Version(version) => self.pull_version(version),
        }
    }

    /// The image whose tag is its version.
    fn pull_version(&self, version: &str) -> Result<Found> {
        let shown = escape_cut(version, 80);
        let source = self.reference.at_tag(version).map_err(|_| {
            invalid(format!("no image with version '{shown}' is in this system"))
                .with_hint("name the digest of an image: sha256:...")
        })?;
        self.pull(&source, |image| {
            if image.version() == Some(version) {
                return Ok(());
            }
            let found = image.version().unwrap_or("none");
            let found = escape_cut(found, 80);
            let message = format!("the image with tag '{shown}' has version '{found}'");
            Err(invalid(message)
                .with_hint("name the digest of an image: sha256:...")
                .into())
        })
    }

    /// Looks at an image and, when the request is for more than that, imports it.
    fn pull(
        &self,
        source: &ContainerReference,
        accept: impl FnOnce(&RemoteImage) -> Result<()>,
    ) -> Result<Found> {
        Policy::load()?.require_signatures(self.reference)?;
        let repo = self.system.sysroot.repo_path();
        self.reporter.step(Step::Pull, || {
            let found = Run::within_system(&repo, self.reporter, |run| {
                let mut skopeo = Skopeo::open(source, run.work.path())?;
                let image = skopeo.image()?;
                accept(&image)?;
                self.take(source, &mut skopeo, &image, run)
            })?;
            let summary = found.digest.clone();
            Ok((found, summary))
        })
    }

    fn take(
        &self,
        source: &ContainerReference,
        skopeo: &mut Skopeo,
        image: &RemoteImage,
        run: &Run<'_>,
    ) -> Result<Found> {
        if let Some(pulled) = local::deployed(self, &image.digest.to_oci())? {
            return Ok(pulled.found());
        }
        require_fitting(self.reference, image)?;
        let made = image.created.unwrap_or(u64::MAX);
        if made < self.not_before {
            let what = format!("image {}", image.digest.to_oci());
            return Err(super::base::older(&what, made, self.not_before)?.into());
        }
        Policy::check(source, image, run.work.path())?;
        let repo = TargetRepo::open(run.store.path())?;
        let import = import::Import {
            reference: self.reference,
            image,
            run,
            repo: &repo,
            known: local::layers(self)?,
        };
        let mut found = Found {
            commit: None,
            digest: image.digest.to_oci(),
            version: image.version().map(str::to_owned),
            fetched: 0,
        };
        if self.request.check || self.request.preview {
            import.announce()?;
            return Ok(found);
        }
        let (commit, fetched) = import.run(skopeo)?;
        found.commit = Some(commit);
        found.fetched = fetched;
        Ok(found)
    }

    fn not_here(&self) -> Kinded {
        let message = format!("image '{}' is not in this system", self.reference);
        invalid(message).with_hint("fetch it without --cache-only")
    }
}

impl Pulled {
    fn found(self) -> Found {
        Found {
            digest: self.digest,
            version: self.commit.version.clone(),
            commit: Some(self.commit.checksum),
            fetched: 0,
        }
    }
}

/// Refuses an image that this machine can't boot.
fn require_fitting(reference: &ContainerReference, image: &RemoteImage) -> Result<()> {
    if !image.is_bootable() {
        let message = format!("image '{}' can't be booted", reference.image());
        return Err(invalid(message)
            .with_hint("an image to boot has the label containers.bootc")
            .into());
    }
    let host = Arch::host();
    let (wanted, _) = host.oci();
    if image.architecture != wanted {
        let found = escape_cut(&image.architecture, 40);
        let message = format!(
            "image '{}' is for architecture '{found}', this machine is {wanted}",
            reference.image()
        );
        return Err(invalid(message).into());
    }
    Ok(())
}

fn invalid(message: impl Into<String>) -> Kinded {
    Kinded::new(ErrorKind::InvalidInput, message)
}
