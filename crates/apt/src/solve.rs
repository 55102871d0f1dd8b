//! Choosing packages with libapt's resolver, onto a system without any package.

use anyhow::Result;
use apt_ostree_model::{ErrorKind, NullReporter, Reporter};
use rust_apt::Cache;

use crate::candidates::Rules;
use crate::error::{apt_error, fail};
use crate::explain;
use crate::request::{self, Wanted};

/// Essential packages of the tree's architecture, by full name, sorted.
pub(crate) fn essential(cache: &Cache, rules: &Rules<'_>, reporter: &dyn Reporter) -> Vec<String> {
    let native = rules.spec.arch.as_str();
    let mut names = Vec::new();
    for package in cache
        .iter()
        .filter(|p| p.is_essential() && p.arch() == native)
    {
        // libapt counts some packages as essential on its own; only the index decides here.
        let yes = |v: rust_apt::Version<'_>| v.get_record("Essential").as_deref() == Some("yes");
        match package.candidate() {
            Some(version) if yes(version.clone()) => names.push(package.fullname(false)),
            Some(_) => {}
            None if package.versions().any(yes) => reporter.warning(format!(
                "essential package '{}' is left out, because it is excluded or pinned away",
                package.name()
            )),
            None => {}
        }
    }
    names.sort();
    names
}

/// Marks all packages for installation. Requests are marked in the order of their names, so the
/// result does not depend on the order in which the user wrote them.
pub(crate) fn mark(
    cache: &Cache,
    rules: &Rules<'_>,
    essential: &[String],
    wanted: &Wanted,
) -> Result<()> {
    let mut requested: Vec<&String> = wanted.requests.iter().flatten().collect();
    requested.sort();
    requested.dedup();
    let roots: Vec<_> = essential
        .iter()
        .chain(requested)
        .filter_map(|name| cache.get(name))
        .collect();
    for package in &roots {
        package.mark_install(false, true);
        package.protect();
    }
    for package in &roots {
        package.mark_install(true, true);
    }
    let depcache = cache.depcache();
    if depcache.broken_count() > 0 && cache.resolve(true).is_err() {
        drop(crate::error::drain());
    }
    let complete = roots.iter().all(|package| package.marked_install());
    if depcache.broken_count() == 0 && complete {
        return Ok(());
    }
    let names: Vec<String> = roots
        .iter()
        .map(|package| package.fullname(false))
        .collect();
    // libapt has discarded candidates on its way; the explanation needs them as they were.
    depcache
        .clear_marked()
        .map_err(|errors| apt_error(ErrorKind::Failed, &errors))?;
    rules.apply(cache, &NullReporter)?;
    request::expand_all(cache, rules, &NullReporter)?;
    let chain = explain::explain(cache, rules, &names);
    Err(fail(ErrorKind::Unsatisfiable, chain))
}
