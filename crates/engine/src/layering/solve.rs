//! Which packages are added.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use apt_ostree_apt::{Additions, AptConfig, BaseSpec, MachineSources, Session, SolveSpec};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::{ErrorKind, Kinded, PackageName, PlannedPackage, Sha256Digest, Step};
use apt_ostree_treefile::spec::PackageRequest;
use camino::{Utf8Path, Utf8PathBuf};

use super::base::Base;
use super::machine::Machine;
use super::{LayerJob, LocalDeb};
use crate::compose::context::Run;

/// What the solver decided.
pub(super) struct Chosen {
    /// The session that can fetch it.
    pub(super) session: Session,
    /// Its decision.
    pub(super) additions: Additions,
    /// Requests that the base does not satisfy, sorted.
    pub(super) active: Vec<String>,
    /// Requests that it satisfies, sorted.
    pub(super) inactive: Vec<String>,
    /// Digests of all `.deb` files that were asked for.
    pub(super) local: BTreeSet<Sha256Digest>,
    /// Digests of those that may replace files of other packages.
    pub(super) replacing: BTreeSet<Sha256Digest>,
}

impl Chosen {
    /// True when the base is all that was asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.additions.plan.packages.is_empty() && self.additions.changes.is_empty()
    }

    /// Packages that take the place of base packages, by name.
    pub(super) fn replaces(&self, name: &PackageName) -> bool {
        let mut changes = self.additions.changes.iter();
        changes.any(|change| {
            let bare = change.name.split(':').next().unwrap_or_default();
            change.new.is_some() && bare == name.as_str()
        })
    }

    /// Whether dpkg itself unpacks a package: it replaces one of the base, or files of others.
    pub(super) fn is_unpacked_by_dpkg(&self, package: &PlannedPackage) -> bool {
        self.replaces(&package.name) || self.replacing.contains(&package.sha256)
    }

    /// How packages differ from those of the base.
    pub(super) fn pkgdiff(&self) -> Vec<PackageDiff> {
        let plan = &self.additions.plan;
        let mut diff: BTreeMap<String, PackageDiff> = BTreeMap::new();
        for package in &plan.packages {
            let name = package.display_name(&plan.arch);
            let new = Some((package.version.to_string(), package.arch.to_string()));
            let previous = None;
            diff.insert(
                name.clone(),
                PackageDiff {
                    name,
                    previous,
                    new,
                },
            );
        }
        for change in &self.additions.changes {
            let entry = diff
                .entry(change.name.clone())
                .or_insert_with(|| PackageDiff {
                    name: change.name.clone(),
                    previous: None,
                    new: None,
                });
            let arch = entry.new.as_ref().map(|(_, arch)| arch.clone());
            let arch = arch.unwrap_or_else(|| plan.arch.to_string());
            entry.previous = Some((change.version.clone(), arch));
        }
        diff.into_values().collect()
    }
}

/// Where the `.deb` files of a run are.
pub(super) fn debs_dir(run: &Run<'_>) -> Utf8PathBuf {
    run.cachedir.join("debs")
}

/// Chooses packages from the machine's own sources.
pub(super) fn choose(run: &Run<'_>, job: &LayerJob<'_>, base: &Base) -> Result<Chosen> {
    let requests = parse_requests(job.packages)?;
    let local = keep_local(run, job.local)?;
    let local_replacing = keep_local(run, job.local_replacing)?;
    let replace_local = keep_local(run, job.replace_local)?;
    let paths = |files: &BTreeMap<Sha256Digest, Utf8PathBuf>| files.values().cloned().collect();
    let machine = Machine {
        etc: job.etc,
        tree: &base.commit.tree,
        store: &run.store,
    };
    let sources = MachineSources::load(&machine, &run.cachedir.join("keys"), run.reporter)?;
    let mut all = local.clone();
    all.extend(local_replacing.clone());
    all.extend(replace_local.clone());
    let spec = SolveSpec {
        arch: base.arch.clone(),
        repos: sources.repos,
        lockfile_repos: Vec::new(),
        packages: requests.values().cloned().collect(),
        repo_packages: Vec::new(),
        exclude_packages: BTreeSet::new(),
        pins: Vec::new(),
        local_packages: paths(&all),
        recommends: job.recommends.unwrap_or_else(|| base.recommends()),
        preferences: sources.preferences,
        base: Some(BaseSpec {
            status: base.status.clone(),
            extended_states: base.extended_states.clone(),
            foreign: base.foreign.clone(),
            remove: parse_names(job.remove)?,
            replace: parse_replacements(job.replace)?,
            replace_local: paths(&replace_local),
        }),
    };
    let config = AptConfig {
        spec,
        state_dir: run.cachedir.join("apt"),
        debs_dir: debs_dir(run),
        mirror: None,
        proxy: None,
        offline: job.cache_only,
        lock: None,
    };
    let (session, additions) = solve(run, config)?;
    let frozen = frozen(&additions, job.freeze)?;
    let (inactive, active) = requests
        .into_iter()
        .partition::<BTreeMap<_, _>, _>(|(_, request)| additions.inactive.contains(request));
    Ok(Chosen {
        session,
        additions,
        active: active.into_keys().collect(),
        inactive: inactive.into_keys().collect(),
        local: all.into_keys().chain(frozen).collect(),
        replacing: local_replacing.into_keys().collect(),
    })
}

