//! `automatic-version-prefix`: the next version after the previous one.

use anyhow::{Context as _, Result, bail};
use apt_ostree_treefile::spec::VersionSpec;

/// The version of a new commit; `None` when the treefile asks for none.
///
/// `<date:FORMAT>` in the prefix is expanded with strftime at `now` (seconds since 1970, UTC). The
/// version is the prefix alone when `previous` has another prefix, else the prefix and the next
/// number. As in rpm-ostree, a prefix alone counts as number 0 of itself.
///
/// # Errors
/// When the date format is wrong.
pub(super) fn next_version(
    spec: &VersionSpec,
    previous: Option<&str>,
    now: i64,
) -> Result<Option<String>> {
    let Some(prefix) = &spec.automatic_prefix else {
        return Ok(None);
    };
    let prefix = expand_date(prefix, now)?;
    let suffix = spec.automatic_suffix.unwrap_or('.');
    let Some(rest) = previous.and_then(|p| p.strip_prefix(&prefix)) else {
        return Ok(Some(prefix));
    };
    if rest.is_empty() {
        return Ok(Some(format!("{prefix}{suffix}1")));
    }
    match rest
        .strip_prefix(suffix)
        .and_then(|n| n.parse::<u64>().ok())
    {
        Some(number) => Ok(Some(format!(
            "{prefix}{suffix}{}",
            number.saturating_add(1)
        ))),
        None => Ok(Some(prefix)),
    }
}

fn expand_date(prefix: &str, now: i64) -> Result<String> {
    let Some((before, rest)) = prefix.split_once("<date:") else {
        return Ok(prefix.to_owned());
    };
    let Some((format, after)) = rest.split_once('>') else {
        bail!("automatic-version-prefix '{prefix}' has '<date:' without '>'");
    };
    let time = jiff::Timestamp::from_second(now)?.to_zoned(jiff::tz::TimeZone::UTC);
    let date = jiff::fmt::strtime::format(format, &time)
        .with_context(|| format!("automatic-version-prefix has a bad date format '{format}'"))?;
    Ok(format!("{before}{date}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(prefix: &str, previous: Option<&str>) -> String {
        let spec = VersionSpec {
            automatic_prefix: Some(prefix.to_owned()),
            automatic_suffix: None,
        };
        next_version(&spec, previous, 1_790_000_000)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn first_version_is_the_prefix() {
        assert_eq!(next("13", None), "13");
        assert_eq!(next("14", Some("13.7")), "14");
    }

    #[test]
    fn later_versions_count() {
        assert_eq!(next("13", Some("13")), "13.1");
        assert_eq!(next("13", Some("13.9")), "13.10");
        assert_eq!(next("13", Some("13.x")), "13");
        assert_eq!(next("1", Some("13.9")), "1");
    }

    #[test]
    fn dates_are_expanded_in_utc() {
        assert_eq!(next("<date:%Y%m%d>", None), "20260921");
        assert!(expand_date("<date:%Y", 0).is_err());
    }
}
