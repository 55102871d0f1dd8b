//! Running maintainer scripts, group by group, as dpkg would.
//!
//! Per group: preinsts run before the group's files are there, then files and database are put in
//! place, then the target's own `dpkg --configure -a` does the rest, triggers included. In group 0
//! there is nothing to run a script with before its files are there, so they come first. The tree
//! after each group is cached under a key of everything that went into it.

use std::fmt::{self, Write as _};
use std::ops::Range;

use anyhow::{Context as _, Result};
use apt_ostree_model::{
    Arch, ErrorKind, Event, IdLock, ImportedPackage, Kinded, Plan, Reporter, Sha256Digest, Step,
    Tree,
};
use apt_ostree_sandbox::Bind;
use apt_ostree_store::CacheRepo;
use camino::{Utf8Path, Utf8PathBuf};

use super::assemble::Unowned;
use super::live::{LiveRoot, Script};
use super::{accounts, assemble, dpkgdb};
use crate::content;

/// Part of every key: changes when the result of the same packages changes.
const CONFIGURE_VERSION: u32 = 5;

/// Files that only scripts see; taken away at the end.
const SCAFFOLD: [(&str, u32, &str); 4] = [
    ("usr/sbin/policy-rc.d", 0o755, "#!/bin/sh\nexit 101\n"),
    ("etc/hostname", 0o644, "localhost\n"),
    HOSTS,
    ("etc/resolv.conf", 0o644, ""),
];

/// Caches that no tree keeps and that triggers rebuild at great length, group after group: scripts
/// see them empty and can't write there.
const HIDDEN_CACHES: [&str; 1] = ["var/cache/man"];

/// In the tree once debconf has its answers.
const SEEDED: &str = "var/cache/debconf/.apt-ostree-seeded";

/// Runs preinsts one after the other; stops with the exit code of the first that fails.
const PREINST_DRIVER: &str = r#"preinst() {
    echo "$2.preinst" >/run/apt-ostree-ci-state/running
    cp -R "/run/apt-ostree-ci/$1" /var/lib/dpkg/tmp.ci
    DPKG_MAINTSCRIPT_PACKAGE=$2 DPKG_MAINTSCRIPT_ARCH=$3 /var/lib/dpkg/tmp.ci/preinst install
    rm -rf /var/lib/dpkg/tmp.ci
}
"#;

/// Programs in scripts look up `localhost`.
const HOSTS: (&str, u32, &str) = (
    "etc/hosts",
    0o644,
    "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
);

/// What configuring needs besides the store.
pub struct Job<'a> {
    /// What to install.
    pub plan: &'a Plan,
    /// Gives the packages of a range of the plan; may wait until they are there.
    pub packages: &'a (dyn Fn(Range<usize>) -> Result<Vec<&'a ImportedPackage>> + Sync),
    /// debconf answers, one `debconf-set-selections` line each.
    pub debconf: &'a [String],
    /// Ids to keep.
    pub lock: &'a IdLock,
    /// `SOURCE_DATE_EPOCH` from outside; else each group takes the date of its newest package.
    pub epoch: Option<i64>,
    /// A tree to start from instead of an empty root (`ostree-layers`).
    pub base: Tree,
    /// Content checksum of `base`, for the keys.
    pub base_key: String,
    /// Empty directory for temporary work, on the store's file system.
    pub workdir: &'a Utf8Path,
    /// Run every script again even when a cached state would do.
    pub force: bool,
}

impl fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("packages", &self.plan.packages.len())
            .field("epoch", &self.epoch)
            .field("workdir", &self.workdir)
            .finish_non_exhaustive()
    }
}

/// How much work there was.
#[derive(Debug, Default, Clone, Copy)]
pub struct Stats {
    /// Packages whose scripts ran.
    pub configured: usize,
    /// Packages that came from a cached state.
    pub cached: usize,
}

/// A group of the plan: its range and the key of its result.
struct Group {
    number: u32,
    range: Range<usize>,
    key: String,
}

