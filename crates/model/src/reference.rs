//! What a system can follow: branches, commits and container images, in the spellings that
//! `rebase` takes and that origin files hold.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Kinded};

/// A branch, perhaps of a remote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Refspec {
    /// The remote; `None`: a branch of this repository.
    pub remote: Option<String>,
    /// The branch.
    pub branch: String,
}

/// How an image is verified.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verification {
    /// As the containers policy says, which may be: not at all.
    Unverified,
    /// By a containers policy that asks for a signature.
    Policy,
    /// The commit inside, with the keys of an OSTree remote.
    Remote(String),
}

/// Where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// A registry: `docker://` or `registry:`.
    Registry,
    /// A directory in OCI layout: `oci:`.
    Oci,
    /// A tar file of one: `oci-archive:`.
    OciArchive,
    /// What `docker save` writes: `docker-archive:`.
    DockerArchive,
    /// podman's storage: `containers-storage:`.
    ContainersStorage,
    /// A plain directory of blobs: `dir:`.
    Dir,
}

impl Transport {
    const ALL: [(&'static str, Self); 7] = [
        ("docker://", Self::Registry),
        ("registry:", Self::Registry),
        ("oci-archive:", Self::OciArchive),
        ("oci:", Self::Oci),
        ("docker-archive:", Self::DockerArchive),
        ("containers-storage:", Self::ContainersStorage),
        ("dir:", Self::Dir),
    ];

    /// How skopeo spells it, with the separator.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Registry => "docker://",
            Self::Oci => "oci:",
            Self::OciArchive => "oci-archive:",
            Self::DockerArchive => "docker-archive:",
            Self::ContainersStorage => "containers-storage:",
            Self::Dir => "dir:",
        }
    }
}

/// A container image and how it is verified, as `container-image-reference` holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerReference {
    /// How it is verified.
    pub verification: Verification,
    /// Where it comes from.
    pub transport: Transport,
    /// Its name there, with tag or digest.
    pub name: String,
}

impl ContainerReference {
    /// The digest that the reference is pinned to, as `sha256:...`.
    pub fn digest(&self) -> Option<&str> {
        let (_, digest) = self.name.rsplit_once('@')?;
        digest.starts_with("sha256:").then_some(digest)
    }

    /// The image as skopeo spells it, such as `docker://registry.example/a/b:latest`.
    pub fn image(&self) -> String {
        format!("{}{}", self.transport.prefix(), self.name)
    }

    /// The same image at another digest (`sha256:...`) instead of its tag or digest.
    ///
    /// # Errors
    /// When the transport has no digests.
    pub fn at_digest(&self, digest: &str) -> Result<Self, Kinded> {
        if self.transport != Transport::Registry {
            let message = format!("'{self}' is not in a registry, so it has no other digests");
            return Err(invalid(message));
        }
        Ok(Self {
            name: format!("{}@{digest}", self.repository()),
            ..self.clone()
        })
    }

    /// The same image under another tag instead of its tag or digest.
    ///
    /// # Errors
    /// When the transport has no tags, or `tag` can't be one.
    pub fn at_tag(&self, tag: &str) -> Result<Self, Kinded> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let clean = tag.bytes().all(word) && tag.len() <= 128 && !tag.starts_with(['.', '-']);
        if self.transport != Transport::Registry || tag.is_empty() || !clean {
            let tag = show(tag);
            return Err(invalid(format!("'{self}' has no tag '{tag}'")));
        }
        Ok(Self {
            name: format!("{}:{tag}", self.repository()),
            ..self.clone()
        })
    }

    /// The name in a registry without tag and digest.
    fn repository(&self) -> &str {
        let name = self.name.split_once('@').map_or(&*self.name, |(n, _)| n);
        let after_slash = name.rfind('/').map_or(0, |at| at + 1);
        let end = name[after_slash..]
            .find(':')
            .map_or(name.len(), |at| after_slash + at);
        &name[..end]
    }
}

/// What a deployment follows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Follows {
    /// A branch.
    Branch(Refspec),
    /// One commit: it never moves.
    Checksum {
        /// Where it came from.
        remote: Option<String>,
        /// The commit.
        checksum: String,
    },
    /// An image.
    Container(ContainerReference),
}

impl Follows {
    /// The remote, if any.
    pub fn remote(&self) -> Option<&str> {
        match self {
            Self::Branch(refspec) => refspec.remote.as_deref(),
            Self::Checksum { remote, .. } => remote.as_deref(),
            Self::Container(_) => None,
        }
    }
}

/// What `rebase` can be told to go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RebaseTarget {
    /// Something to follow.
    Follow(Follows),
    /// A ref of another repository on this machine: its commit is pulled, and then pinned.
    LocalRepo {
        /// Where the repository is.
        path: String,
        /// The ref or checksum there.
        reference: String,
    },
}

