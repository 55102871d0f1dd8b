//! The package sources of a machine as a list in which each can be switched on and off.

use std::collections::BTreeMap;

use anyhow::Result;
use apt_ostree_model::ErrorKind;
use apt_ostree_model::query::PackageSource;

use crate::deb822;
use crate::error::fail_hint;
use crate::machine::{self, MachineFiles};

/// Where a source is: the file, and the lines that it takes there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    file: String,
    first: usize,
    count: usize,
}

/// Lists all sources of a machine, in apt's order, also those that are switched off. A line that
/// is commented out counts when it is a source without its `#`.
///
/// # Errors
/// When a file can't be read.
pub fn list_sources(machine: &dyn MachineFiles) -> Result<Vec<PackageSource>> {
    Ok(sources(machine)?.into_iter().map(|(s, _)| s).collect())
}

/// The file, by its path below the root, and its new content with the source `id` switched on or
/// off; `None`: it is so already.
///
/// # Errors
/// When there is no such source, or a file can't be read.
pub fn switch_source(
    machine: &dyn MachineFiles,
    id: &str,
    enabled: bool,
) -> Result<Option<(String, String)>> {
    let all = sources(machine)?;
    let Some((source, place)) = all.iter().find(|(source, _)| source.id == id) else {
        let known: Vec<&str> = all.iter().map(|(s, _)| s.id.as_str()).collect();
        return Err(fail_hint(
            ErrorKind::InvalidInput,
            format!("there is no package source '{}'", id.escape_debug()),
            format!("the sources are: {}", known.join(", ")),
        ));
    };
    if source.is_enabled == enabled {
        return Ok(None);
    }
    let text = machine::read_text(machine, &place.file)?.unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let end = (place.first + place.count).min(lines.len());
    let own: Vec<String> = lines.drain(place.first..end).collect();
    let new = if place.file.ends_with(".sources") {
        switch_stanza(own, enabled)
    } else {
        own.iter().map(|line| switch_line(line, enabled)).collect()
    };
    lines.splice(place.first..place.first, new);
    Ok(Some((place.file.clone(), lines.join("\n") + "\n")))
}

fn switch_stanza(mut lines: Vec<String>, enabled: bool) -> Vec<String> {
    let value = if enabled { "yes" } else { "no" };
    let field = format!("Enabled: {value}");
    let is_field = |line: &&mut String| {
        let name = line.split(':').next().unwrap_or_default();
        name.trim_end().eq_ignore_ascii_case("enabled")
    };
    match lines.iter_mut().find(is_field) {
        Some(line) => *line = field,
        None => lines.insert(0, field),
    }
    lines
}

fn switch_line(line: &str, enabled: bool) -> String {
    if enabled {
        uncommented(line).to_owned()
    } else {
        format!("# {line}")
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn uncommented(line: &str) -> &str {
    line.trim_start().trim_start_matches('#').trim_start()
}

fn sources(machine: &dyn MachineFiles) -> Result<Vec<(PackageSource, Place)>> {
    let mut all = Vec::new();
    for file in machine::source_files(machine)? {
        let Some(text) = machine::read_text(machine, &file)? else {
            continue;
        };
        let found = if file.ends_with(".sources") {
            stanzas(&text)
        } else {
            lines(&text)
        };
        let stem = machine::id_of_file(&file);
        let several = found.len() > 1;
        for (at, (mut source, first, count)) in found.into_iter().enumerate() {
            source.id = if several {
                format!("{stem}-{}", at + 1)
            } else {
                stem.clone()
            };
            let file = file.clone();
            all.push((source, Place { file, first, count }));
        }
    }
    Ok(all)
}

/// The stanzas of a file with their first line and number of lines.
fn stanzas(text: &str) -> Vec<(PackageSource, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut first = 0;
    while first < lines.len() {
        let rest = &lines[first..];
        let count = rest.iter().take_while(|l| !l.trim().is_empty()).count();
        let stanza = rest[..count].join("\n");
        if let Some(source) = deb822::stanzas(&stanza).next().and_then(of_stanza) {
            found.push((source, first, count));
        }
        first += count + 1;
    }
    found
}

fn of_stanza(stanza: deb822::Stanza<'_>) -> Option<PackageSource> {
    let fields: BTreeMap<String, String> = stanza
        .fields()
        .into_iter()
        .map(|(name, lines)| (name.to_ascii_lowercase(), lines.join(" ").trim().to_owned()))
        .collect();
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let types = words(field("types"));
    if types.is_empty() {
        return None;
    }
    let parts = [field("uris"), field("suites"), field("components")];
    Some(source(
        &parts,
        !types.contains(&"deb"),
        !machine::is_no(field("enabled")),
    ))
}

fn lines(text: &str) -> Vec<(PackageSource, usize, usize)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let enabled = !line.trim_start().starts_with('#');
        if let Some(source) = of_line(uncommented(line), enabled) {
            found.push((source, at, 1));
        }
    }
    found
}

