//! The commit and what it says of itself.

use std::collections::BTreeMap;

use anyhow::Result;
use apt_ostree_apt::BaseChange;
use apt_ostree_model::Step;
use apt_ostree_model::status::{LayerRecord, PackageId};
use apt_ostree_store::{CommitRequest, MetaValue};

use super::base::OpenBase;
use super::finish::Finished;
use super::solve::Chosen;
use super::{LayerJob, Layered, PACKAGES, REMOVED, REPLACED, STATE, TMP_REF};
use crate::compose::context::Run;
use crate::compose::metadata::{PACKAGE_LIST, REPOS, parted, repos};
use crate::content;
use crate::rootfs::dpkgdb;

/// What a layered commit says as its base does.
const INHERITED: [&str; 4] = [
    "version",
    "ostree.endoflife",
    "ostree.endoflife-rebase",
    "ostree.source-title",
];

/// Writes the commit.
pub(super) fn commit(
    run: &Run<'_>,
    job: &LayerJob<'_>,
    base: &OpenBase,
    (chosen, layered): (&Chosen, &Layered),
    finished: &Finished,
) -> Result<String> {
    let request = CommitRequest {
        subject: String::new(),
        timestamp: finished.timestamp,
        parent: Some(job.base.to_owned()),
        metadata: metadata(run, base, (chosen, layered), finished)?,
        ..CommitRequest::default()
    };
    run.reporter.step(Step::Commit, || {
        let written = run.store.commit(&finished.tree, &request, &base.target)?;
        base.target.set_ref(TMP_REF, &written.checksum)?;
        let summary = format!("{} new directories", written.stats.n_metadata_written);
        Ok::<_, anyhow::Error>((written.checksum, summary))
    })
}

fn metadata(
    run: &Run<'_>,
    base: &OpenBase,
    (chosen, layered): (&Chosen, &Layered),
    finished: &Finished,
) -> Result<BTreeMap<String, MetaValue>> {
    let tree = &finished.tree;
    let status = content::read_text(tree, &run.store, "usr/lib/sysimage/dpkg/status")?;
    let packages = dpkgdb::installed(&status);
    let list = packages
        .iter()
        .map(|p| parted(&p.name, &p.version, p.arch.as_str()));
    let mut metadata = BTreeMap::from([
        (
            LayerRecord::KEY.to_owned(),
            MetaValue::String(serde_json::to_string(&record(base, chosen, layered))?),
        ),
        (
            PACKAGES.to_owned(),
            MetaValue::Strings(chosen.active.clone()),
        ),
        (REMOVED.to_owned(), changes(&layered.removed)),
        (REPLACED.to_owned(), changes(&layered.replaced)),
        (STATE.to_owned(), MetaValue::String(layered.state.clone())),
        (
            PACKAGE_LIST.to_owned(),
            MetaValue::PackageList(list.collect()),
        ),
        (REPOS.to_owned(), MetaValue::Json(repos(&layered.plan))),
    ]);
    for key in INHERITED {
        if let Some(text) = base.commit.string(key) {
            metadata.insert(key.to_owned(), MetaValue::String(text));
        }
    }
    if let Some(kernel) = &finished.kernel {
        metadata.insert("ostree.bootable".to_owned(), MetaValue::Bool(true));
        metadata.insert("ostree.linux".to_owned(), MetaValue::String(kernel.clone()));
    }
    Ok(metadata)
}

/// What `status` shows.
fn record(base: &OpenBase, chosen: &Chosen, layered: &Layered) -> LayerRecord {
    let mut record = LayerRecord {
        packages: chosen.active.clone(),
        inputs: layered.state.clone(),
        ..LayerRecord::default()
    };
    let old = |change: &BaseChange| {
        let name = change.name.split(':').next().unwrap_or_default();
        let of_base =
            |p: &&dpkgdb::Installed| p.name == name && p.version.as_str() == change.version;
        let package = base.installed.iter().find(of_base)?;
        let name = package.name.parse().ok()?;
        Some(PackageId::new(&name, &package.version, &package.arch))
    };
    record.base_removals = layered.removed.iter().filter_map(old).collect();
    for change in &layered.replaced {
        let name = change.name.split(':').next().unwrap_or_default();
        let mut planned = layered.plan.packages.iter();
        let new = planned.find(|p| p.name.as_str() == name);
        let (Some(old), Some(new)) = (old(change), new) else {
            continue;
        };
        let pair = (PackageId::new(&new.name, &new.version, &new.arch), old);
        if chosen.local.contains(&new.sha256) {
            record.base_local_replacements.push(pair);
        } else {
            let source = record.base_remote_replacements.entry(new.repo.clone());
            source.or_default().push(pair);
        }
    }
    record
}

fn changes(changes: &[BaseChange]) -> MetaValue {
    let text = |change: &BaseChange| match &change.new {
        Some(new) => format!("{} {} {new}", change.name, change.version),
        None => format!("{} {}", change.name, change.version),
    };
    MetaValue::Strings(changes.iter().map(text).collect())
}
