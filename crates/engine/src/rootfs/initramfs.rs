//! The initramfs: one dracut run in the configured tree, cached by what went into it.
//!
//! dracut takes in whatever it finds of what its modules name, so the inputs are: its own
//! directories, the kernel's modules and firmware, every file whose name a dracut script mentions,
//! the accounts mentioned there, and every file that ended up in the archive. All but the last make
//! the key; the list of the last is kept with the result and compared when it is found again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write as _};

use anyhow::{Context as _, Result, bail};
use apt_ostree_model::{
    ContentReader, ContentWriter as _, ErrorKind, File, Kinded, Meta, Node, Reporter, Sha256Digest,
    Tree,
};
use apt_ostree_sandbox::Bind;
use apt_ostree_store::CacheRepo;
use camino::Utf8Path;
use fn_error_context::context;
use serde::{Deserialize, Serialize};

use super::live::{LiveRoot, Script};
use crate::content;

/// Part of the key: changes when the same inputs give another archive.
const INITRAMFS_VERSION: u32 = 1;

/// Directories whose every file is an input, besides `usr/lib/modules/VERSION`.
const INPUT_DIRS: [&str; 7] = [
    "usr/lib/dracut",
    "etc/dracut.conf.d",
    "usr/lib/modprobe.d",
    "etc/modprobe.d",
    "usr/lib/firmware",
    "usr/lib/ostree",
    "etc/ostree",
];

/// Directories that dracut takes nothing from, though they hold files with names like those it
/// mentions; some change with every package.
const NO_INPUT_DIRS: [&str; 7] = [
    "usr/share/doc",
    "usr/share/info",
    "usr/share/man",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/log",
];

/// Directories whose own directories count only when a script names them as part of a path, such
/// as `/terminfo`: much else in there has names like `script` or `control`.
const NAMED_DIRS: [&str; 2] = ["usr/share", "etc"];

/// Account files: dracut copies the lines of single accounts, by name.
const ACCOUNTS: [&str; 4] = ["etc/group", "etc/gshadow", "etc/passwd", "etc/shadow"];

/// Directories whose scripts name what dracut takes in.
const SCRIPT_DIRS: [&str; 2] = ["usr/lib/dracut", "etc/dracut.conf.d"];

/// zstd level of the archive: 3 costs half a second where dracut's own 15 costs twelve, for 4 %
/// more bytes.
const ZSTD_LEVEL: i32 = 3;

/// A finished initramfs.
#[derive(Debug, Clone)]
pub struct Initramfs {
    /// The image, mode 0600.
    pub file: File,
    /// Paths in the archive, without a leading `/`.
    pub paths: Vec<String>,
    /// True when it came from the cache.
    pub cached: bool,
}

/// What to build.
#[derive(Debug)]
pub struct Job<'a> {
    /// Kernel version: the name of the directory below `usr/lib/modules`.
    pub kernel: &'a str,
    /// More dracut arguments.
    pub args: &'a [String],
    /// Modification time of files in the archive, in seconds since 1970.
    pub epoch: i64,
    /// Empty directory for temporary work, on the store's file system.
    pub workdir: &'a Utf8Path,
}

/// What is kept with a cached image.
#[derive(Debug, Serialize, Deserialize)]
struct Inputs {
    /// Paths in the archive and the checksums of the tree's files there.
    files: BTreeMap<String, Option<Sha256Digest>>,
}

/// Builds the initramfs of `job`, or takes it from the cache.
///
/// # Errors
/// When the tree has no dracut, or dracut fails or reports an error.
#[context("building the initramfs for kernel {}", job.kernel)]
pub fn build(job: &Job<'_>, live: &mut LiveRoot<'_>, reporter: &dyn Reporter) -> Result<Initramfs> {
    let (tree, store) = (live.tree().clone(), live.store());
    if tree.resolve("usr/bin/dracut").is_none() {
        let error = Kinded::new(
            ErrorKind::InvalidInput,
            "the tree has a kernel but no 'dracut' to make an initramfs with",
        );
        return Err(error.with_hint("add 'dracut' and 'ostree-boot' to packages, or set 'initramfs: false' or 'container: true'").into());
    }
    let key = format!("initramfs-{}", key(job, &tree, store)?);
    if let Some(found) = load(&tree, store, &key)? {
        return Ok(found);
    }
    let archive = run_dracut(job, live, reporter)?;
    let paths = cpio_paths(&mut BufReader::new(std::fs::File::open(&archive)?))?;
    let image = compress(&tree, store, &archive)?;
    save(&tree, store, &key, (&image, &paths))?;
    Ok(Initramfs {
        file: image,
        paths,
        cached: false,
    })
}

