//! Changing the packages of the base's root: removals, replacements, additions.
//!
//! Removed and replaced packages are dpkg's own business, so that their scripts, diversions,
//! alternatives and conffiles are treated as on any machine. New packages are laid over the root
//! as in a compose.

use anyhow::{Context as _, Result};
use apt_ostree_model::{Arch, ErrorKind, ImportedPackage, Kinded, Plan, Step, Tree};
use apt_ostree_sandbox::Bind;
use camino::Utf8PathBuf;

use super::LayerJob;
use super::base::OpenBase;
use super::fetch::Fetched;
use super::solve::Chosen;
use crate::compose::context::Run;
use crate::content;
use crate::postprocess::find_kernel;
use crate::rootfs::live::{LiveRoot, Script};
use crate::rootfs::{configure, dpkgdb};

const STATES: &str = "var/lib/apt/extended_states";
const ARCHES: &str = "var/lib/dpkg/arch";
/// Where scripts see the `.deb` files of replacements.
const DEBS: &str = "/run/apt-ostree-debs";

/// Makes the root with the packages that were chosen.
pub(super) fn apply<'r>(
    run: &'r Run<'_>,
    job: &LayerJob<'_>,
    base: &OpenBase,
    chosen: &Chosen,
    fetched: &Fetched,
) -> Result<LiveRoot<'r>> {
    require_one_kernel(base, chosen, &fetched.packages)?;
    run.reporter.step(Step::Configure, || {
        let live = try_apply(run, job, base, chosen, fetched)?;
        let summary = format!("{} packages", chosen.additions.plan.packages.len());
        Ok::<_, anyhow::Error>((live, summary))
    })
}

fn try_apply<'r>(
    run: &'r Run<'_>,
    job: &LayerJob<'_>,
    base: &OpenBase,
    chosen: &Chosen,
    fetched: &Fetched,
) -> Result<LiveRoot<'r>> {
    let mut tree = base.root.tree.clone();
    configure::add_scaffold(&mut tree, &run.store)?;
    add_arches(run, &mut tree, &chosen.additions.plan)?;
    let mut live = LiveRoot::new(&run.store, run.scratch("root")?, tree)
        .with_hint("nothing was changed; leave the package out, or ask its maintainer");
    let epoch = epoch(base, &fetched.packages)?;
    live.begin(epoch);
    remove(run, chosen, &mut live)?;
    let (plan, packages) = replace(run, chosen, fetched, &mut live)?;
    let workdir = run.scratch("configure")?;
    let configure_job = configure::Job {
        plan: &plan,
        packages: &|range: std::ops::Range<usize>| Ok(packages[range].to_vec()),
        debconf: &[],
        lock: &base.ids,
        epoch: Some(epoch),
        base: Tree::default(),
        base_key: job.base.to_owned(),
        workdir: &workdir,
        force: false,
    };
    configure::add(&configure_job, &mut live, run.reporter)?;
    if !chosen.additions.changes.is_empty() || !chosen.replacing.is_empty() {
        // The image has no local changes to ask about; what a treefile put there stays.
        let keep = ["--force-confdef", "--force-confold"];
        configure::configure_pending(&mut live, &workdir, &keep, run.reporter)?;
    }
    let mut tree = live.tree().clone();
    configure::require_installed(&tree, &run.store)?;
    configure::remove_scaffold(&mut tree, &run.store)?;
    let states = extended_states(base, chosen);
    content::write(&mut tree, &run.store, STATES, 0o644, states.as_bytes())?;
    live.set(tree);
    Ok(live)
}

/// Time of all that is made: the newest of what it is made of.
pub(super) fn epoch(base: &OpenBase, packages: &[ImportedPackage]) -> Result<i64> {
    if let Some(epoch) = crate::compose::source_date_epoch()? {
        return Ok(epoch);
    }
    let base = i64::try_from(base.commit.timestamp).unwrap_or_default();
    let newest = packages.iter().map(|p| p.date).max();
    Ok(newest.unwrap_or_default().max(base))
}

/// Refuses a second kernel before any script runs.
fn require_one_kernel(
    base: &OpenBase,
    chosen: &Chosen,
    packages: &[ImportedPackage],
) -> Result<()> {
    let shipped = packages.iter().filter_map(|package| {
        let kernel = find_kernel(&package.tree).ok().flatten()?;
        Some((kernel.version, package.name.to_string()))
    });
    let mut kernels: Vec<(String, String)> = shipped.collect();
    if let Some(kernel) = find_kernel(&base.root.tree)? {
        let owner = format!("linux-image-{}", kernel.version);
        let goes = chosen.additions.changes.iter().any(|c| c.name == owner);
        if !goes
            && !kernels
                .iter()
                .any(|(version, _)| *version == kernel.version)
        {
            kernels.push((kernel.version, "the base".to_owned()));
        }
    }
    if kernels.len() < 2 {
        return Ok(());
    }
    let kernels: Vec<String> = kernels
        .iter()
        .map(|(version, from)| format!("'{version}' ({from})"))
        .collect();
    let message = format!("there would be several kernels: {}", kernels.join(", "));
    Err(Kinded::new(ErrorKind::Unsatisfiable, message)
        .with_hint("remove the kernel of the base in the same step, with 'apt-ostree override remove linux-image-... --install ...'")
        .into())
}

