//! Runs a verb on a system.

mod daemon;
mod db;
mod editor;
mod history;
mod overlay;
mod query;

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

use apt_ostree_model::client::{ClientOutcome, KargsRequest, StatusRequest};
use apt_ostree_model::compose::Request;
use apt_ostree_model::status::Status;
use apt_ostree_model::{ErrorKind, Kinded};

use crate::cli::Verbosity;
use crate::cli::client::{
    ClientVerb, ContainerVerb, ExVerb, InitramfsArgs, InitramfsEtcArgs, KargsArgs, OverrideVerb,
    StatusArgs, UpgradeArgs,
};
use crate::client;
use crate::render::{self, Ending, StatusView, View};
use crate::request::options_mut;
use crate::worker;

/// The exit code for "nothing changed" or "something waits" where the user asked for one.
const UNCHANGED: u8 = 77;

/// Runs `verb`; `command_line` is the whole command line, for whoever looks later.
pub(crate) fn run(
    verb: ClientVerb,
    verbosity: Verbosity,
    command_line: &str,
) -> Result<ExitCode, Kinded> {
    match verb {
        ClientVerb::Status(args) => status(args, verbosity),
        ClientVerb::Upgrade(args) if args.trigger_automatic_update_policy => {
            automatic(args, verbosity)
        }
        ClientVerb::Cancel => daemon::cancel(),
        ClientVerb::Reload => daemon::reload(),
        ClientVerb::StartDaemon(args) => daemon::start(&args),
        ClientVerb::Db(args) => db::run(args.verb),
        ClientVerb::Search(args) => query::search(args),
        ClientVerb::Container(args) => match args.verb {
            ContainerVerb::Lint(args) => query::lint(args),
        },
        ClientVerb::Initramfs(args) if !(args.enable || args.disable) => initramfs_state(args),
        ClientVerb::InitramfsEtc(args) if args.only_prints() => initramfs_etc_list(args),
        ClientVerb::Usroverlay(args) => overlay::run(&args),
        ClientVerb::Ex(args) => match args.verb {
            ExVerb::History(args) => history::run(&args),
            ExVerb::ApplyLive(args) => run(ClientVerb::ApplyLive(args), verbosity, command_line),
            ExVerb::InitramfsEtc(args) => {
                run(ClientVerb::InitramfsEtc(args), verbosity, command_line)
            }
        },
        ClientVerb::Kargs(args) if args.only_prints() => {
            let text = read_kargs(&args.into())?;
            render::print_stdout(&render::kargs_text(&text))?;
            Ok(ExitCode::SUCCESS)
        }
        ClientVerb::Kargs(args) if args.editor => edit_kargs(args, verbosity, command_line),
        verb => {
            let how = How::of(&verb);
            change(Request::try_from(verb)?, how, verbosity, command_line)
        }
    }
}

/// How the end of a change is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct How {
    json: bool,
    unchanged_exit_77: bool,
    /// Show first what would happen, and ask.
    ask: bool,
    /// Wait for whoever changes the system now.
    wait: bool,
}

/// Has a change carried out and tells what came of it.
fn change(
    mut request: Request,
    how: How,
    verbosity: Verbosity,
    command_line: &str,
) -> Result<ExitCode, Kinded> {
    if let Some(options) = options_mut(&mut request) {
        options.command_line = apt_ostree_fsx::escape(command_line);
    }
    if how.ask && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        confirm(&request, how, verbosity)?;
    }
    let mut view = View::new(verbosity, how.json).waiting(how.wait);
    let outcome = client::run(&request, &mut view)?;
    view.finish_client(&outcome, Ending::of(&request));
    if matches!(outcome, ClientOutcome::Unchanged { .. }) && how.unchanged_exit_77 {
        return Ok(ExitCode::from(UNCHANGED));
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what `request` would do and lets the user decide.
fn confirm(request: &Request, how: How, verbosity: Verbosity) -> Result<(), Kinded> {
    let mut trial = request.clone();
    if let Some(options) = options_mut(&mut trial) {
        options.dry_run = true;
    }
    let mut view = View::new(verbosity, false).waiting(how.wait);
    let outcome = client::run(&trial, &mut view)?;
    if !matches!(outcome, ClientOutcome::Planned(_)) {
        view.clear();
        return Ok(());
    }
    view.finish_client(&outcome, Ending::default());
    render::print_stdout("Continue? [y/N] ")?;
    let mut answer = String::new();
    // No answer is none.
    drop(worker::with_default_signals(|| {
        std::io::stdin().lock().read_line(&mut answer)
    })?);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Kinded::new(ErrorKind::Cancelled, "cancelled"))
}