impl RebaseTarget {
    /// Reads what `rebase` was given; parts that are missing are those of `current`.
    ///
    /// # Errors
    /// When it is malformed, or a missing part is not known.
    pub fn parse(text: &str, current: Option<&Follows>) -> Result<Self, Kinded> {
        if text.starts_with('/') {
            let (path, reference) = text.split_once(':').ok_or_else(|| {
                invalid(format!("'{}' lacks a ref", show(text))).with_hint("write PATH:REF")
            })?;
            require_rev(reference)?;
            return Ok(Self::LocalRepo {
                path: path.to_owned(),
                reference: reference.to_owned(),
            });
        }
        if looks_like_container(text) {
            return Ok(Self::Follow(Follows::Container(text.parse()?)));
        }
        let text = text.strip_prefix("ostree://").unwrap_or(text);
        let branch = match current {
            Some(Follows::Branch(refspec)) => Some(refspec.branch.as_str()),
            _ => None,
        };
        let follows = match text.split_once(':') {
            Some((remote, "")) => {
                let branch = branch.ok_or_else(|| {
                    invalid(format!("'{}' lacks a branch", show(text)))
                        .with_hint("write REMOTE:BRANCH")
                })?;
                named(Some(remote), branch)?
            }
            Some(("", branch)) => named(None, branch)?,
            Some((remote, branch)) => named(Some(remote), branch)?,
            None if is_checksum(text) => named(None, text)?,
            None => named(current.and_then(Follows::remote), text)?,
        };
        Ok(Self::Follow(follows))
    }
}

/// A revision for `deploy` and `rebase`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revision {
    /// A commit.
    Checksum(String),
    /// A `version` in the history of the branch.
    Version(String),
    /// Digest of an image's manifest, `sha256:...`.
    Digest(String),
}

impl FromStr for Revision {
    type Err = Kinded;

    fn from_str(text: &str) -> Result<Self, Kinded> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), value),
            None => (String::new(), text),
        };
        let refuse = |what: &str| Err(invalid(format!("'{}' is not {what}", show(value))));
        match key.as_str() {
            "revision" if is_checksum(value) => Ok(Self::Checksum(value.to_owned())),
            "revision" => refuse("a whole commit checksum"),
            "version" if !value.is_empty() => Ok(Self::Version(value.to_owned())),
            "version" => refuse("a version"),
            _ if is_checksum(text) => Ok(Self::Checksum(text.to_owned())),
            _ if text.strip_prefix("sha256:").is_some_and(is_checksum) => {
                Ok(Self::Digest(text.to_owned()))
            }
            _ if text.is_empty() || text.chars().any(char::is_control) => {
                Err(invalid(format!("'{}' is not a revision", show(text))))
            }
            _ => Ok(Self::Version(text.to_owned())),
        }
    }
}

impl fmt::Display for Refspec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(remote) = &self.remote {
            write!(f, "{remote}:")?;
        }
        f.write_str(&self.branch)
    }
}

impl fmt::Display for ContainerReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (image, name) = (self.image(), &self.name);
        let registry = self.transport == Transport::Registry;
        match &self.verification {
            Verification::Unverified if registry => write!(f, "ostree-unverified-registry:{name}"),
            Verification::Unverified => write!(f, "ostree-unverified-image:{image}"),
            Verification::Policy => write!(f, "ostree-image-signed:{image}"),
            Verification::Remote(remote) if registry => {
                write!(f, "ostree-remote-registry:{remote}:{name}")
            }
            Verification::Remote(remote) => write!(f, "ostree-remote-image:{remote}:{image}"),
        }
    }
}

impl fmt::Display for Follows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch(refspec) => refspec.fmt(f),
            Self::Checksum { remote, checksum } => {
                if let Some(remote) = remote {
                    write!(f, "{remote}:")?;
                }
                f.write_str(checksum)
            }
            Self::Container(reference) => reference.fmt(f),
        }
    }
}

impl FromStr for ContainerReference {
    type Err = Kinded;