/// True when `after` gives the same initramfs as `before`, another state of the tree.
///
/// # Errors
/// When content can't be read.
pub fn unchanged(
    job: &Job<'_>,
    before: &Tree,
    after: &Tree,
    (image, store): (&File, &dyn ContentReader),
) -> Result<bool> {
    Fingerprint::new(job, before, (image, store))?.matches(job, after, store)
}

/// What an initramfs was made of.
#[derive(Debug)]
pub struct Fingerprint {
    key: String,
    /// The files in it; `None`: it has a form that can't be looked into.
    files: Option<BTreeMap<String, Option<Sha256Digest>>>,
}

impl Fingerprint {
    /// That of the image of a tree.
    ///
    /// # Errors
    /// When content can't be read.
    pub fn new(
        job: &Job<'_>,
        tree: &Tree,
        (image, store): (&File, &dyn ContentReader),
    ) -> Result<Self> {
        // What is in it may also be a file that no script names, such as a library.
        let paths = image_paths(image, store)?;
        let files = paths.map(|paths| {
            let files = paths.into_iter();
            files
                .map(|path| {
                    let checksum = checksum_at(tree, &path);
                    (path, checksum)
                })
                .collect()
        });
        Ok(Self {
            key: key(job, tree, store)?,
            files,
        })
    }

    /// Whether another state of the tree gives the same image.
    ///
    /// # Errors
    /// When content can't be read.
    pub fn matches(&self, job: &Job<'_>, tree: &Tree, store: &dyn ContentReader) -> Result<bool> {
        let Some(files) = &self.files else {
            return Ok(false);
        };
        let mut files = files.iter();
        let same = files
            .all(|(path, checksum)| is_account_file(path) || checksum_at(tree, path) == *checksum);
        Ok(same && key(job, tree, store)? == self.key)
    }
}

/// The paths in an image that was made here; `None` for another form.
fn image_paths(image: &File, store: &dyn ContentReader) -> Result<Option<Vec<String>>> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let mut data = Vec::new();
    store.open(&image.checksum)?.read_to_end(&mut data)?;
    let start = match data.starts_with(b"07070") {
        false => 0,
        // The microcode comes first, padded to four bytes.
        true => match data.windows(4).position(|window| window == b"TRAI") {
            Some(trailer) => {
                let rest = &data[trailer..];
                let zeros = rest
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(rest.len());
                let next = rest[zeros..].iter().position(|byte| *byte != 0);
                trailer + zeros + next.unwrap_or(rest.len() - zeros)
            }
            None => return Ok(None),
        },
    };
    if !data[start..].starts_with(&ZSTD) {
        return Ok(None);
    }
    let decoder = zstd::stream::read::Decoder::new(&data[start..])?;
    cpio_paths(&mut BufReader::new(decoder)).map(Some)
}

fn load(tree: &Tree, store: &CacheRepo, key: &str) -> Result<Option<Initramfs>> {
    let Some(saved) = store.load_tree(key)? else {
        return Ok(None);
    };
    let (Some(file), Some(inputs)) = (
        saved.file("initramfs.img"),
        content::read(&saved, store, "inputs.json")?,
    ) else {
        return Ok(None);
    };
    let Ok(inputs) = serde_json::from_slice::<Inputs>(&inputs) else {
        return Ok(None);
    };
    let same = inputs
        .files
        .iter()
        .filter(|(path, _)| !is_account_file(path))
        .all(|(path, checksum)| checksum_at(tree, path) == *checksum);
    let paths = inputs.files.into_keys().collect();
    Ok(same.then(|| Initramfs {
        file: file.clone(),
        paths,
        cached: true,
    }))
}

fn save(
    tree: &Tree,
    store: &CacheRepo,
    key: &str,
    (image, paths): (&File, &[String]),
) -> Result<()> {
    let files = paths
        .iter()
        .map(|path| (path.clone(), checksum_at(tree, path)))
        .collect();
    let inputs = serde_json::to_vec(&Inputs { files })?;
    let mut saved = Tree::default();
    saved.insert("initramfs.img", Node::File(image.clone()))?;
    content::write(&mut saved, store, "inputs.json", 0o644, &inputs)?;
    store.save_tree(key, &saved)
}

fn checksum_at(tree: &Tree, path: &str) -> Option<Sha256Digest> {
    tree.file(&tree.resolve(path)?).map(|file| file.checksum)
}

/// True for a file whose lines are in the key as far as they count.
fn is_account_file(path: &str) -> bool {
    ACCOUNTS.contains(&path)
}

