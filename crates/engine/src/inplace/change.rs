//! `install`, `uninstall`, `override`, `refresh-md`, `cleanup -m` and `search` in a container.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use apt_ostree_apt::{AptConfig, BaseSpec, Find, MachineFiles, MachineSources, Session, SolveSpec};
use apt_ostree_fsx::Cmd;
use apt_ostree_model::client::{
    BaseChange, CleanupRequest, ClientOutcome, DeployReport, UpdateRequest,
};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::query::{Query, QueryRequest};
use apt_ostree_model::{Arch, ContentReader, ErrorKind, File, Kinded, Node, Reporter, Step, Tree};
use camino::{Utf8Path, Utf8PathBuf};

use super::apply::apply;
use super::apt::{self, Change};
use super::made::forget_made;
use super::root::{API_DIRS, RootContent};
use crate::client::locals;
use crate::content;
use crate::postprocess::{self, Input, Kernel, Options, Reopened, find_kernel, kept_treefile};
use crate::rootfs::{dpkgdb, initramfs};

/// Directories of package indices and downloads.
const INDICES: [&str; 3] = [
    "/var/lib/apt/lists",
    "/var/cache/apt",
    "/var/cache/apt/archives",
];

/// Changes the packages of the container's root and gives that the form of a composed one again.
pub(crate) fn update(request: &UpdateRequest, reporter: &dyn Reporter) -> Result<ClientOutcome> {
    require_possible(request)?;
    // Reads every file and compares its digest.
    locals::read(request)?;
    let root = Root::open()?;
    if !request.options.cache_only {
        reporter.step(Step::Update, || {
            apt::refresh(reporter)?;
            Ok::<_, anyhow::Error>(((), "package indices fetched".to_owned()))
        })?;
    }
    let change = Change::new(request, root.recommends())?;
    let plan = change.simulate()?;
    if request.options.dry_run {
        root.drop_indices()?;
        return Ok(ClientOutcome::Planned(DeployReport {
            pkgdiff: plan,
            ..DeployReport::default()
        }));
    }
    reporter.step(Step::Configure, || {
        change.run(reporter)?;
        Ok::<_, anyhow::Error>(((), format!("{} packages", plan.len())))
    })?;
    root.finish(reporter)
}

/// Refuses what only a booted system has.
fn require_possible(request: &UpdateRequest) -> Result<()> {
    let UpdateRequest { options, .. } = request;
    let impossible = [
        (
            request.base != BaseChange::Keep,
            "the base of a container is the image that it was made from",
        ),
        (request.apply_live, "a container is always changed live"),
        (
            !request.override_reset.is_empty() || request.override_reset_all,
            "overrides can't be reset in a container, as its image does not know them",
        ),
        (
            request.uninstall_all || request.reset_initramfs,
            "a container knows no layers that could be dropped",
        ),
        (
            options.reboot || options.lock_finalization || options.download_only,
            "a container has no deployments",
        ),
    ];
    match impossible.iter().find(|(wrong, _)| *wrong) {
        None => Ok(()),
        Some((_, why)) => Err(Kinded::new(ErrorKind::Usage, *why)
            .with_hint("change the Containerfile instead")
            .into()),
    }
}

/// The root before a change. Contents of files are only what they were as long as nothing changes.
struct Root {
    content: RootContent,
    before: Tree,
    treefile: serde_json::Value,
    /// dpkg's status.
    status: String,
    /// What its initramfs was made of.
    initramfs: Option<initramfs::Fingerprint>,
}

impl Root {
    fn open() -> Result<Self> {
        let content = RootContent::new(Utf8Path::new("/"))?;
        let before = content.scan()?;
        let treefile = kept_treefile(&before, &content)?;
        ensure_database(&before)?;
        let status = status(&before, &content)?;
        let opened = reopen(&before, &content)?;
        let initramfs = match (find_kernel(&opened.tree)?, &opened.initramfs) {
            (Some(kernel), Some(image)) => {
                let args = texts(&treefile["initramfs-args"]);
                let job = initramfs_job(&kernel, &args);
                let image: (&File, &dyn ContentReader) = (image, &content);
                Some(initramfs::Fingerprint::new(&job, &opened.tree, image)?)
            }
            _ => None,
        };
        Ok(Self {
            content,
            before,
            treefile,
            status,
            initramfs,
        })
    }