    fn from_str(text: &str) -> Result<Self, Kinded> {
        let malformed = |why: &str| {
            invalid(format!("image reference '{}' {why}", show(text))).with_hint(
                "write ostree-unverified-registry:NAME or ostree-image-signed:docker://NAME",
            )
        };
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| malformed("lacks a scheme"))?;
        let (verification, image) = match scheme {
            "ostree-unverified-image" | "ostree-unverified-registry" => {
                (Verification::Unverified, rest)
            }
            "ostree-image-signed" => (Verification::Policy, rest),
            "ostree-remote-image" | "ostree-remote-registry" => {
                let (remote, image) = rest
                    .split_once(':')
                    .ok_or_else(|| malformed("lacks a remote"))?;
                require_remote(remote)?;
                (Verification::Remote(remote.to_owned()), image)
            }
            _ => return Err(malformed("has an unknown scheme")),
        };
        let (transport, name) = if scheme.ends_with("-registry") {
            (Transport::Registry, image)
        } else {
            Transport::ALL
                .iter()
                .find_map(|(prefix, transport)| Some((*transport, image.strip_prefix(prefix)?)))
                .ok_or_else(|| malformed("has an unknown transport"))?
        };
        if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(malformed("lacks a clean name"));
        }
        let digest = name.split_once('@').map(|(_, digest)| digest);
        let registry = transport == Transport::Registry;
        if name.starts_with('-') || registry && digest.is_some_and(|d| !is_digest(d)) {
            return Err(malformed("has a malformed name or digest"));
        }
        Ok(Self {
            verification,
            transport,
            name: name.to_owned(),
        })
    }
}

impl FromStr for Follows {
    type Err = Kinded;

    /// Reads what an origin file has in `refspec`, `baserefspec` or `container-image-reference`.
    fn from_str(text: &str) -> Result<Self, Kinded> {
        if looks_like_container(text) {
            return text.parse().map(Self::Container);
        }
        let text = text.strip_prefix("ostree://").unwrap_or(text);
        match text.split_once(':') {
            Some((remote, branch)) => named(Some(remote), branch),
            None => named(None, text),
        }
    }
}

impl Serialize for ContainerReference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContainerReference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether `text` is a whole commit checksum.
pub fn is_checksum(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_checksum)
}

fn looks_like_container(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with("ostree-")
            && (scheme.ends_with("-image")
                || scheme.ends_with("-registry")
                || scheme == "ostree-image-signed")
    })
}

fn named(remote: Option<&str>, name: &str) -> Result<Follows, Kinded> {
    if let Some(remote) = remote {
        require_remote(remote)?;
    }
    let remote = remote.map(str::to_owned);
    if is_checksum(name) {
        let checksum = name.to_owned();
        return Ok(Follows::Checksum { remote, checksum });
    }
    require_rev(name)?;
    let branch = name.to_owned();
    Ok(Follows::Branch(Refspec { remote, branch }))
}

/// Refuses what libostree would not take as a remote, or take as something else.
fn require_remote(name: &str) -> Result<(), Kinded> {
    if is_ref_part(name) {
        return Ok(());
    }
    Err(invalid(format!(
        "'{}' is not the name of a remote",
        show(name)
    )))
}

/// Refuses what libostree would not take as a ref.
fn require_rev(name: &str) -> Result<(), Kinded> {
    if name.len() < 256 && name.split('/').all(is_ref_part) {
        return Ok(());
    }
    Err(invalid(format!("'{}' is not a branch", show(name))))
}

fn is_ref_part(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    part.bytes().all(word) && part.bytes().next().is_some_and(|b| b != b'.' && b != b'-')
}

fn invalid(message: String) -> Kinded {
    Kinded::new(ErrorKind::InvalidInput, message)
}

