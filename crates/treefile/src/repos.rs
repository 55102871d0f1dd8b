//! Repositories: inline definitions, deb822 `*.sources` files, and names that refer to either.

mod sources;

use std::collections::BTreeMap;

use apt_ostree_model::Arch;
use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{TreefileError, escape};
use crate::fields;
use crate::include::DEFAULT_SUITE;
use crate::loader::{FileKind, Loader};
use crate::merge::Fields;
use crate::node::{Mark, Node, Value};
use crate::packages::parse_suite;
use crate::spec::{ExternalFile, GpgKey, RepoSpec};
use crate::variables::Variables;

/// Host directories of keyrings that may be named by absolute path.
const KEYRING_DIRS: [&str; 3] = [
    "/usr/share/keyrings",
    "/etc/apt/keyrings",
    "/etc/apt/trusted.gpg.d",
];

/// Most repositories of one tree.
const MAX_REPOS: usize = 200;

/// What repositories are resolved with.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) loader: &'a dyn Loader,
    /// Where `*.sources` files are, instead of beside the treefile.
    pub(crate) source_root: Option<&'a Utf8Path>,
    /// Base URL for repositories without one.
    pub(crate) mirror: Option<&'a str>,
    /// Suite for repositories without one.
    pub(crate) releasever: Option<String>,
    /// For `*.sources` files.
    pub(crate) variables: &'a Variables,
}

/// `repos` and `lockfile-repos`, resolved.
#[derive(Debug, Default)]
pub(crate) struct Repos {
    pub(crate) all: Vec<RepoSpec>,
    pub(crate) lockfile: Vec<String>,
    pub(crate) files: Vec<ExternalFile>,
    index: sources::Index,
    /// Where each one is defined.
    places: BTreeMap<String, Mark>,
}

/// Resolves `repos` and `lockfile-repos`.
pub(crate) fn resolve(fields: &Fields, around: &Surroundings<'_>) -> Result<Repos, TreefileError> {
    let mut repos = Repos::default();
    let lists =
        ["repos", "lockfile-repos"].map(|name| fields.get(name).map_or(&[][..], Node::items));
    let inline: Vec<&str> = lists
        .iter()
        .copied()
        .flatten()
        .filter_map(|n| n.get("name"))
        .map(Node::text)
        .collect();
    for (list, locked) in lists.into_iter().zip([false, true]) {
        for node in list {
            let names = match &node.value {
                Value::Map(_) => {
                    let repo = inline_repo(node, around)?;
                    let name = repo.name.clone();
                    repos.add(repo, &node.mark)?;
                    vec![name]
                }
                // Its definition comes, or came, with another entry.
                _ if inline.contains(&node.text()) => vec![node.text().to_owned()],
                _ => repos.add_named(node, around)?,
            };
            if locked {
                repos.lockfile.extend(names);
            }
        }
    }
    Ok(repos)
}

impl Repos {
    fn add(&mut self, repo: RepoSpec, mark: &Mark) -> Result<(), TreefileError> {
        if let Some(first) = self.places.get(&repo.name) {
            let message = format!(
                "repository '{}' is given twice; first at {}",
                repo.name,
                first.brief()
            );
            return Err(mark.error(message));
        }
        if self.all.len() >= MAX_REPOS {
            return Err(mark.error(format!("more than {MAX_REPOS} repositories")));
        }
        self.places.insert(repo.name.clone(), mark.clone());
        self.all.push(repo);
        Ok(())
    }

    /// Adds the repositories that a name stands for and gives their ids.
    fn add_named(
        &mut self,
        node: &Node,
        around: &Surroundings<'_>,
    ) -> Result<Vec<String>, TreefileError> {
        check_id(node.text()).map_err(|why| node.error(why))?;
        if self.places.contains_key(node.text()) {
            return Ok(vec![node.text().to_owned()]);
        }
        let found = sources::find(node, &mut self.index, around)?;
        let mut names = Vec::new();
        for repo in found.repos {
            names.push(repo.name.clone());
            self.add(repo, &node.mark)?;
        }
        if !self.files.iter().any(|f| f.path == found.path) {
            self.files.push(ExternalFile {
                path: found.path,
                role: "repos".to_owned(),
            });
        }
        Ok(names)
    }

    /// Checks that a field names a repository that exists.
    pub(crate) fn require(&self, name: &Node) -> Result<(), TreefileError> {
        if self.places.contains_key(name.text()) {
            return Ok(());
        }
        let hint = match fields::suggest(name.text(), self.places.keys().map(String::as_str)) {
            Some(known) => format!(", did you mean '{known}'?"),
            None => "; define it in 'repos'".to_owned(),
        };
        Err(name.error(format!(
            "unknown repository '{}'{hint}",
            escape(name.text())
        )))
    }
}

