//! At which system calls a verb is stopped.

use std::collections::BTreeMap;
use std::process::Output;

use apt_ostree_model::compose::Request;

use crate::session::{Session, answer};

/// The calls that change files or make changes last.
const CALLS: &str = "rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,\
    mkdir,mkdirat,ftruncate,fchmod,fchmodat,fchown,fsetxattr,utimensat,write,pwrite64,ioctl,\
    copy_file_range,fsync,fdatasync,syncfs";

/// Calls of which each one matters: what they do is seen by others.
const VISIBLE: [&str; 9] = [
    "rename",
    "renameat",
    "renameat2",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "syncfs",
    "rmdir",
];

/// Right before the `number`th call of this kind in a thread.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) call: String,
    pub(crate) number: usize,
    /// Between freezing and thawing `/boot`.
    pub(crate) frozen: bool,
}

impl Point {
    /// The options of strace that kill there.
    pub(crate) fn options(&self) -> Vec<String> {
        let Self { call, number, .. } = self;
        let inject = format!("inject={call}:signal=KILL:when={number}");
        [
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={call}"),
            "-e",
            &inject,
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.call, self.number)
    }
}

/// Runs a verb, killed at a point.
pub(crate) fn run_to(
    session: &Session,
    point: &Point,
    program: &[&str],
    request: &Request,
) -> Output {
    let options = point.options();
    let mut wrapper = vec!["strace"];
    wrapper.extend(options.iter().map(String::as_str));
    answer(&mut session.command(&wrapper, program), request)
}

/// All points of a verb, in no order that matters: runs it to its end. All those with `/boot`
/// frozen come first.
pub(crate) fn find(session: &Session, program: &[&str], request: &Request) -> Vec<Point> {
    let dir = tempfile::tempdir().unwrap();
    let dir = session.run_dir().unwrap_or_else(|| dir.path());
    let inside = match session.run_dir() {
        Some(_) => "/run/trace".to_owned(),
        None => dir.join("trace").to_string_lossy().into_owned(),
    };
    let calls = format!("trace={CALLS}");
    let wrapper = ["strace", "-f", "-qq", "-o", &inside, "-e", &calls];
    let output = answer(&mut session.command(&wrapper, program), request);
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(dir.join("trace")).unwrap();
    points_of(&text)
}

fn points_of(trace: &str) -> Vec<Point> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut highest: BTreeMap<String, usize> = BTreeMap::new();
    let mut frozen = Vec::new();
    for line in trace.lines() {
        let Some((process, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if !CALLS.split(',').any(|known| known.trim() == call) {
            continue;
        }
        let count = counts
            .entry((process.to_owned(), call.to_owned()))
            .or_insert(0);
        *count += 1;
        let most = highest.entry(call.to_owned()).or_insert(0);
        *most = (*most).max(*count);
        // Who thaws is the worker itself; the guard has nothing to do in a run that succeeds.
        if call == "ioctl" && arguments.contains("FITHAW") {
            frozen.push(*count);
        }
    }
    let mut points: Vec<Point> = frozen
        .iter()
        .map(|number| Point {
            call: "ioctl".to_owned(),
            number: *number,
            frozen: true,
        })
        .collect();
    for (call, most) in highest {
        let others = (1..=most).filter(|n| call != "ioctl" || !frozen.contains(n));
        points.extend(others.map(|number| Point {
            call: call.clone(),
            number,
            frozen: false,
        }));
    }
    points
}

/// At most so many of the points: all those with a frozen `/boot`, then those that others see, then
/// the rest, evenly.
pub(crate) fn choose(points: &[Point], most: usize) -> Vec<Point> {
    let (frozen, rest): (Vec<_>, Vec<_>) = points.iter().cloned().partition(|p| p.frozen);
    let (visible, rest): (Vec<_>, Vec<_>) = rest
        .into_iter()
        .partition(|p| VISIBLE.contains(&p.call.as_str()));
    let mut chosen = frozen;
    let left = most.saturating_sub(chosen.len());
    let few = spread(&visible, left * 2 / 3);
    let others = spread(&rest, left - few.len());
    chosen.extend(few);
    chosen.extend(others);
    chosen
}

fn spread(points: &[Point], most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points.to_vec();
    }
    (0..most)
        .map(|at| points[at * points.len() / most].clone())
        .collect()
}
