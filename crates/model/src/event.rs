//! Progress as data: libraries report events, only the command line draws them.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// A step of a verb, in the order in which verbs run them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Step {
    /// Reading the treefile.
    Load,
    /// Pulling a commit of the base.
    Pull,
    /// Refreshing package indices.
    Update,
    /// Choosing packages.
    Solve,
    /// Downloading packages.
    Acquire,
    /// Importing packages into the cache.
    Import,
    /// Joining packages to one tree.
    Assemble,
    /// Running maintainer scripts.
    Configure,
    /// Building the initramfs.
    Initramfs,
    /// Turning the installed tree into an OSTree tree.
    Postprocess,
    /// Checking the finished tree.
    Lint,
    /// Writing the commit.
    Commit,
    /// Writing images.
    Encode,
    /// Comparing the objects of a commit with their checksums.
    Verify,
    /// Writing or staging a deployment.
    Deploy,
    /// Changing the running system.
    Live,
    /// Removing what is not used any more.
    Cleanup,
}

impl Step {
    /// The gerund that progress output shows, such as `Importing packages`.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Load => "Reading treefile",
            Self::Pull => "Pulling base",
            Self::Update => "Refreshing package indices",
            Self::Solve => "Resolving packages",
            Self::Acquire => "Downloading packages",
            Self::Import => "Importing packages",
            Self::Assemble => "Assembling tree",
            Self::Configure => "Running maintainer scripts",
            Self::Initramfs => "Building initramfs",
            Self::Postprocess => "Postprocessing",
            Self::Lint => "Checking tree",
            Self::Commit => "Writing commit",
            Self::Encode => "Writing images",
            Self::Verify => "Checking commit",
            Self::Deploy => "Writing deployment",
            Self::Live => "Applying changes",
            Self::Cleanup => "Cleaning up",
        }
    }
}

/// Something that happened; the `--json` output is one of these per line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A step starts.
    StepStarted {
        /// Which one.
        step: Step,
    },
    /// A step is under way; at most a few per second.
    StepProgress {
        /// Which one.
        step: Step,
        /// How much is done, in bytes or items.
        done: u64,
        /// How much there is, in the same unit; 0 when unknown.
        total: u64,
        /// True when `done` and `total` count bytes.
        bytes: bool,
        /// What is being worked on, such as a package name.
        item: Option<String>,
    },
    /// A step ended well.
    StepFinished {
        /// Which one.
        step: Step,
        /// Wall-clock seconds it took.
        seconds: f64,
        /// What came of it, such as `173 packages, 12 imported`.
        summary: String,
    },
    /// Worth telling at normal verbosity.
    Message {
        /// One sentence.
        text: String,
    },
    /// The user should look at this; the work goes on.
    Warning {
        /// One sentence.
        text: String,
    },
    /// Detail for `--verbose`.
    Detail {
        /// One line.
        text: String,
    },
    /// A line that a maintainer script or tool of the target printed.
    Output {
        /// Who printed it, such as `openssh-server.postinst`.
        source: String,
        /// The line, control bytes escaped.
        line: String,
    },
}

/// Where events go.
pub trait Reporter: Send + Sync {
    /// Takes one event. Must not block for long and must not fail.
    fn report(&self, event: Event);
}

impl dyn Reporter + '_ {
    /// Runs `work` as `step`: reports its start and, when it succeeds, its end and duration.
    ///
    /// `work` returns its result and the summary of [`Event::StepFinished`].
    ///
    /// # Errors
    /// Whatever `work` returns.
    pub fn step<T, E>(
        &self,
        step: Step,
        work: impl FnOnce() -> Result<(T, String), E>,
    ) -> Result<T, E> {
        self.report(Event::StepStarted { step });
        let start = std::time::Instant::now();
        let (value, summary) = work()?;
        let seconds = start.elapsed().as_secs_f64();
        self.report(Event::StepFinished {
            step,
            seconds,
            summary,
        });
        Ok(value)
    }

    /// Reports [`Event::Message`].
    pub fn message(&self, text: impl Into<String>) {
        self.report(Event::Message { text: text.into() });
    }

    /// Reports [`Event::Warning`].
    pub fn warning(&self, text: impl Into<String>) {
        self.report(Event::Warning { text: text.into() });
    }

    /// Reports [`Event::Detail`].
    pub fn detail(&self, text: impl Into<String>) {
        self.report(Event::Detail { text: text.into() });
    }
}

/// Drops every event.
#[derive(Debug, Default, Clone, Copy)]
pub struct NullReporter;

impl Reporter for NullReporter {
    fn report(&self, _event: Event) {}
}

/// Keeps every event, for tests.
#[derive(Debug, Default)]
pub struct RecordingReporter(Mutex<Vec<Event>>);

impl RecordingReporter {
    /// Takes what was reported so far.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(
            &mut *self
                .0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}

impl Reporter for RecordingReporter {
    fn report(&self, event: Event) {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(event);
    }
}