fn inline_repo(node: &Node, around: &Surroundings<'_>) -> Result<RepoSpec, TreefileError> {
    let text = |key: &str| node.get(key).map(Node::text);
    let flag = |key: &str, default| node.get(key).and_then(Node::as_bool).unwrap_or(default);
    let texts =
        |key: &str| -> Vec<&Node> { node.get(key).map_or(&[][..], Node::items).iter().collect() };
    let name = node.get("name").unwrap_or(node);
    check_id(name.text()).map_err(|why| name.error(why))?;
    if let (Some(_), Some(many)) = (node.get("suite"), node.get("suites")) {
        return Err(many.error("'suite' and 'suites' are given; give one of them"));
    }
    let draft = Draft {
        name: name.text(),
        mark: &node.mark,
        url: node.get("url"),
        distribution: text("distribution").unwrap_or("debian"),
        suites: node
            .get("suite")
            .into_iter()
            .chain(texts("suites"))
            .collect(),
        components: node.get("components").map(|c| c.items().iter().collect()),
        architectures: texts("architectures"),
        keys: texts("gpg-keys"),
        trusted: flag("trusted", false),
        check_valid_until: flag("check-valid-until", true),
        priority: priority(node.get("priority"))?,
    };
    draft.finish(around)
}

/// A priority; 0 has no meaning to apt.
pub(crate) fn priority(node: Option<&Node>) -> Result<Option<i32>, TreefileError> {
    let Some(node) = node else {
        return Ok(None);
    };
    match node.as_integer().and_then(|n| i32::try_from(n).ok()) {
        Some(0) | None => Err(node.error("a priority is not 0")),
        some => Ok(some),
    }
}

/// Ids appear in file names.
fn check_id(text: &str) -> Result<(), String> {
    let start = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if start && rest && text.len() <= 100 {
        return Ok(());
    }
    Err(format!(
        "'{}' is not a repository name: only letters, digits and '-_.' are allowed",
        escape(text)
    ))
}

/// A definition whose parts are text.
#[derive(Debug)]
struct Draft<'a> {
    name: &'a str,
    mark: &'a Mark,
    url: Option<&'a Node>,
    distribution: &'a str,
    suites: Vec<&'a Node>,
    components: Option<Vec<&'a Node>>,
    architectures: Vec<&'a Node>,
    keys: Vec<&'a Node>,
    trusted: bool,
    check_valid_until: bool,
    priority: Option<i32>,
}

impl Draft<'_> {
    fn finish(&self, around: &Surroundings<'_>) -> Result<RepoSpec, TreefileError> {
        let (url, directory) = self.url(around)?;
        let suites = self.suites(directory, around)?;
        let flat = suites.iter().any(|s| s.ends_with('/'));
        if flat && suites.len() > 1 {
            return Err(self
                .mark
                .error("a flat repository (suite ending in '/') has only that suite"));
        }
        Ok(RepoSpec {
            name: self.name.to_owned(),
            url,
            distribution: self.distribution.to_owned(),
            components: self.components(flat)?,
            suites,
            architectures: self.architectures()?,
            gpg_keys: self
                .keys
                .iter()
                .map(|k| gpg_key(k, around.loader))
                .collect::<Result<_, _>>()?,
            trusted: self.trusted,
            check_valid_until: self.check_valid_until,
            priority: self.priority,
        })
    }

    /// The URL, and whether the treefile names a directory.
    fn url(&self, around: &Surroundings<'_>) -> Result<(Option<String>, bool), TreefileError> {
        let Some(node) = self.url else {
            return Ok((around.mirror.map(str::to_owned), false));
        };
        let text = node.text();
        if let Some(scheme) = scheme_of(text) {
            check_url(text, scheme).map_err(|why| node.error(why))?;
            return Ok((Some(text.to_owned()), false));
        }
        let found = around.loader.locate(
            &node.mark.source.dir,
            Utf8Path::new(text),
            FileKind::Directory,
        );
        let path = found.map_err(|e| node.error(format!("repository directory: {e}")))?;
        Ok((Some(format!("file://{}", encode_path(&path))), true))
    }

    fn suites(
        &self,
        directory: bool,
        around: &Surroundings<'_>,
    ) -> Result<Vec<String>, TreefileError> {
        if self.suites.is_empty() {
            return match (directory, &around.releasever, self.distribution) {
                (true, ..) => Ok(vec!["./".to_owned()]),
                (_, Some(suite), _) => Ok(vec![suite.clone()]),
                (_, None, "debian") => Ok(vec![DEFAULT_SUITE.to_owned()]),
                _ => Err(self.mark.error(format!(
                    "repository '{}' needs 'suite', such as 'noble'",
                    self.name
                ))),
            };
        }
        let mut suites: Vec<String> = Vec::new();
        for node in &self.suites {
            let suite = check_suite(node.text()).map_err(|why| node.error(why))?;
            if suites.contains(&suite) {
                return Err(node.error(format!("suite '{suite}' is given twice")));
            }
            suites.push(suite);
        }
        Ok(suites)
    }

    fn components(&self, flat: bool) -> Result<Vec<String>, TreefileError> {
        let Some(nodes) = &self.components else {
            return Ok(match (flat, self.distribution) {
                (true, _) => Vec::new(),
                (_, "ubuntu") => vec!["main".to_owned(), "universe".to_owned()],
                _ => vec!["main".to_owned()],
            });
        };
        if let (true, Some(first)) = (flat, nodes.first()) {
            return Err(first.error("a flat repository (suite ending in '/') has no components"));
        }
        if nodes.is_empty() && !flat {
            return Err(self
                .mark
                .error(format!("repository '{}' has no components", self.name)));
        }
        let component = |node: &&Node| {
            parse_suite(node.text()).map_err(|_| {
                node.error(format!(
                    "'{}' is not the name of a component",
                    escape(node.text())
                ))
            })
        };
        nodes.iter().map(component).collect()
    }

    fn architectures(&self) -> Result<Vec<Arch>, TreefileError> {
        let arch = |node: &&Node| {
            let name = fields::debian_arch(node.text()).and_then(|a| a.parse().ok());
            name.ok_or_else(|| {
                crate::check::unknown_arch(node.text(), &node.mark, "'architectures': ")
            })
        };
        self.architectures.iter().map(arch).collect()
    }
}