fn status(args: StatusArgs, verbosity: Verbosity) -> Result<ExitCode, Kinded> {
    let (mut status, notes) = client::status(StatusRequest {
        target: args.target.into(),
    })?;
    if !notes.configuration_error.is_empty() {
        render::print_warning(&notes.configuration_error);
    }
    let pending = status.deployments.first().is_some_and(|d| !d.booted);
    if args.booted {
        status.deployments.retain(|deployment| deployment.booted);
    }
    let text = if args.json || args.jsonpath.is_some() {
        render::status_json(&status, args.jsonpath.as_ref())?
    } else {
        render::status_text(&status, &notes, StatusView::of_stdout(verbosity.verbose))
    };
    render::print_stdout(&text)?;
    if pending && args.pending_exit_77 {
        return Ok(ExitCode::from(UNCHANGED));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the timer does: as the configuration of the daemon says.
fn automatic(args: UpgradeArgs, verbosity: Verbosity) -> Result<ExitCode, Kinded> {
    let mut view = View::new(verbosity, args.run.json).waiting(args.run.wait);
    match client::run_automatic(&args.target.into(), &mut view)? {
        Some(outcome) => view.finish_client(&outcome, Ending::default()),
        None if verbosity.quiet || args.run.json => {}
        None => render::print_stdout("Automatic updates are not enabled.\n")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read_status(request: StatusRequest) -> Result<Status, Kinded> {
    Ok(client::status(request)?.0)
}

fn read_kargs(request: &KargsRequest) -> Result<String, Kinded> {
    let request = KargsRequest {
        target: request.target.clone(),
        deploy_index: request.deploy_index,
        ..KargsRequest::default()
    };
    match client::run(&Request::Kargs(request), &mut View::quiet())? {
        ClientOutcome::Kargs { kargs } => Ok(kargs),
        _ => Err(client::unexpected()),
    }
}

fn edit_kargs(
    args: KargsArgs,
    verbosity: Verbosity,
    command_line: &str,
) -> Result<ExitCode, Kinded> {
    let verb = ClientVerb::Kargs(args);
    let how = How::of(&verb);
    let Request::Kargs(mut request) = Request::try_from(verb)? else {
        return Err(client::unexpected());
    };
    let current = read_kargs(&request)?;
    match editor::edit(&current)? {
        Some(edited) => request.replace_all = Some(edited),
        None if how.unchanged_exit_77 => {
            render::print_stdout("No changes.\n")?;
            return Ok(ExitCode::from(UNCHANGED));
        }
        None => {
            let message = "the kernel arguments were left as they are";
            return Err(Kinded::new(ErrorKind::Failed, message));
        }
    }
    request.expected = Some(current);
    change(Request::Kargs(request), how, verbosity, command_line)
}

fn initramfs_state(args: InitramfsArgs) -> Result<ExitCode, Kinded> {
    let status = read_status(StatusRequest {
        target: args.target.into(),
    })?;
    render::print_stdout(&render::initramfs_text(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn initramfs_etc_list(args: InitramfsEtcArgs) -> Result<ExitCode, Kinded> {
    let status = read_status(StatusRequest {
        target: args.target.into(),
    })?;
    render::print_stdout(&render::initramfs_etc_text(&status))?;
    Ok(ExitCode::SUCCESS)
}

impl KargsArgs {
    /// Nothing is asked for but to see them.
    fn only_prints(&self) -> bool {
        let changes = [
            &self.append,
            &self.append_if_missing,
            &self.replace,
            &self.delete,
            &self.delete_if_present,
        ];
        !self.editor && !self.import_proc_cmdline && changes.iter().all(|list| list.is_empty())
    }
}

impl How {
    fn of(verb: &ClientVerb) -> Self {
        let (run, unchanged_exit_77, ask) = match verb {
            ClientVerb::Upgrade(args) => {
                let asks = args.check || args.preview;
                (Some(&args.run), args.unchanged_exit_77 || asks, false)
            }
            ClientVerb::Deploy(args) => (Some(&args.run), args.unchanged_exit_77, false),
            ClientVerb::Rebase(args) => (Some(&args.run), false, false),
            ClientVerb::Rollback(args) => (Some(&args.run), false, false),
            ClientVerb::Install(args) => {
                let ask = args.apply_live && !args.assumeyes && !args.dry_run;
                (Some(&args.run), args.unchanged_exit_77, ask)
            }
            ClientVerb::Uninstall(args) => {
                let ask = args.apply_live && !args.assumeyes && !args.dry_run;
                (Some(&args.run), args.unchanged_exit_77, ask)
            }
            ClientVerb::Override(args) => {
                let common = match &args.verb {
                    OverrideVerb::Replace(args) => &args.common,
                    OverrideVerb::Remove(args) => &args.common,
                    OverrideVerb::Reset(args) => &args.common,
                };
                (Some(&common.run), false, false)
            }
            ClientVerb::Reset(args) => (Some(&args.run), false, false),
            ClientVerb::Kargs(args) => (Some(&args.run), args.unchanged_exit_77, false),
            ClientVerb::Initramfs(args) => (Some(&args.run), false, false),
            ClientVerb::InitramfsEtc(args) => (Some(&args.run), args.unchanged_exit_77, false),
            ClientVerb::ApplyLive(args) => (Some(&args.run), false, false),
            ClientVerb::Cleanup(args) => (Some(&args.run), false, false),
            ClientVerb::FinalizeDeployment(args) => (Some(&args.run), false, false),
            ClientVerb::RefreshMd(args) => (Some(&args.run), false, false),
            ClientVerb::Status(_)
            | ClientVerb::Db(_)
            | ClientVerb::Usroverlay(_)
            | ClientVerb::Ex(_)
            | ClientVerb::Search(_)
            | ClientVerb::Container(_)
            | ClientVerb::Cancel
            | ClientVerb::Reload
            | ClientVerb::StartDaemon(_) => (None, false, false),
        };
        let json = run.is_some_and(|run| run.json);
        Self {
            json,
            wait: run.is_some_and(|run| run.wait),
            unchanged_exit_77,
            ask: ask && !json,
        }
    }
}

#[cfg(test)]
mod tests;