/// Installs and configures the packages of `job` and returns the root, as dpkg left it.
///
/// # Errors
/// When packages conflict on disk, or a maintainer script fails; the message names package and
/// script and has its last lines.
pub fn configure<'s>(
    job: &Job<'_>,
    store: &'s CacheRepo,
    reporter: &dyn Reporter,
) -> Result<(LiveRoot<'s>, Stats)> {
    let groups = groups(job);
    let (next, tree) = start(job, store, &groups)?;
    let total = job.plan.packages.len();
    let mut stats = Stats {
        cached: groups.get(next).map_or(total, |g| g.range.start),
        configured: 0,
    };
    let mut live = LiveRoot::new(store, job.workdir.join("root"), tree);
    for group in &groups[next..] {
        let (before, packages) = (
            (job.packages)(0..group.range.start)?,
            (job.packages)(group.range.clone())?,
        );
        let newest = before.iter().chain(&packages).map(|p| p.date).max();
        let run = GroupRun {
            job,
            store,
            reporter,
            before: Before::Packages(&before),
            packages: &packages,
            group,
            epoch: job.epoch.or(newest).unwrap_or_default(),
        };
        run.run_locked(&mut live)?;
        stats.configured += packages.len();
        reporter.report(Event::StepProgress {
            step: Step::Configure,
            done: group.range.end as u64,
            total: total as u64,
            bytes: false,
            item: None,
        });
    }
    finish(job, store, &mut live)?;
    Ok((live, stats))
}

/// Adds the packages of `job` to a root that has others and their database; nothing is cached.
///
/// # Errors
/// As [`configure`].
pub fn add(job: &Job<'_>, live: &mut LiveRoot<'_>, reporter: &dyn Reporter) -> Result<()> {
    let store = live.store();
    for group in &groups(job) {
        let packages = (job.packages)(group.range.clone())?;
        let run = GroupRun {
            job,
            store,
            reporter,
            before: Before::Database,
            packages: &packages,
            group,
            epoch: job.epoch.unwrap_or_default(),
        };
        run.run_locked(live)?;
    }
    Ok(())
}

/// Lets dpkg configure what is not yet, and run pending triggers.
///
/// # Errors
/// When a script fails; the message names it and has its last lines.
pub fn configure_pending(
    live: &mut LiveRoot<'_>,
    workdir: &Utf8Path,
    options: &[&str],
    reporter: &dyn Reporter,
) -> Result<()> {
    let mut argv = vec!["dpkg", "--force-unsafe-io"];
    argv.extend(options);
    argv.extend(["--configure", "-a"]);
    let mut script = Script::new("dpkg", &argv);
    script.binds = hidden_caches(live.tree(), workdir)?;
    live.run(&script, reporter)
}

/// Puts the files there that only scripts see.
///
/// # Errors
/// When an object can't be written.
pub fn add_scaffold(tree: &mut Tree, store: &CacheRepo) -> Result<()> {
    for (path, mode, text) in SCAFFOLD {
        if !tree.contains(path) {
            content::write(tree, store, path, mode, text.as_bytes())?;
        }
    }
    Ok(())
}

/// Takes them away again, unless a script has changed them.
///
/// # Errors
/// When an object can't be read.
pub fn remove_scaffold(tree: &mut Tree, store: &CacheRepo) -> Result<()> {
    for (path, _, text) in SCAFFOLD {
        if content::read_text(tree, store, path)? == text {
            tree.remove(path);
        }
    }
    tree.remove(SEEDED);
    Ok(())
}

/// Fails when a package is not fully installed.
///
/// # Errors
/// That, and when an object can't be read.
pub fn require_installed(tree: &Tree, store: &CacheRepo) -> Result<()> {
    let status = content::read_text(tree, store, "var/lib/dpkg/status")?;
    if let Some((package, state)) = dpkgdb::not_installed(&status).first() {
        let message = format!("package '{package}' is '{state}' after configuring");
        return Err(Kinded::new(ErrorKind::Script, message).into());
    }
    Ok(())
}

/// The first group that has to run, and the tree that it starts from.
fn start(job: &Job<'_>, store: &CacheRepo, groups: &[Group]) -> Result<(usize, Tree)> {
    if !job.force {
        for (index, group) in groups.iter().enumerate().rev() {
            if let Some(cached) = load(job, store, &group.key)? {
                return Ok((index + 1, cached));
            }
        }
    }
    Ok((0, job.base.clone()))
}

/// A cached state, if there is one that agrees with the id lock.
fn load(job: &Job<'_>, store: &CacheRepo, key: &str) -> Result<Option<Tree>> {
    for key in [key.to_owned(), locked_key(key, job.lock)] {
        if let Some(tree) = store.load_tree(&key)?
            && accounts::disagreements(&tree, store, job.lock)?.is_empty()
        {
            return Ok(Some(tree));
        }
    }
    Ok(None)
}

