//! Tests of the whole way from text to [`ComposeSpec`].

mod documents;
mod examples;
mod files;
mod includes;
mod property;
mod repositories;
mod values;

use super::*;

/// Options for an amd64 host.
fn options() -> LoadOptions {
    LoadOptions::new("amd64".parse().unwrap())
}

/// Loads `text` as `tree.yaml`.
fn parse(text: &str) -> Result<ComposeSpec, TreefileError> {
    load_from(MemoryLoader::new().with("tree.yaml", text))
}

/// Loads `tree.yaml` of a loader.
#[allow(clippy::needless_pass_by_value)]
fn load_from(loader: MemoryLoader) -> Result<ComposeSpec, TreefileError> {
    load(&loader, "tree.yaml", &options())
}

/// The message of the error that `text` gives.
fn error(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("no error: {text}"),
        Err(error) => error.to_string(),
    }
}

/// Asserts that `text` is refused with a message that holds `part`.
#[track_caller]
fn refused(text: &str, part: &str) {
    let message = error(text);
    assert!(
        message.contains(part),
        "'{message}' does not hold '{part}', for:\n{text}"
    );
}

/// The package names of a treefile, in order.
fn names(spec: &ComposeSpec) -> Vec<String> {
    spec.packages
        .iter()
        .map(|request| match request {
            spec::PackageRequest::Package { name, .. } => name.to_string(),
            spec::PackageRequest::Task(name) => format!("task:{name}"),
            spec::PackageRequest::Priority(name) => format!("priority:{name}"),
        })
        .collect()
}

/// A repository, so that packages may be named.
const REPO: &str = "repos: [{name: debian}]\n";