/// The hash of everything that decides what dracut takes in.
fn key(job: &Job<'_>, tree: &Tree, store: &dyn ContentReader) -> Result<String> {
    let names = mentioned_names(tree, store)?;
    let modules = format!("usr/lib/modules/{}", job.kernel);
    let mut text = format!(
        "{INITRAMFS_VERSION} {ZSTD_LEVEL} {} {} {:?}\n",
        job.kernel, job.epoch, job.args
    );
    for (path, node) in tree.walk() {
        let below = |dir: &str| {
            path.strip_prefix(dir)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        if is_account_file(&path) {
            let accounts = content::read_text(tree, store, &path)?;
            text.push_str(&names.lines_of_accounts(&accounts));
            continue;
        }
        let is_input =
            INPUT_DIRS.iter().any(|dir| below(dir)) || below(&modules) || path == "etc/dracut.conf";
        let is_named = || names.contain(&path) && !NO_INPUT_DIRS.iter().any(|dir| below(dir));
        if !is_input && !is_named() {
            continue;
        }
        let what = match node {
            Node::Dir(_) => continue,
            Node::File(file) => file.checksum.to_string(),
            Node::Symlink(link) => link.target.clone(),
        };
        text.push_str(&format!("{path} {what}\n"));
    }
    Ok(Sha256Digest::new(openssl::sha::sha256(text.as_bytes())).to_string())
}

/// What dracut's scripts mention.
#[derive(Default)]
struct Names {
    /// Names of files.
    plain: BTreeSet<String>,
    /// `*` patterns: what is before the first star and behind the last.
    patterns: Vec<(String, String)>,
    /// Parts of paths: what follows a `/`.
    parts: BTreeSet<String>,
}

impl Names {
    /// Whether the scripts may mean the file at `path`.
    fn contain(&self, path: &str) -> bool {
        let unnamed_dir = |root: &str| {
            let rest = path.strip_prefix(root).and_then(|p| p.strip_prefix('/'));
            let dir = rest.and_then(|rest| rest.split_once('/'));
            dir.is_some_and(|(dir, _)| !self.parts.contains(dir))
        };
        let name = apt_ostree_model::tree::split(path).1;
        self.matches(name) && !NAMED_DIRS.iter().any(|root| unnamed_dir(root))
    }

    /// The lines of the accounts that the scripts mention.
    fn lines_of_accounts(&self, text: &str) -> String {
        let named = text.split_inclusive('\n').filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            self.plain.contains(name)
        });
        named.collect()
    }

    fn matches(&self, name: &str) -> bool {
        self.plain.contains(name)
            || self.patterns.iter().any(|(start, end)| {
                name.len() >= start.len() + end.len()
                    && name.starts_with(start.as_str())
                    && name.ends_with(end.as_str())
            })
    }
}

fn mentioned_names(tree: &Tree, store: &dyn ContentReader) -> Result<Names> {
    let mut names = Names::default();
    for dir in SCRIPT_DIRS {
        for (path, node) in tree.walk_from(dir) {
            if node.as_file().is_none_or(|f| f.size > 1 << 20) {
                continue;
            }
            let text = content::read_text(tree, store, &path)?;
            names.add(&text);
        }
    }
    names.patterns.sort();
    names.patterns.dedup();
    Ok(names)
}

impl Names {
    fn add(&mut self, text: &str) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "@._+-*".contains(c);
        for part in text.split('/').skip(1) {
            let end = part.find(|c| !is_name(c)).unwrap_or(part.len());
            self.parts.insert(part[..end].to_owned());
        }
        for word in text.split(|c| !is_name(c)).filter(|w| w.len() > 1) {
            match word.split_once('*') {
                None => {
                    self.plain.insert(word.to_owned());
                }
                // `*`, `*.x` and `lib*` name everything; such globs are below the input directories.
                Some((start, rest)) if start.len() > 2 => {
                    let end = rest.rsplit('*').next().unwrap_or_default();
                    if (start, end) != ("lib", "") {
                        self.patterns.push((start.to_owned(), end.to_owned()));
                    }
                }
                Some(_) => {}
            }
        }
    }
}

