//! How a worker is started and what its end means: for the command line and for the daemon.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use apt_ostree_model::compose::{Failure, Outcome, Reply};
use apt_ostree_model::{ErrorKind, Event, Kinded};

const PROGRAM: &str = "apt-ostree-worker";
const LIBEXEC: &str = "libexec/apt-ostree";

/// How many lines of a worker's standard error are kept for the case that it dies.
const LOG_LINES: usize = 10;

/// Signals of programs that went wrong by themselves: SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV.
const CRASHES: [i32; 5] = [4, 6, 7, 8, 11];

/// Variables with which somebody sets up apt, dpkg or libostree for something else. Of the request
/// alone follows what a verb does.
///
/// Those of the dynamic loader are not among them: they have worked on this very process, and
/// programs such as `eatmydata` need them.
const FOREIGN_PREFIXES: [&[u8]; 3] = [b"APT_", b"DPKG_", b"OSTREE_"];
const FOREIGN_NAMES: [&str; 3] = ["LANGUAGE", "GIO_EXTRA_MODULES", "G_DEBUG"];

/// One language, because errors of apt's helpers are told apart by their words; and no services of
/// a desktop session behind libostree's files.
const FIXED_ENV: [(&str, &str); 2] = [("LC_ALL", "C.UTF-8"), ("GIO_USE_VFS", "local")];

/// The worker program: `chosen`, or beside this program, or where `make install` puts it.
///
/// # Errors
/// When it is in none of these places.
pub fn find(chosen: Option<OsString>) -> Result<PathBuf, Failure> {
    if let Some(chosen) = chosen.filter(|path| !path.is_empty()) {
        return Ok(chosen.into());
    }
    let own = std::env::current_exe()
        .map_err(|error| failed(format!("finding the path of this program: {error}")))?;
    let candidates = candidates(&own);
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(into_failure(
            Kinded::new(
                ErrorKind::Failed,
                format!("{PROGRAM} is in none of {}", quoted(&candidates)),
            )
            .with_hint("install apt-ostree completely, or name the program in APTOSTREE_WORKER"),
        )),
    }
}

fn candidates(own: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(dir) = own.parent() {
        found.push(dir.join(PROGRAM));
        if let Some(prefix) = dir.parent() {
            found.push(prefix.join(LIBEXEC).join(PROGRAM));
        }
    }
    let packaged = Path::new("/usr").join(LIBEXEC).join(PROGRAM);
    if !found.contains(&packaged) {
        found.push(packaged);
    }
    found
}

fn quoted(paths: &[PathBuf]) -> String {
    let quoted: Vec<String> = paths.iter().map(|p| format!("'{}'", p.display())).collect();
    quoted.join(", ")
}

/// Which mounts a worker sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    /// Those of the process that starts it.
    Shared,
    /// Its own: what it mounts or makes writable is so for itself alone. Such a worker also ends
    /// with the process that started it, from its first moment on.
    Own,
}

