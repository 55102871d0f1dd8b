//! Measures the store on real packages: `measure DEBS-DIRECTORY WORK-DIRECTORY [THREADS]`.
#![allow(clippy::print_stdout, reason = "it is a measuring tool")]

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};
use apt_ostree_model::{Node, NullReporter, Sha256Digest, Tree};
use apt_ostree_store::{CacheRepo, CommitRequest, ImportRequest, TargetRepo};
use camino::{Utf8Path, Utf8PathBuf};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [debs, work, rest @ ..] = args.as_slice() else {
        anyhow::bail!("usage: measure DEBS-DIRECTORY WORK-DIRECTORY [THREADS]");
    };
    let threads = rest.first().map_or(Ok(2), |t| t.parse())?;
    let work = Utf8Path::new(work);
    let requests = requests(Utf8Path::new(debs))?;
    let cache = CacheRepo::open(work)?;
    let import = |label: &str| -> Result<_> {
        let imported = timed(label, || cache.import(&requests, threads, &NullReporter))?;
        println!(
            "  {} packages, {} new",
            imported.packages.len(),
            imported.fresh
        );
        Ok(imported.packages)
    };
    import("import")?;
    let packages = import("import again")?;
    let mut tree = Tree::default();
    for package in &packages {
        merge(&mut tree.root, &package.tree.root);
    }
    println!(
        "tree of {} entries, {} bytes",
        tree.len(),
        tree.total_size()
    );
    let dest = work.join("checkout");
    timed("checkout", || cache.checkout(&tree, &dest))?;
    timed("save tree", || cache.save_tree("measure", &tree))?;
    timed("load tree", || cache.load_tree("measure"))?.context("the saved tree is gone")?;
    let target = TargetRepo::open_or_create(&work.join("target"))?;
    let meta = CommitRequest::default();
    let commit = timed("commit to bare", || cache.commit(&tree, &meta, &target))?;
    timed("commit again", || cache.commit(&tree, &meta, &target))?;
    let loaded = timed("load commit", || target.load_commit(&commit.checksum))?;
    anyhow::ensure!(loaded.tree == tree, "the commit has another tree");
    let archive = work.join("archive");
    ostree::Repo::create_at(
        ostree::AT_FDCWD,
        archive.as_str(),
        ostree::RepoMode::Archive,
        None,
        ostree::gio::Cancellable::NONE,
    )?;
    let archive = TargetRepo::open_or_create(&archive)?;
    timed("commit to archive", || cache.commit(&tree, &meta, &archive))?;
    let copy = work.join("copy");
    let status = Command::new("cp")
        .args(["-a", dest.as_str(), copy.as_str()])
        .status()?;
    anyhow::ensure!(status.success(), "cp failed");
    let scanned = timed("scan", || cache.scan_dir(&copy))?;
    anyhow::ensure!(scanned == tree, "the scan has another tree");
    println!("peak memory: {}", peak_memory()?);
    Ok(())
}

fn timed<T>(label: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    let value = work()?;
    let wall = start.elapsed().as_secs_f64();
    println!(
        "{label}: {wall:.3} s wall, {:.2} s CPU",
        cpu_seconds()? - cpu
    );
    Ok(value)
}

/// User and system time of this process, in hundredths of a second.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").context("odd stat file")?.1;
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / 100.0)
}

fn peak_memory() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    Ok(line.context("no peak")?.trim().to_owned())
}

fn requests(dir: &Utf8Path) -> Result<Vec<ImportRequest>> {
    let mut debs: Vec<Utf8PathBuf> = dir
        .read_dir_utf8()?
        .map(|e| Ok(e?.into_path()))
        .collect::<Result<_>>()?;
    debs.retain(|p| p.extension() == Some("deb"));
    debs.sort();
    debs.into_iter().map(request).collect()
}

fn request(path: Utf8PathBuf) -> Result<ImportRequest> {
    let output = Command::new("dpkg-deb")
        .args([
            "--show",
            "--showformat=${Package} ${Version} ${Architecture}",
        ])
        .arg(&path)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut fields = text.split(' ');
    let mut next = || fields.next().context("a field is missing");
    let (name, version, arch) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
    let sha256 = Sha256Digest::new(openssl::sha::sha256(&std::fs::read(&path)?));
    Ok(ImportRequest {
        path,
        sha256,
        name,
        version,
        arch,
        stage: 0,
    })
}

fn merge(into: &mut apt_ostree_model::Dir, from: &apt_ostree_model::Dir) {
    for (name, node) in &from.entries {
        match (into.entries.get_mut(name), node) {
            (Some(Node::Dir(a)), Node::Dir(b)) => merge(a, b),
            _ => drop(into.entries.insert(name.clone(), node.clone())),
        }
    }
}
