//! deb822 `*.sources` files, as sources.list(5) describes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::{Draft, Surroundings, check_id};
use crate::error::{TreefileError, escape};
use crate::fields;
use crate::loader::{LoadError, LoadedFile, Loader};
use crate::node::{Mark, Node, Source};
use crate::spec::RepoSpec;
use crate::variables::substitute;

/// Longest `*.sources` file in bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// Most bytes of all of them in one directory.
const MAX_INDEX: usize = 4 * MAX_BYTES;
/// Fields with a meaning here.
const KNOWN: [&str; 12] = [
    "Types",
    "URIs",
    "Suites",
    "Components",
    "Architectures",
    "Signed-By",
    "Trusted",
    "Check-Valid-Until",
    "Enabled",
    "Priority",
    "X-Repolib-ID",
    "X-Distribution",
];
/// Fields of apt that don't matter here.
const IGNORED: [&str; 6] = [
    "Languages",
    "Targets",
    "PDiffs",
    "By-Hash",
    "Description",
    "X-Repolib-Name",
];

/// The repositories of one name and the file that has them.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: Utf8PathBuf,
    pub(super) repos: Vec<RepoSpec>,
}

/// A stanza: its fields, each a text that knows its place.
type Stanza = Vec<(String, Node)>;

/// The stanzas with an id of all files of a directory.
#[derive(Debug, Default)]
pub(super) struct Index {
    dirs: BTreeMap<Utf8PathBuf, Vec<(Utf8PathBuf, Stanza)>>,
}

impl Index {
    /// The stanzas of `dir`, read the first time they are asked for.
    fn of(
        &mut self,
        dir: &Utf8Path,
        loader: &dyn Loader,
    ) -> Result<&[(Utf8PathBuf, Stanza)], TreefileError> {
        if !self.dirs.contains_key(dir) {
            let found = Self::read(dir, loader)?;
            self.dirs.insert(dir.to_owned(), found);
        }
        Ok(self.dirs.get(dir).map_or(&[], Vec::as_slice))
    }

    fn read(
        dir: &Utf8Path,
        loader: &dyn Loader,
    ) -> Result<Vec<(Utf8PathBuf, Stanza)>, TreefileError> {
        let fail = |message: String| TreefileError::unplaced(message);
        let mut found = Vec::new();
        let mut total = 0;
        for name in loader
            .list(dir, ".sources")
            .map_err(|e| fail(e.to_string()))?
        {
            let file = loader
                .open(dir, Utf8Path::new(&name))
                .map_err(|e| fail(e.to_string()))?;
            total += file.data.len();
            let named = stanzas(&file)?.into_iter().filter(|s| id_of(s).is_some());
            found.extend(named.map(|s| (file.path.clone(), s)));
            if total > MAX_INDEX {
                let limit = MAX_INDEX >> 20;
                return Err(fail(format!(
                    "the '*.sources' files in '{}' are larger than {limit} MiB together",
                    escape(dir.as_str())
                )));
            }
        }
        Ok(found)
    }
}

/// Finds `NAME.sources`, else the stanza with the id `NAME` in any `*.sources` file.
pub(super) fn find(
    name: &Node,
    index: &mut Index,
    around: &Surroundings<'_>,
) -> Result<Found, TreefileError> {
    let dir = around.source_root.unwrap_or(&name.mark.source.dir);
    let own = format!("{}.sources", name.text());
    match around.loader.open(dir, Utf8Path::new(&own)) {
        Ok(file) => return whole_file(name, &file, around),
        Err(LoadError::NotFound(_)) => {}
        Err(other) => return Err(name.error(other.to_string())),
    }
    let mut all = index.of(dir, around.loader)?.iter();
    if let Some((path, stanza)) = all.find(|(_, s)| id_of(s) == Some(name.text())) {
        let Some(repo) = repo(stanza, name.text(), around)? else {
            let file = path.file_name().unwrap_or_default();
            return Err(name.error(format!(
                "repository '{}' is not enabled in '{file}'",
                name.text()
            )));
        };
        return Ok(Found {
            path: path.clone(),
            repos: vec![repo],
        });
    }
    let text = escape(name.text());
    Err(name.error(format!(
        "repository '{text}' is not defined: there is no file '{own}', and no stanza with 'X-Repolib-ID: {text}', in '{}'; or define it here, as in '- name: {text}'",
        escape(dir.as_str())
    )))
}

