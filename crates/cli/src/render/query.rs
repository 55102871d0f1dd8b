//! Packages that were found, and lints, as text.

use apt_ostree_fsx::escape;
use apt_ostree_model::query::{FoundPackage, LintOutcome, LintResult, MatchGroup};
use apt_ostree_model::{ErrorKind, Kinded};
use serde::Serialize;

const GROUPS: [(MatchGroup, &str); 3] = [
    (MatchGroup::NameAndSummary, "Name & Summary Matched"),
    (MatchGroup::Name, "Name Matched"),
    (MatchGroup::Summary, "Summary Matched"),
];

/// A group of lines each for packages by where they matched.
pub(crate) fn search_text(found: &[FoundPackage]) -> String {
    if found.is_empty() {
        return "No matches found.\n".to_owned();
    }
    let mut text = String::new();
    for (group, title) in GROUPS {
        let own: Vec<&FoundPackage> = found.iter().filter(|f| f.key == Some(group)).collect();
        if own.is_empty() {
            continue;
        }
        text.push_str(&format!("\n===== {title} =====\n"));
        for package in own {
            let (name, summary) = (escape(&package.name), escape(&package.summary));
            text.push_str(&format!("{name} : {summary}{}\n", mark(package)));
        }
    }
    text
}

fn mark(package: &FoundPackage) -> String {
    match &package.installed {
        None => String::new(),
        Some(_) if package.layered => " [layered]".to_owned(),
        Some(version) if *version == package.evr => " [installed]".to_owned(),
        Some(version) => format!(" [installed: {}]", escape(version)),
    }
}

/// What the lints found; those that only were listed with what they check.
pub(crate) fn lint_text(lints: &[LintResult]) -> String {
    let mut text = String::new();
    let (mut passed, mut skipped) = (0, 0);
    for lint in lints {
        let (name, class) = (
            escape(&lint.name),
            if lint.fatal { "fatal" } else { "warning" },
        );
        match &lint.outcome {
            None => text.push_str(&format!(
                "{name} ({class}): {}\n",
                escape(&lint.description)
            )),
            Some(LintOutcome::Passed) => passed += 1,
            Some(LintOutcome::Skipped) => skipped += 1,
            Some(LintOutcome::Found(message)) => {
                let word = if lint.fatal { "error" } else { "warning" };
                text.push_str(&format!("{word}: {name}: {}\n", escape(message)));
            }
        }
    }
    if lints.iter().any(|lint| lint.outcome.is_some()) {
        text.push_str(&format!("Checks passed: {passed}\n"));
    }
    if skipped > 0 {
        text.push_str(&format!("Checks skipped: {skipped}\n"));
    }
    text
}

/// One line of JSON.
pub(crate) fn json_text(value: &impl Serialize) -> Result<String, Kinded> {
    serde_json::to_string(value)
        .map(|text| text + "\n")
        .map_err(|error| Kinded::new(ErrorKind::Failed, format!("writing JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, key: MatchGroup, installed: Option<&str>) -> FoundPackage {
        FoundPackage {
            key: Some(key),
            name: name.to_owned(),
            epoch: 0,
            version: "1".to_owned(),
            arch: "all".to_owned(),
            nevra: format!("{name}_1-1_all"),
            evr: "1-1".to_owned(),
            summary: "a \u{7}thing".to_owned(),
            reponame: "debian".to_owned(),
            installed: installed.map(str::to_owned),
            layered: installed == Some("1-1"),
        }
    }

    #[test]
    fn packages_are_grouped_by_where_they_matched() {
        let found = [
            package("b", MatchGroup::Name, Some("1-1")),
            package("a", MatchGroup::NameAndSummary, None),
            package("c", MatchGroup::Summary, Some("0-1")),
        ];
        assert_eq!(
            search_text(&found),
            "\n===== Name & Summary Matched =====\na : a \\x07thing\n\
             \n===== Name Matched =====\nb : a \\x07thing [layered]\n\
             \n===== Summary Matched =====\nc : a \\x07thing [installed: 0-1]\n"
        );
        assert_eq!(search_text(&[]), "No matches found.\n");
    }

    #[test]
    fn lints_are_counted_and_findings_told() {
        let lint = |name: &str, fatal, outcome| LintResult {
            name: name.to_owned(),
            description: "checks".to_owned(),
            fatal,
            outcome,
        };
        let found = |text: &str| Some(LintOutcome::Found(text.to_owned()));
        let text = lint_text(&[
            lint("a", true, Some(LintOutcome::Passed)),
            lint("b", true, found("broken")),
            lint("c", false, found("odd")),
            lint("d", false, Some(LintOutcome::Skipped)),
        ]);
        assert_eq!(
            text,
            "error: b: broken\nwarning: c: odd\nChecks passed: 1\nChecks skipped: 1\n"
        );
        assert_eq!(lint_text(&[lint("a", true, None)]), "a (fatal): checks\n");
    }
}
