//! In which order packages are configured: the groups of a plan.
//!
//! A pure function over a small graph. Group 0 holds the essential packages closed under their
//! dependencies. Then the requests are walked in order; what each one adds joins the open group,
//! which is closed once it is large enough. A closed group never depends on later requests, so the
//! configured tree of a prefix of groups can be cached: adding a package at the end of the request
//! redoes only the last group. What one request adds is cut where it gets long, so that its first
//! packages are configured while the others are imported.
//!
//! A target of Pre-Depends must be configured before the package that names it is unpacked.
//! Therefore it is placed in an earlier group than that package, together with all it depends on;
//! only cycles stay together.

/// A group is closed once it has this many packages.
const GROUP_SIZE: usize = 24;

/// What one request adds is cut after about this many packages. Each group costs another run of
/// triggers, one to two seconds on a desktop.
const LARGE_GROUP: usize = 300;

/// One planned package. Edges are indices into the slice of all nodes and lead to the planned
/// package that satisfies the dependency.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Targets of Pre-Depends.
    pub pre_depends: Vec<usize>,
    /// Targets of Depends.
    pub depends: Vec<usize>,
    /// Targets of Recommends; empty when they are not installed.
    pub recommends: Vec<usize>,
    /// Belongs to group 0.
    pub essential: bool,
}

impl Node {
    fn hard(&self) -> impl Iterator<Item = usize> + '_ {
        self.pre_depends.iter().chain(&self.depends).copied()
    }

    fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.hard().chain(self.recommends.iter().copied())
    }
}

/// Gives every node the number of its group.
///
/// `requests` holds, in the user's order, the packages that each request names. Indices out of
/// range are ignored.
pub fn assign(nodes: &[Node], requests: &[Vec<usize>]) -> Vec<u32> {
    assign_cut(nodes, requests, LARGE_GROUP)
}

/// As [`assign`], with another size of groups than [`LARGE_GROUP`].
fn assign_cut(nodes: &[Node], requests: &[Vec<usize>], large: usize) -> Vec<u32> {
    let mut builder = Builder {
        nodes,
        large,
        group: vec![None; nodes.len()],
        open: Vec::new(),
        closed: 0,
    };
    let essential: Vec<usize> = (0..nodes.len()).filter(|&n| nodes[n].essential).collect();
    let bootstrap = builder.unplaced_closure(&essential, |node| node.hard().collect());
    builder.open = bootstrap;
    builder.close();
    for request in requests {
        let added = builder.unplaced_closure(request, |node| node.all().collect());
        builder.add(&added);
    }
    let everything: Vec<usize> = (0..nodes.len()).collect();
    let rest = builder.unplaced_closure(&everything, |_| Vec::new());
    builder.add(&rest);
    builder.close();
    builder
        .group
        .into_iter()
        .map(|group| group.unwrap_or(0))
        .collect()
}

struct Builder<'a> {
    nodes: &'a [Node],
    large: usize,
    /// Group of the nodes in closed groups.
    group: Vec<Option<u32>>,
    /// Members of the open group.
    open: Vec<usize>,
    /// Number of the open group.
    closed: u32,
}

