//! How a request about a system reaches what carries it out. Nothing else knows.
//!
//! Changes of the running system are the daemon's business, whoever asks for them. A worker of this
//! process does what the daemon can't: another disk, a system that does not run, a container build,
//! a system without a bus or without the daemon; and it reads what everybody may read.

use std::time::Duration;

use apt_ostree_ipc::reboot;
use apt_ostree_ipc::worker::into_failure;
use apt_ostree_model::client::{ClientOutcome, KargsRequest, StatusRequest, Target};
use apt_ostree_model::compose::{Failure, Outcome, Request};
use apt_ostree_model::status::Status;
use apt_ostree_model::{ErrorKind, Event, Kinded};

use crate::bus::{Bus, Missing};
use crate::render::{self, StatusNotes, View};
use crate::worker;

/// There while an OSTree deployment runs.
const BOOTED: &str = "/run/ostree-booted";

/// How long to wait before a system that somebody else changes is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What carries out a request.
enum Route {
    /// A worker of this process.
    Worker,
    /// The daemon.
    Daemon(Bus),
}

/// Has `request` carried out, draws on `view` what is reported meanwhile, and returns what came of
/// it. Somebody else who changes the system is waited for if the view is one that waits.
pub(crate) fn run(request: &Request, view: &mut View) -> Result<ClientOutcome, Kinded> {
    let result = match route_of(request) {
        Ok(route) => run_on(&route, request, view),
        Err(error) => Err(into_failure(error)),
    };
    concluded(result, view)
}

/// Has the automatic update carried out that the configuration of the daemon asks for. `None`: it
/// asks for none.
pub(crate) fn run_automatic(
    target: &Target,
    view: &mut View,
) -> Result<Option<ClientOutcome>, Kinded> {
    let bus = daemon_for(target)?;
    let result = retried(view, |view| bus.run_automatic(target, view), || bus.wait());
    concluded(result, view)
}

/// Draws the end of a failure where it belongs.
fn concluded<T>(result: Result<T, Failure>, view: &mut View) -> Result<T, Kinded> {
    result.map_err(|failure| {
        view.clear();
        view.failed(&failure);
        worker::kinded(failure)
    })
}

fn run_on(route: &Route, request: &Request, view: &mut View) -> Result<ClientOutcome, Failure> {
    match route {
        Route::Worker => retried(
            view,
            |view| run_worker(request, view),
            || worker::with_default_signals(|| std::thread::sleep(AGAIN)).map_err(into_failure),
        ),
        Route::Daemon(bus) => retried(view, |view| bus.run(request, view), || bus.wait()),
    }
}

/// Does `work`, and does it again after `pause` for as long as somebody else is at it, if the view
/// is one that waits.
fn retried<T>(
    view: &mut View,
    work: impl Fn(&mut View) -> Result<T, Failure>,
    pause: impl Fn() -> Result<(), Failure>,
) -> Result<T, Failure> {
    let mut told = None;
    loop {
        match work(view) {
            Err(failure) if view.waits() && failure.kind == ErrorKind::Busy => {
                if told.as_ref() != Some(&failure.message) {
                    view.tell(&Event::Message {
                        text: format!("Waiting: {}", failure.message),
                    });
                    told = Some(failure.message);
                }
                pause()?;
            }
            result => return result,
        }
    }
}

fn run_worker(request: &Request, view: &mut View) -> Result<ClientOutcome, Failure> {
    if !only_reads(request) {
        worker::require_root("only root can change a system without apt-ostreed")
            .map_err(into_failure)?;
    }
    let Outcome::Client(outcome) = worker::run(request, view)? else {
        return Err(into_failure(unexpected()));
    };
    if let ClientOutcome::Deployed(report) = &outcome
        && report.reboot
        && target_of(request).is_some_and(is_running)
    {
        reboot::reboot().map_err(into_failure)?;
    }
    Ok(outcome)
}