fn locked_key(key: &str, lock: &IdLock) -> String {
    sha256_text(&format!(
        "{key} {}",
        serde_json::to_string(lock).unwrap_or_default()
    ))
}

fn sha256_text(text: &str) -> String {
    Sha256Digest::new(openssl::sha::sha256(text.as_bytes())).to_string()
}

fn groups(job: &Job<'_>) -> Vec<Group> {
    let debconf = job.debconf.join("\n");
    let start = format!(
        "configure {CONFIGURE_VERSION} {} {:?} {:?}\n{}\n{debconf}",
        job.plan.arch,
        foreign_arches(job.plan),
        job.epoch,
        job.base_key
    );
    let (mut key, mut groups) = (sha256_text(&start), Vec::new());
    let mut at = 0;
    for packages in job.plan.packages.chunk_by(|a, b| a.group == b.group) {
        let mut hashes: Vec<String> = packages.iter().map(|p| p.sha256.to_string()).collect();
        hashes.sort();
        key = sha256_text(&format!("{key} {}", hashes.join(" ")));
        groups.push(Group {
            number: packages[0].group,
            range: at..at + packages.len(),
            key: key.clone(),
        });
        at += packages.len();
    }
    groups
}

/// Takes the scaffold away and completes what dpkg leaves to apt.
fn finish(job: &Job<'_>, store: &CacheRepo, live: &mut LiveRoot<'_>) -> Result<()> {
    let mut tree = live.tree().clone();
    require_installed(&tree, store)?;
    remove_scaffold(&mut tree, store)?;
    let states = dpkgdb::extended_states(&job.plan.packages, &job.plan.arch);
    content::write(
        &mut tree,
        store,
        "var/lib/apt/extended_states",
        0o644,
        states.as_bytes(),
    )?;
    live.set(tree);
    Ok(())
}

/// What was there before a group.
#[derive(Clone, Copy)]
enum Before<'g, 'p> {
    /// These packages, all made here.
    Packages(&'g [&'p ImportedPackage]),
    /// What the root's database says.
    Database,
}

impl Before<'_, '_> {
    const fn is_nothing(&self) -> bool {
        matches!(self, Self::Packages([]))
    }

    const fn is_database(&self) -> bool {
        matches!(self, Self::Database)
    }
}

struct GroupRun<'g, 'p> {
    job: &'g Job<'p>,
    store: &'g CacheRepo,
    reporter: &'g dyn Reporter,
    before: Before<'g, 'p>,
    packages: &'g [&'p ImportedPackage],
    group: &'g Group,
    epoch: i64,
}

impl GroupRun<'_, '_> {
    /// Runs the group; once more with the locked accounts made beforehand when its ids disagree
    /// with the lock.
    fn run_locked(&self, live: &mut LiveRoot<'_>) -> Result<()> {
        let start = live.tree().clone();
        self.run(live, None)?;
        let wrong = accounts::disagreements(live.tree(), self.store, self.job.lock)?;
        if wrong.is_empty() {
            return self.save(&self.group.key, live.tree());
        }
        self.reporter.detail(format!(
            "running group {} again with locked ids: {}",
            self.group.number,
            wrong.join(", ")
        ));
        let unlocked = live.tree().clone();
        live.set(start);
        self.run(live, Some(self.job.lock))?;
        if self.before.is_database() {
            // Accounts that only reserved their ids are no business of the image.
            let mut tree = live.tree().clone();
            accounts::keep_known(&mut tree, self.store, &unlocked)?;
            live.set(tree);
        }
        let key = locked_key(&self.group.key, self.job.lock);
        self.save(&key, live.tree())
    }

    /// Caches a state that starts from nothing.
    fn save(&self, key: &str, tree: &Tree) -> Result<()> {
        if self.before.is_database() {
            return Ok(());
        }
        self.store.save_tree(key, tree)
    }

    fn run(&self, live: &mut LiveRoot<'_>, lock: Option<&IdLock>) -> Result<()> {
        // As when the group starts from a cached state.
        live.begin(self.epoch);
        if self.group.number == 0 && self.before.is_nothing() {
            self.bootstrap(live, lock)?;
        } else {
            if let Some(lock) = lock {
                let mut tree = live.tree().clone();
                accounts::precreate(&mut tree, self.store, lock)?;
                live.set(tree);
            }
            self.seed_debconf(live)?;
            self.preinsts(live, self.packages)?;
            let tree = self.unpacked(live.tree().clone())?;
            live.set(tree);
        }
        self.configure_all(live)
    }

