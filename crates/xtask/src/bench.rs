//! `xtask bench`: composes beside mmdebstrap, `ostree commit` and gzip, in one run.
//!
//! For each package set every `.deb` is downloaded first; then the peer and we work from those
//! files alone. Figures are of whole processes: wall clock, CPU of all children, largest resident
//! set of one process.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The package sets: name and treefile of `examples/`.
const SETS: [(&str, &str); 3] = [
    ("minimal", "minimal.yaml"),
    ("bootable", "bootable.yaml"),
    ("desktop", "desktop.yaml"),
];

/// The leaf package of the warm run with one more package.
const LEAF: &str = "hello";

/// Figures of one command.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    pub(crate) peak_mib: f64,
    pub(crate) steps: Vec<(String, f64)>,
}

/// Runs the benchmark for the sets named in `args` (all without), and writes
/// `docs/benchmarks.md` when all were run.
///
/// # Errors
/// When a command fails.
pub(crate) fn run(args: &[String]) -> Result<String> {
    let wanted = |name: &str| args.is_empty() || args.iter().any(|a| a == name);
    let unknown = args.iter().find(|a| SETS.iter().all(|(name, _)| name != a));
    if let Some(unknown) = unknown {
        bail!("unknown set '{unknown}'; there are minimal, bootable and desktop");
    }
    let mut text = header()?;
    let mut benches = Vec::new();
    for (name, treefile) in SETS.iter().filter(|(name, _)| wanted(name)) {
        let bench = Bench::prepare(name, treefile)?;
        let rows = bench.measure()?;
        text.push_str(&table(name, &rows)?);
        benches.push(bench);
    }
    for bench in &benches {
        bench.clean_up()?;
    }
    if args.is_empty() {
        std::fs::write("docs/benchmarks.md", &text).context("writing docs/benchmarks.md")?;
    }
    Ok(text)
}

fn header() -> Result<String> {
    let mut text = title("Benchmarks", "make bench")?;
    text.push_str(
        "All `.deb` files are there before. **a**: `mmdebstrap` to a directory, `ostree commit` to a bare\n\
         repository, `tar | gzip` to one OCI layer. **b**: ours with an empty cache. **c**: ours with a warm cache\n\
         into a new repository. **d**: as c with one more leaf package. **e**: ours again, nothing changed. Wall\n\
         seconds; ratio to a; CPU seconds of all processes; largest resident set of one process.\n",
    );
    Ok(text)
}

/// The heading of a page of figures, with the machine they are of.
pub(crate) fn title(title: &str, command: &str) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or(": unknown");
    let model = model.trim_start_matches([' ', '\t', ':']);
    Ok(format!(
        "# {title}\n\nMade by `{command}` on {cores} cores ({model}).\n\n"
    ))
}