/// All enabled stanzas: the first one without an id gets the file's name, the next `NAME-2`.
fn whole_file(
    name: &Node,
    file: &LoadedFile,
    around: &Surroundings<'_>,
) -> Result<Found, TreefileError> {
    let mut repos: Vec<RepoSpec> = Vec::new();
    let mut unnamed = 0;
    for stanza in stanzas(file)? {
        let id = match id_of(&stanza) {
            Some(id) => id.to_owned(),
            None => {
                unnamed += 1;
                if unnamed == 1 {
                    name.text().to_owned()
                } else {
                    format!("{}-{unnamed}", name.text())
                }
            }
        };
        repos.extend(repo(&stanza, &id, around)?);
    }
    if repos.is_empty() {
        let message = format!(
            "'{}.sources' has no enabled stanza of type 'deb'",
            name.text()
        );
        return Err(name.error(message));
    }
    Ok(Found {
        path: file.path.clone(),
        repos,
    })
}

fn get<'a>(stanza: &'a Stanza, name: &str) -> Option<&'a Node> {
    stanza
        .iter()
        .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
}

fn id_of(stanza: &Stanza) -> Option<&str> {
    get(stanza, "X-Repolib-ID").map(Node::text)
}

/// A stanza as repository; `None` when it is switched off or for sources only.
fn repo(
    stanza: &Stanza,
    id: &str,
    around: &Surroundings<'_>,
) -> Result<Option<RepoSpec>, TreefileError> {
    let Some((_, first)) = stanza.first() else {
        return Ok(None);
    };
    if !flag(stanza, "Enabled", true)? {
        return Ok(None);
    }
    let types = words(stanza, "Types", around)?;
    if let Some(bad) = types
        .iter()
        .find(|t| !matches!(t.text(), "deb" | "deb-src"))
    {
        return Err(bad.error(format!("unknown type '{}'", escape(bad.text()))));
    }
    if !types.iter().any(|t| t.text() == "deb") {
        return Ok(None);
    }
    check_id(id).map_err(|why| first.error(why))?;
    let urls = words(stanza, "URIs", around)?;
    let [url] = urls.as_slice() else {
        return Err(first.error("a stanza needs one address in 'URIs'"));
    };
    let (suites, components) = (
        words(stanza, "Suites", around)?,
        words(stanza, "Components", around)?,
    );
    if suites.is_empty() {
        return Err(first.error("a stanza needs 'Suites'"));
    }
    let architectures = words(stanza, "Architectures", around)?;
    let keys = keys(stanza, around)?;
    let distribution = get(stanza, "X-Distribution").map_or("debian", Node::text);
    if !matches!(distribution, "debian" | "ubuntu") {
        return Err(first.error("'X-Distribution' must be 'debian' or 'ubuntu'"));
    }
    let priority = get(stanza, "Priority").map(|node| {
        let number = node
            .text()
            .parse::<i32>()
            .ok()
            .filter(|n| *n != 0 && n.abs() <= 32767);
        number.ok_or_else(|| node.error("'Priority' must be a whole number other than 0"))
    });
    let draft = Draft {
        name: id,
        mark: &first.mark,
        url: Some(url),
        distribution,
        suites: suites.iter().collect(),
        components: Some(components.iter().collect()),
        architectures: architectures.iter().collect(),
        keys: keys.iter().collect(),
        trusted: flag(stanza, "Trusted", false)?,
        check_valid_until: flag(stanza, "Check-Valid-Until", true)?,
        priority: priority.transpose()?,
    };
    draft.finish(around).map(Some)
}

fn flag(stanza: &Stanza, name: &str, default: bool) -> Result<bool, TreefileError> {
    match get(stanza, name) {
        None => Ok(default),
        Some(node) => match node.text().to_ascii_lowercase().as_str() {
            "yes" | "true" | "1" => Ok(true),
            "no" | "false" | "0" => Ok(false),
            _ => Err(node.error(format!("'{name}' must be yes or no"))),
        },
    }
}

