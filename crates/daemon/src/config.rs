//! `/etc/apt-ostreed.conf`.

use std::path::Path;
use std::time::Duration;

/// What the timer does about updates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum UpdatePolicy {
    /// Nothing.
    #[default]
    None,
    /// Look whether there is one.
    Check,
    /// Deploy it for the next boot.
    Stage,
    /// Deploy it and reboot.
    Apply,
}

impl UpdatePolicy {
    const ALL: [(&str, Self); 4] = [
        ("none", Self::None),
        ("check", Self::Check),
        ("stage", Self::Stage),
        ("apply", Self::Apply),
    ];

    /// The word in the file.
    pub(crate) fn word(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, policy)| *policy == self)
            .map_or("none", |(word, _)| word)
    }
}

/// The group `[Daemon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) update_policy: UpdatePolicy,
    /// How long the daemon stays without clients; `None`: for ever.
    pub(crate) idle_exit: Option<Duration>,
    /// Packages, overrides and the initramfs can't be changed on this system.
    pub(crate) lock_layering: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            update_policy: UpdatePolicy::None,
            idle_exit: Some(Duration::from_secs(60)),
            lock_layering: false,
        }
    }
}

/// Reads the file; defaults when there is none.
///
/// # Errors
/// What is wrong with it, with file and line.
pub(crate) fn load(path: &Path) -> Result<Config, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => return Err(format!("reading '{}': {error}", path.display())),
    };
    parse(&text).map_err(|(line, what)| format!("{}:{line}: {what}", path.display()))
}

fn parse(text: &str) -> Result<Config, (usize, String)> {
    let mut config = Config::default();
    let mut in_group = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let at = |what: String| (index + 1, what);
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line == "[Daemon]" {
            in_group = true;
            continue;
        }
        let shown = apt_ostree_fsx::escape_cut(line, 80);
        let Some((key, value)) = line.split_once('=') else {
            return Err(at(format!(
                "'{shown}' is neither '[Daemon]' nor 'KEY=VALUE'"
            )));
        };
        if !in_group {
            return Err(at(format!("'{shown}' is outside of '[Daemon]'")));
        }
        set(&mut config, key.trim(), value.trim()).map_err(at)?;
    }
    Ok(config)
}

fn set(config: &mut Config, key: &str, value: &str) -> Result<(), String> {
    let shown = apt_ostree_fsx::escape_cut(value, 80);
    match key {
        "AutomaticUpdatePolicy" => {
            let known = UpdatePolicy::ALL.iter().find(|(word, _)| *word == value);
            let (_, policy) = known.ok_or_else(|| {
                format!("AutomaticUpdatePolicy is '{shown}', not none, check, stage or apply")
            })?;
            config.update_policy = *policy;
        }
        "IdleExitTimeout" => {
            let seconds: u32 = value
                .parse()
                .map_err(|_| format!("IdleExitTimeout is '{shown}', not a number of seconds"))?;
            config.idle_exit = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        }
        "LockLayering" => {
            config.lock_layering = match value {
                "true" | "yes" | "1" => true,
                "false" | "no" | "0" => false,
                _ => return Err(format!("LockLayering is '{shown}', not true or false")),
            };
        }
        _ => {
            let key = apt_ostree_fsx::escape_cut(key, 80);
            return Err(format!("key '{key}' is unknown"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_are_read() {
        let config = parse(
            "# comment\n[Daemon]\nAutomaticUpdatePolicy = stage\nIdleExitTimeout=0\nLockLayering=true\n",
        )
        .unwrap();
        assert_eq!(config.update_policy, UpdatePolicy::Stage);
        assert_eq!(config.update_policy.word(), "stage");
        assert_eq!(config.idle_exit, None);
        assert!(config.lock_layering);
        assert_eq!(parse(""), Ok(Config::default()));
    }

    #[test]
    fn errors_name_line_and_value() {
        for (text, line, word) in [
            ("[Daemon]\nAutomaticUpdatePolicy=now", 2, "'now'"),
            ("[Daemon]\n\nIdleExitTimeout=-1", 3, "'-1'"),
            ("LockLayering=true", 1, "outside"),
            ("[Daemon]\nLockLayer=true", 2, "'LockLayer'"),
            ("[Other]", 1, "'[Other]'"),
            ("[Daemon]\n\u{1b}[2J=x", 2, "\\x1b[2J"),
        ] {
            let (at, what) = parse(text).unwrap_err();
            assert_eq!(at, line, "{text}");
            assert!(what.contains(word), "{what}");
        }
    }
}