    /// Whether Recommends are installed; `None`: as apt is configured.
    fn recommends(&self) -> Option<bool> {
        self.treefile
            .is_object()
            .then(|| self.treefile["recommends"] == true)
    }

    /// Removes the indices that were fetched, unless somebody mounted a cache there.
    fn drop_indices(&self) -> Result<()> {
        let now = self.content.scan()?;
        let mut wanted = now.clone();
        for (path, node) in now.walk_from("var/lib/apt/lists") {
            if node.as_dir().is_none() && !self.before.contains(&path) {
                wanted.remove(&path);
            }
        }
        apply(&self.content, &now, &wanted)
    }

    /// From what apt left to what a compose leaves.
    fn finish(self, reporter: &dyn Reporter) -> Result<ClientOutcome> {
        let content = &self.content;
        let mut now = content.scan()?;
        drop_old_kernels(content, &mut now, &self.before)?;
        let pkgdiff = difference(&self.status, &status(&now, content)?);
        if pkgdiff.is_empty() {
            self.drop_indices()?;
            let message = "No packages changed.".to_owned();
            return Ok(ClientOutcome::Unchanged { message });
        }
        let opened = reopen(&now, content)?;
        let options = Options::of_tree(&now, &self.treefile);
        let made = self.initramfs(&mut now, &opened, reporter)?;
        let image = reporter.step(Step::Postprocess, || {
            let input = Input {
                content,
                packages: &[],
                options: &options,
            };
            let tree = postprocess::filter(opened.tree, input)?;
            let finished = postprocess::finish(tree, input, made.or(opened.initramfs))?;
            for warning in finished.report.warnings {
                let known = |path: &String| warning.contains(&format!("'{path}'"));
                if !opened.factory.iter().any(known) {
                    reporter.warning(warning);
                }
            }
            let image = postprocess::image_tree(&finished.tree, content)?;
            apply(content, &now, &image)?;
            Ok::<_, anyhow::Error>((image, "the root is finished".to_owned()))
        })?;
        self.remove_leftovers(&image)?;
        Ok(ClientOutcome::Changed { pkgdiff })
    }

    /// What the change left in directories that a boot hides. What was there before stays for the
    /// next steps of the build.
    fn remove_leftovers(&self, image: &Tree) -> Result<()> {
        for dir in ["run", "tmp"] {
            let place = self.content.on_disk(dir);
            for entry in place.read_dir_utf8()? {
                let entry = entry?;
                let path = format!("{dir}/{}", entry.file_name());
                let known = self.before.contains(&path) || image.contains(&path);
                if !known && !self.content.has_mount_below(&path) {
                    apt_ostree_fsx::remove_tree(entry.path())
                        .with_context(|| format!("removing '{}'", entry.path()))?;
                }
            }
        }
        Ok(())
    }

