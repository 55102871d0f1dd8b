//! Checks of the finished tree: those of `bootc container lint`, and more.
//!
//! Each lint has a name, can be skipped by it, and either fails the compose or warns.

mod bootc;
mod database;
mod own;
mod privilege;

#[cfg(test)]
mod tests;

use anyhow::Result;
use apt_ostree_model::compose::LintOptions;
use apt_ostree_model::{ContentReader, ErrorKind, ImportedPackage, Kinded, Tree};
use fn_error_context::context;
use serde::Serialize;

use crate::postprocess::{Content, image_tree};

/// What the lints need to know beyond the tree.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The tree is to have no kernel.
    pub container: bool,
    /// All installed packages; empty when they are not known, as for a root made elsewhere.
    pub packages: &'a [ImportedPackage],
    /// Paths in the initramfs; `None` when the tree is not to have one.
    pub initramfs_paths: Option<&'a [String]>,
}

impl std::fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts")
            .field("container", &self.container)
            .field("packages", &self.packages.len())
            .field("initramfs_paths", &self.initramfs_paths.map(<[_]>::len))
            .finish()
    }
}

/// What one lint looks at.
#[derive(Clone, Copy)]
pub(crate) struct LintInput<'a> {
    /// The tree as it is committed.
    pub(crate) tree: &'a Tree,
    /// Its container form.
    pub(crate) image: &'a Tree,
    /// Content objects.
    pub(crate) content: &'a dyn ContentReader,
    /// The rest.
    pub(crate) facts: &'a Facts<'a>,
}

/// What a finding of a lint means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LintClass {
    /// The compose fails.
    Fatal,
    /// It is reported.
    Warning,
}

/// A lint as documentation and `--json` show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LintInfo {
    /// Its name.
    pub name: &'static str,
    /// What a finding means.
    pub class: LintClass,
    /// True when `bootc container lint` has a lint of this name.
    pub bootc: bool,
    /// What it checks.
    pub description: &'static str,
}

/// One thing that a lint found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// Name of the lint.
    pub name: &'static str,
    /// What is wrong.
    pub message: String,
    /// All items that are wrong, sorted; the message shows the first ones.
    pub items: Vec<String>,
}

/// What came of all lints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LintReport {
    /// Names of lints that found nothing.
    pub passed: Vec<&'static str>,
    /// Names of lints that were skipped on request.
    pub skipped: Vec<&'static str>,
    /// Findings that only warn.
    pub warnings: Vec<Finding>,
    /// Findings that fail the compose.
    pub failures: Vec<Finding>,
}

impl LintReport {
    /// The report, or one error that lists all failures.
    ///
    /// # Errors
    /// When a fatal lint found something.
    pub fn into_result(self) -> Result<Self> {
        if self.failures.is_empty() {
            return Ok(self);
        }
        let failures: Vec<String> = self
            .failures
            .iter()
            .map(|f| format!("{}: {}", f.name, f.message))
            .collect();
        let names: Vec<&str> = self.failures.iter().map(|f| f.name).collect();
        Err(Kinded::new(ErrorKind::Lint, failures.join("; "))
            .with_hint(format!(
                "change the treefile, or skip these lints: {}",
                names.join(", ")
            ))
            .into())
    }
}

/// What one lint found: nothing, or a message with its items.
pub(crate) struct Found {
    message: String,
    items: Vec<String>,
}

/// Result of a lint's function.
pub(crate) type Outcome = Result<Option<Found>>;

/// No finding.
pub(crate) const fn clean() -> Outcome {
    Ok(None)
}

/// A finding of one sentence.
pub(crate) fn found(message: impl Into<String>) -> Outcome {
    Ok(Some(Found {
        message: message.into(),
        items: Vec::new(),
    }))
}