/// The text for a message: short and without control characters.
fn show(text: &str) -> String {
    let shown: String = text.chars().take(120).collect();
    shown.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn rebase(text: &str, current: &str) -> Result<String, Kinded> {
        let current: Option<Follows> = (!current.is_empty()).then(|| current.parse().unwrap());
        match RebaseTarget::parse(text, current.as_ref())? {
            RebaseTarget::Follow(follows) => Ok(follows.to_string()),
            RebaseTarget::LocalRepo { path, reference } => Ok(format!("repo {path} {reference}")),
        }
    }

    #[test]
    fn all_forms_of_a_ref_are_taken() {
        let now = "origin:debian/13";
        for (text, expected) in [
            ("other:debian/14", "other:debian/14"),
            ("other:", "other:debian/13"),
            (":local/x", "local/x"),
            ("debian/14", "origin:debian/14"),
            ("ostree://other:debian/14", "other:debian/14"),
            (SUM, SUM),
            (&format!(":{SUM}"), SUM),
            (&format!("other:{SUM}"), &format!("other:{SUM}")),
            ("/srv/repo:debian/14", "repo /srv/repo debian/14"),
        ] {
            assert_eq!(rebase(text, now).unwrap(), expected, "{text}");
        }
        assert_eq!(rebase("debian/14", "").unwrap(), "debian/14");
        assert_eq!(rebase("debian/14", "debian/13").unwrap(), "debian/14");
        let error = rebase("other:", "").unwrap_err();
        assert_eq!(error.message, "'other:' lacks a branch");
    }

    #[test]
    fn what_is_no_ref_is_refused() {
        for bad in [
            "",
            ":",
            "a b",
            "-x",
            "a//b",
            "../x",
            "a:b:c",
            "r\n:x",
            "/srv/repo",
            "/srv/repo:-x",
            "x/.hidden",
        ] {
            assert!(rebase(bad, "origin:debian/13").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn image_references_are_what_ostree_ext_writes() {
        for (text, written) in [
            ("ostree-unverified-registry:registry.example/a/b:1", ""),
            (
                "ostree-unverified-image:docker://registry.example/a/b",
                "ostree-unverified-registry:registry.example/a/b",
            ),
            (
                "ostree-unverified-image:registry:registry.example/a/b",
                "ostree-unverified-registry:registry.example/a/b",
            ),
            ("ostree-unverified-image:oci:/srv/x:latest", ""),
            ("ostree-unverified-image:oci-archive:/srv/x.tar", ""),
            (
                "ostree-unverified-image:containers-storage:localhost/x:1",
                "",
            ),
            ("ostree-image-signed:docker://registry.example/a/b:1", ""),
            ("ostree-remote-registry:origin:registry.example/a/b", ""),
            (
                "ostree-remote-image:origin:docker://registry.example/a/b",
                "ostree-remote-registry:origin:registry.example/a/b",
            ),
            ("ostree-remote-image:origin:oci:/x", ""),
        ] {
            let reference: ContainerReference = text.parse().unwrap();
            let written = if written.is_empty() { text } else { written };
            assert_eq!(reference.to_string(), written);
            assert_eq!(rebase(text, "").unwrap(), written);
            let json = serde_json::to_string(&reference).unwrap();
            assert_eq!(
                serde_json::from_str::<ContainerReference>(&json).unwrap(),
                reference
            );
        }
    }

    #[test]
    fn what_is_no_image_reference_is_refused() {
        for bad in [
            "ostree-unverified-image:registry.example/a/b",
            "ostree-unverified-registry:",
            "ostree-unverified-registry:a b",
            "ostree-unverified-registry:-x",
            "ostree-unverified-registry:a@sha256:00",
            "ostree-remote-registry:registry.example/a/b",
            "ostree-remote-registry:-o:registry.example",
            "docker://registry.example/a/b",
            "x",
        ] {
            assert!(bad.parse::<ContainerReference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_tag() {
        let digest = format!("sha256:{SUM}");
        let at = |name: &str| {
            let text = format!("ostree-unverified-registry:{name}");
            let reference: ContainerReference = text.parse().unwrap();
            reference.at_digest(&digest).unwrap()
        };
        for name in [
            "h:5000/a/b:1",
            "h:5000/a/b",
            &format!("h:5000/a/b@{digest}"),
        ] {
            assert_eq!(at(name).name, format!("h:5000/a/b@{digest}"));
        }
        assert_eq!(at("a").digest(), Some(&*digest));
    }

    #[test]
    fn a_tag_takes_the_place_of_the_tag() {
        let reference = |text: &str| text.parse::<ContainerReference>().unwrap();
        let registry = reference("ostree-unverified-registry:h:5000/a/b:1");
        assert_eq!(registry.at_tag("13.2").unwrap().name, "h:5000/a/b:13.2");
        for bad in ["", "-x", ".x", "a/b", "a@b", "a b"] {
            assert!(registry.at_tag(bad).is_err(), "{bad}");
        }
        assert!(
            reference("ostree-unverified-image:oci:/x")
                .at_tag("1")
                .is_err()
        );
    }

    #[test]
    fn revisions_are_told_apart() {
        let revision = |text: &str| text.parse::<Revision>();
        assert_eq!(revision(SUM).unwrap(), Revision::Checksum(SUM.to_owned()));
        let named = format!("Revision={SUM}");
        assert_eq!(
            revision(&named).unwrap(),
            Revision::Checksum(SUM.to_owned())
        );
        assert_eq!(
            revision("VERSION=13.2").unwrap(),
            Revision::Version("13.2".to_owned())
        );
        assert_eq!(
            revision("13.2").unwrap(),
            Revision::Version("13.2".to_owned())
        );
        let digest = format!("sha256:{SUM}");
        assert_eq!(revision(&digest).unwrap(), Revision::Digest(digest.clone()));
        for bad in ["", "revision=abc", "version=", "a\nb"] {
            assert!(revision(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused_and_what_is_read_is_written_the_same(text in "\\PC{0,40}") {
            if let Ok(follows) = text.parse::<Follows>() {
                prop_assert_eq!(follows.to_string().parse::<Follows>().unwrap(), follows);
            }
        }

        #[test]
        fn refspecs_round_trip(remote in proptest::option::of("[a-z0-9_][a-z0-9_.-]{0,8}"), branch in "[a-z0-9_][a-z0-9_.]{0,8}(/[a-z0-9_][a-z0-9]{0,4}){0,3}") {
            let refspec = Follows::Branch(Refspec { remote, branch });
            prop_assert_eq!(refspec.to_string().parse::<Follows>().unwrap(), refspec);
        }
    }
}