/// A suite, or the path of a flat repository.
fn check_suite(text: &str) -> Result<String, String> {
    let Some(path) = text.strip_suffix('/') else {
        return parse_suite(text);
    };
    let path = path.trim_start_matches("./");
    if path.is_empty() || path == "." || parse_suite(path).is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!(
        "'{}' is not the path of a flat repository",
        escape(text)
    ))
}

/// The scheme when the text is a URL.
fn scheme_of(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let word = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    (!scheme.is_empty() && scheme.bytes().all(word)).then_some(scheme)
}

fn check_url(text: &str, scheme: &str) -> Result<(), String> {
    let fail = |why: &str| Err(format!("url '{}' {why}", escape(text)));
    if text.len() > 2000
        || text
            .bytes()
            .any(|b| !b.is_ascii_graphic() || b"\"<>\\^`{|}[]".contains(&b))
    {
        return fail("holds a character that must be percent-encoded, or is too long");
    }
    let rest = text.get(scheme.len() + 1..).unwrap_or_default();
    match scheme {
        "http" | "https" => {
            let Some(host) = rest
                .strip_prefix("//")
                .and_then(|r| r.split('/').next())
                .filter(|h| !h.is_empty())
            else {
                return fail("has no host");
            };
            if host.contains('@') {
                return fail(
                    "holds a password, which the image would show; put it in apt's auth.conf.d",
                );
            }
            if rest.contains(['?', '#']) {
                return fail("has a query, which apt can't use");
            }
            Ok(())
        }
        "file" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                return fail("must have an absolute path without '..'");
            }
            Ok(())
        }
        _ => fail("must begin with 'http:', 'https:' or 'file:', or name a directory"),
    }
}

/// Percent-encodes what a URL path can't hold.
fn encode_path(path: &Utf8Path) -> String {
    let mut out = String::new();
    for byte in path.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~+=,:@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn gpg_key(node: &Node, loader: &dyn Loader) -> Result<GpgKey, TreefileError> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
    let text = node.text();
    if let Some(start) = text.find("-----BEGIN") {
        if !text
            .get(start..)
            .is_some_and(|t| t.starts_with(BEGIN) && t.contains(END))
        {
            return Err(node.error("this is not a whole armored public key block"));
        }
        return Ok(GpgKey::Armored(text.to_owned()));
    }
    if text.contains(char::is_control) {
        return Err(node.error("a key is a file name or an armored public key block"));
    }
    let path = Utf8Path::new(text);
    let plain = !path
        .components()
        .any(|c| c == camino::Utf8Component::ParentDir);
    if plain && KEYRING_DIRS.iter().any(|dir| path.starts_with(dir)) {
        return Ok(GpgKey::File(Utf8PathBuf::from(path)));
    }
    let file = loader.locate(&node.mark.source.dir, path, FileKind::File);
    file.map(GpgKey::File)
        .map_err(|e| node.error(format!("keyring: {e}")))
}