    /// Makes the initramfs when there is a kernel and what it is made of has changed; `now` gets it.
    fn initramfs(
        &self,
        now: &mut Tree,
        opened: &Reopened,
        reporter: &dyn Reporter,
    ) -> Result<Option<File>> {
        let Some(kernel) = find_kernel(&opened.tree)? else {
            return Ok(None);
        };
        let args = texts(&self.treefile["initramfs-args"]);
        if self.treefile["initramfs"] == false {
            return Ok(None);
        }
        let job = initramfs_job(&kernel, &args);
        if let Some(old) = &self.initramfs
            && opened.initramfs.is_some()
            && old.matches(&job, &opened.tree, &self.content)?
        {
            return Ok(None);
        }
        if opened.tree.resolve("usr/bin/dracut").is_none() {
            reporter
                .warning("The initramfs stays as it is: there is no dracut to make another one");
            return Ok(None);
        }
        let path = format!("usr/lib/modules/{}/initramfs.img", kernel.version);
        reporter.step(Step::Initramfs, || {
            let command = Cmd::new("dracut")
                .env("DRACUT_NO_XATTR", "1")
                .inherit_env("SOURCE_DATE_EPOCH")
                .args(["--force", "--no-hostonly", "--reproducible", "--zstd"])
                .args(["--no-early-microcode", "--add", "ostree", "--kver"])
                .arg(kernel.version.clone())
                .args(args)
                .arg(format!("/{path}"));
            apt::stream(command, reporter)?;
            Ok::<_, anyhow::Error>(((), kernel.version.clone()))
        })?;
        let file = self.content.scan_file(&path)?;
        now.insert(&path, Node::File(file.clone()))?;
        Ok(Some(file))
    }
}

fn initramfs_job<'a>(kernel: &'a Kernel, args: &'a [String]) -> initramfs::Job<'a> {
    initramfs::Job {
        kernel: &kernel.version,
        args,
        epoch: 0,
        workdir: Utf8Path::new("/nonexistent"),
    }
}

fn texts(value: &serde_json::Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

/// The installed root that a container's root stands for.
fn reopen(image: &Tree, content: &RootContent) -> Result<Reopened> {
    let mut tree = image.clone();
    for dir in API_DIRS {
        if let Some(dir) = tree.dir_mut(dir) {
            dir.entries.clear();
        }
    }
    forget_made(&mut tree, content)?;
    postprocess::reopen(tree, content)
}

/// dpkg must find its database, also where `/var` was not made yet.
fn ensure_database(tree: &Tree) -> Result<()> {
    const SYSIMAGE: &str = "usr/lib/sysimage/dpkg";
    if tree.resolve("var/lib/dpkg/status").is_some() {
        return Ok(());
    }
    if tree.file(&format!("{SYSIMAGE}/status")).is_none() {
        let message = "the container has no dpkg database";
        return Err(Kinded::new(ErrorKind::InvalidInput, message)
            .with_hint("start from an image of Debian or Ubuntu")
            .into());
    }
    std::fs::create_dir_all("/var/lib").context("creating '/var/lib'")?;
    std::os::unix::fs::symlink(format!("../../{SYSIMAGE}"), "/var/lib/dpkg")
        .context("linking '/var/lib/dpkg'")
}

/// Removes the kernel image and initramfs of kernels whose packages are gone: no package owns them.
fn drop_old_kernels(content: &RootContent, now: &mut Tree, before: &Tree) -> Result<()> {
    const MODULES: &str = "usr/lib/modules";
    let names: Vec<String> = before
        .dir(MODULES)
        .into_iter()
        .flat_map(|dir| dir.entries.keys().cloned())
        .collect();
    for name in names {
        let dir = format!("{MODULES}/{name}");
        let was = before.contains(&format!("{dir}/kernel"));
        if was && now.dir(&dir).is_some() && !now.contains(&format!("{dir}/kernel")) {
            let old = now.clone();
            now.remove(&dir);
            apply(content, &old, now)?;
        }
    }
    Ok(())
}

/// How the packages of two states of dpkg differ.
fn difference(before: &str, now: &str) -> Vec<PackageDiff> {
    let mut diff: BTreeMap<(String, String), PackageDiff> = BTreeMap::new();
    for (status, is_new) in [(before, false), (now, true)] {
        for package in dpkgdb::installed(status) {
            let key = (package.name.clone(), package.arch.to_string());
            let entry = diff.entry(key).or_insert_with(|| PackageDiff {
                name: package.name.clone(),
                previous: None,
                new: None,
            });
            let version = Some((package.version.to_string(), package.arch.to_string()));
            if is_new {
                entry.new = version;
            } else {
                entry.previous = version;
            }
        }
    }
    diff.into_values().filter(|d| d.previous != d.new).collect()
}

/// dpkg's status, wherever it is.
fn status(tree: &Tree, content: &RootContent) -> Result<String> {
    let places = ["usr/lib/sysimage/dpkg/status", "var/lib/dpkg/status"];
    let place = places.iter().find(|path| tree.file(path).is_some());
    content::read_text(tree, content, place.unwrap_or(&places[0]))
}

/// `refresh-md`: as `apt-get update`.
pub(crate) fn refresh(reporter: &dyn Reporter) -> Result<ClientOutcome> {
    reporter.step(Step::Update, || {
        apt::refresh(reporter)?;
        Ok::<_, anyhow::Error>(((), "package indices fetched".to_owned()))
    })?;
    Ok(ClientOutcome::Refreshed {
        sources: vec!["/etc/apt".to_owned()],
    })
}

/// `cleanup -m`: package indices and downloads.
pub(crate) fn clean_indices(request: &CleanupRequest) -> Result<ClientOutcome> {
    if request.base || request.pending || request.rollback || !request.repomd {
        let message = "a container has no deployments to clean up";
        return Err(Kinded::new(ErrorKind::Usage, message)
            .with_hint("only --repomd has a meaning here")
            .into());
    }
    let mut freed = 0;
    for dir in INDICES.map(Utf8Path::new) {
        let Ok(entries) = dir.read_dir_utf8() else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            let meta = entry.path().symlink_metadata()?;
            if meta.is_file() && entry.file_name() != "lock" {
                freed += meta.len();
                std::fs::remove_file(entry.path())
                    .with_context(|| format!("removing '{}'", entry.path()))?;
            }
        }
    }
    Ok(ClientOutcome::Cleaned {
        bytes: freed,
        deployments: 0,
    })
}