/// The command that starts the worker `program` with pipes, in a process group of its own.
pub fn command(program: &Path, mounts: Mounts) -> Command {
    let mut command = match mounts {
        Mounts::Shared => Command::new(program),
        Mounts::Own => {
            // Both replace themselves by the next program, so it is still one process.
            let mut command = Command::new("/usr/bin/setpriv");
            command.args(["--pdeathsig", "TERM", "--"]);
            command.args([
                "/usr/bin/unshare",
                "--mount",
                "--propagation",
                "slave",
                "--",
            ]);
            command.arg(program);
            command
        }
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign_setting(name)) {
        command.env_remove(name);
    }
    command
        .envs(FIXED_ENV)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

fn is_foreign_setting(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    FOREIGN_PREFIXES.iter().any(|p| bytes.starts_with(p))
        || FOREIGN_NAMES.iter().any(|foreign| name == *foreign)
}

/// What a worker has said so far.
#[derive(Debug, Default)]
pub struct Answer {
    end: Option<Result<Outcome, Failure>>,
    log: Vec<String>,
}

impl Answer {
    /// Takes a line of standard output. `None`: it is no reply and was taken as a log line.
    pub fn reply(&mut self, line: &str) -> Option<Reply> {
        let Ok(reply) = serde_json::from_str::<Reply>(line) else {
            self.log(line);
            return None;
        };
        match &reply {
            Reply::Event(_) => {}
            Reply::Finished { finished } => self.end = Some(Ok(finished.clone())),
            Reply::Failed { failed } => self.end = Some(Err(failed.clone())),
        }
        Some(reply)
    }

    /// Takes a line of standard error; the last ones are told when the worker dies.
    pub fn log(&mut self, line: &str) -> Event {
        if self.log.len() == LOG_LINES {
            self.log.remove(0);
        }
        self.log.push(line.to_owned());
        Event::Detail {
            text: line.to_owned(),
        }
    }

    /// Whether the last line of the protocol came.
    pub const fn is_complete(&self) -> bool {
        self.end.is_some()
    }

    /// What came of the verb, now that the worker ended. Only an answer counts, whatever the exit
    /// status is; `cancelled`: somebody had asked it to end.
    ///
    /// # Errors
    /// The worker's failure, or that it died.
    pub fn conclude(self, status: ExitStatus, cancelled: bool) -> Result<Outcome, Failure> {
        match self.end {
            Some(end) => end,
            None if cancelled => Err(into_failure(Kinded::new(ErrorKind::Cancelled, "cancelled"))),
            None => Err(death(status, &self.log)),
        }
    }
}

fn death(status: ExitStatus, log: &[String]) -> Failure {
    let mut failure = failed(death_text(status, log));
    if status
        .signal()
        .is_some_and(|signal| CRASHES.contains(&signal))
    {
        failure.hint = Some("a damaged repository may be the reason: run 'ostree fsck'".to_owned());
    }
    failure
}

fn death_text(status: ExitStatus, log: &[String]) -> String {
    let mut text = match (status.signal(), status.code()) {
        (Some(signal), _) => format!("the worker died of signal {signal}"),
        (None, Some(code)) => format!("the worker ended with status {code} and without an answer"),
        (None, None) => "the worker ended without an answer".to_owned(),
    };
    for line in log {
        text.push('\n');
        text.push_str(line);
    }
    text
}

/// A failure without a kind of its own.
pub fn failed(message: impl Into<String>) -> Failure {
    into_failure(Kinded::new(ErrorKind::Failed, message))
}

/// Makes the failure of a verb from an error on this side.
pub fn into_failure(error: Kinded) -> Failure {
    Failure {
        kind: error.kind,
        message: error.message,
        hint: error.hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_is_looked_for_beside_the_program_then_in_libexec() {
        let paths = candidates(Path::new("/usr/local/bin/apt-ostree"));
        assert_eq!(
            paths,
            [
                "/usr/local/bin/apt-ostree-worker",
                "/usr/local/libexec/apt-ostree/apt-ostree-worker",
                "/usr/libexec/apt-ostree/apt-ostree-worker",
            ]
            .map(PathBuf::from)
        );
        assert_eq!(candidates(Path::new("/usr/bin/apt-ostree")).len(), 2);
    }

    #[test]
    fn the_environment_names_another_worker() {
        let chosen = find(Some("/opt/worker".into())).unwrap();
        assert_eq!(chosen, PathBuf::from("/opt/worker"));
    }

    #[test]
    fn a_worker_that_dies_is_told_with_its_last_words() {
        let killed = ExitStatus::from_raw(9);
        assert_eq!(death_text(killed, &[]), "the worker died of signal 9");
        let hint = |signal| death(ExitStatus::from_raw(signal), &[]).hint;
        assert!(hint(9).is_none() && hint(11).is_some_and(|hint| hint.contains("ostree fsck")));
        let ended = ExitStatus::from_raw(3 << 8);
        assert_eq!(
            death_text(ended, &["last words".to_owned()]),
            "the worker ended with status 3 and without an answer\nlast words"
        );
    }

    #[test]
    fn the_end_of_the_worker_decides_when_there_is_no_answer() {
        let end = |cancelled, end, status| {
            let answer = Answer {
                end,
                log: Vec::new(),
            };
            answer.conclude(ExitStatus::from_raw(status), cancelled)
        };
        let downloaded = Outcome::Downloaded {
            packages: 1,
            bytes: 1,
        };
        // An answer counts, even when the process dies of something else afterwards.
        let answered = Some(Ok(downloaded.clone()));
        assert_eq!(end(false, answered, 11), Ok(downloaded));
        assert_eq!(end(true, None, 15).unwrap_err().kind, ErrorKind::Cancelled);
        assert_eq!(end(false, None, 15).unwrap_err().kind, ErrorKind::Failed);
        // Without an answer not even a good exit status is a success.
        assert_eq!(end(false, None, 0).unwrap_err().kind, ErrorKind::Failed);
    }
}
