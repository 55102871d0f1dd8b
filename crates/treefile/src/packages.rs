//! The strings that name packages.

use std::collections::BTreeMap;

use apt_ostree_model::{Arch, PackageName, Version};

use crate::error::escape;
use crate::fields;
use crate::spec::PackageRequest;

/// Priorities that can be asked for as a whole.
const PRIORITIES: [&str; 3] = ["required", "important", "standard"];

/// Splits an entry at blanks; what is in single quotes stays one name.
pub(crate) fn split(entry: &str) -> Result<Vec<&str>, String> {
    let mut names = Vec::new();
    for (index, part) in entry.split('\'').enumerate() {
        if index % 2 == 1 {
            names.push(part);
        } else {
            names.extend(part.split_whitespace());
        }
    }
    if entry.split('\'').count().is_multiple_of(2) {
        return Err(format!("'{}' has no closing quote", escape(entry)));
    }
    if names.is_empty() {
        return Err("a package entry is empty".to_owned());
    }
    Ok(names)
}

/// `name`, `name:arch`, `name=version`, `name/suite`, `task:NAME` or `priority:NAME`.
pub(crate) fn parse(text: &str) -> Result<PackageRequest, String> {
    if let Some(task) = text.strip_prefix("task:") {
        return match task.parse::<PackageName>() {
            Ok(name) => Ok(PackageRequest::Task(name.to_string())),
            Err(_) => Err(format!(
                "'{}' names no task; write 'task:NAME'",
                escape(text)
            )),
        };
    }
    if let Some(priority) = text.strip_prefix("priority:") {
        if PRIORITIES.contains(&priority) {
            return Ok(PackageRequest::Priority(priority.to_owned()));
        }
        let known = "'required', 'important' and 'standard'";
        return Err(format!(
            "unknown priority '{}'; there are {known}",
            escape(priority)
        ));
    }
    refuse_other_syntax(text)?;
    let (rest, suite) = split_off(text, '/');
    let (rest, version) = split_off(rest, '=');
    let (name, arch) = split_off(rest, ':');
    if version.is_some() && suite.is_some() {
        return Err(format!(
            "'{}' gives a version and a suite; give one of them",
            escape(text)
        ));
    }
    Ok(PackageRequest::Package {
        name: parse_name(name)?,
        arch: arch.map(parse_arch).transpose()?,
        version: version.map(parse_version).transpose()?,
        suite: suite.map(parse_suite).transpose()?,
    })
}

/// The part before the first `separator`, and what follows it.
fn split_off(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// What apt's command line or rpm-ostree would understand, with what to write here.
fn refuse_other_syntax(text: &str) -> Result<(), String> {
    let shown = escape(text);
    let instead = if text.is_empty() {
        return Err("a package name is empty".to_owned());
    } else if text.starts_with('-') {
        "it looks like an option"
    } else if text.ends_with(".deb") {
        "list .deb files in 'local-packages'"
    } else if text.starts_with(['/', '.', '~']) {
        "files can't be asked for; name the package that has them"
    } else if text.starts_with('@') {
        "package groups are named 'task:NAME'"
    } else if text.ends_with('-') {
        "to leave a package out use 'exclude-packages'"
    } else if text.contains(['<', '>', '(', ')']) || text.contains(" = ") {
        "version ranges are not supported; use 'NAME=VERSION' or 'pins'"
    } else if text.contains(['*', '?', '[', ']', '^', '$', '|', '!']) {
        "patterns are not supported; name each package, or use 'task:NAME'"
    } else {
        return Ok(());
    };
    Err(format!("'{shown}' is not a package: {instead}"))
}

/// A bare package name.
pub(crate) fn parse_name(text: &str) -> Result<PackageName, String> {
    if text.ends_with('-') {
        return Err(format!(
            "'{}' is not a package: names don't end in '-'",
            escape(text)
        ));
    }
    text.parse::<PackageName>().map_err(|e| e.to_string())
}

fn parse_arch(text: &str) -> Result<Arch, String> {
    if fields::ARCHITECTURES.iter().any(|(deb, _)| *deb == text)
        && let Ok(arch) = text.parse()
    {
        return Ok(arch);
    }
    let hint = fields::debian_arch(text)
        .or_else(|| fields::suggest(text, fields::ARCHITECTURES.iter().map(|(deb, _)| *deb)));
    let hint = hint.map_or_else(String::new, |name| format!(", did you mean '{name}'?"));
    Err(format!("unknown architecture '{}'{hint}", escape(text)))
}

fn parse_version(text: &str) -> Result<String, String> {
    text.parse::<Version>()
        .map(|v| v.to_string())
        .map_err(|e| e.to_string())
}

/// A suite or codename, which may have a part as in `bookworm/updates`.
pub(crate) fn parse_suite(text: &str) -> Result<String, String> {
    let part_ok = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.+~".contains(&b))
    };
    if text.len() <= 200 && text.split('/').all(part_ok) {
        return Ok(text.to_owned());
    }
    Err(format!("'{}' is not the name of a suite", escape(text)))
}

