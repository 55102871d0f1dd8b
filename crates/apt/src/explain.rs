//! Why packages can't be installed together: the shortest chain of causes, in words.

use std::collections::{BTreeMap, VecDeque};

use rust_apt::{BaseDep, Cache, DepType, Dependency, Version};

use crate::candidates::Rules;
use crate::request::is_candidate;
use crate::sources::LOCK;

/// How each node that can't be avoided is reached: its depth, and the node and the dependency that
/// lead to it.
type Forced = BTreeMap<usize, (usize, Option<(usize, usize)>)>;

/// The part of the dependency graph that the requests reach, over candidate versions only.
#[derive(Debug, Default)]
struct Graph {
    nodes: Vec<Node>,
}

/// A candidate version.
#[derive(Debug, Default)]
struct Node {
    name: String,
    needs: Vec<Need>,
    /// Nodes that must not be installed with it, and the relation as it is written.
    conflicts: Vec<(usize, String)>,
}

/// A dependency: any one of the targets satisfies it.
#[derive(Debug, Default)]
struct Need {
    text: String,
    targets: Vec<usize>,
    /// Why there is no target.
    reason: String,
}

/// Explains why `roots` (full names) can't be installed.
pub(crate) fn explain(cache: &Cache, rules: &Rules<'_>, roots: &[String]) -> String {
    let (graph, roots) = build(cache, rules, roots);
    graph
        .impossible(&roots)
        .or_else(|| graph.conflict(&roots))
        .unwrap_or_else(|| broken(cache))
}

impl Graph {
    /// For each node the first round in which it is known that it can't be installed, and the
    /// dependency that is to blame.
    fn dead(&self) -> Vec<Option<(usize, usize)>> {
        let mut dead: Vec<Option<(usize, usize)>> = vec![None; self.nodes.len()];
        for round in 0..=self.nodes.len() {
            let mut found = Vec::new();
            for (at, node) in self
                .nodes
                .iter()
                .enumerate()
                .filter(|(at, _)| dead[*at].is_none())
            {
                let hopeless = |need: &Need| need.targets.iter().all(|t| dead[*t].is_some());
                if let Some(need) = node.needs.iter().position(hopeless) {
                    found.push((at, need));
                }
            }
            if found.is_empty() {
                break;
            }
            for (at, need) in found {
                dead[at] = Some((round, need));
            }
        }
        dead
    }

    /// A root that needs something that is not there.
    fn impossible(&self, roots: &[usize]) -> Option<String> {
        let dead = self.dead();
        let mut at = roots
            .iter()
            .copied()
            .filter(|&root| dead[root].is_some())
            .min_by_key(|&root| dead[root])?;
        let mut steps = Vec::new();
        while let Some((_, need)) = dead[at] {
            let node = &self.nodes[at];
            let need = &node.needs[need];
            steps.push(format!("{} needs {}", node.name, need.text));
            let next = need.targets.iter().copied().min_by_key(|&t| dead[t]);
            match next {
                Some(next) => at = next,
                None => {
                    if let Some(last) = steps.last_mut() {
                        last.push_str(&format!(", but {}", need.reason));
                    }
                    break;
                }
            }
        }
        Some(steps.join("; "))
    }