    /// The first group: its files come first, because there is no shell without them.
    fn bootstrap(&self, live: &mut LiveRoot<'_>, lock: Option<&IdLock>) -> Result<()> {
        let mut tree = live.tree().clone();
        let arch = &self.job.plan.arch;
        dpkgdb::init(&mut tree, self.store, arch, &foreign_arches(self.job.plan))?;
        let mut tree = self.unpacked(tree)?;
        for link in assemble::missing_merged_links(&tree, arch.as_str()) {
            content::link(&mut tree, self.store, link, &format!("usr/{link}"))?;
            tree.ensure_dir(&format!("usr/{link}"), &apt_ostree_model::Meta::root(0o755))?;
        }
        add_scaffold(&mut tree, self.store)?;
        live.set(tree);
        let is_base = |p: &&&ImportedPackage| p.name.as_str() == "base-passwd";
        let (base, others): (Vec<&ImportedPackage>, Vec<&ImportedPackage>) =
            self.packages.iter().partition(|p| is_base(p));
        self.preinsts(live, &base)?;
        if let Some(lock) = lock {
            let mut tree = live.tree().clone();
            accounts::precreate(&mut tree, self.store, lock)?;
            live.set(tree);
        }
        self.preinsts(live, &others)
    }

    /// `tree` with the group's files and database entries.
    fn unpacked(&self, mut tree: Tree) -> Result<Tree> {
        let diversions = dpkgdb::parse_diversions(&content::read_text(
            &tree,
            self.store,
            "var/lib/dpkg/diversions",
        )?);
        // netbase makes the hosts file unless there is one: ours would keep it from that.
        let is_ours =
            |tree: &Tree| content::read_text(tree, self.store, HOSTS.0).map(|text| text == HOSTS.2);
        if self.packages.iter().any(|p| p.name.as_str() == "netbase") && is_ours(&tree)? {
            tree.remove(HOSTS.0);
        }
        let packages = assemble::in_order(self.packages.to_vec());
        let status = content::read_text(&tree, self.store, "var/lib/dpkg/status")?;
        let installed = match self.before {
            Before::Packages(_) => Vec::new(),
            Before::Database => dpkgdb::installed(&status),
        };
        let owners = match self.before {
            Before::Packages(before) => assemble::owners(before),
            Before::Database => dpkgdb::owners(&tree, self.store, &installed)?,
        };
        let unowned = if self.before.is_database() {
            Unowned::Stays
        } else {
            Unowned::GivesWay
        };
        assemble::unpack(&mut tree, owners, &packages, &diversions, unowned)?;
        dpkgdb::apply_statoverrides(&mut tree, self.store, self.packages)?;
        dpkgdb::add_unpacked(&mut tree, self.store, self.packages)?;
        Ok(tree)
    }

    /// Gives debconf the answers as soon as it is there, once.
    fn seed_debconf(&self, live: &mut LiveRoot<'_>) -> Result<()> {
        let tree = live.tree();
        if self.job.debconf.is_empty()
            || tree.contains(SEEDED)
            || tree.resolve("usr/bin/debconf-set-selections").is_none()
        {
            return Ok(());
        }
        let text = self.job.debconf.join("\n") + "\n";
        let mut script = Script::new("debconf-set-selections", &["debconf-set-selections"]);
        script.stdin = text.as_bytes();
        live.run(&script, self.reporter)?;
        let mut tree = live.tree().clone();
        content::write(&mut tree, self.store, SEEDED, 0o644, b"1\n")?;
        live.set(tree);
        Ok(())
    }