/// Tells dpkg about the foreign architectures of new packages.
fn add_arches(run: &Run<'_>, tree: &mut Tree, plan: &Plan) -> Result<()> {
    let mut text = content::read_text(tree, &run.store, ARCHES)?;
    let before = text.clone();
    if text.is_empty() {
        text = format!("{}\n", plan.arch);
    }
    let foreign = |arch: &&Arch| **arch != plan.arch && arch.as_str() != "all";
    for arch in plan.packages.iter().map(|p| &p.arch).filter(foreign) {
        if !text.lines().any(|line| line == arch.as_str()) {
            text.push_str(&format!("{arch}\n"));
        }
    }
    if text != before && plan.packages.iter().map(|p| &p.arch).any(|a| foreign(&a)) {
        content::write(tree, &run.store, ARCHES, 0o644, text.as_bytes())?;
    }
    Ok(())
}

/// Removes packages of the base as `dpkg --remove` does: configuration stays.
fn remove(run: &Run<'_>, chosen: &Chosen, live: &mut LiveRoot<'_>) -> Result<()> {
    let changes = chosen.additions.changes.iter();
    let names: Vec<&str> = changes
        .filter(|change| change.new.is_none())
        .map(|change| change.name.as_str())
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    // What needs them is replaced in the next steps: the solver has seen to that.
    let mut argv = vec!["dpkg", "--force-unsafe-io", "--force-depends", "--remove"];
    argv.extend(&names);
    live.run(&Script::new("dpkg", &argv), run.reporter)
        .with_context(|| format!("removing {}", names.join(", ")))
}

/// Lets dpkg unpack what takes the place of base packages, or of files of others; returns the rest
/// of the plan with its packages.
fn replace<'f>(
    run: &Run<'_>,
    chosen: &Chosen,
    fetched: &'f Fetched,
    live: &mut LiveRoot<'_>,
) -> Result<(Plan, Vec<&'f ImportedPackage>)> {
    let plan = &chosen.additions.plan;
    let mut rest = Plan {
        packages: Vec::new(),
        ..plan.clone()
    };
    let mut packages = Vec::new();
    let (mut files, mut replacing) = (Vec::new(), Vec::new());
    let dir = run.scratch("debs")?;
    for ((planned, package), deb) in plan
        .packages
        .iter()
        .zip(&fetched.packages)
        .zip(&fetched.debs)
    {
        if chosen.is_unpacked_by_dpkg(planned) {
            let name = format!("{}.deb", planned.sha256);
            link_or_copy(deb, &dir.join(&name))?;
            let list = match chosen.replacing.contains(&planned.sha256) {
                true => &mut replacing,
                false => &mut files,
            };
            list.push(format!("{DEBS}/{name}"));
        } else {
            rest.packages.push(planned.clone());
            packages.push(package);
        }
    }
    unpack(run, live, &dir, &files, &[]).context("replacing packages of the base")?;
    unpack(run, live, &dir, &replacing, &["--force-overwrite"])
        .context("replacing files of other packages")?;
    Ok((rest, packages))
}

/// Has dpkg unpack `files`, which are in `dir`.
fn unpack(
    run: &Run<'_>,
    live: &mut LiveRoot<'_>,
    dir: &Utf8PathBuf,
    files: &[String],
    options: &[&str],
) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let mut argv = vec!["dpkg", "--force-unsafe-io", "--force-depends"];
    argv.extend(options);
    argv.push("--unpack");
    argv.extend(files.iter().map(String::as_str));
    let mut script = Script::new("dpkg", &argv);
    script.binds = vec![Bind {
        source: dir.clone(),
        target: DEBS.into(),
        writable: false,
    }];
    live.run(&script, run.reporter)
}

fn link_or_copy(from: &Utf8PathBuf, to: &Utf8PathBuf) -> Result<()> {
    std::fs::hard_link(from, to)
        .or_else(|_| std::fs::copy(from, to).map(drop))
        .with_context(|| format!("copying '{from}'"))
}

/// apt's marks: those of the base without what was removed, and those of new packages.
fn extended_states(base: &OpenBase, chosen: &Chosen) -> String {
    let plan = &chosen.additions.plan;
    let new: Vec<_> = plan
        .packages
        .iter()
        .filter(|p| !chosen.replaces(&p.name))
        .cloned()
        .collect();
    let new = dpkgdb::extended_states(&new, &plan.arch);
    let gone = |stanza: &str| {
        let mut changes = chosen.additions.changes.iter();
        changes.any(|c| c.new.is_none() && stanza.starts_with(&format!("Package: {}\n", c.name)))
    };
    let mut stanzas: Vec<&str> = base
        .extended_states
        .split_inclusive("\n\n")
        .filter(|stanza| !gone(stanza))
        .chain(new.split_inclusive("\n\n"))
        .collect();
    stanzas.sort_unstable();
    stanzas.dedup();
    stanzas.concat()
}
