//! `upgrade`, `deploy`, `rebase`, `install`, `uninstall`, `override`, `reset` and `initramfs`: one
//! change of the origin and the base, which makes one deployment.

use anyhow::{Context as _, Result};
use apt_ostree_model::Reporter;
use apt_ostree_model::client::{
    BaseChange, ClientOutcome, DeployReport, InitramfsEtcRequest, InitramfsRequest,
    TransactionOptions, UpdateRequest,
};
use apt_ostree_model::compose::PackageDiff;
use apt_ostree_model::origin::{LocalRequest, Origin};

use super::layering::{self, LayerOptions, LayerRequest, LocalFile};
use super::live::Change;
use super::system::{Before, NewCommit, System};
use super::{base, cached, locals};

/// Carries out one change.
pub(super) fn update(request: &UpdateRequest, reporter: &dyn Reporter) -> Result<ClientOutcome> {
    let system = System::lock(&request.target)?;
    let before = system.before()?;
    let mut origin = before.origin.clone();
    let base = base::resolve(&system, &before, &mut origin, request, reporter)?;
    let locals = locals::read(request)?;
    let requests_changed = origin.apply(request, &locals.requests)?;
    if request.base == BaseChange::Keep && !requests_changed {
        return Ok(unchanged("No changes."));
    }
    let (options, look_only) = (&request.options, request.check || request.preview);
    let moved = base.checksum != before.commit.base();
    let made = if origin.needs_layering() && !(look_only && moved) {
        let how = LayerOptions {
            dry_run: look_only || options.dry_run,
            download_only: options.download_only,
            cache_only: options.cache_only,
            allow_inactive: request.allow_inactive,
        };
        let on = On {
            base: &base.checksum,
            origin: &origin,
            local: &locals.files,
            freeze: &frozen_names(request),
        };
        layers(&system, &before, &on, how, reporter)?
    } else {
        // Also when a new base was only looked at: it has no files yet to layer upon.
        Made::base(&base.checksum)
    };
    origin.freeze(&made.frozen);
    if is_same(&origin, &before.origin) && made.is_nothing_new(&before, moved) {
        if cached::is_check(request) {
            warn_uncached(cached::forget(&system), reporter);
        }
        return Ok(unchanged(if look_only {
            "No updates available."
        } else {
            "No upgrade available."
        }));
    }
    let report = |made: Made| match &base.commit {
        Some(commit) => before.report(commit, made.pkgdiff),
        None => DeployReport {
            version: base.version.clone(),
            ..DeployReport::default()
        },
    };
    if look_only {
        let report = report(made);
        if cached::is_check(request)
            && let Some(commit) = &base.commit
        {
            let kept = cached::keep(&system, &before, &origin, commit, &report);
            warn_uncached(kept, reporter);
        }
        return Ok(ClientOutcome::Available(report));
    }
    if options.dry_run {
        return Ok(ClientOutcome::Planned(report(made)));
    }
    if options.download_only {
        let bytes = base.fetched + made.downloaded;
        return Ok(ClientOutcome::Downloaded { bytes });
    }
    let live = match &made.commit {
        // Refused before anything is deployed.
        Some(commit) if request.apply_live => plan_live(&system, request, commit)?,
        _ => None,
    };
    let mut outcome = finish(&system, &before, (made, &origin), options, reporter)?;
    if let (Some(live), ClientOutcome::Deployed(report)) = (live, &mut outcome) {
        let done = live
            .carry_out(&system, reporter)
            .context("the deployment boots next")?;
        report.live = Some(done);
    }
    if !request.skip_purge && origin.follows != before.origin.follows {
        purge(&system, &before, reporter);
    }
    Ok(outcome)
}

/// What is to be done on the running system. Who asks for a removal means the running system too.
fn plan_live(system: &System, request: &UpdateRequest, commit: &str) -> Result<Option<Change>> {
    let allow = request.uninstall_all || !request.uninstall.is_empty();
    Change::plan(system, commit, allow)
}

/// Changes how the initramfs is made.
pub(super) fn initramfs(
    request: &InitramfsRequest,
    reporter: &dyn Reporter,
) -> Result<ClientOutcome> {
    let system = System::lock(&request.target)?;
    let before = system.before()?;
    let mut origin = before.origin.clone();
    origin.set_initramfs(request.regenerate, &request.args)?;
    let (base, options) = (before.commit.base(), &request.options);
    let made = if origin.needs_layering() {
        let how = LayerOptions {
            dry_run: options.dry_run,
            cache_only: true,
            allow_inactive: true,
            ..LayerOptions::default()
        };
        let on = On {
            base,
            origin: &origin,
            local: &[],
            freeze: &[],
        };
        layers(&system, &before, &on, how, reporter)?
    } else {
        Made::base(base)
    };
    if options.dry_run {
        let report = before.report(&before.commit, made.pkgdiff);
        return Ok(ClientOutcome::Planned(report));
    }
    finish(&system, &before, (made, &origin), options, reporter)
}

