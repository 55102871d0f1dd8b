//! Running maintainer scripts, group by group, as dpkg would.
//!
//! Per group: preinsts run before the group's files are there, then files and database are put in
//! place, then the target's own `dpkg --configure -a` does the rest, triggers included. In group 0
//! there is nothing to run a script with before its files are there, so they come first. The tree
//! after each group is cached under a key of everything that went into it.

use anyhow::{Context as _, Result};
use apt_ostree_model::{
    Arch, ErrorKind, Event, IdLock, ImportedPackage, Kinded, Plan, Reporter, Sha256Digest, Step,
    Tree,
};
use apt_ostree_sandbox::Bind;
use apt_ostree_store::CacheRepo;
use camino::{Utf8Path, Utf8PathBuf};

use super::live::{LiveRoot, Script};
use super::{accounts, assemble, dpkgdb};
use crate::content;

/// Part of every key: changes when the result of the same packages changes.
const CONFIGURE_VERSION: u32 = 3;

/// Files that only scripts see; taken away at the end.
const SCAFFOLD: [(&str, u32, &str); 4] = [
    ("usr/sbin/policy-rc.d", 0o755, "#!/bin/sh\nexit 101\n"),
    ("etc/hostname", 0o644, "localhost\n"),
    (
        "etc/hosts",
        0o644,
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    ),
    ("etc/resolv.conf", 0o644, ""),
];

/// Programs in scripts look up `localhost`.
const HOSTS: (&str, u32, &str) = (
    "etc/hosts",
    0o644,
    "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
);

/// What configuring needs besides the store.
#[derive(Debug)]
pub struct Job<'a> {
    /// What to install.
    pub plan: &'a Plan,
    /// The packages of the plan, in its order.
    pub packages: &'a [ImportedPackage],
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

/// How much work there was.
#[derive(Debug, Default, Clone, Copy)]
pub struct Stats {
    /// Packages whose scripts ran.
    pub configured: usize,
    /// Packages that came from a cached state.
    pub cached: usize,
}

/// A group of the plan with the keys of its result.
struct Group<'a> {
    number: u32,
    packages: Vec<&'a ImportedPackage>,
    epoch: i64,
    key: String,
}

/// Installs and configures the packages of `job` and returns the root, as dpkg left it.
///
/// # Errors
/// When packages conflict on disk, or a maintainer script fails; the message names package and
/// script and has its last lines.
pub fn configure(
    job: &Job<'_>,
    store: &CacheRepo,
    reporter: &dyn Reporter,
) -> Result<(Tree, Stats)> {
    let groups = groups(job);
    let (mut next, mut tree) = (0, job.base.clone());
    if !job.force {
        for (index, group) in groups.iter().enumerate().rev() {
            if let Some(cached) = load(job, store, &group.key)? {
                (next, tree) = (index + 1, cached);
                break;
            }
        }
    }
    let mut stats = Stats {
        cached: groups[..next].iter().map(|g| g.packages.len()).sum(),
        configured: 0,
    };
    for index in next..groups.len() {
        let group = &groups[index];
        let before: Vec<&ImportedPackage> = groups[..index]
            .iter()
            .flat_map(|g| g.packages.iter().copied())
            .collect();
        let mut run = GroupRun {
            job,
            store,
            reporter,
            before: &before,
            group,
        };
        tree = run.run_locked(&tree)?;
        stats.configured += group.packages.len();
        let total = job.packages.len() as u64;
        let done = (stats.cached + stats.configured) as u64;
        reporter.report(Event::StepProgress {
            step: Step::Configure,
            done,
            total,
            bytes: false,
            item: None,
        });
    }
    Ok((finish(job, store, tree)?, stats))
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

fn groups<'a>(job: &Job<'a>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (planned, package) in job.plan.packages.iter().zip(job.packages) {
        if groups.last().is_none_or(|g| g.number != planned.group) {
            groups.push(Group {
                number: planned.group,
                packages: Vec::new(),
                epoch: 0,
                key: String::new(),
            });
        }
        if let Some(group) = groups.last_mut() {
            group.packages.push(package);
        }
    }
    let debconf = job.debconf.join("\n");
    let start = format!(
        "configure {CONFIGURE_VERSION} {} {:?} {:?}\n{}\n{debconf}",
        job.plan.arch,
        foreign_arches(job.plan),
        job.epoch,
        job.base_key
    );
    let (mut key, mut epoch) = (sha256_text(&start), 0);
    for group in &mut groups {
        let newest = group
            .packages
            .iter()
            .map(|p| p.date)
            .max()
            .unwrap_or_default();
        epoch = epoch.max(newest);
        let mut hashes: Vec<String> = group
            .packages
            .iter()
            .map(|p| p.sha256.to_string())
            .collect();
        hashes.sort();
        key = sha256_text(&format!("{key} {}", hashes.join(" ")));
        group.key.clone_from(&key);
        group.epoch = job.epoch.unwrap_or(epoch);
    }
    groups
}

