//! SIGKILL and power cuts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use apt_ostree_testkit::privileged;
use rustix::process::{Pid, Signal, kill_process};

use crate::cases::{Case, World};
use crate::points::{self, Point};
use crate::session::{Session, start};

/// What ends the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGKILL.
    Kill,
    /// SIGKILL, and all that is not on disk is lost.
    PowerCut,
}

/// How many points of each verb.
pub(crate) fn points_per_case(quick: usize, full: usize) -> usize {
    if std::env::var_os("APTOSTREE_TEST_FULL").is_some() {
        full
    } else {
        quick
    }
}

#[test]
fn killed_verbs_lose_nothing() {
    if !privileged("killed_verbs_lose_nothing") {
        return;
    }
    let kills = end_all(End::Kill, points_per_case(7, 30));
    say(&format!("{kills} kills"));
    assert!(kills >= 50, "{kills}");
}

#[test]
fn power_cuts_lose_nothing() {
    if !privileged("power_cuts_lose_nothing") {
        return;
    }
    let cuts = end_all(End::PowerCut, points_per_case(5, 30));
    say(&format!("{cuts} power cuts"));
    assert!(cuts >= 35, "{cuts}");
}

fn end_all(end: End, most: usize) -> usize {
    let mut world = World::new();
    let mut ends = 0;
    for case in world.cases() {
        let session = Session::start(&case.prepared, case.place, &world.dir());
        let found = find(&case, &session);
        drop(session);
        let chosen = points::choose(&found, most);
        let frozen = chosen.iter().filter(|p| p.frozen).count();
        let mut booted: BTreeMap<String, usize> = BTreeMap::new();
        for point in &chosen {
            if let Some(boots_next) = end_at(&world, &case, point, end) {
                *booted.entry(boots_next).or_default() += 1;
            }
        }
        let here = booted.values().sum::<usize>();
        let counts: Vec<&usize> = booted.values().collect();
        say(&format!(
            "{end:?} {}: {here} of {} points ({frozen} with a frozen /boot), commits that boot next: {counts:?}",
            case.name,
            found.len(),
        ));
        ends += here;
    }
    ends
}

pub(crate) fn find(case: &Case, session: &Session) -> Vec<Point> {
    let program = case.program(session);
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    points::find(session, &program, &(case.request)(session.target()))
}

/// Ends a verb at a point and looks at what is left; `None` when it was faster this time.
pub(crate) fn end_at(world: &World, case: &Case, point: &Point, end: End) -> Option<String> {
    let place = format!("{end:?} {} at {point}", case.name);
    let mut session = Session::start(&case.prepared, case.place, &world.dir());
    let program = case.program(&session);
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    let request = (case.request)(session.target());
    let output = points::run_to(&session, point, &program, &request);
    if output.status.success() {
        return None;
    }
    if case.shutdown {
        // Not our process: its unit thaws. That this is frozen shows that the other cases would be.
        let frozen = session.disk.thaw().unwrap();
        assert_eq!(frozen, point.frozen, "{place}");
    }
    if end == End::PowerCut {
        session = session.cut_power();
    }
    let boots_next = session.check(&world.trees, &place);
    assert!(case.allowed.contains(&boots_next), "{place}: {boots_next}");
    if case.shutdown {
        session = session.boot_again();
    }
    run_again(case, world, session, &place);
    Some(boots_next)
}

fn run_again(case: &Case, world: &World, mut session: Session, place: &str) {
    let result = session.ask(&(case.request)(session.target()));
    assert!(case.is_done(&result), "{place}: {result:?}");
    session.reboot();
    let boots_next = session.check(&world.trees, place);
    match &case.after {
        Some(after) => assert_eq!(boots_next, *after, "{place}"),
        None => assert!(case.allowed.contains(&boots_next), "{place}"),
    }
}

