//! The end of a run in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use apt_ostree_fsx::escape;
use apt_ostree_model::compose::{ComposeReport, ImageFormat, ImageReport, Outcome, PackageDiff};
use apt_ostree_model::{Plan, Step};

use crate::format::{bytes, seconds, shell_word};

/// How long the steps of a run took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timings {
    /// Wall-clock seconds by step; a step that runs several times is summed up.
    pub steps: BTreeMap<Step, f64>,
    /// Wall-clock seconds from start to end.
    pub total: f64,
}

/// What came of a verb, in lines.
pub fn outcome_text(outcome: &Outcome, timings: &Timings, verbose: bool) -> String {
    match outcome {
        Outcome::Unchanged {
            r#ref,
            commit,
            inputhash,
        } => unchanged_text(r#ref.as_deref(), commit.as_deref(), inputhash, verbose),
        Outcome::Planned { plan } => plan_text(plan),
        Outcome::Downloaded {
            packages,
            bytes: size,
        } => format!("Downloaded {packages} packages, {}\n", bytes(*size)),
        Outcome::Root { path } => format!(
            "Root directory: {}\n{}",
            escape(&path.to_string_lossy()),
            timing_line(timings)
        ),
        Outcome::Composed(report) => composed_text(report, timings, verbose),
        // No compose verb ends like that.
        Outcome::Client(_) => String::new(),
    }
}

/// Makes paths below `directory` relative to it, as the user would type them there.
pub(super) fn shorten_paths(outcome: &mut Outcome, directory: &Path) {
    let shorten = |path: &mut PathBuf| {
        if let Ok(short) = path.strip_prefix(directory)
            && short != Path::new("")
        {
            *path = short.to_owned();
        }
    };
    match outcome {
        Outcome::Root { path } => shorten(path),
        Outcome::Composed(report) => {
            report.repo.iter_mut().for_each(shorten);
            report
                .images
                .iter_mut()
                .for_each(|image| shorten(&mut image.path));
        }
        Outcome::Unchanged { .. }
        | Outcome::Planned { .. }
        | Outcome::Downloaded { .. }
        | Outcome::Client(_) => {}
    }
}

fn unchanged_text(
    r#ref: Option<&str>,
    commit: Option<&str>,
    inputhash: &str,
    verbose: bool,
) -> String {
    let mut text = String::from("No apparent changes since the previous compose");
    if let Some(name) = r#ref {
        let _ = write!(text, " of {}", escape(name));
    }
    text.push_str("; use --force-nocache to compose again\n");
    if let Some(commit) = commit {
        push_field(&mut text, "commit", commit);
    }
    if verbose {
        push_field(&mut text, "input hash", inputhash);
    }
    text
}

fn plan_text(plan: &Plan) -> String {
    let rows: Vec<[String; 4]> = plan
        .packages
        .iter()
        .map(|package| {
            [
                package.display_name(&plan.arch),
                package.version.to_string(),
                package.repo.clone(),
                bytes(package.size),
            ]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (name, version, repo) = (width(0), width(1), width(2));
    let mut text = String::new();
    for row in &rows {
        let _ = writeln!(
            text,
            "{:name$}  {:version$}  {:repo$}  {}",
            row[0], row[1], row[2], row[3]
        );
    }
    let _ = writeln!(
        text,
        "{} packages, {} to download when nothing is cached",
        rows.len(),
        bytes(plan.download_size())
    );
    text
}

fn composed_text(report: &ComposeReport, timings: &Timings, verbose: bool) -> String {
    let mut text = format!(
        "{}: {} packages, {}\n",
        escape(report.r#ref.as_deref().unwrap_or("Composed")),
        report.packages,
        bytes(report.size)
    );
    push_field(&mut text, "commit", &report.commit);
    if let Some(version) = &report.version {
        push_field(&mut text, "version", version);
    }
    if let Some(repo) = &report.repo {
        push_field(&mut text, "repository", &repo.to_string_lossy());
    }
    if verbose {
        push_field(&mut text, "content", &report.content_checksum);
        push_field(&mut text, "input hash", &report.inputhash);
        push_field(&mut text, "objects", &stats_text(report));
    }
    for image in &report.images {
        push_image(&mut text, image);
    }
    push_pkgdiff(&mut text, &report.pkgdiff, verbose);
    text.push_str(&timing_line(timings));
    let commands = try_commands(report);
    if !commands.is_empty() {
        text.push_str("Try it:\n");
        for command in commands {
            let _ = writeln!(text, "  {}", escape(&command));
        }
    }
    text
}

fn push_field(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<11} {}", escape(value));
}

fn stats_text(report: &ComposeReport) -> String {
    let stats = &report.stats;
    format!(
        "{} of {} metadata and {} of {} content objects written, {}",
        stats.n_metadata_written,
        stats.n_metadata_total,
        stats.n_content_written,
        stats.n_content_total,
        bytes(stats.content_bytes_written)
    )
}

fn push_image(text: &mut String, image: &ImageReport) {
    push_field(text, "image", &image.path.to_string_lossy());
    let _ = writeln!(
        text,
        "  {:<11} {}, {}, {} {}, {}",
        "",
        format_name(image.format),
        escape(&image.reference),
        image.layers,
        if image.layers == 1 { "layer" } else { "layers" },
        bytes(image.size)
    );
    push_field(text, "", &image.digest.to_oci());
}

fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Oci => "oci",
        ImageFormat::OciArchive => "oci-archive",
        ImageFormat::DockerArchive => "docker-archive",
    }
}

