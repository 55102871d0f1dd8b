//! Reads a treefile and all that it includes.

use std::collections::HashSet;
use std::sync::Arc;

use apt_ostree_model::Arch;
use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{TreefileError, escape};
use crate::fields;
use crate::loader::{LoadedFile, Loader};
use crate::merge::{self, Fields};
use crate::node::{Key, Mark, Node, Source, Value};
use crate::variables::{self, Variable, Variables};
use crate::{check, condition, substitute, yaml};

/// Deepest chain of includes below the first treefile.
const MAX_DEPTH: usize = 50;
/// Most treefiles read for one compose.
const MAX_FILES: usize = 1000;
/// Most bytes in all of them.
const MAX_TOTAL: usize = 2 * yaml::MAX_BYTES;
/// Debian 13: the suite when nothing names one.
pub(crate) const DEFAULT_SUITE: &str = "trixie";

/// What reading a treefile gives.
#[derive(Debug)]
pub(crate) struct Merged {
    /// Fields with variables replaced.
    pub(crate) fields: Fields,
    /// Variables for the definitions in `*.sources` files.
    pub(crate) repo_variables: Variables,
    /// Where the first treefile begins.
    pub(crate) start: Mark,
    /// Debian's name of the architecture.
    pub(crate) arch: String,
    /// What the author should know.
    pub(crate) warnings: Vec<String>,
}

/// What decides how a treefile is read.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) loader: &'a dyn Loader,
    /// Architecture asked for.
    pub(crate) arch: Option<&'a str>,
    /// Architecture when nobody asks for one.
    pub(crate) host_arch: &'a str,
    /// Variables of the command line.
    pub(crate) variables: Variables,
}

/// Reads `path` and everything it includes.
pub(crate) fn read(context: &Context<'_>, path: &Utf8Path) -> Result<Merged, TreefileError> {
    let root = context
        .loader
        .root()
        .map_err(|e| TreefileError::unplaced(e.to_string()))?;
    let mut reader = Reader {
        context,
        root,
        arch: None,
        variables: context.variables.clone(),
        suite: None,
        chain: Vec::new(),
        merged: HashSet::new(),
        total: 0,
        warnings: Vec::new(),
    };
    let loaded = context
        .loader
        .open(&reader.root, path)
        .map_err(|e| TreefileError::unplaced(format!("reading the treefile: {e}")))?;
    let start = Mark::start_of(&reader.source(&loaded));
    let mut fields = reader.file(&loaded, None)?.unwrap_or_default();
    merge::settle(&mut fields);
    let variables = reader.all_variables();
    substitute::substitute_all(&mut fields, &variables)?;
    let mut repo_variables = variables;
    if let Some(repovars) = fields.get("repovars") {
        repo_variables.extend(variables::declared(repovars)?);
    }
    Ok(Merged {
        fields,
        repo_variables,
        start,
        arch: reader.arch.unwrap_or_default(),
        warnings: reader.warnings,
    })
}

