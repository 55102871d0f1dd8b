//! Events as plain lines, for pipes, logs and `-q`.

use apt_ostree_fsx::escape;
use apt_ostree_model::{Event, Step};

use crate::cli::Verbosity;
use crate::format::seconds;

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Warnings only.
    Quiet,
    /// Steps and messages as well.
    Normal,
    /// Details and the output of scripts as well.
    Verbose,
}

impl From<Verbosity> for Level {
    fn from(verbosity: Verbosity) -> Self {
        match (verbosity.quiet, verbosity.verbose) {
            (true, _) => Self::Quiet,
            (false, false) => Self::Normal,
            (false, true) => Self::Verbose,
        }
    }
}

/// What is to be printed for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// To standard output, as it is.
    Out(String),
    /// A warning, without the word and without an end of line.
    Warning(String),
}

/// Turns events into lines.
///
/// With `announce`, a step shows when it starts, and its end completes the line when nothing came
/// in between.
#[derive(Debug)]
pub struct Lines {
    level: Level,
    announce: bool,
    open: Option<Step>,
}

impl Lines {
    /// Lines at `level`.
    pub fn new(level: Level, announce: bool) -> Self {
        Self {
            level,
            announce,
            open: None,
        }
    }

    /// What to print for `event`, if anything.
    pub fn render(&mut self, event: &Event) -> Option<Line> {
        if self.level < level_of(event) {
            return None;
        }
        let text = match event {
            Event::StepStarted { step } => {
                if !self.announce {
                    return None;
                }
                let text = format!("{}{}...", self.break_line(), step.title());
                self.open = Some(*step);
                text
            }
            Event::StepFinished {
                step,
                seconds: time,
                summary,
            } => {
                let separator = if summary.is_empty() { "" } else { " " };
                let summary = escape(summary);
                let end = format!("{separator}{summary} ({})\n", seconds(*time));
                if self.open.take_if(|open| *open == *step).is_some() {
                    end
                } else {
                    format!("{}{}...{end}", self.break_line(), step.title())
                }
            }
            Event::Message { text } => format!("{}{}\n", self.break_line(), escape(text)),
            Event::Detail { text } => format!("{}  {}\n", self.break_line(), escape(text)),
            Event::Output { source, line } => {
                let (source, line) = (escape(source), escape(line));
                format!("{}  {source}: {line}\n", self.break_line())
            }
            Event::Warning { text } => return Some(Line::Warning(text.clone())),
            _ => return None,
        };
        Some(Line::Out(text))
    }

    /// Ends a line that a started step left open.
    pub fn break_line(&mut self) -> &'static str {
        if self.open.take().is_some() { "\n" } else { "" }
    }
}

/// From which level on an event is shown.
fn level_of(event: &Event) -> Level {
    match event {
        Event::Warning { .. } => Level::Quiet,
        Event::Detail { .. } | Event::Output { .. } => Level::Verbose,
        _ => Level::Normal,
    }
}
