//! From a treefile to a plan: load, refresh, solve, hash.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use apt_ostree_apt::{AptConfig, Lock, Session};
use apt_ostree_model::compose::InstallOptions;
use apt_ostree_model::{
    Arch, ErrorKind, IdLock, Kinded, Plan, PlannedPackage, Sha256Digest, Step, Tree,
};
use apt_ostree_treefile::spec::IdCheck;
use apt_ostree_treefile::{ComposeSpec, DirLoader, LoadOptions};

use super::context::{Run, utf8};
use super::inputs;
use super::layers::Layers;
use super::previous::Previous;
use crate::content;
use crate::rootfs::dpkgdb;

/// Everything that decides the tree.
pub(super) struct Resolved {
    /// The treefile.
    pub(super) spec: ComposeSpec,
    /// The packages.
    pub(super) plan: Plan,
    /// Ids to keep.
    pub(super) ids: IdLock,
    /// Hash over all of it.
    pub(super) inputhash: String,
    /// Trees merged before and over the packages.
    pub(super) layers: Layers,
    /// Run every script again even when a cached state would do.
    pub(super) force: bool,
    /// The libapt session that can fetch the plan; `None` for a root that exists.
    pub(super) session: Option<Session>,
}

/// Reads and checks the treefile.
pub(super) fn load(
    run: &Run<'_>,
    treefile: &Path,
    options: &InstallOptions,
) -> Result<ComposeSpec> {
    run.reporter.step(Step::Load, || {
        let path = utf8(treefile)?;
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(
                Kinded::new(ErrorKind::Usage, format!("'{path}' is not a file name")).into(),
            );
        };
        let host_arch = Arch::host();
        let arch = options
            .arch
            .as_deref()
            .map(str::parse::<Arch>)
            .transpose()?;
        let mut load = LoadOptions::new(host_arch);
        load.arch = arch;
        load.variables.clone_from(&options.variables);
        load.source_root = options.source_root.as_deref().map(utf8).transpose()?;
        let spec = apt_ostree_treefile::load(&DirLoader::new(dir), name, &load)
            .map_err(|e| invalid_treefile(&e))?;
        for warning in &spec.warnings {
            run.reporter.warning(warning.clone());
        }
        let summary = format!("{} packages requested", spec.packages.len());
        Ok::<_, anyhow::Error>((spec, summary))
    })
}

fn invalid_treefile(error: &apt_ostree_treefile::TreefileError) -> anyhow::Error {
    Kinded::new(ErrorKind::InvalidInput, error.to_string()).into()
}

/// Chooses packages.
pub(super) fn resolve(
    run: &Run<'_>,
    spec: ComposeSpec,
    options: &InstallOptions,
    previous: &Previous,
    layer_repo: Option<&Path>,
) -> Result<Resolved> {
    let lock = lock(options)?;
    let layers = Layers::load(run, &spec, layer_repo)?;
    let ids = ids(&spec, lock.as_ref(), previous, run)?;
    let (plan, session) = solve(run, &spec, options, lock)?;
    let inputhash = inputs::input_hash(&spec, &plan, &layers.checksums)?;
    Ok(Resolved {
        spec,
        plan,
        ids,
        inputhash,
        layers,
        force: options.force_nocache,
        session: Some(session),
    })
}

fn lock(options: &InstallOptions) -> Result<Option<Lock>> {
    if options.lockfiles.is_empty() {
        if options.lockfile_strict {
            let error = Kinded::new(ErrorKind::Usage, "--lockfile-strict needs --lockfile");
            return Err(error.into());
        }
        return Ok(None);
    }
    let paths = options
        .lockfiles
        .iter()
        .map(|p| utf8(p))
        .collect::<Result<Vec<_>>>()?;
    Ok(Some(Lock::load(&paths, options.lockfile_strict)?))
}

fn solve(
    run: &Run<'_>,
    spec: &ComposeSpec,
    options: &InstallOptions,
    lock: Option<Lock>,
) -> Result<(Plan, Session)> {
    let config = AptConfig {
        spec: spec.into(),
        state_dir: run.cachedir.join("apt"),
        debs_dir: run.cachedir.join("debs"),
        mirror: options.mirror.clone(),
        proxy: options.proxy.clone(),
        offline: options.offline,
        lock,
    };
    let mut session = Session::open(config, run.reporter)?;
    run.reporter.step(Step::Update, || {
        let state = session.update(run.reporter)?;
        Ok::<_, anyhow::Error>(((), format!("{} sources", state.sources.len())))
    })?;
    let plan = run.reporter.step(Step::Solve, || {
        let plan = session.solve(run.reporter)?;
        let summary = format!("{} packages", plan.packages.len());
        Ok::<_, anyhow::Error>((plan, summary))
    })?;
    Ok((plan, session))
}

/// The ids to keep: the lockfile's, the treefile's, and those of the previous commit, the first
/// one winning.
fn ids(
    spec: &ComposeSpec,
    lock: Option<&Lock>,
    previous: &Previous,
    run: &Run<'_>,
) -> Result<IdLock> {
    let mut ids = lock.and_then(|l| l.ids().cloned()).unwrap_or_default();
    let mut add = |other: IdLock| {
        for (name, account) in other.users {
            ids.users.entry(name).or_insert(account);
        }
        for (name, gid) in other.groups {
            ids.groups.entry(name).or_insert(gid);
        }
    };
    for check in [&spec.ids.check_passwd, &spec.ids.check_groups] {
        if let IdCheck::Fixed(fixed) = check {
            add(fixed.clone());
        }
    }
    if spec.ids.preserve
        && let Some(previous) = &previous.ids
    {
        add(previous.clone());
    }
    if !ids.users.is_empty() || !ids.groups.is_empty() {
        run.reporter.detail(format!(
            "keeping the ids of {} users and {} groups",
            ids.users.len(),
            ids.groups.len()
        ));
    }
    Ok(ids)
}

