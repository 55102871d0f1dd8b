//! `container lint`.

use anyhow::Result;
use apt_ostree_model::client::ClientOutcome;
use apt_ostree_model::compose::LintOptions;
use apt_ostree_model::query::{LintOutcome, LintRequest, LintResult};
use apt_ostree_model::{Dir, Meta, Node, Tree};

use super::root::RootContent;
use crate::compose::context::utf8;
use crate::compose::finish::has_no_kernel;
use crate::lint::{self, Facts, Finding, LintClass, LintInput};

/// Checks a root file system in the form that a container image has.
///
/// # Errors
/// When the root can't be read or a lint to skip is unknown. What is found is part of the outcome.
pub fn lint(request: &LintRequest) -> Result<ClientOutcome> {
    lint::check_names(&request.skip)?;
    if request.list {
        let lints = lint::lint_list().into_iter();
        let lints = lints.map(|info| result(info, None)).collect();
        return Ok(ClientOutcome::Linted { lints });
    }
    let root = utf8(request.rootfs.as_deref().unwrap_or("/".as_ref()))?;
    let content = RootContent::new(&root)?;
    let image = content.scan()?;
    let tree = committed(&image)?;
    let facts = Facts {
        container: has_no_kernel(&image),
        packages: &[],
        initramfs_paths: None,
    };
    let input = LintInput {
        tree: &tree,
        image: &image,
        content: &content,
        facts: &facts,
    };
    let options = LintOptions {
        skip: request.skip.clone(),
        ..LintOptions::default()
    };
    let report = lint::run_lints(&input, &options)?;
    let outcome = |name: &str| {
        let mut findings = report.failures.iter().chain(&report.warnings);
        if let Some(Finding { message, .. }) = findings.find(|f| f.name == name) {
            LintOutcome::Found(message.clone())
        } else if report.skipped.contains(&name) {
            LintOutcome::Skipped
        } else {
            LintOutcome::Passed
        }
    };
    let lints = lint::lint_list().into_iter();
    let lints = lints
        .map(|info| result(info, Some(outcome(info.name))))
        .collect();
    Ok(ClientOutcome::Linted { lints })
}

fn result(info: lint::LintInfo, outcome: Option<LintOutcome>) -> LintResult {
    LintResult {
        name: info.name.to_owned(),
        description: info.description.to_owned(),
        fatal: info.class == LintClass::Fatal,
        outcome,
    }
}

/// The tree that a deployment of the image has: `/etc` is `/usr/etc`, and `/var` is the machine's.
fn committed(image: &Tree) -> Result<Tree> {
    let mut tree = image.clone();
    if tree.dir("etc").is_some() && !tree.contains("usr/etc") {
        tree.rename("etc", "usr/etc")?;
    }
    tree.remove("var");
    tree.insert("var", Node::Dir(Dir::new(Meta::root(0o755))))?;
    Ok(tree)
}
