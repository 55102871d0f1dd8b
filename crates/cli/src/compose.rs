//! Runs a compose verb.

use std::path::Path;
use std::process::ExitCode;

use apt_ostree_model::compose::{InstallOptions, Outcome, Request};
use apt_ostree_model::{Arch, ErrorKind, Kinded};
use apt_ostree_treefile::{ComposeSpec, DirLoader, LoadOptions};
use camino::Utf8Path;

use crate::cli::{ComposeVerb, RunArgs, Verbosity};
use crate::render::{self, View};
use crate::{cli, worker};

/// The exit code for "nothing changed" where the user asked for one.
const UNCHANGED: u8 = 77;

pub(crate) fn run(verb: Option<ComposeVerb>, verbosity: Verbosity) -> Result<ExitCode, Kinded> {
    let Some(verb) = verb else {
        return Ok(usage());
    };
    let print_only = verb.print_only();
    let unchanged_exit_77 = verb.unchanged_exit_77();
    let mut view = View::new(verbosity, verb.run().json);
    let request = Request::from(verb);
    if let Some((treefile, install)) = install_of(&request).filter(|_| print_only) {
        return print_treefile(treefile, install);
    }
    worker::require_root("compose must be run as root")?;
    match worker::run(&request, &mut view) {
        Ok(outcome) => {
            view.finish(&outcome);
            let unchanged = matches!(outcome, Outcome::Unchanged { .. });
            if unchanged && unchanged_exit_77 {
                return Ok(ExitCode::from(UNCHANGED));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            view.clear();
            view.failed(&failure);
            Err(worker::kinded(failure))
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
fn print_treefile(treefile: &Path, install: &InstallOptions) -> Result<ExitCode, Kinded> {
    let spec = load_treefile(treefile, install)?;
    let text = serde_json::to_string_pretty(&spec.flattened).map_err(|error| {
        Kinded::new(ErrorKind::Failed, format!("printing the treefile: {error}"))
    })?;
    render::print_stdout(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn load_treefile(treefile: &Path, install: &InstallOptions) -> Result<ComposeSpec, Kinded> {
    let path = utf8(treefile)?;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        let message = format!("'{path}' is not a file name");
        return Err(Kinded::new(ErrorKind::Usage, message));
    };
    let mut options = LoadOptions::new(Arch::host());
    // The command line has checked the name.
    options.arch = install.arch.as_ref().and_then(|arch| arch.parse().ok());
    options.variables.clone_from(&install.variables);
    options.source_root = match &install.source_root {
        Some(directory) => Some(utf8(directory)?.to_owned()),
        None => None,
    };
    apt_ostree_treefile::load(&DirLoader::new(directory), name, &options)
        .map_err(|error| Kinded::new(ErrorKind::InvalidInput, error.to_string()))
}

/// Arguments are UTF-8, so this doesn't fail.
fn utf8(path: &Path) -> Result<&Utf8Path, Kinded> {
    Utf8Path::from_path(path).ok_or_else(|| {
        let message = format!("'{}' is not valid UTF-8", path.display());
        Kinded::new(ErrorKind::Usage, message)
    })
}

/// The treefile and how packages are chosen from it, for the verbs that do so.
fn install_of(request: &Request) -> Option<(&Path, &InstallOptions)> {
    match request {
        Request::Tree(request) => Some((&request.treefile, &request.install)),
        Request::Install(request) => Some((&request.treefile, &request.install)),
        Request::Rootfs(request) => Some((&request.treefile, &request.install)),
        Request::Image(request) => Some((&request.treefile, &request.install)),
        _ => None,
    }
}

impl ComposeVerb {
    fn print_only(&self) -> bool {
        match self {
            Self::Tree(args) => args.install.print_only,
            Self::Install(args) => args.install.print_only,
            Self::Rootfs(args) => args.install.print_only,
            Self::Image(args) => args.install.print_only,
            Self::Postprocess(_) | Self::Commit(_) => false,
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