    /// Two packages that must both be installed and exclude each other.
    fn conflict(&self, roots: &[usize]) -> Option<String> {
        let dead = self.dead();
        let mut forced = Forced::new();
        let mut queue: VecDeque<usize> = VecDeque::new();
        for &root in roots {
            forced.insert(root, (0, None));
            queue.push_back(root);
        }
        while let Some(at) = queue.pop_front() {
            let depth = forced.get(&at).map_or(0, |(depth, _)| *depth);
            for (need, what) in self.nodes[at].needs.iter().enumerate() {
                let mut live = what.targets.iter().copied().filter(|t| dead[*t].is_none());
                if let (Some(only), None) = (live.next(), live.next())
                    && !forced.contains_key(&only)
                {
                    forced.insert(only, (depth + 1, Some((at, need))));
                    queue.push_back(only);
                }
            }
        }
        let pairs = forced.iter().flat_map(|(&a, (depth_a, _))| {
            let forced = &forced;
            self.nodes[a].conflicts.iter().filter_map(move |(b, text)| {
                let (depth_b, _) = forced.get(b)?;
                Some((depth_a + depth_b, a, *b, text))
            })
        });
        let (_, a, b, text) = pairs.min()?;
        let mut steps = self.path(&forced, a);
        for step in self.path(&forced, b) {
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
        let (a, b) = (&self.nodes[a].name, &self.nodes[b].name);
        let relation = match text == b {
            true => String::new(),
            false => format!(" (it excludes {text})"),
        };
        steps.push(format!("{a} conflicts with {b}{relation}"));
        Some(steps.join("; "))
    }

    /// How a root leads to a node.
    fn path(&self, forced: &Forced, mut at: usize) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some((_, Some((from, need)))) = forced.get(&at) {
            let node = &self.nodes[*from];
            steps.push(format!("{} needs {}", node.name, node.needs[*need].text));
            at = *from;
        }
        steps.reverse();
        steps
    }
}

struct Builder<'a, 'r> {
    cache: &'a Cache,
    rules: &'r Rules<'r>,
    graph: Graph,
    known: BTreeMap<usize, usize>,
    queue: VecDeque<(usize, Version<'a>)>,
}

fn build(cache: &Cache, rules: &Rules<'_>, roots: &[String]) -> (Graph, Vec<usize>) {
    let mut builder = Builder {
        cache,
        rules,
        graph: Graph::default(),
        known: BTreeMap::new(),
        queue: VecDeque::new(),
    };
    let roots: Vec<usize> = roots
        .iter()
        .filter_map(|name| cache.get(name)?.candidate())
        .map(|version| builder.node(&version))
        .collect();
    let mut versions = Vec::new();
    while let Some((at, version)) = builder.queue.pop_front() {
        for kind in [DepType::PreDepends, DepType::Depends] {
            for group in version.get_depends(&kind).into_iter().flatten() {
                let need = builder.need(group);
                builder.graph.nodes[at].needs.push(need);
            }
        }
        versions.push((at, version));
    }
    for (at, version) in versions {
        for kind in [DepType::Conflicts, DepType::DpkgBreaks] {
            for dep in version
                .get_depends(&kind)
                .into_iter()
                .flatten()
                .flat_map(|g| g.iter())
            {
                let targets = dep.all_targets();
                let hits = targets.iter().filter_map(|t| builder.known.get(&t.index()));
                let hits: Vec<_> = hits
                    .filter(|t| **t != at)
                    .map(|t| (*t, text(dep)))
                    .collect();
                builder.graph.nodes[at].conflicts.extend(hits);
            }
        }
    }
    (builder.graph, roots)
}

impl<'a> Builder<'a, '_> {
    fn node(&mut self, version: &Version<'a>) -> usize {
        let at = self.graph.nodes.len();
        match self.known.entry(version.index()) {
            std::collections::btree_map::Entry::Occupied(known) => *known.get(),
            std::collections::btree_map::Entry::Vacant(new) => {
                new.insert(at);
                self.graph.nodes.push(Node {
                    name: version.parent().fullname(true),
                    ..Node::default()
                });
                self.queue.push_back((at, version.clone()));
                at
            }
        }
    }

    fn need(&mut self, group: &Dependency<'a>) -> Need {
        let mut targets = Vec::new();
        for dep in group.iter() {
            for target in dep.all_targets() {
                if !is_candidate(&target) {
                    continue;
                }
                let name = target.parent().fullname(false);
                if let Some(version) = self.cache.get(&name).and_then(|p| p.candidate()) {
                    targets.push(self.node(&version));
                }
            }
        }
        let texts: Vec<String> = group.iter().map(text).collect();
        let reason = match targets.is_empty() {
            true => self.reason(group.first()),
            false => String::new(),
        };
        Need {
            text: texts.join(" or "),
            targets,
            reason,
        }
    }