/// Writes `--write-lockfile-to`, with the ids that `tree` uses.
pub(super) fn write_lockfile(
    resolved: &Resolved,
    tree: &Tree,
    run: &Run<'_>,
    options: &InstallOptions,
) -> Result<()> {
    if options.write_lockfile_to.is_none() {
        return Ok(());
    }
    let ids = crate::postprocess::id_lock(tree, &run.store)?;
    write_lock(resolved, Some(&ids), options)
}

/// Writes `--write-lockfile-to` of a run that ends before there are ids: those to keep are known.
pub(super) fn write_plan_lockfile(resolved: &Resolved, options: &InstallOptions) -> Result<()> {
    let known = !resolved.ids.users.is_empty() || !resolved.ids.groups.is_empty();
    write_lock(resolved, known.then_some(&resolved.ids), options)
}

fn write_lock(resolved: &Resolved, ids: Option<&IdLock>, options: &InstallOptions) -> Result<()> {
    let Some(path) = &options.write_lockfile_to else {
        return Ok(());
    };
    let text = apt_ostree_apt::lock::to_json(&resolved.plan, ids)?;
    apt_ostree_fsx::write_atomic(&utf8(path)?, text.as_bytes(), 0o644)?;
    Ok(())
}

impl Resolved {
    /// A root directory that exists: its packages come from its dpkg database.
    pub(super) fn of_rootdir(run: &Run<'_>, spec: ComposeSpec, tree: &Tree) -> Result<Self> {
        let plan = plan_of_rootdir(run, Some(&spec), tree)?;
        let ids = IdLock::default();
        let hash = inputs::input_hash(&spec, &plan, &[])?;
        let content = run.store.content_checksum(tree)?;
        let inputhash = hex::encode(openssl::sha::sha256(format!("{hash} {content}").as_bytes()));
        Ok(Self {
            spec,
            plan,
            ids,
            inputhash,
            layers: Layers::default(),
            force: false,
            session: None,
        })
    }

    /// The repositories as the image's own apt sources.
    pub(super) fn image_sources(&self) -> Result<Vec<crate::postprocess::AptSource>> {
        let sources = self
            .session
            .as_ref()
            .map(Session::image_sources)
            .unwrap_or_default();
        let loaded = sources
            .iter()
            .map(|s| crate::postprocess::AptSource::load(&s.repo, &s.url));
        loaded.filter_map(Result::transpose).collect()
    }
}

/// The installed packages of a root, as far as its dpkg database tells.
pub(super) fn plan_of_rootdir(
    run: &Run<'_>,
    spec: Option<&ComposeSpec>,
    tree: &Tree,
) -> Result<Plan> {
    let arch = match spec {
        Some(spec) => spec.arch.clone(),
        None => Arch::host(),
    };
    let status = status_text(run, tree)?;
    let mut packages: Vec<PlannedPackage> = status
        .split("\n\n")
        .filter_map(planned_from_stanza)
        .collect();
    packages.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    Ok(Plan {
        arch,
        packages,
        sources: Vec::new(),
    })
}

/// The text of the tree's dpkg status, wherever the database is.
fn status_text(run: &Run<'_>, tree: &Tree) -> Result<String> {
    for dir in [dpkgdb::ADMIN_DIR, "usr/lib/sysimage/dpkg"] {
        let path = format!("{dir}/status");
        if tree.file(&path).is_some() {
            return content::read_text(tree, &run.store, &path);
        }
    }
    Ok(String::new())
}

/// An installed package, from its stanza in `status`; the hash is that of the stanza.
fn planned_from_stanza(stanza: &str) -> Option<PlannedPackage> {
    let field = |name: &str| {
        let value = |line: &str| {
            line.strip_prefix(name)?
                .strip_prefix(": ")
                .map(str::to_owned)
        };
        stanza.lines().find_map(value)
    };
    if field("Status").as_deref() != Some("install ok installed") {
        return None;
    }
    let (name, version) = (field("Package")?, field("Version")?);
    let source = field("Source").unwrap_or_else(|| name.clone());
    let (source, source_version) = match source.split_once(" (") {
        Some((source, version)) => (source.to_owned(), version.trim_end_matches(')').to_owned()),
        None => (source, version.clone()),
    };
    Some(PlannedPackage {
        name: name.parse().ok()?,
        version: version.parse().ok()?,
        arch: field("Architecture")?.parse().ok()?,
        sha256: Sha256Digest::new(openssl::sha::sha256(stanza.as_bytes())),
        size: 0,
        installed_size: field("Installed-Size")
            .and_then(|s| s.parse().ok())
            .unwrap_or_default(),
        source,
        source_version,
        repo: String::new(),
        uri: String::new(),
        auto: false,
        essential: field("Essential").as_deref() == Some("yes"),
        group: 0,
        fields: BTreeMap::new(),
    })
}