/// What is deployed, and what only the daemon knows.
pub(crate) fn status(request: StatusRequest) -> Result<(Status, StatusNotes), Kinded> {
    let by_worker = |request| {
        let mut view = View::quiet();
        match run_on(&Route::Worker, &Request::Status(request), &mut view) {
            Ok(ClientOutcome::Status(status)) => Ok((*status, StatusNotes::default())),
            Ok(_) => Err(unexpected()),
            Err(failure) => Err(worker::kinded(failure)),
        }
    };
    if !is_running(&request.target) || !is_booted() {
        return by_worker(request);
    }
    match Bus::connect() {
        // Reading needs no rights, so a broken daemon is no reason not to.
        Ok(bus) => bus.status().or_else(|error| {
            render::print_warning(&error.message);
            by_worker(request)
        }),
        Err(_) => by_worker(request),
    }
}

/// Cancels the transaction that is active; false: there is none.
pub(crate) fn cancel() -> Result<bool, Kinded> {
    daemon_for(&Target::default())?.cancel()
}

/// Has the daemon read its configuration and the system again.
pub(crate) fn reload() -> Result<(), Kinded> {
    daemon_for(&Target::default())?.reload()
}

fn route_of(request: &Request) -> Result<Route, Kinded> {
    let target = target_of(request).filter(|_| !only_reads(request));
    if !target.is_some_and(is_running) || !is_booted() {
        return Ok(Route::Worker);
    }
    match Bus::connect() {
        Ok(bus) => Ok(Route::Daemon(bus)),
        Err(_) if worker::is_root() => Ok(Route::Worker),
        Err(missing) => {
            Err(told(&missing)
                .with_hint(format!("{}, or run the command as root", advice(&missing))))
        }
    }
}

/// The daemon, for what nothing else can do.
fn daemon_for(target: &Target) -> Result<Bus, Kinded> {
    if !is_running(target) {
        let message = "apt-ostreed works on the running system alone";
        return Err(Kinded::new(ErrorKind::Usage, message).with_hint("leave out --sysroot"));
    }
    Bus::connect().map_err(|missing| told(&missing).with_hint(advice(&missing)))
}

fn told(missing: &Missing) -> Kinded {
    let message = match missing {
        Missing::Bus(why) => format!("the system bus can't be reached: {why}"),
        Missing::Daemon => "apt-ostreed is not installed: the system bus does not know it".into(),
    };
    Kinded::new(ErrorKind::Failed, message)
}

const fn advice(missing: &Missing) -> &'static str {
    match missing {
        Missing::Bus(_) => "start the bus: systemctl start dbus.socket",
        Missing::Daemon => "install apt-ostree completely",
    }
}

fn is_booted() -> bool {
    std::path::Path::new(BOOTED).exists()
}

/// Whether this is the running system, not one on another disk.
fn is_running(target: &Target) -> bool {
    let other = |path: &std::path::PathBuf| path.as_os_str() != "/";
    !target.sysroot.as_ref().is_some_and(other)
}

/// The system of a request that the daemon has a method for.
pub(crate) fn target_of(request: &Request) -> Option<&Target> {
    match request {
        Request::Update(request) => Some(&request.target),
        Request::Rollback(request) => Some(&request.target),
        Request::Kargs(request) => Some(&request.target),
        Request::Initramfs(request) => Some(&request.target),
        Request::Cleanup(request) => Some(&request.target),
        Request::Finalize(request) => Some(&request.target),
        Request::InitramfsEtc(request) => Some(&request.target),
        Request::ApplyLive(request) => Some(&request.target),
        Request::RefreshMd(request) => Some(&request.target),
        Request::Query(request) => Some(&request.target),
        _ => None,
    }
}

/// Whether everybody may do this who can read the disk.
fn only_reads(request: &Request) -> bool {
    match request {
        Request::Status(_) | Request::Db(_) | Request::Lint(_) => true,
        Request::Kargs(request) => {
            *request
                == KargsRequest {
                    target: request.target.clone(),
                    options: request.options.clone(),
                    deploy_index: request.deploy_index,
                    ..KargsRequest::default()
                }
        }
        _ => false,
    }
}

/// The error for an answer to something that was not asked.
pub(crate) fn unexpected() -> Kinded {
    Kinded::new(ErrorKind::Failed, "the worker answered another request")
        .with_hint("install all programs of apt-ostree in the same version")
}