/// Changes which files of `/etc` are added to the initramfs.
pub(super) fn initramfs_etc(
    request: &InitramfsEtcRequest,
    reporter: &dyn Reporter,
) -> Result<ClientOutcome> {
    let system = System::lock(&request.target)?;
    let before = system.before()?;
    let mut origin = before.origin.clone();
    if !origin.set_initramfs_etc(request)? && !request.force_sync {
        return Ok(unchanged("No changes."));
    }
    let made = Made::base(&before.commit.checksum);
    if request.options.dry_run {
        return Ok(ClientOutcome::Planned(
            before.report(&before.commit, made.pkgdiff),
        ));
    }
    finish(
        &system,
        &before,
        (made, &origin),
        &request.options,
        reporter,
    )
}

/// A commit, or what it would be.
#[derive(Debug)]
struct Made {
    /// `None`: it was only planned or downloaded.
    commit: Option<String>,
    /// How packages differ; `None`: as the commits say.
    pkgdiff: Option<Vec<PackageDiff>>,
    downloaded: u64,
    /// What was found of packages that are to stay at that.
    frozen: Vec<LocalRequest>,
}

impl Made {
    /// A base without layers.
    fn base(checksum: &str) -> Self {
        Self {
            commit: Some(checksum.to_owned()),
            pkgdiff: None,
            downloaded: 0,
            frozen: Vec::new(),
        }
    }

    fn is_nothing_new(&self, before: &Before, moved: bool) -> bool {
        match &self.commit {
            Some(commit) => *commit == before.commit.checksum,
            None => !moved && self.pkgdiff.as_ref().is_some_and(Vec::is_empty),
        }
    }
}

/// What layers are made of.
struct On<'a> {
    base: &'a str,
    origin: &'a Origin,
    local: &'a [LocalFile],
    freeze: &'a [String],
}

/// The base packages whose replacements stay at the version that is found now.
fn frozen_names(request: &UpdateRequest) -> Vec<String> {
    let frozen = request.override_replace.iter().filter(|s| s.freeze);
    frozen.flat_map(|source| source.packages.clone()).collect()
}

/// Makes layers on a base.
fn layers(
    system: &System,
    before: &Before,
    on: &On<'_>,
    options: LayerOptions,
    reporter: &dyn Reporter,
) -> Result<Made> {
    let request = LayerRequest {
        sysroot: &system.sysroot,
        stateroot: &system.stateroot,
        base: on.base,
        previous: &before.commit.checksum,
        origin: on.origin,
        local: on.local,
        freeze: on.freeze,
        options,
    };
    let layered = layering::layer(&request, reporter)?;
    Ok(Made {
        commit: layered.commit,
        pkgdiff: Some(layered.pkgdiff),
        downloaded: layered.downloaded,
        frozen: layered.frozen,
    })
}

/// Makes the deployment.
fn finish(
    system: &System,
    before: &Before,
    (made, origin): (Made, &Origin),
    options: &TransactionOptions,
    reporter: &dyn Reporter,
) -> Result<ClientOutcome> {
    let commit = made.commit.context("no commit was made")?;
    let info = system.sysroot.commit(&commit)?;
    // Files of a base that stays were compared when it was deployed.
    let known = (info.base() == before.commit.base()).then_some(&*before.commit.checksum);
    system
        .sysroot
        .require_unchanged(&system.stateroot, &before.deployment)?;
    let new = NewCommit {
        commit: &commit,
        origin,
        kargs: None,
        known,
    };
    let deployment = system.deploy(&new, options, reporter)?;
    let mut report = before.report(&info, made.pkgdiff);
    report.staged = deployment.is_staged();
    report.reboot = options.reboot;
    Ok(ClientOutcome::Deployed(report))
}

/// The answer is right all the same.
fn warn_uncached(kept: Result<()>, reporter: &dyn Reporter) {
    if let Err(error) = kept {
        reporter.warning(format!("'status' will not show what was found: {error:#}"));
    }
}

/// Removes the branch that a rebase left.
fn purge(system: &System, before: &Before, reporter: &dyn Reporter) {
    if let Some(follows) = &before.origin.follows
        && let Err(error) = system.sysroot.purge_branch(follows)
    {
        reporter.warning(format!("The old branch stays: {error:#}"));
    }
}

/// Whether two origins stand for the same system: which revision of a branch was asked for is no
/// difference while the commit is the same.
fn is_same(new: &Origin, old: &Origin) -> bool {
    let plain = |origin: &Origin| Origin {
        override_commit: None,
        ..origin.clone()
    };
    plain(new) == plain(old)
}

fn unchanged(message: &str) -> ClientOutcome {
    ClientOutcome::Unchanged {
        message: message.to_owned(),
    }
}