fn of_line(line: &str, enabled: bool) -> Option<PackageSource> {
    let line = line.split(" #").next().unwrap_or_default();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    if kind != "deb" && kind != "deb-src" {
        return None;
    }
    let rest = match rest.trim_start().strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let words = words(rest);
    let (uri, suite) = (words.first()?, words.get(1)?);
    // Prose that starts with "deb" is no source.
    if !uri.contains(":/") {
        return None;
    }
    let components = words[2..].join(" ");
    Some(source(
        &[uri, suite, components.as_str()],
        kind == "deb-src",
        enabled,
    ))
}

fn source(parts: &[&str], is_source: bool, is_enabled: bool) -> PackageSource {
    let parts: Vec<&str> = parts.iter().copied().filter(|p| !p.is_empty()).collect();
    let description = parts.join(" ");
    let debug = |word: &str| word.ends_with("-debug") || word.ends_with("/debug");
    PackageSource {
        id: String::new(),
        is_devel: description.split_whitespace().any(debug),
        description,
        is_source,
        is_enabled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(BTreeMap<&'static str, String>);

    impl MachineFiles for Files {
        fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
            Ok(self.0.get(path).map(|text| text.clone().into_bytes()))
        }

        fn names(&self, dir: &str) -> Result<Vec<String>> {
            let paths = self.0.keys().filter_map(|path| path.rsplit_once('/'));
            let own = paths.filter(|(parent, _)| *parent == dir);
            Ok(own.map(|(_, name)| name.to_owned()).collect())
        }
    }

    fn files() -> Files {
        Files(BTreeMap::from([
            (
                "etc/apt/sources.list",
                "# See the manual.\n# deb is nice\ndeb [arch=amd64] http://a.example/debian stable main # x\n# deb http://a.example/debian stable-debug main\ndeb-src http://a.example/debian stable main\n".to_owned(),
            ),
            (
                "etc/apt/sources.list.d/x.sources",
                "# Ours\nTypes: deb deb-src\nURIs: http://b.example\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN\n .\n x\n\nTypes: deb\nEnabled: no\nURIs: http://c.example\nSuites: ./\n".to_owned(),
            ),
            (
                "etc/apt/sources.list.d/y.list",
                "deb file:/srv/repo ./\n".to_owned(),
            ),
        ]))
    }

    #[test]
    fn all_sources_are_listed_also_those_that_are_off() {
        let found = list_sources(&files()).unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|s| (s.id.as_str(), s.is_enabled, s.is_source, s.is_devel))
            .collect();
        assert_eq!(
            shown,
            [
                ("sources-1", true, false, false),
                ("sources-2", false, false, true),
                ("sources-3", true, true, false),
                ("x-1", true, false, false),
                ("x-2", false, false, false),
                ("y", true, false, false),
            ]
        );
        assert_eq!(found[0].description, "http://a.example/debian stable main");
    }

    #[test]
    fn switching_changes_one_line_and_back() {
        for (id, file) in [
            ("sources-1", "etc/apt/sources.list"),
            ("sources-3", "etc/apt/sources.list"),
            ("x-1", "etc/apt/sources.list.d/x.sources"),
            ("y", "etc/apt/sources.list.d/y.list"),
        ] {
            let mut files = files();
            let before = files.0[file].clone();
            assert_eq!(switch_source(&files, id, true).unwrap(), None);
            let (path, text) = switch_source(&files, id, false).unwrap().unwrap();
            assert_eq!(path, file);
            files.0.insert(file, text);
            let state = |files: &Files| {
                let all = list_sources(files).unwrap();
                let own = all.iter().find(|s| s.id == id).unwrap();
                (all.len(), own.is_enabled)
            };
            assert_eq!(state(&files), (6, false), "{id}");
            let (_, text) = switch_source(&files, id, true).unwrap().unwrap();
            let same = text.replace("Enabled: yes\n", "");
            assert_eq!(same, before, "{id}");
        }
        let (_, text) = switch_source(&files(), "x-2", true).unwrap().unwrap();
        assert!(text.contains("Types: deb\nEnabled: yes\nURIs: http://c.example"));
        let error = switch_source(&files(), "z", true).unwrap_err();
        assert!(format!("{error:#}").contains("'z'"));
    }
}
