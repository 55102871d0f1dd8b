//! Small signed repositories and the processes that tests run in.
//!
//! libapt can serve one session per process, so each step of a test runs in a child process of its
//! own: the test binary runs itself again. This works with nextest and with plain `cargo test`.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations
)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use apt_ostree_apt::{AptConfig, Lock, Session, SolveSpec};
use apt_ostree_model::{ErrorKind, Event, Kinded, Plan, RecordingReporter};
use apt_ostree_treefile::spec::{GpgKey, PackageRequest, RepoSpec};
use camino::{Utf8Path, Utf8PathBuf};

const STEP: &str = "APT_OSTREE_TEST_STEP";
const DIR: &str = "APT_OSTREE_TEST_DIR";

/// One step of a test; they share a directory.
pub type Step<'a> = &'a dyn Fn(&Utf8Path);

/// Runs the steps of `test` one after the other, each in a process of its own.
pub fn steps(test: &str, steps: &[Step<'_>]) {
    if let Ok(step) = std::env::var(STEP) {
        let dir = Utf8PathBuf::from(std::env::var(DIR).unwrap());
        steps[step.parse::<usize>().unwrap()](&dir);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for step in 0..steps.len() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(STEP, step.to_string())
            .env(DIR, dir.path())
            .env_remove("APT_CONFIG")
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("1 passed"), "step {step} of {test}:\n{text}");
    }
}

pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A repository in a directory, and the key that signs it.
pub struct Repo {
    pub dir: Utf8PathBuf,
    pub suite: String,
    pub date: String,
    pub valid_until: Option<String>,
    pub sign: bool,
    pub component: String,
    pub origin: String,
    /// More fields of the Release file, with their newlines.
    pub release_fields: String,
    /// Files that the Release file lists besides the index, by their path below the suite.
    pub listed: Vec<String>,
    /// When gpg believes to be, as its option takes it.
    pub signing_time: Option<String>,
    home: Utf8PathBuf,
    stanzas: Vec<String>,
}

impl Repo {
    /// An empty repository with the key called `key` (made when missing).
    pub fn new(dir: &Utf8Path, name: &str, key: &str) -> Self {
        let home = dir.join(format!("gpg-{key}"));
        if !home.exists() {
            std::fs::create_dir(&home).unwrap();
            std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
            let generate = [
                "--batch",
                "--quiet",
                "--passphrase",
                "",
                "--quick-generate-key",
            ];
            let identity = format!("{key} <{key}@example.org>");
            let tail = [identity.as_str(), "rsa2048", "sign", "never"];
            run(
                "gpg",
                &[&["--homedir", home.as_str()], &generate[..], &tail].concat(),
            );
            export_key(&home);
        }
        Self {
            dir: dir.join(name),
            suite: "stable".to_owned(),
            date: "Thu, 01 Jan 2026 00:00:00 UTC".to_owned(),
            valid_until: None,
            sign: true,
            component: "main".to_owned(),
            origin: "Test".to_owned(),
            release_fields: String::new(),
            listed: Vec::new(),
            signing_time: None,
            home,
            stanzas: Vec::new(),
        }
    }

    /// Runs gpg with the key of this repository.
    pub fn gpg(&self, args: &[&str]) {
        let mut all = vec!["--homedir", self.home.as_str(), "--batch", "--quiet"];
        if let Some(time) = &self.signing_time {
            all.extend(["--faked-system-time", time]);
        }
        run("gpg", &[&all, args].concat());
    }

    pub fn keyring(&self) -> Utf8PathBuf {
        Utf8PathBuf::from(format!("{}.gpg", self.home))
    }

    /// Adds an index stanza; `name version`, and more fields, one per line.
    pub fn stanza(&mut self, name: &str, version: &str, fields: &str) -> &mut Self {
        let sha256 = format!("{:064x}", self.stanzas.len() + 1);
        let filename = format!("pool/{name}_{version}.deb");
        self.raw(&stanza(name, version, fields, &filename, 10, &sha256))
    }

    pub fn raw(&mut self, stanza: &str) -> &mut Self {
        self.stanzas.push(stanza.to_owned());
        self
    }

    /// Adds a real package.
    pub fn deb(&mut self, name: &str, version: &str, fields: &str) -> &mut Self {
        let filename = format!("pool/{name}_{version}.deb");
        let path = self.dir.join(&filename);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        build_deb(&path, name, version, fields);
        let (sha256, size) = apt_ostree_fsx::sha256_file(&path).unwrap();
        let text = stanza(name, version, fields, &filename, size, &sha256.to_string());
        self.raw(&text)
    }