fn solve(run: &Run<'_>, config: AptConfig) -> Result<(Session, Additions)> {
    let mut session = Session::open(config, run.reporter)?;
    run.reporter.step(Step::Update, || {
        let state = session.update(run.reporter)?;
        Ok::<_, anyhow::Error>(((), format!("{} sources", state.sources.len())))
    })?;
    let additions = run.reporter.step(Step::Solve, || {
        let additions = session.solve_on_base(run.reporter)?;
        let summary = format!(
            "{} packages added, {} of the base changed",
            additions.plan.packages.len(),
            additions.changes.len()
        );
        Ok::<_, anyhow::Error>((additions, summary))
    })?;
    Ok((session, additions))
}

fn usage(message: String) -> anyhow::Error {
    Kinded::new(ErrorKind::Usage, message).into()
}

/// The requests by their text.
fn parse_requests(texts: &[String]) -> Result<BTreeMap<String, PackageRequest>> {
    let parse = |text: &String| match apt_ostree_treefile::parse_request(text) {
        Ok(request @ PackageRequest::Package { .. }) => Ok((text.clone(), request)),
        Ok(_) => Err(usage(format!("'{text}' is not one package"))),
        Err(why) => Err(usage(why)),
    };
    texts.iter().map(parse).collect()
}

/// `NAME/SUITE` or `NAME/origin=ORIGIN`.
fn parse_replacements(texts: &[String]) -> Result<Vec<PackageRequest>> {
    let mut requests = Vec::new();
    for text in texts {
        match text.split_once("/origin=") {
            Some((name, origin)) => requests.push(PackageRequest::Package {
                name: name
                    .parse::<PackageName>()
                    .map_err(|error| usage(error.to_string()))?,
                arch: None,
                version: None,
                suite: Some(format!("origin={origin}")),
            }),
            None => requests.extend(parse_requests(std::slice::from_ref(text))?.into_values()),
        }
    }
    Ok(requests)
}

/// The digests of what the names to freeze came to.
fn frozen(additions: &Additions, names: &[String]) -> Result<Vec<Sha256Digest>> {
    let planned = |name: &String| {
        let mut packages = additions.plan.packages.iter();
        let package = packages.find(|p| p.name.as_str() == name);
        package.map(|p| p.sha256).ok_or_else(|| {
            let message = format!("the base has that version of '{name}' already");
            Kinded::new(ErrorKind::Unsatisfiable, message)
                .with_hint("nothing needs to be replaced")
                .into()
        })
    };
    names.iter().map(planned).collect()
}

fn parse_names(texts: &[String]) -> Result<Vec<PackageName>> {
    let parse = |text: &String| {
        text.parse::<PackageName>()
            .map_err(|error| usage(error.to_string()))
    };
    texts.iter().map(parse).collect()
}

/// Keeps `.deb` files by their digest, where later runs find them without their old place.
fn keep_local(run: &Run<'_>, files: &[LocalDeb]) -> Result<BTreeMap<Sha256Digest, Utf8PathBuf>> {
    let dir = debs_dir(run);
    std::fs::create_dir_all(&dir).with_context(|| format!("creating '{dir}'"))?;
    files.iter().map(|file| keep(&dir, file)).collect()
}

fn keep(dir: &Utf8Path, file: &LocalDeb) -> Result<(Sha256Digest, Utf8PathBuf)> {
    let Some(path) = &file.path else {
        let digest = file
            .sha256
            .context("a local package has neither path nor digest")?;
        let kept = dir.join(format!("{digest}.deb"));
        if kept.is_file() {
            return Ok((digest, kept));
        }
        let message = format!("the local package with SHA-256 {digest} is no longer there");
        return Err(Kinded::new(ErrorKind::InvalidInput, message)
            .with_hint("install the file again, or uninstall the package")
            .into());
    };
    let failed = || format!("reading package '{path}'");
    // A copy that nobody else can change, then its digest.
    let mut copy = tempfile::NamedTempFile::new_in(dir)?;
    let mut from = std::fs::File::open(path).with_context(failed)?;
    if !from.metadata().with_context(failed)?.is_file() {
        let message = format!("'{path}' is not a regular file");
        return Err(Kinded::new(ErrorKind::InvalidPackage, message).into());
    }
    std::io::copy(&mut from, copy.as_file_mut()).with_context(failed)?;
    let temporary = Utf8Path::from_path(copy.path()).context("a temporary name is not UTF-8")?;
    let (digest, _) = apt_ostree_fsx::sha256_file(temporary)?;
    if let Some(wanted) = file.sha256.filter(|wanted| *wanted != digest) {
        let message = format!("'{path}' has SHA-256 {digest}, not {wanted}");
        return Err(Kinded::new(ErrorKind::Verification, message).into());
    }
    let kept = dir.join(format!("{digest}.deb"));
    copy.as_file().sync_all()?;
    copy.persist(&kept)
        .with_context(|| format!("keeping '{path}' as '{kept}'"))?;
    Ok((digest, kept))
}
