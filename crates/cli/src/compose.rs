//! Runs a compose verb.

use std::path::Path;
use std::process::ExitCode;

use apt_ostree_model::compose::{Failure, Outcome, Request};
use apt_ostree_model::{ErrorKind, Kinded};

use crate::cli::{ComposeVerb, InstallArgs, RunArgs, Verbosity};
use crate::render::View;
use crate::{cli, worker};

/// Set to anything to compose without being root.
const NO_ROOT_CHECK: &str = "APTOSTREE_SUPPRESS_REQUIRES_ROOT_CHECK";

/// The exit code for "nothing changed" where the user asked for one.
const UNCHANGED: u8 = 77;

pub(crate) fn run(verb: Option<ComposeVerb>, verbosity: Verbosity) -> Result<ExitCode, Kinded> {
    let Some(verb) = verb else {
        return Ok(usage());
    };
    if let Some((treefile, install)) = verb.install().filter(|(_, i)| i.print_only) {
        return print_treefile(treefile, install);
    }
    require_root()?;
    let unchanged_exit_77 = verb.unchanged_exit_77();
    let mut view = View::new(verbosity, verb.run().json);
    match worker::run(&Request::from(verb), &mut view) {
        Ok(outcome) => {
            view.finish(&outcome);
            let unchanged = matches!(outcome, Outcome::Unchanged { .. });
            if unchanged && unchanged_exit_77 {
                return Ok(ExitCode::from(UNCHANGED));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            view.fail(&failure);
            Err(kinded(failure))
        }
    }
}

fn usage() -> ExitCode {
    let mut command = cli::command();
    command.build();
    match command.find_subcommand_mut("compose") {
        Some(compose) => crate::print_usage(compose),
        None => crate::print_usage(&mut command),
    }
}

/// Prints the treefile as it is after includes, conditions and variables.
fn print_treefile(_treefile: &Path, _install: &InstallArgs) -> Result<ExitCode, Kinded> {
    Err(Kinded::new(ErrorKind::Failed, "pending"))
}

fn require_root() -> Result<(), Kinded> {
    if rustix::process::getuid().is_root() || std::env::var_os(NO_ROOT_CHECK).is_some() {
        return Ok(());
    }
    Err(Kinded::new(
        ErrorKind::Failed,
        "compose must be run as root",
    ))
}

fn kinded(failure: Failure) -> Kinded {
    let mut message = failure.message;
    if let Some(workdir) = &failure.workdir {
        message.push_str("\nwork directory: '");
        message.push_str(&workdir.to_string_lossy());
        message.push('\'');
    }
    Kinded {
        kind: failure.kind,
        message,
        hint: failure.hint,
    }
}

impl ComposeVerb {
    /// The treefile and the options that say how packages are chosen, where the verb has them.
    fn install(&self) -> Option<(&Path, &InstallArgs)> {
        match self {
            Self::Tree(args) => Some((&args.treefile, &args.install)),
            Self::Install(args) => Some((&args.treefile, &args.install)),
            Self::Rootfs(args) => Some((&args.treefile, &args.install)),
            Self::Image(args) => Some((&args.treefile, &args.install)),
            Self::Postprocess(_) | Self::Commit(_) => None,
        }
    }

    fn run(&self) -> &RunArgs {
        match self {
            Self::Tree(args) => &args.run,
            Self::Install(args) => &args.run,
            Self::Postprocess(args) => &args.run,
            Self::Commit(args) => &args.run,
            Self::Rootfs(args) => &args.run,
            Self::Image(args) => &args.run,
        }
    }

    fn unchanged_exit_77(&self) -> bool {
        match self {
            Self::Tree(args) => args.previous.unchanged_exit_77,
            Self::Install(args) => args.previous.unchanged_exit_77,
            Self::Commit(args) => args.previous.unchanged_exit_77,
            Self::Image(args) => args.previous.unchanged_exit_77,
            Self::Postprocess(_) | Self::Rootfs(_) => false,
        }
    }
}