/// Takes the scaffold away and completes what dpkg leaves to apt.
fn finish(job: &Job<'_>, store: &CacheRepo, mut tree: Tree) -> Result<Tree> {
    let status = content::read_text(&tree, store, "var/lib/dpkg/status")?;
    if let Some((package, state)) = dpkgdb::not_installed(&status).first() {
        let message = format!("package '{package}' is '{state}' after configuring");
        return Err(Kinded::new(ErrorKind::Script, message).into());
    }
    for (path, _, text) in SCAFFOLD {
        if content::read_text(&tree, store, path)? == text {
            tree.remove(path);
        }
    }
    let states = dpkgdb::extended_states(&job.plan.packages, &job.plan.arch);
    content::write(
        &mut tree,
        store,
        "var/lib/apt/extended_states",
        0o644,
        states.as_bytes(),
    )?;
    Ok(tree)
}

struct GroupRun<'a> {
    job: &'a Job<'a>,
    store: &'a CacheRepo,
    reporter: &'a dyn Reporter,
    before: &'a [&'a ImportedPackage],
    group: &'a Group<'a>,
}

impl GroupRun<'_> {
    /// Runs the group; once more with the locked accounts made beforehand when its ids disagree
    /// with the lock.
    fn run_locked(&mut self, start: &Tree) -> Result<Tree> {
        let tree = self.run(start, None)?;
        let wrong = accounts::disagreements(&tree, self.store, self.job.lock)?;
        if wrong.is_empty() {
            self.store.save_tree(&self.group.key, &tree)?;
            return Ok(tree);
        }
        self.reporter.detail(format!(
            "running group {} again with locked ids: {}",
            self.group.number,
            wrong.join(", ")
        ));
        let tree = self.run(start, Some(self.job.lock))?;
        self.store
            .save_tree(&locked_key(&self.group.key, self.job.lock), &tree)?;
        Ok(tree)
    }

    fn run(&mut self, start: &Tree, lock: Option<&IdLock>) -> Result<Tree> {
        let dir = self.job.workdir.join(format!(
            "group-{}{}",
            self.group.number,
            if lock.is_some() { "-locked" } else { "" }
        ));
        std::fs::create_dir_all(&dir).with_context(|| format!("creating '{dir}'"))?;
        let mut live = LiveRoot::new(
            self.store,
            dir.join("root"),
            start.clone(),
            self.group.epoch,
        );
        std::fs::create_dir_all(dir.join("root"))?;
        if self.group.number == 0 && self.before.is_empty() {
            self.bootstrap(&mut live, &dir, lock)?;
        } else {
            if let Some(lock) = lock {
                let mut tree = live.tree().clone();
                accounts::precreate(&mut tree, self.store, lock)?;
                live.set(tree)?;
            }
            self.seed_debconf(&mut live)?;
            self.preinsts(&mut live, &dir, &self.group.packages)?;
            let tree = self.unpacked(live.tree().clone())?;
            live.set(tree)?;
        }
        self.configure_all(&mut live)?;
        let mut tree = live.into_tree();
        if let Err(error) = apt_ostree_fsx::remove_tree(&dir) {
            self.reporter
                .detail(format!("leaving '{dir}' behind: {error}"));
        }
        tree.remove("var/lib/dpkg/tmp.ci");
        Ok(tree)
    }

    /// The first group: its files come first, because there is no shell without them.
    fn bootstrap(
        &self,
        live: &mut LiveRoot<'_>,
        dir: &Utf8Path,
        lock: Option<&IdLock>,
    ) -> Result<()> {
        let mut tree = live.tree().clone();
        let arch = &self.job.plan.arch;
        dpkgdb::init(&mut tree, self.store, arch, &foreign_arches(self.job.plan))?;
        let mut tree = self.unpacked(tree)?;
        for link in assemble::missing_merged_links(&tree, arch.as_str()) {
            content::link(&mut tree, self.store, link, &format!("usr/{link}"))?;
            tree.ensure_dir(&format!("usr/{link}"), &apt_ostree_model::Meta::root(0o755))?;
        }
        for (path, mode, text) in SCAFFOLD {
            if !tree.contains(path) {
                content::write(&mut tree, self.store, path, mode, text.as_bytes())?;
            }
        }
        live.set(tree)?;
        let is_base = |p: &&&ImportedPackage| p.name.as_str() == "base-passwd";
        let (base, others): (Vec<&ImportedPackage>, Vec<&ImportedPackage>) =
            self.group.packages.iter().partition(|p| is_base(p));
        self.preinsts(live, dir, &base)?;
        if let Some(lock) = lock {
            let mut tree = live.tree().clone();
            accounts::precreate(&mut tree, self.store, lock)?;
            live.set(tree)?;
        }
        self.preinsts(live, dir, &others)
    }

    /// `tree` with the group's files and database entries.
    fn unpacked(&self, mut tree: Tree) -> Result<Tree> {
        let diversions = dpkgdb::parse_diversions(&content::read_text(
            &tree,
            self.store,
            "var/lib/dpkg/diversions",
        )?);
        let mut packages = self.group.packages.clone();
        // netbase makes the hosts file unless there is one: ours would keep it from that.
        let is_ours =
            |tree: &Tree| content::read_text(tree, self.store, HOSTS.0).map(|text| text == HOSTS.2);
        if packages.iter().any(|p| p.name.as_str() == "netbase") && is_ours(&tree)? {
            tree.remove(HOSTS.0);
        }
        // base-files ships the links of merged /usr that all other paths go through.
        packages.sort_by_key(|p| p.name.as_str() != "base-files");
        assemble::unpack(&mut tree, self.before, &packages, &diversions)?;
        dpkgdb::add_unpacked(&mut tree, self.store, &self.group.packages)?;
        Ok(tree)
    }

    fn seed_debconf(&self, live: &mut LiveRoot<'_>) -> Result<()> {
        let fresh = !content::read_text(
            live.tree(),
            self.store,
            "var/cache/debconf/.apt-ostree-seeded",
        )?
        .is_empty();
        if self.job.debconf.is_empty()
            || fresh
            || live
                .tree()
                .resolve("usr/bin/debconf-set-selections")
                .is_none()
        {
            return Ok(());
        }
        let text = self.job.debconf.join("\n") + "\n";
        let mut script = Script::new("debconf-set-selections", &["debconf-set-selections"]);
        script.stdin = text.as_bytes();
        live.run(&script, self.reporter)?;
        let mut tree = live.tree().clone();
        content::write(
            &mut tree,
            self.store,
            "var/cache/debconf/.apt-ostree-seeded",
            0o644,
            b"1\n",
        )?;
        live.set(tree)
    }

    fn preinsts(
        &self,
        live: &mut LiveRoot<'_>,
        dir: &Utf8Path,
        packages: &[&ImportedPackage],
    ) -> Result<()> {
        for package in packages {
            if package.members.contains_key("preinst") {
                self.preinst(live, dir, package)?;
            }
        }
        Ok(())
    }

    /// Runs one preinst where dpkg puts it, `tmp.ci`, beside the package's other control files.
    fn preinst(
        &self,
        live: &mut LiveRoot<'_>,
        dir: &Utf8Path,
        package: &ImportedPackage,
    ) -> Result<()> {
        let control = write_control_dir(
            &dir.join(format!("ci-{}-{}", package.name, package.arch)),
            package,
        )?;
        let name = format!("{}.preinst", package.name);
        let mut script = Script::new(
            &name,
            &[
                "/bin/sh",
                "-c",
                "cp -R /run/apt-ostree-ci /var/lib/dpkg/tmp.ci && { /var/lib/dpkg/tmp.ci/preinst install; r=$?; rm -rf /var/lib/dpkg/tmp.ci; exit $r; }",
            ],
        );
        script.binds = vec![Bind {
            source: control,
            target: "/run/apt-ostree-ci".into(),
            writable: false,
        }];
        script.env = maintscript_env(package, "preinst");
        live.run(&script, self.reporter)
    }

    fn configure_all(&self, live: &mut LiveRoot<'_>) -> Result<()> {
        // Not --force-confold: ucf would take it to mean that generated files stay as they are.
        let argv = ["dpkg", "--force-unsafe-io", "--configure", "-a"];
        live.run(&Script::new("dpkg", &argv), self.reporter)
            .with_context(|| format!("configuring {}", self.describe()))
    }

    fn describe(&self) -> String {
        let names: Vec<&str> = self
            .group
            .packages
            .iter()
            .map(|p| p.name.as_str())
            .take(4)
            .collect();
        let more = self.group.packages.len().saturating_sub(names.len());
        let rest = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!("{}{rest}", names.join(", "))
    }
}

fn foreign_arches(plan: &Plan) -> Vec<Arch> {
    let all: std::collections::BTreeSet<&Arch> = plan.packages.iter().map(|p| &p.arch).collect();
    all.into_iter()
        .filter(|a| **a != plan.arch && a.as_str() != "all")
        .cloned()
        .collect()
}

/// The variables that dpkg sets for a script of a package.
fn maintscript_env(package: &ImportedPackage, script: &str) -> Vec<(&'static str, String)> {
    vec![
        ("DPKG_MAINTSCRIPT_PACKAGE", package.name.to_string()),
        ("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1".to_owned()),
        ("DPKG_MAINTSCRIPT_ARCH", package.arch.to_string()),
        ("DPKG_MAINTSCRIPT_NAME", script.to_owned()),
        ("DPKG_MAINTSCRIPT_DEBUG", "0".to_owned()),
        ("DPKG_RUNNING_VERSION", "1.21.0".to_owned()),
        ("DPKG_ADMINDIR", "/var/lib/dpkg".to_owned()),
        ("DPKG_ROOT", String::new()),
        ("DPKG_FORCE", "security-mac,downgrade".to_owned()),
    ]
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