    /// Runs the preinsts of `packages` where dpkg puts them, `tmp.ci`, each beside its package's
    /// other control files.
    fn preinsts(&self, live: &mut LiveRoot<'_>, packages: &[&ImportedPackage]) -> Result<()> {
        let control = self.job.workdir.join(format!("ci-{}", self.group.number));
        let with_preinst: Vec<_> = packages
            .iter()
            .filter(|p| p.members.contains_key("preinst"))
            .collect();
        if with_preinst.is_empty() {
            return Ok(());
        }
        let mut driver = String::from(PREINST_DRIVER);
        for package in with_preinst {
            let (name, arch) = (&package.name, &package.arch);
            write_control_dir(&control.join(format!("{name}_{arch}")), package)?;
            // Neither name nor architecture has a character that means something to a shell.
            let _ = writeln!(driver, "preinst {name}_{arch} {name} {arch}");
        }
        let mut script = Script::new("preinst", &["/bin/sh", "-eu", "/run/apt-ostree-ci/driver"]);
        std::fs::write(control.join("driver"), driver)
            .with_context(|| format!("writing '{control}/driver'"))?;
        let state = self.job.workdir.join("ci-state");
        std::fs::create_dir_all(&state).with_context(|| format!("creating '{state}'"))?;
        script.binds = [(control, "ci", false), (state.clone(), "ci-state", true)]
            .map(|(source, name, writable)| Bind {
                source,
                target: format!("/run/apt-ostree-{name}").into(),
                writable,
            })
            .into();
        script.env = preinst_env(&self.dpkg_version(live.tree())?);
        script.running = Some(state.join("running"));
        live.run(&script, self.reporter)
    }

    /// The version of dpkg, as far as there is one.
    fn dpkg_version(&self, tree: &Tree) -> Result<Option<String>> {
        if self.before.is_database() {
            let status = content::read_text(tree, self.store, "var/lib/dpkg/status")?;
            let mut packages = dpkgdb::installed(&status).into_iter();
            return Ok(packages
                .find(|p| p.name == "dpkg")
                .map(|p| p.version.to_string()));
        }
        let mut packages = self.job.plan.packages.iter();
        let dpkg = packages.find(|p| p.name.as_str() == "dpkg");
        Ok(dpkg.map(|p| p.version.to_string()))
    }

    fn configure_all(&self, live: &mut LiveRoot<'_>) -> Result<()> {
        // Not --force-confold: ucf would take it to mean that generated files stay as they are.
        configure_pending(live, self.job.workdir, &[], self.reporter)
            .with_context(|| format!("configuring {}", self.describe()))
    }

    fn describe(&self) -> String {
        let names: Vec<&str> = self
            .packages
            .iter()
            .map(|p| p.name.as_str())
            .take(4)
            .collect();
        let more = self.packages.len().saturating_sub(names.len());
        let rest = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!("{}{rest}", names.join(", "))
    }
}

fn hidden_caches(tree: &Tree, workdir: &Utf8Path) -> Result<Vec<Bind>> {
    let empty = workdir.join("empty");
    std::fs::create_dir_all(&empty).with_context(|| format!("creating '{empty}'"))?;
    let there = HIDDEN_CACHES.iter().filter(|path| tree.dir(path).is_some());
    Ok(there
        .map(|path| Bind {
            source: empty.clone(),
            target: format!("/{path}").into(),
            writable: false,
        })
        .collect())
}

fn foreign_arches(plan: &Plan) -> Vec<Arch> {
    let all: std::collections::BTreeSet<&Arch> = plan.packages.iter().map(|p| &p.arch).collect();
    all.into_iter()
        .filter(|a| **a != plan.arch && a.as_str() != "all")
        .cloned()
        .collect()
}

/// The variables that dpkg sets for preinsts, besides those that name the package.
fn preinst_env(dpkg: &Option<String>) -> Vec<(&'static str, String)> {
    let mut env = vec![
        ("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1".to_owned()),
        ("DPKG_MAINTSCRIPT_NAME", "preinst".to_owned()),
        ("DPKG_MAINTSCRIPT_DEBUG", "0".to_owned()),
        ("DPKG_ADMINDIR", "/var/lib/dpkg".to_owned()),
        ("DPKG_ROOT", String::new()),
        ("DPKG_FORCE", "security-mac,downgrade".to_owned()),
    ];
    env.extend(
        dpkg.iter()
            .map(|version| ("DPKG_RUNNING_VERSION", version.clone())),
    );
    env
}

fn write_control_dir(dir: &Utf8Path, package: &ImportedPackage) -> Result<Utf8PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(dir).with_context(|| format!("creating '{dir}'"))?;
    std::fs::write(dir.join("control"), &package.control)?;
    for (name, member) in &package.members {
        let path = dir.join(name);
        std::fs::write(&path, &member.data).with_context(|| format!("writing '{path}'"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(member.mode & 0o777))?;
    }
    Ok(dir.to_owned())
}