    /// Writes the index and signs it.
    pub fn publish(&self) -> &Self {
        let dists = self.dir.join("dists").join(&self.suite);
        let index = format!("{}/binary-amd64/Packages", self.component);
        std::fs::create_dir_all(dists.join(&index).parent().unwrap()).unwrap();
        std::fs::write(dists.join(&index), self.stanzas.join("\n")).unwrap();
        let mut release = format!(
            "Origin: {2}\nLabel: Test\nSuite: {0}\nCodename: {0}\nDate: {1}\n{3}",
            self.suite, self.date, self.origin, self.release_fields
        );
        if let Some(until) = &self.valid_until {
            let _ = writeln!(release, "Valid-Until: {until}");
        }
        let _ = write!(
            release,
            "Architectures: amd64\nComponents: {}\nSHA256:\n",
            self.component
        );
        for file in self.listed.iter().chain([&index]) {
            let (sha256, size) = apt_ostree_fsx::sha256_file(&dists.join(file)).unwrap();
            let _ = writeln!(release, " {sha256} {size} {file}");
        }
        let path = dists.join("Release");
        // apt sees a change of a file by its time in whole seconds.
        let old = std::fs::metadata(&path).and_then(|meta| meta.modified());
        let time = old.map_or(std::time::SystemTime::now(), |old| {
            old + std::time::Duration::from_secs(2)
        });
        std::fs::write(&path, release).unwrap();
        let signed = dists.join("InRelease");
        drop(std::fs::remove_file(&signed));
        if self.sign {
            let args = ["--clearsign", "--output", signed.as_str(), path.as_str()];
            self.gpg(&args);
        }
        for file in [&path, &signed].into_iter().filter(|file| file.exists()) {
            let file = std::fs::File::options().write(true).open(file).unwrap();
            file.set_modified(time).unwrap();
        }
        self
    }

    pub fn spec(&self, name: &str) -> RepoSpec {
        RepoSpec {
            name: name.to_owned(),
            url: Some(format!("file://{}", self.dir)),
            distribution: "debian".to_owned(),
            suites: vec![self.suite.clone()],
            components: vec![self.component.clone()],
            architectures: Vec::new(),
            gpg_keys: vec![GpgKey::File(self.keyring())],
            trusted: false,
            check_valid_until: true,
            priority: None,
        }
    }
}

/// Writes the public key to where [`Repo::keyring`] looks for it.
pub fn export_key(home: &Utf8Path) {
    let output = format!("{home}.gpg");
    let home = ["--homedir", home.as_str()];
    run(
        "gpg",
        &[&home[..], &["--yes", "--output", &output, "--export"]].concat(),
    );
}

impl Drop for Repo {
    fn drop(&mut self) {
        drop(
            Command::new("gpgconf")
                .args(["--homedir", self.home.as_str(), "--kill", "all"])
                .status(),
        );
    }
}

pub fn stanza(
    name: &str,
    version: &str,
    fields: &str,
    file: &str,
    size: u64,
    sha256: &str,
) -> String {
    let mut text = format!("Package: {name}\nVersion: {version}\n");
    if !fields.contains("Architecture:") {
        text.push_str("Architecture: amd64\n");
    }
    if !fields.is_empty() {
        let _ = writeln!(text, "{fields}");
    }
    let _ = write!(text, "Filename: {file}\nSize: {size}\nSHA256: {sha256}\n");
    text
}

/// Builds a package with dpkg-deb.
pub fn build_deb(path: &Utf8Path, name: &str, version: &str, fields: &str) {
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let control = root.path().join("DEBIAN");
    std::fs::create_dir(&control).unwrap();
    let mut text = format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\n");
    if !fields.is_empty() {
        let _ = writeln!(text, "{fields}");
    }
    text.push_str("Maintainer: Test <test@example.org>\nDescription: test\n");
    std::fs::write(control.join("control"), text).unwrap();
    let doc = root.path().join("usr/share/doc").join(name);
    std::fs::create_dir_all(&doc).unwrap();
    std::fs::write(doc.join("readme"), format!("{name} {version}\n")).unwrap();
    run(
        "dpkg-deb",
        &[
            "--root-owner-group",
            "-b",
            root.path().to_str().unwrap(),
            path.as_str(),
        ],
    );
}