/// Adds a request to those there are; a plain name gives way to one that says more.
///
/// `names` holds the index of each name and architecture.
pub(crate) fn add(
    requests: &mut Vec<PackageRequest>,
    names: &mut BTreeMap<(PackageName, Option<Arch>), usize>,
    request: PackageRequest,
) -> Result<(), String> {
    let PackageRequest::Package {
        name,
        arch,
        version,
        suite,
    } = &request
    else {
        if !requests.contains(&request) {
            requests.push(request);
        }
        return Ok(());
    };
    let key = (name.clone(), arch.clone());
    let Some(existing) = names.get(&key).and_then(|index| requests.get_mut(*index)) else {
        names.insert(key, requests.len());
        requests.push(request);
        return Ok(());
    };
    let is_plain = |r: &PackageRequest| {
        matches!(
            r,
            PackageRequest::Package {
                version: None,
                suite: None,
                ..
            }
        )
    };
    if is_plain(existing) {
        *existing = request;
    } else if (version.is_some() || suite.is_some()) && *existing != request {
        return Err(format!(
            "'{name}' is asked for in two different versions or suites"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(text: &str) -> (String, Option<String>, Option<String>, Option<String>) {
        match parse(text).unwrap() {
            PackageRequest::Package {
                name,
                arch,
                version,
                suite,
            } => (
                name.to_string(),
                arch.map(|a| a.to_string()),
                version,
                suite,
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn documented_forms_are_understood() {
        let some = |t: &str| Some(t.to_owned());
        assert_eq!(package("bash"), ("bash".into(), None, None, None));
        assert_eq!(package("g++"), ("g++".into(), None, None, None));
        assert_eq!(
            package("libc6:i386"),
            ("libc6".into(), some("i386"), None, None)
        );
        assert_eq!(
            package("vim=2:9.1.0-1"),
            ("vim".into(), None, some("2:9.1.0-1"), None)
        );
        assert_eq!(package("vim/sid"), ("vim".into(), None, None, some("sid")));
        assert_eq!(
            package("vim/bookworm/updates"),
            ("vim".into(), None, None, some("bookworm/updates"))
        );
        assert_eq!(
            package("vim:arm64=1.0"),
            ("vim".into(), some("arm64"), some("1.0"), None)
        );
        assert_eq!(
            parse("task:ssh-server"),
            Ok(PackageRequest::Task("ssh-server".into()))
        );
        assert_eq!(
            parse("priority:required"),
            Ok(PackageRequest::Priority("required".into()))
        );
    }

    #[test]
    fn apt_and_shell_syntax_is_refused() {
        for text in [
            "",
            "foo-",
            "*",
            "foo*",
            "^task$",
            "task^",
            "--option",
            "-y",
            "./x.deb",
            "x.deb",
            "/usr/bin/x",
            "foo bar",
            "foo;rm",
            "foo:any",
            "foo:native",
            "foo:",
            "foo=",
            "foo/",
            "foo=1/sid",
            "foo = 1",
            "foo >= 1",
            "@core",
            "?installed",
            "~nfoo",
            "foo|bar",
            "foo=1 2",
            "foo/../x",
            "foo/-x",
            "task:",
            "task:a b",
            "priority:extra",
            "priority:",
            "Foo",
            "foo\n",
            "foo$(id)",
            "`id`",
            "a",
            "foo:amd64:i386",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn entries_are_split_at_blanks_but_not_in_quotes() {
        assert_eq!(split("a  b\tc").unwrap(), ["a", "b", "c"]);
        assert_eq!(split("a 'b c' d").unwrap(), ["a", "b c", "d"]);
        assert_eq!(split("'a'").unwrap(), ["a"]);
        assert!(split("a 'b").is_err());
        assert!(split("  ").is_err());
    }

    #[test]
    fn a_plain_name_gives_way_to_an_exact_one() {
        let mut requests = Vec::new();
        let mut names = BTreeMap::new();
        for text in ["bb=1", "aa", "aa=2", "aa", "bb=1"] {
            add(&mut requests, &mut names, parse(text).unwrap()).unwrap();
        }
        assert_eq!(requests, [parse("bb=1").unwrap(), parse("aa=2").unwrap()]);
        assert!(add(&mut requests, &mut names, parse("aa=3").unwrap()).is_err());
    }
}