struct Reader<'a> {
    context: &'a Context<'a>,
    root: Utf8PathBuf,
    /// Debian's name; known once the first treefile is parsed.
    arch: Option<String>,
    variables: Variables,
    /// First suite that a repository names, outer files first.
    suite: Option<String>,
    /// Files being read, outermost first: identity and name.
    chain: Vec<(String, String)>,
    /// Identities of all files seen.
    merged: HashSet<String>,
    total: usize,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn source(&self, file: &LoadedFile) -> Arc<Source> {
        let display = file.path.strip_prefix(&self.root).unwrap_or(&file.path);
        let dir = file.path.parent().unwrap_or(&self.root);
        Arc::new(Source {
            display: display.to_string(),
            dir: dir.to_owned(),
        })
    }

    /// Reads an included file; `None` when it is part of the tree already.
    fn include(&mut self, target: &Node) -> Result<Option<Fields>, TreefileError> {
        let path = Utf8Path::new(target.text());
        if path.extension() == Some("ks") {
            return Err(target
                .error("kickstart files are not supported; list the packages in a YAML treefile"));
        }
        let dir = &target.mark.source.dir;
        let file = self
            .context
            .loader
            .open(dir, path)
            .map_err(|e| target.error(format!("including '{}': {e}", escape(path.as_str()))))?;
        self.file(&file, Some(target))
    }

    fn file(
        &mut self,
        file: &LoadedFile,
        from: Option<&Node>,
    ) -> Result<Option<Fields>, TreefileError> {
        let source = self.source(file);
        let fail = |message: String| match from {
            Some(node) => node.error(message),
            None => TreefileError::in_file(&source.display, message),
        };
        if self.chain.iter().any(|(id, _)| *id == file.identity) {
            return Err(fail(format!(
                "include cycle: {}",
                self.chain_to(&source.display)
            )));
        }
        if !self.merged.insert(file.identity.clone()) {
            return Ok(None);
        }
        if self.chain.len() > MAX_DEPTH {
            return Err(fail(format!(
                "includes are nested deeper than {MAX_DEPTH} levels"
            )));
        }
        if self.merged.len() > MAX_FILES {
            return Err(fail(format!(
                "more than {MAX_FILES} treefiles are included"
            )));
        }
        if file.world_writable {
            self.warnings.push(format!(
                "{}: anyone may write to this file",
                escape(&source.display)
            ));
        }
        let json = file.path.extension() == Some("json");
        let document = yaml::parse(&file.data, &source, json)?;
        self.total = self.total.saturating_add(file.data.len());
        if self.total > MAX_TOTAL {
            return Err(fail(format!(
                "the treefiles are larger than {} MiB together",
                MAX_TOTAL >> 20
            )));
        }
        check::treefile(&document, &mut self.warnings)?;
        self.chain
            .push((file.identity.clone(), source.display.clone()));
        let fields = self.document(&document)?;
        self.chain.pop();
        Ok(Some(fields))
    }

    fn chain_to(&self, last: &str) -> String {
        let names = self
            .chain
            .iter()
            .map(|(_, name)| name.as_str())
            .chain([last]);
        names.map(escape).collect::<Vec<_>>().join(" -> ")
    }

    /// A checked document with all its includes merged.
    fn document(&mut self, document: &Node) -> Result<Fields, TreefileError> {
        let arch = self.settle_arch(document)?;
        let mut fields = merge::normalize(document, &arch)?;
        self.declare(document, &fields)?;
        let mut files: Vec<&Node> = Vec::new();
        if let Some(include) = document.get("include") {
            files.extend(include.one_or_many());
        }
        for (key, targets) in document.get("arch-include").map_or(&[][..], Node::entries) {
            if known_arch(key)? == arch {
                files.extend(targets.one_or_many());
            }
        }
        let conditional = document
            .get("conditional-include")
            .map_or(&[][..], Node::items);
        for entry in conditional {
            let (Some(conditions), Some(target)) = (entry.get("if"), entry.get("include")) else {
                continue;
            };
            if !condition::all_hold(conditions, &self.all_variables())? {
                continue;
            }
            match &target.value {
                Value::Map(_) => merge::merge(&mut fields, self.document(target)?),
                _ => files.extend(target.one_or_many()),
            }
        }
        for target in files {
            if let Some(included) = self.include(target)? {
                merge::merge(&mut fields, included);
            }
        }
        Ok(fields)
    }

    /// The architecture of the tree; every `architecture` must agree with it.
    fn settle_arch(&mut self, document: &Node) -> Result<String, TreefileError> {
        let node = document
            .get("architecture")
            .or_else(|| document.get("basearch"));
        let own = match node {
            Some(node) => match fields::debian_arch(node.text()) {
                Some(arch) => Some(arch),
                None => {
                    return Err(check::unknown_arch(
                        node.text(),
                        &node.mark,
                        "'architecture': ",
                    ));
                }
            },
            None => None,
        };
        let context = self.context;
        let arch = match &self.arch {
            Some(arch) => arch.clone(),
            None => context.arch.or(own).unwrap_or(context.host_arch).to_owned(),
        };
        if let (Some(node), Some(own)) = (node, own)
            && own != arch
        {
            let message = format!("this treefile is for '{own}', but the tree is for '{arch}'");
            return Err(node.error(message));
        }
        self.arch = Some(arch.clone());
        Ok(arch)
    }

    /// Takes over the variables of a document; those known already win.
    fn declare(&mut self, document: &Node, fields: &Fields) -> Result<(), TreefileError> {
        if let Some(node) = document.get("variables") {
            for (name, value) in variables::declared(node)? {
                let entry = self.variables.entry(name).or_insert_with(|| value.clone());
                // Arguments have no quotes: the treefile knows that `13` is text.
                if let (Variable::Text(_), Variable::Bool(_) | Variable::Number(_)) =
                    (&value, &*entry)
                {
                    *entry = Variable::Text(entry.to_string());
                }
            }
        }
        if let Some(Node {
            value: Value::Scalar(scalar),
            ..
        }) = fields.get("releasever")
        {
            let value = Variable::from_scalar(scalar);
            self.variables
                .entry("releasever".to_owned())
                .or_insert(value);
        }
        if self.suite.is_none() {
            self.suite = fields.get("repos").and_then(first_suite);
        }
        Ok(())
    }

    /// All variables, those that are always defined as well.
    fn all_variables(&self) -> Variables {
        let mut variables = self.variables.clone();
        let releasever = variables.get("releasever").map(Variable::to_string);
        let suite = self.suite.clone().or(releasever);
        let suite = suite.unwrap_or_else(|| DEFAULT_SUITE.to_owned());
        let arch = self.arch.as_deref().unwrap_or(self.context.host_arch);
        let base = arch
            .parse::<Arch>()
            .map_or_else(|_| arch.to_owned(), |a| a.basearch().to_owned());
        variables.insert("basearch".to_owned(), Variable::Text(base));
        variables.insert("suite".to_owned(), Variable::Text(suite));
        variables
    }
}

fn known_arch(key: &Key) -> Result<&'static str, TreefileError> {
    fields::debian_arch(&key.text)
        .ok_or_else(|| check::unknown_arch(&key.text, &key.mark, "'arch-include': "))
}

/// The first suite that a repository in a list gives in plain words.
fn first_suite(repos: &Node) -> Option<String> {
    let suites = repos.items().iter().filter_map(|repo| {
        let many = repo.get("suites").and_then(|s| s.items().first());
        Some(repo.get("suite").or(many)?.text())
    });
    let mut named = suites.filter(|s| !s.contains("${") && !s.ends_with('/'));
    named.next().map(str::to_owned)
}
