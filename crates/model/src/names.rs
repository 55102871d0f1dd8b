//! Package names, versions and architectures, checked once when they enter the program.
//!
//! The rules are those of Debian Policy 5.6.1 (names) and 5.6.12 (versions), as dpkg enforces them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name, version or architecture breaks Debian's grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} '{text}': {reason}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    reason: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, reason: &'static str) -> Self {
        let text = text
            .chars()
            .take(80)
            .flat_map(char::escape_default)
            .collect();
        Self { what, text, reason }
    }
}

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_newtype!(
    /// The name of a binary package, such as `libc6`.
    PackageName,
    check_package_name
);
text_newtype!(
    /// A Debian architecture, such as `amd64` or `all`.
    Arch,
    check_arch
);
text_newtype!(
    /// A full Debian version, `[epoch:]upstream[-revision]`, ordered as dpkg orders versions.
    Version,
    check_version
);

fn check_package_name(text: &str) -> Result<(), InvalidName> {
    let fail = |reason| Err(InvalidName::new("package name", text, reason));
    if text.len() < 2 || text.len() > 255 {
        return fail("a name has 2 to 255 characters");
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        return fail("a name starts with a lowercase letter or a digit");
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
    {
        return fail("only lowercase letters, digits and '+-.' are allowed");
    }
    Ok(())
}

fn check_arch(text: &str) -> Result<(), InvalidName> {
    let ok = !text.is_empty()
        && text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if ok {
        return Ok(());
    }
    Err(InvalidName::new(
        "architecture",
        text,
        "only lowercase letters, digits and '-' are allowed",
    ))
}

fn check_version(text: &str) -> Result<(), InvalidName> {
    let fail = |reason| Err(InvalidName::new("version", text, reason));
    if text.is_empty() || text.len() > 255 {
        return fail("a version has 1 to 255 characters");
    }
    let (epoch, rest) = match text.split_once(':') {
        Some((epoch, rest)) => (Some(epoch), rest),
        None => (None, text),
    };
    if epoch.is_some_and(|e| e.parse::<u32>().is_err() || e.bytes().any(|b| !b.is_ascii_digit())) {
        return fail("the epoch is not a number");
    }
    let (upstream, revision) = match rest.rsplit_once('-') {
        Some((upstream, revision)) => (upstream, Some(revision)),
        None => (rest, None),
    };
    if !upstream.starts_with(|c: char| c.is_ascii_digit()) {
        return fail("the upstream version does not start with a digit");
    }
    if !upstream
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(&b))
    {
        return fail(
            "the upstream version holds a character other than letters, digits and '.+-~:'",
        );
    }
    let revision_ok = |r: &str| {
        !r.is_empty()
            && r.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+.~".contains(&b))
    };
    if !revision.is_none_or(revision_ok) {
        return fail(
            "the revision is empty or holds a character other than letters, digits and '+.~'",
        );
    }
    Ok(())
}

impl PartialOrd for PackageName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PackageName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Arch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Arch {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl Version {
    /// Compares as `dpkg --compare-versions` does; texts that differ can be equal (`1.0`, `1.00`).
    pub fn dpkg_cmp(&self, other: &Self) -> Ordering {
        let parse = |v: &Self| v.0.parse::<debversion::Version>();
        match (parse(self), parse(other)) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => self.0.cmp(&other.0),
        }
    }

    /// The version without its epoch, as file names carry it.
    pub fn without_epoch(&self) -> &str {
        self.0
            .split_once(':')
            .map_or(self.0.as_str(), |(_, rest)| rest)
    }
}

impl Arch {
    /// The architecture that this program was built for.
    pub fn host() -> Self {
        let name = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "i386",
            "arm" => "armhf",
            "powerpc64" => "ppc64el",
            other => other,
        };
        Self(name.to_owned())
    }

    /// The machine name that `uname -m`, OSTree refs and rpm-ostree's `basearch` use.
    pub fn basearch(&self) -> &str {
        match self.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            "i386" => "i686",
            "armhf" => "armv7l",
            "ppc64el" => "ppc64le",
            other => other,
        }
    }

    /// The architecture and variant names of the OCI image specification (those of Go).
    pub fn oci(&self) -> (&str, Option<&'static str>) {
        match self.as_str() {
            "i386" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v5")),
            "ppc64el" => ("ppc64le", None),
            "mips64el" => ("mips64le", None),
            other => (other, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_names_follow_policy() {
        for good in ["libc6", "g++", "0ad", "libstdc++6", "a.b-c+d"] {
            assert!(good.parse::<PackageName>().is_ok(), "{good}");
        }
        for bad in [
            "", "a", "Foo", "-rf", "ev/il", "../x", "a b", "foo\n", "é1", "foo_1",
        ] {
            assert!(bad.parse::<PackageName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_follow_policy() {
        for good in [
            "1", "1:2.3-4", "2.0~rc1", "1.2-3-4", "0", "1.0+b1", "1:2:3-4",
        ] {
            assert!(good.parse::<Version>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a b/../c",
            ":1",
            "x:1",
            "1:",
            "-1",
            "1-",
            "1_0",
            "abc",
            "1/2",
            "99999999999:1",
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_order_as_dpkg_does() {
        let cmp = |a: &str, b: &str| {
            let parse = |t: &str| t.parse::<Version>().unwrap();
            parse(a).dpkg_cmp(&parse(b))
        };
        assert_eq!(cmp("1.0~rc1", "1.0"), Ordering::Less);
        assert_eq!(cmp("1:0.1", "9"), Ordering::Greater);
        assert_eq!(cmp("1.10", "1.9"), Ordering::Greater);
        assert_eq!(cmp("1.0", "1.00"), Ordering::Equal);
    }

    #[test]
    fn the_host_has_a_valid_architecture() {
        let host = Arch::host();
        assert_eq!(host.as_str().parse(), Ok(host));
    }

    #[test]
    fn errors_escape_control_bytes() {
        let error = "a\u{1b}[31m"
            .parse::<PackageName>()
            .unwrap_err()
            .to_string();
        assert!(!error.contains('\u{1b}'), "{error}");
    }
}