#[test]
fn kills_at_random_instants_lose_nothing() {
    if !privileged("kills_at_random_instants_lose_nothing") {
        return;
    }
    let most = points_per_case(3, 12);
    let mut world = World::new();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut kills = 0;
    for case in world.cases() {
        if case.shutdown {
            continue;
        }
        let session = Session::start(&case.prepared, case.place, &world.dir());
        let began = Instant::now();
        kill_after(&session, &case, Duration::from_secs(60));
        let length = began.elapsed().saturating_sub(LINGER);
        drop(session);
        for _ in 0..most {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let after = length.mul_f64((random % 1000) as f64 / 1000.0);
            let place = format!("{} killed after {after:?}", case.name);
            let session = Session::start(&case.prepared, case.place, &world.dir());
            if !kill_after(&session, &case, after) {
                continue;
            }
            kills += 1;
            let boots_next = session.check(&world.trees, &place);
            assert!(case.allowed.contains(&boots_next), "{place}: {boots_next}");
            run_again(&case, &world, session, &place);
        }
    }
    say(&format!("{kills} kills at random instants"));
    // How many come in time depends on the machine.
    assert!(kills >= most * 2, "{kills}");
}

/// How long the first process of a system stays after the worker.
const LINGER: Duration = Duration::from_millis(200);

/// Runs a verb and kills the worker after a while; whether it was still there.
fn kill_after(session: &Session, case: &Case, after: Duration) -> bool {
    // Who is the first process of the system ends last, and the guard has its time.
    let wrapper = ["sh", "-c", "\"$@\"; code=$?; sleep 0.2; exit $code", "sh"];
    let worker = session.worker();
    let mut command = session.command(&wrapper, &[&worker]);
    let child = start(&mut command, &(case.request)(session.target()));
    let deadline = Instant::now() + after;
    let killed = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let worker = descendant(child.id(), "apt-ostree-work");
        if left.is_zero() || (worker.is_none() && has_ended(child.id())) {
            break worker.is_some_and(kill);
        }
        std::thread::sleep(left.min(Duration::from_millis(2)));
    };
    let output = child.wait_with_output().unwrap();
    killed && !output.status.success()
}

fn kill(process: u32) -> bool {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

fn has_ended(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// A process with this name among the descendants of another.
fn descendant(process: u32, name: &str) -> Option<u32> {
    let dir = format!("/proc/{process}");
    let comm = std::fs::read_to_string(format!("{dir}/comm")).unwrap_or_default();
    if comm.trim() == name {
        return Some(process);
    }
    let children =
        std::fs::read_to_string(format!("{dir}/task/{process}/children")).unwrap_or_default();
    let mut children = children.split_whitespace();
    children.find_map(|child| descendant(child.parse().ok()?, name))
}

#[test]
fn what_killed_verbs_leave_does_not_grow() {
    if !privileged("what_killed_verbs_leave_does_not_grow") {
        return;
    }
    let most = points_per_case(8, 40);
    let mut world = World::new();
    for case in world.cases() {
        // The others don't write, or end with fewer files each time.
        if !case.name.starts_with("upgrade") && !case.name.starts_with("kargs") {
            continue;
        }
        let session = Session::start(&case.prepared, case.place, &world.dir());
        let found = find(&case, &session);
        let expected = session.files();
        let session = Session::start(&case.prepared, case.place, &world.dir());
        let program = case.program(&session);
        let program: Vec<&str> = program.iter().map(String::as_str).collect();
        let request = (case.request)(session.target());
        for point in points::choose(&found, most) {
            drop(points::run_to(&session, &point, &program, &request));
        }
        let result = session.ask(&request);
        assert!(case.is_done(&result), "{}: {result:?}", case.name);
        let left = session.files();
        say(&format!(
            "{}: {} files, {} without kills",
            case.name,
            left.len(),
            expected.len()
        ));
        let more: Vec<&String> = left.difference(&expected).collect();
        // There may be one deployment more than without kills, which is 16 files.
        let bounded = left.len() <= expected.len() + 16 + 3;
        assert!(bounded, "{}: {more:?}", case.name);
    }
}

pub(crate) fn say(line: &str) {
    drop(std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{line}\n").as_bytes(),
    ));
}