fn table(name: &str, rows: &[(&'static str, Figures)]) -> Result<String> {
    let mut text = format!(
        "\n## {name}\n\n| run | wall s | ratio to a | CPU s | peak MiB |\n|---|---|---|---|---|\n"
    );
    let base = rows.first().map_or(1.0, |(_, f)| f.wall);
    for (run, f) in rows {
        let Figures {
            wall,
            cpu,
            peak_mib,
            ..
        } = f;
        writeln!(
            text,
            "| {run} | {wall:.2} | 1/{:.1} | {cpu:.2} | {peak_mib:.0} |",
            base / wall
        )?;
    }
    text.push_str("\nSeconds per step:\n\n");
    for (run, f) in rows {
        let steps: Vec<String> = f
            .steps
            .iter()
            .map(|(step, seconds)| format!("{step} {seconds:.2}"))
            .collect();
        writeln!(text, "- {run}: {}", steps.join(", "))?;
    }
    Ok(text)
}

/// One package set with its downloaded packages.
struct Bench {
    treefile: PathBuf,
    leaf_treefile: PathBuf,
    dir: PathBuf,
    debs: PathBuf,
    program: PathBuf,
}

impl Bench {
    /// Downloads the packages of the set and of the leaf.
    fn prepare(name: &str, treefile: &str) -> Result<Self> {
        let root = std::env::current_dir()?;
        let dir = root.join("target/bench").join(name);
        std::fs::create_dir_all(&dir)?;
        // Includes are relative to the including file: the leaf's treefile needs all beside it.
        for entry in std::fs::read_dir("examples").context("listing examples")? {
            let entry = entry?;
            std::fs::copy(entry.path(), dir.join(entry.file_name()))?;
        }
        let (base, leaf) = (dir.join(treefile), dir.join("leaf.yaml"));
        // The including file's packages come last, as a user would add one.
        std::fs::write(
            &leaf,
            format!("include: {treefile}\npackages:\n  - {LEAF}\n"),
        )?;
        let bench = Self {
            treefile: base,
            leaf_treefile: leaf,
            debs: dir.join("download/debs"),
            dir,
            program: root.join("target/release/apt-ostree"),
        };
        ensure!(bench.program.exists(), "run 'cargo build --release' first");
        for treefile in [&bench.treefile, &bench.leaf_treefile] {
            let cache = bench.dir.join("download");
            let mut command = Command::new(&bench.program);
            command
                .args(["compose", "tree", "--download-only-debs", "--cachedir"])
                .arg(cache);
            command
                .arg("--repo")
                .arg(bench.dir.join("unused-repo"))
                .arg(treefile);
            check(command.stdout(Stdio::null()))?;
        }
        Ok(bench)
    }

    fn measure(&self) -> Result<Vec<(&'static str, Figures)>> {
        let peer = self.peer()?;
        let cache = self.dir.join("download");
        // Downloads and package indices stay; all that is made from them goes.
        for made in ["repo", "blobs", "composed", "work"] {
            self.set_aside(&cache.join(made))?;
        }
        let cold = self.compose(&self.treefile, &cache, "cold")?;
        let warm = self.compose(&self.treefile, &cache, "warm")?;
        let leaf = self.compose(&self.leaf_treefile, &cache, "leaf")?;
        let unchanged = self.compose_again(&self.leaf_treefile, &cache, "leaf")?;
        Ok(vec![
            ("a mmdebstrap + ostree + gzip", peer),
            ("b cold", cold),
            ("c warm", warm),
            ("d warm, one more leaf", leaf),
            ("e unchanged", unchanged),
        ])
    }

    /// Deletes everything but the downloads.
    fn clean_up(&self) -> Result<()> {
        for name in ["old", "peer-root", "peer", "flat", "cold", "warm", "leaf"] {
            let dir = self.dir.join(name);
            if dir.exists() {
                std::fs::remove_dir_all(&dir)
                    .with_context(|| format!("removing {}", dir.display()))?;
            }
        }
        Ok(())
    }

    /// Moves what an earlier run left out of the way. It is deleted at the end of the benchmark:
    /// for some minutes ext4 walks over the inodes that were freed, whoever makes new files.
    fn set_aside(&self, dir: &Path) -> Result<()> {
        if !dir.exists() {
            return Ok(());
        }
        let old = self.dir.join("old");
        std::fs::create_dir_all(&old)?;
        let number = std::fs::read_dir(&old)?.count();
        std::fs::rename(dir, old.join(number.to_string()))
            .with_context(|| format!("moving {}", dir.display()))
    }

    /// An empty directory below the set's own.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        self.set_aside(&dir)?;
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn compose(&self, treefile: &Path, cache: &Path, name: &str) -> Result<Figures> {
        self.fresh(name)?;
        self.compose_again(treefile, cache, name)
    }

    /// Composes a commit and an OCI layout; the caches of the file system are as the run before
    /// left them, as they are for the peer.
    fn compose_again(&self, treefile: &Path, cache: &Path, name: &str) -> Result<Figures> {
        let out = self.dir.join(name);
        let events = self.dir.join(format!("{name}.jsonl"));
        let mut command = Command::new(&self.program);
        command
            .args([
                "compose",
                "tree",
                "--json",
                "--format",
                "oci",
                "--offline",
                "--cachedir",
            ])
            .arg(cache);
        command
            .arg("--repo")
            .arg(out.join("repo"))
            .arg("--output-dir")
            .arg(&out)
            .arg(treefile);
        let mut figures = timed(&command, std::fs::File::create(&events)?.into())?;
        figures.steps = steps(&std::fs::read_to_string(&events)?);
        Ok(figures)
    }

    /// The same packages with ordinary tools.
    fn peer(&self) -> Result<Figures> {
        let flat = self.flat_repository()?;
        let names = std::fs::read_to_string(flat.join("names"))?;
        let (root, out) = (self.fresh("peer-root")?, self.fresh("peer")?);
        let source = format!("deb [trusted=yes] copy:{} ./", flat.display());
        let repo = format!("--repo={}", out.join("repo").display());
        let mut steps = Vec::new();
        let mut step = |name: &str, command: &Command| -> Result<Figures> {
            let figures = timed(command, Stdio::null())?;
            steps.push((name.to_owned(), figures.wall));
            Ok(figures)
        };
        let mut all = Vec::new();
        let include = format!("--include={}", names.trim().replace('\n', ","));
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap
            .args([
                "--quiet",
                "--variant=essential",
                "--format=directory",
                "--aptopt=APT::Sandbox::User \"root\"",
                &include,
                "trixie",
            ])
            .arg(&root)
            .arg(&source);
        all.push(step("mmdebstrap", &mut mmdebstrap)?);
        let dev = root.join("dev");
        std::fs::remove_dir_all(&dev)?;
        std::fs::create_dir(&dev)?;
        check(Command::new("ostree").args([&repo, "init", "--mode=bare"]))?;
        all.push(step(
            "commit",
            Command::new("ostree")
                .args([&repo, "commit", "--branch=peer"])
                .arg(&root),
        )?);
        let layer = format!(
            "tar -C '{}' --numeric-owner --sort=name -cf - . | gzip -n > '{}'",
            root.display(),
            out.join("layer.tar.gz").display()
        );
        all.push(step("gzip", Command::new("sh").args(["-c", &layer]))?);
        Ok(Figures {
            wall: all.iter().map(|f| f.wall).sum(),
            cpu: all.iter().map(|f| f.cpu).sum(),
            peak_mib: all.iter().map(|f| f.peak_mib).fold(0.0, f64::max),
            steps,
        })
    }

    /// A flat repository of the set's packages and a list of their names.
    fn flat_repository(&self) -> Result<PathBuf> {
        let flat = self.fresh("flat")?;
        let mut command = Command::new(&self.program);
        command
            .args([
                "compose",
                "tree",
                "--dry-run",
                "--json",
                "--offline",
                "--cachedir",
            ])
            .arg(self.dir.join("download"));
        command
            .arg("--repo")
            .arg(self.dir.join("unused-repo"))
            .arg(&self.treefile);
        let output = command.stderr(Stdio::inherit()).output()?;
        let last = String::from_utf8_lossy(&output.stdout)
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        let reply: Value = serde_json::from_str(&last).context("reading the plan")?;
        let packages = reply["finished"]["plan"]["packages"]
            .as_array()
            .context("the plan has no packages")?;
        let mut names = String::new();
        for package in packages {
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            let file = flat.join(format!(
                "{}_{}_{}.deb",
                text("name"),
                text("version").replace(':', "%3a"),
                text("arch")
            ));
            std::fs::hard_link(self.debs.join(format!("{}.deb", text("sha256"))), file)?;
            names.push_str(&text("name"));
            names.push('\n');
        }
        std::fs::write(flat.join("names"), names)?;
        // mmdebstrap looks for essential packages in the suite that it is told.
        let release = "apt-ftparchive packages . >Packages && apt-ftparchive \
             -o APT::FTPArchive::Release::Suite=trixie -o APT::FTPArchive::Release::Codename=trixie \
             release . >Release.new && mv Release.new Release";
        check(Command::new("sh").args(["-ec", release]).current_dir(&flat))?;
        Ok(flat)
    }
}

/// Step names and seconds of the events; steps that run twice are added up.
pub(crate) fn steps(events: &str) -> Vec<(String, f64)> {
    let mut steps: Vec<(String, f64)> = Vec::new();
    for event in events
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        if event["event"] != "step-finished" {
            continue;
        }
        let (name, seconds) = (
            event["step"].as_str().unwrap_or_default(),
            event["seconds"].as_f64().unwrap_or_default(),
        );
        match steps.iter_mut().find(|(n, _)| n == name) {
            Some((_, sum)) => *sum += seconds,
            None => steps.push((name.to_owned(), seconds)),
        }
    }
    steps
}

pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Runs a command below GNU time, which reports CPU seconds and the peak of one process.
pub(crate) fn timed(command: &Command, stdout: Stdio) -> Result<Figures> {
    let report = tempfile::NamedTempFile::new()?;
    let mut time = Command::new("/usr/bin/time");
    time.args(["-f", "%U %S %M", "-o"])
        .arg(report.path())
        .arg(command.get_program())
        .args(command.get_args());
    let start = Instant::now();
    let status = time
        .stdin(Stdio::null())
        .stdout(stdout)
        .status()
        .context("starting /usr/bin/time")?;
    let wall = start.elapsed().as_secs_f64();
    ensure!(status.success(), "{command:?} ended with {status}");
    let text = std::fs::read_to_string(report.path())?;
    let numbers: Vec<f64> = text
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    let [user, system, peak] = numbers[..] else {
        bail!("unexpected report of time(1): {text}")
    };
    Ok(Figures {
        wall,
        cpu: user + system,
        peak_mib: peak / 1024.0,
        steps: Vec::new(),
    })
}
