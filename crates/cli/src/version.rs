//! The answer to `--version`.

/// What this build can do.
const FEATURES: [&str; 2] = ["compose", "container"];

/// Name, version, revision and features as a YAML document.
pub(crate) fn yaml() -> String {
    let git = option_env!("APTOSTREE_GIT").unwrap_or("unknown");
    let mut text = format!(
        "apt-ostree:\n Version: '{}'\n Git: {git}\n Features:\n",
        env!("CARGO_PKG_VERSION")
    );
    for feature in FEATURES {
        text.push_str("  - ");
        text.push_str(feature);
        text.push('\n');
    }
    text
}
