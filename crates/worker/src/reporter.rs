//! Events to protocol lines.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use apt_ostree_model::compose::Reply;
use apt_ostree_model::{Event, Reporter, Step};

/// Progress of one step is told at most this often.
const INTERVAL: Duration = Duration::from_millis(200);

/// Writes each event as one JSON line to the command line that started this worker.
pub(crate) struct LineReporter {
    inner: Mutex<Inner>,
    /// Called when nobody reads any more.
    on_closed: fn(),
}

struct Inner {
    out: File,
    throttle: Throttle,
}

impl LineReporter {
    pub(crate) fn new(out: File, on_closed: fn()) -> Self {
        let inner = Inner {
            out,
            throttle: Throttle::default(),
        };
        Self {
            inner: Mutex::new(inner),
            on_closed,
        }
    }

    /// Writes one line.
    pub(crate) fn reply(&self, reply: &Reply) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.write(reply).is_err() {
            (self.on_closed)();
        }
    }
}

impl Inner {
    fn write(&mut self, reply: &Reply) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        self.out.write_all(&line)
    }
}

impl Reporter for LineReporter {
    fn report(&self, event: Event) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let told = inner.throttle.admits(&event, Instant::now());
        if told && inner.write(&Reply::Event(event)).is_err() {
            drop(inner);
            (self.on_closed)();
        }
    }
}

/// Lets through every event but progress that follows other progress of its step too soon. The
/// first and the last progress of a step always pass.
#[derive(Default)]
struct Throttle {
    last: Option<(Step, Instant)>,
}

impl Throttle {
    fn admits(&mut self, event: &Event, now: Instant) -> bool {
        let Event::StepProgress {
            step, done, total, ..
        } = event
        else {
            return true;
        };
        let soon = |(last, at): (Step, Instant)| {
            last == *step && now.saturating_duration_since(at) < INTERVAL
        };
        let complete = *total > 0 && done >= total;
        if self.last.is_some_and(soon) && !complete {
            return false;
        }
        self.last = Some((*step, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: Step, done: u64) -> Event {
        Event::StepProgress {
            step,
            done,
            total: 10,
            bytes: false,
            item: None,
        }
    }

    #[test]
    fn progress_that_comes_too_soon_is_dropped() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let later = start + INTERVAL / 2;
        assert!(throttle.admits(&progress(Step::Import, 1), start));
        assert!(!throttle.admits(&progress(Step::Import, 2), later));
        assert!(throttle.admits(&progress(Step::Import, 3), start + INTERVAL));
    }

    #[test]
    fn the_end_of_a_step_and_other_steps_and_events_pass() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        assert!(throttle.admits(&progress(Step::Import, 1), now));
        assert!(throttle.admits(&progress(Step::Import, 10), now));
        assert!(throttle.admits(&progress(Step::Acquire, 1), now));
        let text = String::from("x");
        assert!(throttle.admits(&Event::Message { text: text.clone() }, now));
        assert!(throttle.admits(&Event::Detail { text }, now));
    }
}