fn push_pkgdiff(text: &mut String, diff: &[PackageDiff], verbose: bool) {
    if diff.is_empty() {
        return;
    }
    let count = |test: fn(&PackageDiff) -> bool| diff.iter().filter(|d| test(d)).count();
    let added = count(|d| d.previous.is_none());
    let removed = count(|d| d.new.is_none());
    let changed = diff.len() - added - removed;
    let summary = format!("{changed} changed, {added} added, {removed} removed");
    push_field(text, "packages", &summary);
    if verbose {
        for package in diff {
            push_field(text, "", &diff_line(package));
        }
    }
}

fn diff_line(package: &PackageDiff) -> String {
    let version =
        |side: &Option<(String, String)>| side.as_ref().map(|(version, _)| version.clone());
    let name = &package.name;
    match (version(&package.previous), version(&package.new)) {
        (Some(old), Some(new)) => format!("{name} {old} -> {new}"),
        (None, Some(new)) => format!("+ {name} {new}"),
        (Some(old), None) => format!("- {name} {old}"),
        (None, None) => name.clone(),
    }
}

fn timing_line(timings: &Timings) -> String {
    let mut text = String::new();
    let mut parts: Vec<String> = timings
        .steps
        .iter()
        .filter(|(_, time)| **time >= 0.05)
        .map(|(step, time)| format!("{} {}", step_name(*step), seconds(*time)))
        .collect();
    parts.push(format!("total {}", seconds(timings.total)));
    push_field(&mut text, "time", &parts.join(", "));
    text
}

/// The name that the JSON events use.
fn step_name(step: Step) -> String {
    match serde_json::to_value(step) {
        Ok(serde_json::Value::String(name)) => name,
        _ => step.title().to_owned(),
    }
}

fn try_commands(report: &ComposeReport) -> Vec<String> {
    let mut commands = Vec::new();
    for image in &report.images {
        let path = image.path.to_string_lossy();
        match image.format {
            ImageFormat::Oci => commands.push(format!(
                "skopeo inspect {}",
                shell_word(&format!("oci:{path}"))
            )),
            ImageFormat::OciArchive => commands.push(format!(
                "skopeo inspect {}",
                shell_word(&format!("oci-archive:{path}"))
            )),
            ImageFormat::DockerArchive => {
                commands.push(format!("podman load -i {}", shell_word(&path)));
                let reference = shell_word(&image.reference);
                commands.push(format!("podman run --rm -it {reference} bash"));
            }
        }
    }
    if let (Some(repo), Some(name)) = (&report.repo, &report.r#ref) {
        let repo = shell_word(&repo.to_string_lossy());
        commands.push(format!("ostree --repo={repo} ls {}", shell_word(name)));
    }
    commands
}