/// Runs dracut with its output in a directory of ours and returns the uncompressed archive.
fn run_dracut(
    job: &Job<'_>,
    live: &mut LiveRoot<'_>,
    reporter: &dyn Reporter,
) -> Result<camino::Utf8PathBuf> {
    let out = job.workdir.join("dracut");
    let tmp = out.join("tmp");
    std::fs::create_dir_all(&tmp).with_context(|| format!("creating '{tmp}'"))?;
    let mut argv = vec![
        "dracut",
        "--force",
        "--no-hostonly",
        "--reproducible",
        "--no-compress",
        "--no-early-microcode",
        "--add",
        "ostree",
        "--tmpdir",
        "/run/apt-ostree-out/tmp",
        "--kver",
        job.kernel,
    ];
    argv.extend(job.args.iter().map(String::as_str));
    argv.push("/run/apt-ostree-out/initramfs");
    let mut script = Script::new("dracut", &argv);
    script.env = vec![("DRACUT_NO_XATTR", "1".to_owned())];
    script.binds = vec![Bind {
        source: out.clone(),
        target: "/run/apt-ostree-out".into(),
        writable: true,
    }];
    live.begin(job.epoch);
    let watcher = ErrorLines::new(reporter);
    live.run(&script, &watcher)?;
    if let Some(line) = watcher.first() {
        return Err(Kinded::new(
            ErrorKind::Script,
            format!("dracut reported an error: {line}"),
        )
        .into());
    }
    Ok(out.join("initramfs"))
}

/// Passes events on and keeps the lines by which dracut says that it left something out; its exit
/// status does not.
struct ErrorLines<'a> {
    inner: &'a dyn Reporter,
    lines: std::sync::Mutex<Vec<String>>,
}

impl<'a> ErrorLines<'a> {
    const fn new(inner: &'a dyn Reporter) -> Self {
        Self {
            inner,
            lines: std::sync::Mutex::new(Vec::new()),
        }
    }

    fn first(&self) -> Option<String> {
        self.lines.lock().ok()?.first().cloned()
    }
}

impl Reporter for ErrorLines<'_> {
    fn report(&self, event: apt_ostree_model::Event) {
        if let apt_ostree_model::Event::Output { line, .. } = &event
            && (line.contains("FAILED:") || line.contains("dracut[E]") || line.contains("ERROR:"))
            && let Ok(mut lines) = self.lines.lock()
        {
            lines.push(line.clone());
        }
        self.inner.report(event);
    }
}

/// Compresses the archive, behind an uncompressed one with CPU microcode if the tree has any.
fn compress(tree: &Tree, store: &CacheRepo, archive: &Utf8Path) -> Result<File> {
    let mut image = microcode(tree, store)?;
    let mut encoder = zstd::stream::write::Encoder::new(&mut image, ZSTD_LEVEL)?;
    std::io::copy(&mut std::fs::File::open(archive)?, &mut encoder)?;
    encoder.finish()?;
    std::fs::remove_file(archive)?;
    Ok(store.put_file(&Meta::root(0o600), &image)?)
}

/// The early archive with the microcode of both vendors, each as one file; empty without any.
fn microcode(tree: &Tree, store: &CacheRepo) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    let vendors = [
        ("usr/lib/firmware/amd-ucode", "AuthenticAMD.bin"),
        ("usr/lib/firmware/intel-ucode", "GenuineIntel.bin"),
    ];
    for (dir, name) in vendors {
        let mut data = Vec::new();
        for (path, node) in tree.walk_from(dir) {
            if node.as_file().is_some() && !path.ends_with(".asc") && !path.contains("README") {
                data.extend(content::read(tree, store, &path)?.unwrap_or_default());
            }
        }
        if data.is_empty() {
            continue;
        }
        for dir in ["kernel", "kernel/x86", "kernel/x86/microcode"] {
            cpio_entry(&mut archive, dir, 0o040_755, &[])?;
        }
        cpio_entry(
            &mut archive,
            &format!("kernel/x86/microcode/{name}"),
            0o100_644,
            &data,
        )?;
    }
    if !archive.is_empty() {
        cpio_entry(&mut archive, "TRAILER!!!", 0, &[])?;
    }
    Ok(archive)
}