impl Builder<'_> {
    /// What can be reached from `roots` and is in no group yet, in order of discovery.
    fn unplaced_closure(&self, roots: &[usize], edges: impl Fn(&Node) -> Vec<usize>) -> Vec<usize> {
        let mut seen: Vec<bool> = self.group.iter().map(Option::is_some).collect();
        for &node in &self.open {
            seen[node] = true;
        }
        let mut found = Vec::new();
        let mut queue: std::collections::VecDeque<usize> = roots.iter().copied().collect();
        while let Some(node) = queue.pop_front() {
            match seen.get_mut(node) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            found.push(node);
            queue.extend(edges(&self.nodes[node]));
        }
        found
    }

    /// Adds the packages of one request.
    fn add(&mut self, added: &[usize]) {
        let places = places(self.nodes, added);
        let waits_for_open = added
            .iter()
            .flat_map(|&node| &self.nodes[node].pre_depends)
            .any(|target| self.open.contains(target));
        let last = places.iter().map(|place| place.level).max().unwrap_or(0);
        if waits_for_open || last > 0 {
            self.close();
        }
        for level in 0..=last {
            let mut members: Vec<(usize, usize)> = added
                .iter()
                .zip(&places)
                .filter(|(_, place)| place.level == level)
                .map(|(&node, place)| (place.component, node))
                .collect();
            members.sort_by_key(|&(component, _)| component);
            for cycle in members.chunk_by(|a, b| a.0 == b.0) {
                if self.open.len() + cycle.len() > self.large {
                    self.close();
                }
                self.open.extend(cycle.iter().map(|&(_, node)| node));
            }
            if level < last || self.open.len() >= GROUP_SIZE {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        // Group 0 exists even when nothing is essential.
        if self.open.is_empty() && self.closed > 0 {
            return;
        }
        for node in self.open.drain(..) {
            self.group[node] = Some(self.closed);
        }
        self.closed += 1;
    }
}

/// Where a package stands among those that a request adds.
struct Place {
    /// How many times it must wait for a Pre-Depends target.
    level: u32,
    /// The cycle that it is in, mostly alone; its dependencies are in those of smaller numbers.
    component: usize,
}

/// The places of `members`, in their order.
fn places(nodes: &[Node], members: &[usize]) -> Vec<Place> {
    let mut position = vec![usize::MAX; nodes.len()];
    for (at, &node) in members.iter().enumerate() {
        position[node] = at;
    }
    let local = |targets: &[usize]| -> Vec<usize> {
        let targets = targets.iter().filter_map(|&t| position.get(t).copied());
        targets.filter(|&at| at != usize::MAX).collect()
    };
    let pre: Vec<_> = members
        .iter()
        .map(|&n| local(&nodes[n].pre_depends))
        .collect();
    let hard: Vec<_> = members
        .iter()
        .zip(&pre)
        .map(|(&n, pre)| [local(&nodes[n].depends), pre.clone()].concat())
        .collect();
    let (component, count) = components(&hard);
    // Components are numbered so that a dependency has a smaller number than its dependents.
    let mut by_component = vec![Vec::new(); count];
    for (at, &c) in component.iter().enumerate() {
        by_component[c].push(at);
    }
    let mut level = vec![0; count];
    for c in 0..count {
        for &at in &by_component[c] {
            let outside = |targets: &[usize], wait: u32| {
                let targets = targets.iter().map(|&t| component[t]);
                targets
                    .filter(|&t| t != c)
                    .map(|t| level[t] + wait)
                    .max()
                    .unwrap_or(0)
            };
            level[c] = level[c]
                .max(outside(&hard[at], 0))
                .max(outside(&pre[at], 1));
        }
    }
    let place = |component| Place {
        level: level[component],
        component,
    };
    component.into_iter().map(place).collect()
}

/// Strongly connected components, numbered in reverse topological order (targets first). Tarjan's
/// algorithm with an explicit stack, because the graph comes from outside and may be deep.
fn components(edges: &[Vec<usize>]) -> (Vec<usize>, usize) {
    const NEW: usize = usize::MAX;
    let n = edges.len();
    let (mut index, mut low, mut component) = (vec![NEW; n], vec![0; n], vec![NEW; n]);
    let (mut next, mut count) = (0, 0);
    let mut path = Vec::new();
    for root in 0..n {
        if index[root] != NEW {
            continue;
        }
        let mut calls = vec![(root, 0)];
        while let Some((node, edge)) = calls.pop() {
            if edge == 0 {
                index[node] = next;
                low[node] = next;
                next += 1;
                path.push(node);
            } else {
                // Members of finished components have an infinite `low`.
                low[node] = low[node].min(low[edges[node][edge - 1]]);
            }
            if let Some(&target) = edges[node].get(edge) {
                calls.push((node, edge + 1));
                if index[target] == NEW {
                    calls.push((target, 0));
                }
                continue;
            }
            if low[node] == index[node] {
                while let Some(member) = path.pop() {
                    component[member] = count;
                    low[member] = NEW;
                    if member == node {
                        break;
                    }
                }
                count += 1;
            }
        }
    }
    (component, count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(pre_depends: &[usize], depends: &[usize]) -> Node {
        Node {
            pre_depends: pre_depends.to_vec(),
            depends: depends.to_vec(),
            ..Node::default()
        }
    }

    #[test]
    fn group_0_is_essential_closed_under_dependencies() {
        let mut nodes = vec![
            node(&[1], &[2]),
            node(&[], &[3]),
            node(&[], &[]),
            node(&[], &[]),
        ];
        nodes.push(node(&[], &[0]));
        nodes[0].essential = true;
        assert_eq!(assign(&nodes, &[vec![4]]), [0, 0, 0, 0, 1]);
    }

    #[test]
    fn pre_depends_targets_and_their_dependencies_come_earlier() {
        // 0 Pre-Depends 1, 1 Depends 2; 3 Depends 0.
        let nodes = [
            node(&[1], &[]),
            node(&[], &[2]),
            node(&[], &[]),
            node(&[], &[0]),
        ];
        assert_eq!(assign(&nodes, &[vec![3]]), [2, 1, 1, 2]);
    }

    #[test]
    fn a_pre_depends_target_in_the_open_group_closes_it() {
        let nodes = [node(&[], &[]), node(&[0], &[])];
        assert_eq!(assign(&nodes, &[vec![0], vec![1]]), [1, 2]);
    }

    #[test]
    fn pre_depends_cycles_stay_together() {
        let nodes = [node(&[1], &[]), node(&[], &[0]), node(&[], &[1])];
        assert_eq!(assign(&nodes, &[vec![0], vec![2]]), [1, 1, 1]);
    }

    #[test]
    fn small_requests_share_a_group_until_it_is_full() {
        let nodes = vec![Node::default(); GROUP_SIZE + 1];
        let requests: Vec<_> = (0..nodes.len()).map(|n| vec![n]).collect();
        let groups = assign(&nodes, &requests);
        assert!(groups[..GROUP_SIZE].iter().all(|g| *g == 1));
        assert_eq!(groups[GROUP_SIZE], 2);
    }

    #[test]
    fn what_no_request_reaches_comes_last() {
        let nodes = vec![Node::default(); 2];
        assert_eq!(assign(&nodes, &[vec![1, 99]]), [1, 1]);
    }

    #[test]
    fn a_long_chain_is_cut_without_a_deep_stack() {
        let count = 200_000;
        let nodes: Vec<_> = (0..count).map(|n| node(&[], &[n + 1])).collect();
        let groups = assign(&nodes, &[vec![0]]);
        assert!(groups.is_sorted_by(|a, b| a >= b));
        for group in 1..=(count / LARGE_GROUP) as u32 {
            let members = groups.iter().filter(|g| **g == group).count();
            assert_eq!(members, LARGE_GROUP);
        }
    }

    #[test]
    fn a_cycle_is_never_cut() {
        let nodes: Vec<_> = (0..LARGE_GROUP + 50)
            .map(|n| node(&[], &[(n + 1) % (LARGE_GROUP + 50)]))
            .collect();
        assert!(assign(&nodes, &[vec![0]]).iter().all(|g| *g == 1));
    }

    fn graph() -> impl Strategy<Value = Vec<Node>> {
        let edges = || prop::collection::vec(0..60usize, 0..3);
        let node = (edges(), edges(), edges(), prop::bool::weighted(0.05)).prop_map(
            |(pre_depends, depends, recommends, essential)| Node {
                pre_depends,
                depends,
                recommends,
                essential,
            },
        );
        prop::collection::vec(node, 1..60)
    }

    /// Whether `to` can be reached from `from` over hard dependencies.
    fn reaches(nodes: &[Node], from: usize, to: usize) -> bool {
        let mut seen = vec![false; nodes.len()];
        let mut stack = vec![from];
        while let Some(n) = stack.pop() {
            if n == to {
                return true;
            }
            if n < nodes.len() && !std::mem::replace(&mut seen[n], true) {
                stack.extend(nodes[n].hard());
            }
        }
        false
    }

    proptest! {
        #[test]
        fn dependencies_are_never_in_a_later_group(
            nodes in graph(),
            order in prop::collection::vec(0..60usize, 0..60),
            large in 1..60_usize,
        ) {
            let requests: Vec<_> = order.into_iter().map(|n| vec![n]).collect();
            let groups = assign_cut(&nodes, &requests, large);
            for (n, node) in nodes.iter().enumerate() {
                for &t in node.hard().collect::<Vec<_>>().iter().filter(|t| **t < nodes.len()) {
                    prop_assert!(groups[t] <= groups[n] , "{n} -> {t}: {groups:?}");
                }
                for &t in node.pre_depends.iter().filter(|t| **t < nodes.len()) {
                    let cyclic = reaches(&nodes, t, n);
                    prop_assert!(groups[n] == 0 || cyclic || groups[t] < groups[n], "{n} pre {t}: {groups:?}");
                }
            }
        }

        #[test]
        fn appending_a_request_keeps_closed_groups(
            nodes in graph(),
            order in prop::collection::vec(0..60usize, 1..60),
            large in 1..60_usize,
        ) {
            let known = order.into_iter().filter(|n| *n < nodes.len());
            let requests: Vec<_> = known.map(|n| vec![n]).collect();
            // Only what the requests reach is planned; the appended package is new and alone.
            let planned: Vec<usize> = reachable(&nodes, &requests);
            let before = assign_cut(&restrict(&nodes, &planned), &requests, large);
            let mut with_leaf = restrict(&nodes, &planned);
            with_leaf.push(Node { depends: planned.clone(), ..Node::default() });
            let mut longer = requests.clone();
            longer.push(vec![with_leaf.len() - 1]);
            let after = assign_cut(&with_leaf, &longer, large);
            let last = planned.iter().map(|&n| before[n]).max().unwrap_or(0);
            for &n in planned.iter().filter(|&&n| before[n] < last) {
                prop_assert_eq!(before[n], after[n]);
            }
        }
    }

    fn reachable(nodes: &[Node], requests: &[Vec<usize>]) -> Vec<usize> {
        let essential: Vec<usize> = (0..nodes.len()).filter(|&n| nodes[n].essential).collect();
        let mut seen = vec![false; nodes.len()];
        let mut stack = essential;
        while let Some(n) = stack.pop() {
            if n < nodes.len() && !std::mem::replace(&mut seen[n], true) {
                stack.extend(nodes[n].hard());
            }
        }
        let mut walked = vec![false; nodes.len()];
        stack = requests.concat();
        while let Some(n) = stack.pop() {
            if n < nodes.len() && !seen[n] && !std::mem::replace(&mut walked[n], true) {
                stack.extend(nodes[n].all());
            }
        }
        seen.iter_mut().zip(walked).for_each(|(s, w)| *s |= w);
        (0..nodes.len()).filter(|&n| seen[n]).collect()
    }

    /// Cuts the edges of nodes that are not planned, which then stand alone, and edges to nowhere.
    fn restrict(nodes: &[Node], planned: &[usize]) -> Vec<Node> {
        let inside = |edges: &[usize]| edges.iter().copied().filter(|n| *n < nodes.len()).collect();
        let cut = |(n, node): (usize, &Node)| match planned.contains(&n) {
            false => Node::default(),
            true => Node {
                pre_depends: inside(&node.pre_depends),
                depends: inside(&node.depends),
                recommends: inside(&node.recommends),
                essential: node.essential,
            },
        };
        nodes.iter().enumerate().map(cut).collect()
    }
}
