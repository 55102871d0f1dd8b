//! `search` and `container lint`: verbs whose output is their answer.

use std::process::ExitCode;

use apt_ostree_model::client::ClientOutcome;
use apt_ostree_model::compose::Request;
use apt_ostree_model::query::{LintOutcome, LintResult};
use apt_ostree_model::{ErrorKind, Kinded};

use crate::cli::client::{ClientVerb, LintVerbArgs, SearchArgs};
use crate::render::View;
use crate::{client, render};

/// Shows packages.
pub(super) fn search(args: SearchArgs) -> Result<ExitCode, Kinded> {
    let json = args.json;
    let request = Request::try_from(ClientVerb::Search(args))?;
    let ClientOutcome::Found { found } = client::run(&request, &mut View::quiet())? else {
        return Err(client::unexpected());
    };
    let text = if json {
        render::json_text(&found)?
    } else {
        render::search_text(&found)
    };
    render::print_stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks a root file system.
pub(super) fn lint(args: LintVerbArgs) -> Result<ExitCode, Kinded> {
    let (json, fatal_warnings) = (args.json, args.fatal_warnings);
    let request = Request::Lint(args.into());
    let ClientOutcome::Linted { lints } = client::run(&request, &mut View::quiet())? else {
        return Err(client::unexpected());
    };
    let text = if json {
        render::json_text(&lints)?
    } else {
        render::lint_text(&lints)
    };
    render::print_stdout(&text)?;
    let bad = |lint: &&LintResult| {
        let found = matches!(lint.outcome, Some(LintOutcome::Found(_)));
        found && (lint.fatal || fatal_warnings)
    };
    match lints.iter().filter(bad).count() {
        0 => Ok(ExitCode::SUCCESS),
        1 => Err(Kinded::new(ErrorKind::Lint, "1 check failed")),
        count => Err(Kinded::new(
            ErrorKind::Lint,
            format!("{count} checks failed"),
        )),
    }
}
