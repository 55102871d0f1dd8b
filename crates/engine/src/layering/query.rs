//! A look at the packages that a system has and could have.

use anyhow::Result;
use apt_ostree_apt::{
    AptConfig, BaseSpec, MachineFiles, MachineSources, Session, SolveSpec, SourceState,
};
use apt_ostree_model::{ErrorKind, Kinded, Reporter, Step};
use camino::Utf8Path;

use super::base::Base;
use super::machine::Machine;
use super::solve::debs_dir;
use super::{InitramfsState, LayerJob};
use crate::compose::context::Run;

/// Whose packages are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// The system's repository.
    pub repo: &'a Utf8Path,
    /// The commit whose package database counts.
    pub commit: &'a str,
    /// `/etc` of its deployment; `None`: that of the commit.
    pub etc: Option<&'a Utf8Path>,
    /// Where package indices may come from.
    pub indices: Indices,
}

/// Where package indices come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indices {
    /// Those that are here, never the network.
    Here,
    /// Those that are here; the network when there are none.
    HereOrFetched,
    /// The network, as far as they have changed.
    Fetched,
    /// The network, all of them.
    FetchedAnew,
}

/// Opens package indices and database, and lets `work` look at them.
///
/// # Errors
/// When indices are missing and may not be fetched, or can't be; and those of `work`.
pub fn look<T>(
    job: &Look<'_>,
    reporter: &dyn Reporter,
    work: impl FnOnce(&Session, &SourceState) -> Result<T>,
) -> Result<T> {
    Run::within_system(job.repo, reporter, |run| {
        let state_dir = run.cachedir.join("apt");
        let lists = state_dir.join("lists");
        if job.indices == Indices::FetchedAnew && lists.is_dir() {
            apt_ostree_fsx::remove_tree(&lists)?;
        }
        let offline = match job.indices {
            Indices::Here => true,
            Indices::HereOrFetched => has_indices(&lists),
            Indices::Fetched | Indices::FetchedAnew => false,
        };
        let base = Base::load(run, &layer_job(job))?;
        let machine = Machine {
            etc: job.etc,
            tree: &base.commit.tree,
            store: &run.store,
        };
        let config = AptConfig {
            spec: spec(run, &base, &machine)?,
            state_dir,
            debs_dir: debs_dir(run),
            mirror: None,
            proxy: None,
            offline,
            lock: None,
        };
        let mut session = Session::open(config, reporter)?;
        let state = reporter.step(Step::Update, || {
            let state = session.update(reporter)?;
            let summary = format!("{} sources", state.sources.len());
            Ok::<_, anyhow::Error>((state, summary))
        });
        let state = state.map_err(|error| if offline { missing(&error) } else { error })?;
        work(&session, &state)
    })
}

/// What decides where packages come from on a system, for `work`.
///
/// # Errors
/// Those of `work`, and when the commit can't be read.
pub fn with_machine<T>(
    job: &Look<'_>,
    reporter: &dyn Reporter,
    work: impl FnOnce(&dyn MachineFiles) -> Result<T>,
) -> Result<T> {
    Run::within_system(job.repo, reporter, |run| {
        let base = Base::load(run, &layer_job(job))?;
        work(&Machine {
            etc: job.etc,
            tree: &base.commit.tree,
            store: &run.store,
        })
    })
}

fn has_indices(lists: &Utf8Path) -> bool {
    let is_index = |name: &str| name.ends_with("Release") || name.ends_with("Packages");
    let Ok(entries) = lists.read_dir_utf8() else {
        return false;
    };
    entries.flatten().any(|entry| is_index(entry.file_name()))
}

fn missing(error: &anyhow::Error) -> anyhow::Error {
    let kind = error.chain().find_map(|e| e.downcast_ref::<Kinded>());
    let message = kind.map_or_else(|| format!("{error:#}"), |kind| kind.message.clone());
    Kinded::new(ErrorKind::Network, without_option(&message))
        .with_hint("fetch the package indices: apt-ostree refresh-md")
        .into()
}

/// A compose has an option that is not one of the verbs on a system.
fn without_option(message: &str) -> String {
    message.replace(", and --offline forbids fetching it", "")
}

fn layer_job<'a>(job: &Look<'a>) -> LayerJob<'a> {
    const INITRAMFS: InitramfsState = InitramfsState {
        regenerate: false,
        args: Vec::new(),
    };
    LayerJob {
        repo: job.repo,
        base: job.commit,
        etc: job.etc,
        packages: &[],
        local: &[],
        local_replacing: &[],
        remove: &[],
        replace: &[],
        freeze: &[],
        replace_local: &[],
        initramfs: const { &INITRAMFS },
        recommends: None,
        current_state: None,
        cache_only: true,
        download_only: false,
        dry_run: true,
    }
}

/// No request, only what is there and where more would come from.
fn spec(run: &Run<'_>, base: &Base, machine: &Machine<'_>) -> Result<SolveSpec> {
    let sources = MachineSources::load(machine, &run.cachedir.join("keys"), run.reporter)?;
    let base_spec = BaseSpec {
        status: base.status.clone(),
        extended_states: base.extended_states.clone(),
        foreign: base.foreign.clone(),
        ..BaseSpec::default()
    };
    let (arch, recommends) = (base.arch.clone(), base.recommends());
    Ok(SolveSpec::without_requests(
        arch, sources, recommends, base_spec,
    ))
}