/// `name`, `name=version` or `name/suite`.
pub fn request(text: &str) -> PackageRequest {
    if let Some(task) = text.strip_prefix("task:") {
        return PackageRequest::Task(task.to_owned());
    }
    if let Some(priority) = text.strip_prefix("priority:") {
        return PackageRequest::Priority(priority.to_owned());
    }
    let (rest, version) = match text.split_once('=') {
        Some((rest, version)) => (rest, Some(version.to_owned())),
        None => (text, None),
    };
    let (name, suite) = match rest.split_once('/') {
        Some((name, suite)) => (name, Some(suite.to_owned())),
        None => (rest, None),
    };
    PackageRequest::Package {
        name: name.parse().unwrap(),
        arch: None,
        version,
        suite,
    }
}

pub fn config(dir: &Utf8Path, repos: Vec<RepoSpec>, packages: &[&str]) -> AptConfig {
    AptConfig {
        spec: SolveSpec {
            arch: "amd64".parse().unwrap(),
            repos,
            lockfile_repos: Vec::new(),
            packages: packages.iter().map(|p| request(p)).collect(),
            repo_packages: Vec::new(),
            exclude_packages: std::collections::BTreeSet::new(),
            pins: Vec::new(),
            local_packages: Vec::new(),
            recommends: false,
            preferences: String::new(),
            base: None,
        },
        state_dir: dir.join("state"),
        debs_dir: dir.join("debs"),
        mirror: None,
        proxy: None,
        offline: false,
        lock: None,
    }
}

/// Opens, updates and solves.
pub fn solve(config: AptConfig) -> anyhow::Result<(Session, Plan, Vec<Event>)> {
    let reporter = RecordingReporter::default();
    let mut session = Session::open(config, &reporter)?;
    session.update(&reporter)?;
    let plan = session.solve(&reporter)?;
    Ok((session, plan, reporter.take()))
}

/// `name=version` of every planned package, sorted.
pub fn names(plan: &Plan) -> Vec<String> {
    let mut names: Vec<String> = plan
        .packages
        .iter()
        .map(|p| format!("{}={}", p.name, p.version))
        .collect();
    names.sort();
    names
}

/// The kind and whole text (with hint) of the error.
pub fn refused<T>(result: anyhow::Result<T>) -> (ErrorKind, String) {
    let error = result.err().expect("this must be refused");
    let kinded = error.chain().find_map(|e| e.downcast_ref::<Kinded>());
    let kinded = kinded.unwrap_or_else(|| panic!("no kind: {error:#}"));
    let hint = kinded.hint.clone().unwrap_or_default();
    let text = format!("{error:#} [{hint}]");
    assert!(!text.chars().any(char::is_control), "{text}");
    (kinded.kind, text)
}

pub fn write_lock(path: &Utf8Path, plan: &Plan) {
    std::fs::write(path, apt_ostree_apt::lock::to_json(plan, None).unwrap()).unwrap();
}

pub fn load_lock(path: &Utf8Path, strict: bool) -> Lock {
    Lock::load(&[path], strict).unwrap()
}

/// Answers a request for a path in its own way, and says so, or leaves it to the files.
pub type Answer = fn(path: &str, stream: &mut TcpStream) -> bool;

/// Serves the files of `dir` over HTTP for the life of the process; returns the base URL.
pub fn serve(dir: &Utf8Path) -> String {
    serve_with(dir, |_, _| false)
}

/// Serves the files of `dir` except where `odd` answers.
pub fn serve_with(dir: &Utf8Path, odd: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let dir = dir.clone();
            std::thread::spawn(move || answer(&dir, stream, odd));
        }
    });
    url
}

fn answer(dir: &Utf8Path, mut stream: TcpStream, odd: Answer) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    while let Some(line) = lines.next() {
        let Some(path) = line
            .strip_prefix("GET ")
            .and_then(|rest| rest.split(' ').next())
        else {
            return;
        };
        for header in lines.by_ref() {
            if header.is_empty() {
                break;
            }
        }
        if odd(path, &mut stream) {
            continue;
        }
        let (status, body) = match std::fs::read(dir.join(path.trim_start_matches('/'))) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream
            .write_all(&[head.as_bytes(), &body].concat())
            .is_err()
        {
            return;
        }
    }
}

/// A control field of packages that every solution holds.
pub const BASE: &str = "Essential: yes";

/// A signed repository with one essential package.
pub fn repo(dir: &Utf8Path) -> Repo {
    let mut repo = Repo::new(dir, "repo", "good");
    repo.deb("base", "1", BASE);
    repo
}
