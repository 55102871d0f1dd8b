//! The verbs of `db`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use apt_ostree_model::client::{ClientOutcome, DbRequest, StatusRequest};
use apt_ostree_model::compose::Request;
use apt_ostree_model::status::{Deployment, Status};
use apt_ostree_model::{ErrorKind, Kinded};

use crate::cli::client::{DbDiffArgs, DbVerb};
use crate::client;
use crate::render::{self, DiffSide, PackageRow, View};

/// Runs a verb of `db`.
pub(super) fn run(verb: DbVerb) -> Result<ExitCode, Kinded> {
    let text = match verb {
        DbVerb::Diff(args) => diff(args)?,
        verb => {
            let counts_only = matches!(verb, DbVerb::Version(_));
            let request = DbRequest::from(verb);
            let commits = list(&request)?;
            let mut text = String::new();
            // In the order in which they were typed.
            for revision in &request.revisions {
                let packages = commits.get(revision).map_or(&[][..], Vec::as_slice);
                text.push_str(&if counts_only {
                    render::package_version_text(revision, packages)?
                } else {
                    render::package_list_text(revision, packages)
                });
            }
            text
        }
    };
    render::print_stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(request: &DbRequest) -> Result<BTreeMap<String, Vec<PackageRow>>, Kinded> {
    match client::run(&Request::Db(request.clone()), &mut View::quiet())? {
        ClientOutcome::Packages { commits } => Ok(commits),
        _ => Err(client::unexpected()),
    }
}

fn diff(args: DbDiffArgs) -> Result<String, Kinded> {
    let (format, base) = (args.format, args.base);
    let mut request = DbRequest::from(DbVerb::Diff(args));
    let named = std::mem::take(&mut request.revisions);
    let status = if named.len() == 2 && !base {
        Status::default()
    } else if request.repo.is_some() {
        let message = "with --repo, two commits are compared, and there are no deployments";
        return Err(Kinded::new(ErrorKind::Usage, message));
    } else {
        super::read_status(StatusRequest {
            target: request.target.clone(),
        })?
    };
    let (from, to) = sides(&status, &named, base)?;
    request.revisions = vec![from.revision.clone(), to.revision.clone()];
    match client::run(&Request::Db(request), &mut View::quiet())? {
        ClientOutcome::Diff {
            from: a,
            to: b,
            packages,
        } => {
            let from = DiffSide {
                revision: a,
                ..from
            };
            let to = DiffSide { revision: b, ..to };
            render::diff_text(&from, &to, &packages, format)
        }
        _ => Err(client::unexpected()),
    }
}

/// What is compared when `named` was typed.
fn sides(status: &Status, named: &[String], base: bool) -> Result<(DiffSide, DiffSide), Kinded> {
    let side = |deployment: &Deployment, what: &'static str| {
        let base = deployment.base_checksum.as_ref().filter(|_| base);
        DiffSide {
            revision: base.unwrap_or(&deployment.checksum).clone(),
            what: Some(what),
        }
    };
    let given = |revision: &String| {
        let known = |d: &&Deployment| d.id == *revision || d.checksum == *revision;
        match status.deployments.iter().find(known).filter(|_| base) {
            Some(deployment) => side(deployment, "base of deployment"),
            None => DiffSide {
                revision: revision.clone(),
                what: None,
            },
        }
    };
    if let [from, to] = named {
        return Ok((given(from), given(to)));
    }
    let Some(at) = status.deployments.iter().position(|d| d.booted) else {
        return Err(Kinded::new(ErrorKind::Usage, "no deployment is booted")
            .with_hint("name two commits to compare"));
    };
    let booted = &status.deployments[at];
    if let [to] = named {
        return Ok((side(booted, "booted deployment"), given(to)));
    }
    let same = |d: &&Deployment| d.osname == booted.osname;
    let pending = status.deployments[..at].iter().find(same);
    let rollback = status.deployments[at + 1..].iter().find(same);
    match (pending, rollback) {
        (Some(pending), _) => Ok((
            side(booted, "booted deployment"),
            side(pending, "pending deployment"),
        )),
        (None, Some(rollback)) => Ok((
            side(rollback, "rollback deployment"),
            side(booted, "booted deployment"),
        )),
        (None, None) => Err(Kinded::new(
            ErrorKind::Failed,
            "there is no deployment to compare the booted one with",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(checksum: &str, osname: &str, booted: bool) -> Deployment {
        Deployment {
            id: format!("{osname}-{checksum}.0"),
            osname: osname.to_owned(),
            checksum: checksum.to_owned(),
            base_checksum: Some(format!("base-{checksum}")),
            booted,
            ..Deployment::default()
        }
    }

    fn status(booted: usize) -> Status {
        let mut deployments: Vec<_> = ["a", "b", "c"]
            .map(|checksum| deployment(checksum, "debian", false))
            .into();
        deployments.insert(0, deployment("x", "other", false));
        deployments[booted].booted = true;
        Status {
            deployments,
            ..Status::default()
        }
    }

    fn revisions(status: &Status, named: &[&str], base: bool) -> Result<(String, String), String> {
        let named: Vec<String> = named.iter().map(|&text| text.to_owned()).collect();
        let (from, to) = sides(status, &named, base).map_err(|error| error.message)?;
        let text = |side: DiffSide| match side.what {
            Some(what) => format!("{} ({what})", side.revision),
            None => side.revision,
        };
        Ok((text(from), text(to)))
    }

    fn both(from: &str, to: &str) -> Result<(String, String), String> {
        Ok((from.to_owned(), to.to_owned()))
    }

    #[test]
    fn without_commits_pending_goes_before_rollback() {
        let expected = both("b (booted deployment)", "a (pending deployment)");
        assert_eq!(revisions(&status(2), &[], false), expected);
        // What is of another stateroot is neither.
        let expected = both("b (rollback deployment)", "a (booted deployment)");
        assert_eq!(revisions(&status(1), &[], false), expected);
        let expected = both("base-b (rollback deployment)", "base-a (booted deployment)");
        assert_eq!(revisions(&status(1), &[], true), expected);
    }

    #[test]
    fn named_commits_stay_as_they_are_unless_the_base_is_asked_for() {
        assert_eq!(
            revisions(&status(1), &["r"], false),
            both("a (booted deployment)", "r")
        );
        assert_eq!(
            revisions(&Status::default(), &["p", "q"], false),
            both("p", "q")
        );
        let expected = both("base-a (base of deployment)", "q");
        assert_eq!(revisions(&status(1), &["debian-a.0", "q"], true), expected);
    }

    #[test]
    fn nothing_to_compare_with_is_an_error() {
        let mut alone = status(0);
        let expected = "there is no deployment to compare the booted one with";
        assert_eq!(revisions(&alone, &[], false), Err(expected.to_owned()));
        alone.deployments[0].booted = false;
        assert_eq!(
            revisions(&alone, &["r"], false),
            Err("no deployment is booted".to_owned())
        );
    }
}