    /// Why nothing satisfies `dep`.
    fn reason(&self, dep: &BaseDep<'_>) -> String {
        let package = dep.target_package();
        let excluded = self.rules.spec.exclude_packages.iter();
        if excluded
            .map(|n| n.as_str())
            .any(|name| name == package.name())
        {
            return "'exclude-packages' forbids it".to_owned();
        }
        let strict = self
            .rules
            .sources
            .list
            .iter()
            .any(|source| source.repo == LOCK);
        let newest = package.versions().next();
        if let Some(installed) = package.installed() {
            return format!("the base has {}", installed.version());
        }
        match (package.candidate(), newest) {
            (Some(chosen), Some(newest)) if chosen.index() == newest.index() => {
                format!("{} is the newest", chosen.version())
            }
            (Some(chosen), _) => {
                format!(
                    "{} is the version chosen by pins, suites or the lockfile",
                    chosen.version()
                )
            }
            (None, Some(_)) => "pins or lockfile-repos hide it".to_owned(),
            (None, None) if strict => "it is not in the lockfile".to_owned(),
            (None, None) if package.has_provides() => {
                "no package that provides it can be used".to_owned()
            }
            (None, None) => "it is in no repo".to_owned(),
        }
    }
}

fn text(dep: &BaseDep<'_>) -> String {
    match (dep.comp_type(), dep.version()) {
        (Some(comp), Some(version)) => format!("{} ({comp} {version})", dep.name()),
        _ => dep.name().to_owned(),
    }
}

/// The last resort: which packages are broken.
fn broken(cache: &Cache) -> String {
    let mut names: Vec<String> = cache
        .iter()
        .filter(|package| package.is_inst_broken())
        .map(|package| package.fullname(true))
        .collect();
    names.sort();
    names.truncate(5);
    match names.is_empty() {
        true => "the requested packages can't be installed together".to_owned(),
        false => format!(
            "the requested packages can't be installed together; not satisfied: {}",
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, needs: &[(&str, &[usize])]) -> Node {
        let need = |(text, targets): &(&str, &[usize])| Need {
            text: (*text).to_owned(),
            targets: targets.to_vec(),
            reason: "1.0 is the newest".to_owned(),
        };
        Node {
            name: name.to_owned(),
            needs: needs.iter().map(need).collect(),
            conflicts: Vec::new(),
        }
    }

    #[test]
    fn a_missing_dependency_is_told_with_its_chain() {
        let graph = Graph {
            nodes: vec![
                node("nginx", &[("ssl or tls", &[1, 2])]),
                node("ssl", &[("libfoo (>= 2)", &[])]),
                node("tls", &[("libbar", &[1])]),
            ],
        };
        assert_eq!(
            graph.impossible(&[0]).unwrap(),
            "nginx needs ssl or tls; ssl needs libfoo (>= 2), but 1.0 is the newest"
        );
    }

    #[test]
    fn a_live_alternative_is_no_problem() {
        let graph = Graph {
            nodes: vec![
                node("a", &[("b or c", &[1, 2])]),
                node("b", &[("x", &[])]),
                node("c", &[("a", &[0])]),
            ],
        };
        assert_eq!(graph.impossible(&[0]), None);
        assert_eq!(graph.conflict(&[0]), None);
    }

    #[test]
    fn a_conflict_is_told_with_both_chains() {
        let mut graph = Graph {
            nodes: vec![
                node("a", &[("b", &[1])]),
                node("b", &[]),
                node("c", &[("d or e", &[3, 4])]),
                node("d", &[]),
                node("e", &[("x", &[])]),
            ],
        };
        graph.nodes[1].conflicts.push((3, "dd".to_owned()));
        assert_eq!(
            graph.conflict(&[0, 2]).unwrap(),
            "a needs b; c needs d or e; b conflicts with d (it excludes dd)"
        );
    }
}