/// A finding when there are items; the message shows the first five.
pub(crate) fn found_items(message: &str, mut items: Vec<String>) -> Outcome {
    const SHOWN: usize = 5;
    if items.is_empty() {
        return clean();
    }
    items.sort();
    items.dedup();
    let shown: Vec<String> = items
        .iter()
        .take(SHOWN)
        .map(|item| format!("'{}'", item.escape_debug()))
        .collect();
    let more = items.len().saturating_sub(SHOWN);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Ok(Some(Found {
        message: format!("{message}: {}{more}", shown.join(", ")),
        items,
    }))
}

/// A lint with its function.
pub(crate) struct Lint {
    info: LintInfo,
    check: fn(&LintInput<'_>) -> Outcome,
}

impl Lint {
    pub(crate) const fn fatal(
        name: &'static str,
        description: &'static str,
        check: fn(&LintInput<'_>) -> Outcome,
    ) -> Self {
        Self::new(name, LintClass::Fatal, description, check)
    }

    pub(crate) const fn warning(
        name: &'static str,
        description: &'static str,
        check: fn(&LintInput<'_>) -> Outcome,
    ) -> Self {
        Self::new(name, LintClass::Warning, description, check)
    }

    const fn new(
        name: &'static str,
        class: LintClass,
        description: &'static str,
        check: fn(&LintInput<'_>) -> Outcome,
    ) -> Self {
        Self {
            info: LintInfo {
                name,
                class,
                bootc: false,
                description,
            },
            check,
        }
    }

    pub(crate) const fn of_bootc(mut self) -> Self {
        self.info.bootc = true;
        self
    }
}

fn all() -> impl Iterator<Item = &'static Lint> {
    bootc::LINTS
        .iter()
        .chain(&own::LINTS)
        .chain(&database::LINTS)
        .chain(&privilege::LINTS)
}

/// All lints, in the order in which they run.
pub fn lint_list() -> Vec<LintInfo> {
    all().map(|lint| lint.info).collect()
}

/// Runs all lints that are not skipped on a finished tree and on its container form.
///
/// # Errors
/// When a name to skip is unknown or content can't be read. Findings are in the report; see
/// [`LintReport::into_result`].
#[context("checking the tree")]
pub fn check(
    tree: &Tree,
    content: &dyn Content,
    facts: &Facts<'_>,
    options: &LintOptions,
) -> Result<LintReport> {
    check_names(&options.skip)?;
    let image = image_tree(tree, content)?;
    let input = LintInput {
        tree,
        image: &image,
        content,
        facts,
    };
    run_lints(&input, options)
}

/// Runs all lints that are not skipped.
pub(crate) fn run_lints(input: &LintInput<'_>, options: &LintOptions) -> Result<LintReport> {
    let mut report = LintReport::default();
    for lint in all() {
        let info = lint.info;
        if options.no_lint || options.skip.iter().any(|name| name == info.name) {
            report.skipped.push(info.name);
            continue;
        }
        let found =
            (lint.check)(input).map_err(|e| e.context(format!("running lint '{}'", info.name)))?;
        let Some(Found { message, items }) = found else {
            report.passed.push(info.name);
            continue;
        };
        let finding = Finding {
            name: info.name,
            message,
            items,
        };
        match info.class {
            LintClass::Fatal => report.failures.push(finding),
            LintClass::Warning => report.warnings.push(finding),
        }
    }
    Ok(report)
}

/// Refuses unknown names, with the nearest known one.
///
/// # Errors
/// Names the first unknown lint.
pub fn check_names(names: &[String]) -> Result<()> {
    let Some(unknown) = names.iter().find(|n| all().all(|l| l.info.name != **n)) else {
        return Ok(());
    };
    let nearest = all()
        .map(|lint| {
            (
                strsim::jaro_winkler(lint.info.name, unknown),
                lint.info.name,
            )
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.7);
    let error = Kinded::new(
        ErrorKind::Usage,
        format!("unknown lint '{}'", unknown.escape_default()),
    );
    Err(match nearest {
        Some((_, name)) => error.with_hint(format!("did you mean '{name}'?")),
        None => error,
    }
    .into())
}