/// Appends one entry in the kernel's `newc` format (`Documentation/driver-api/early-userspace`).
fn cpio_entry(out: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) -> Result<()> {
    let links = if mode & 0o040_000 == 0 { 1 } else { 2 };
    let fields = [
        0,
        mode,
        0,
        0,
        links,
        0,
        u32::try_from(data.len())?,
        0,
        0,
        0,
        0,
        u32::try_from(name.len() + 1)?,
        0,
    ];
    write!(out, "070701")?;
    for field in fields {
        write!(out, "{field:08X}")?;
    }
    write!(out, "{name}\0")?;
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

/// The names in a `newc` archive (or several, one after the other), sorted.
///
/// # Errors
/// When the archive is cut or no such archive.
pub fn cpio_paths(input: &mut impl Read) -> Result<Vec<String>> {
    let mut names = BTreeSet::new();
    let mut header = [0; 110];
    loop {
        // Archives are padded with zeros to a block, and another one may follow.
        if !read_header(input, &mut header)? {
            return Ok(names.into_iter().collect());
        }
        let field = |index: usize| -> Result<u64> {
            let text = std::str::from_utf8(&header[6 + index * 8..14 + index * 8])?;
            u64::from_str_radix(text, 16)
                .with_context(|| format!("bad number '{}' in a cpio header", text.escape_debug()))
        };
        let (size, name_size) = (field(6)?, field(11)?);
        if !header.starts_with(b"07070") || name_size == 0 || name_size > 4096 {
            bail!("not a cpio archive in newc format");
        }
        let mut name = vec![0; usize::try_from((name_size + 110).next_multiple_of(4) - 110)?];
        input.read_exact(&mut name)?;
        name.truncate(usize::try_from(name_size - 1)?);
        let name = String::from_utf8_lossy(&name).into_owned();
        let skipped = std::io::copy(
            &mut input.take(size.next_multiple_of(4)),
            &mut std::io::sink(),
        )?;
        if skipped < size {
            bail!("the cpio archive ends inside '{}'", name.escape_debug());
        }
        if name != "TRAILER!!!" {
            names.insert(
                name.trim_start_matches("./")
                    .trim_start_matches('/')
                    .to_owned(),
            );
        }
    }
}

/// Reads a header, skipping zero words before it; false at the end of the input.
fn read_header(input: &mut impl Read, header: &mut [u8; 110]) -> Result<bool> {
    let mut word = [0; 4];
    loop {
        let mut have = 0;
        while have < 4 {
            match input.read(&mut word[have..])? {
                0 => return Ok(false),
                n => have += n,
            }
        }
        if word != [0; 4] {
            header[..4].copy_from_slice(&word);
            input
                .read_exact(&mut header[4..])
                .context("the cpio archive ends inside a header")?;
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_names_round_trip() {
        let mut archive = Vec::new();
        cpio_entry(&mut archive, "usr", 0o040_755, &[]).unwrap();
        cpio_entry(&mut archive, "usr/a", 0o100_644, b"hello").unwrap();
        cpio_entry(&mut archive, "TRAILER!!!", 0, &[]).unwrap();
        archive.resize(archive.len().next_multiple_of(512), 0);
        let copy = archive.clone();
        archive.extend(copy);
        assert_eq!(
            cpio_paths(&mut archive.as_slice()).unwrap(),
            ["usr", "usr/a"]
        );
    }

    #[test]
    fn cut_archives_are_errors() {
        let mut archive = Vec::new();
        cpio_entry(&mut archive, "usr/a", 0o100_644, b"hello world").unwrap();
        for length in [50, 112, 118] {
            assert!(cpio_paths(&mut &archive[..length]).is_err(), "{length}");
        }
        assert!(cpio_paths(&mut [b'x'; 200].as_slice()).is_err());
    }

    fn names() -> Names {
        let mut names = Names::default();
        names.add("require_binaries cryptsetup || return 1\ninst_libdir_file \"libnss_*.so.2\" \"*.conf\"\n");
        names.add(
            "[[ $lib == lib* ]]; local script; inst_simple /etc/crypttab ${dir}/terminfo/l/linux\n",
        );
        names.add("grep '^systemd-network:' \"$dracutsysrootdir\"/etc/passwd\n");
        names
    }

    #[test]
    fn names_match_words_and_patterns() {
        let names = names();
        assert!(names.contain("usr/sbin/cryptsetup"));
        assert!(names.contain("usr/lib/x86_64-linux-gnu/libnss_files.so.2"));
        assert!(!names.contain("usr/bin/hello") && !names.contain("etc/foo.conf"));
        assert!(!names.contain("usr/lib/libpopt.so.0"));
    }

    #[test]
    fn names_below_directories_that_nobody_mentions_do_not_count() {
        let names = names();
        assert!(names.contain("usr/share/terminfo/l/linux"));
        assert!(names.contain("etc/crypttab"));
        assert!(names.contain("usr/bin/script"));
        assert!(!names.contain("usr/share/bug/cron/script"));
        assert!(!names.contain("etc/default/cryptsetup"));
    }

    #[test]
    fn only_accounts_with_a_name_count() {
        let text = "root:x:0:0::/root:/bin/sh\nsystemd-network:x:998:998::/:/bin/false\ntinyproxy:x:997:997::/:/bin/false\n";
        assert_eq!(
            names().lines_of_accounts(text),
            "systemd-network:x:998:998::/:/bin/false\n"
        );
    }
}