/// The container's own files.
struct Files;

impl MachineFiles for Files {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let place = Utf8Path::new("/").join(path);
        match std::fs::read(&place) {
            Ok(data) => Ok(Some(data)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading '{place}'")),
        }
    }

    fn names(&self, dir: &str) -> Result<Vec<String>> {
        let Ok(entries) = Utf8Path::new("/").join(dir).read_dir_utf8() else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// `search` and its kin. Indices are fetched for each question and don't stay in the image.
pub(crate) fn query(request: &QueryRequest, reporter: &dyn Reporter) -> Result<ClientOutcome> {
    let what = match &request.query {
        Query::Search(terms) => Find::Search(terms),
        Query::Provides(names) => Find::Provides(names),
        Query::Packages(names) => Find::Names(names),
        Query::Sources => {
            let sources = apt_ostree_apt::list_sources(&Files)?;
            return Ok(ClientOutcome::Sources { sources });
        }
        Query::BootConfig { .. } => {
            return Err(Kinded::new(ErrorKind::Usage, "a container has no boot loader").into());
        }
    };
    let temporary = tempfile::tempdir()?;
    let dir = Utf8PathBuf::try_from(temporary.path().to_owned())?;
    // apt's own user downloads into it.
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let content = RootContent::new(Utf8Path::new("/"))?;
    let tree = content.scan()?;
    let sources = MachineSources::load(&Files, &dir.join("keys"), reporter)?;
    let config = AptConfig {
        spec: SolveSpec::without_requests(
            Arch::host(),
            sources,
            false,
            BaseSpec {
                status: status(&tree, &content)?,
                ..BaseSpec::default()
            },
        ),
        state_dir: dir.join("apt"),
        debs_dir: dir.join("debs"),
        mirror: None,
        proxy: None,
        offline: false,
        lock: None,
    };
    let mut session = Session::open(config, reporter)?;
    session.update(reporter)?;
    let found = session.find(what, reporter)?;
    let found = found
        .into_iter()
        .filter_map(|found| crate::client::query::package(found, &BTreeSet::new()));
    Ok(ClientOutcome::Found {
        found: found.collect(),
    })
}