/// The words of a field, variables replaced.
fn words(
    stanza: &Stanza,
    name: &str,
    around: &Surroundings<'_>,
) -> Result<Vec<Node>, TreefileError> {
    let Some(node) = get(stanza, name) else {
        return Ok(Vec::new());
    };
    let text = substitute(node.text(), around.variables, &node.mark)?;
    Ok(text
        .split_whitespace()
        .map(|word| Node::text_at(word, &node.mark))
        .collect())
}

/// `Signed-By`: file names, or one armored block in which ` .` stands for an empty line.
fn keys(stanza: &Stanza, around: &Surroundings<'_>) -> Result<Vec<Node>, TreefileError> {
    let Some(node) = get(stanza, "Signed-By") else {
        return Ok(Vec::new());
    };
    if !node.text().contains("-----BEGIN") {
        return words(stanza, "Signed-By", around);
    }
    let lines = node
        .text()
        .trim()
        .lines()
        .map(|line| if line == "." { "" } else { line });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    Ok(vec![Node::text_at(text, &node.mark)])
}

/// Splits a file into stanzas and checks the names of the fields.
fn stanzas(file: &LoadedFile) -> Result<Vec<Stanza>, TreefileError> {
    let display = file.path.file_name().unwrap_or_default().to_owned();
    let dir = file
        .path
        .parent()
        .map_or_else(Utf8PathBuf::new, Utf8Path::to_owned);
    let source = Arc::new(Source { display, dir });
    if file.data.len() > MAX_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        return Err(TreefileError::in_file(&source.display, message));
    }
    let Ok(text) = std::str::from_utf8(&file.data) else {
        return Err(TreefileError::in_file(
            &source.display,
            "the file is not UTF-8",
        ));
    };
    let mut stanzas: Vec<Stanza> = vec![Vec::new()];
    for (line, number) in text.lines().zip(1u32..) {
        let mark = Mark {
            source: Arc::clone(&source),
            line: number,
            column: 1,
        };
        if line.starts_with('#') {
            continue;
        }
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(mark.error("the line holds a control character"));
        }
        let Some(stanza) = stanzas.last_mut() else {
            continue;
        };
        if line.trim().is_empty() {
            if !stanza.is_empty() {
                stanzas.push(Vec::new());
            }
        } else if line.starts_with([' ', '\t']) {
            continue_field(stanza, line.trim(), &mark)?;
        } else {
            new_field(stanza, line, &mark)?;
        }
    }
    stanzas.retain(|s| !s.is_empty());
    Ok(stanzas)
}

fn continue_field(stanza: &mut Stanza, line: &str, mark: &Mark) -> Result<(), TreefileError> {
    let Some((_, node)) = stanza.last_mut() else {
        return Err(mark.error("a continued line has no field before it"));
    };
    *node = Node::text_at(format!("{}\n{line}", node.text()), &node.mark);
    Ok(())
}

fn new_field(stanza: &mut Stanza, line: &str, mark: &Mark) -> Result<(), TreefileError> {
    let Some((name, value)) = line.split_once(':') else {
        return Err(mark.error("expected 'Field: value'"));
    };
    let name = name.trim();
    let known = |names: &[&str]| names.iter().any(|k| k.eq_ignore_ascii_case(name));
    if !known(&KNOWN) && !known(&IGNORED) {
        let lower: Vec<String> = KNOWN.iter().map(|k| k.to_ascii_lowercase()).collect();
        let hint = fields::suggest(name, lower.iter().map(String::as_str));
        let hint = hint.and_then(|h| KNOWN.iter().find(|k| k.eq_ignore_ascii_case(h)));
        let hint = hint.map_or_else(String::new, |h| format!(", did you mean '{h}'?"));
        return Err(mark.error(format!(
            "field '{}' is not supported here{hint}",
            escape(name)
        )));
    }
    if get(stanza, name).is_some() {
        return Err(mark.error(format!("'{name}' is given twice")));
    }
    stanza.push((name.to_owned(), Node::text_at(value.trim(), mark)));
    Ok(())
}
