//! What the user sees of a running verb.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use apt_ostree_fsx::escape;
use apt_ostree_model::client::ClientOutcome;
use apt_ostree_model::compose::{Failure, Outcome, Reply};
use apt_ostree_model::{Event, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::ending::{Ending, client_text};
use super::lines::{Level, Line, Lines};
use super::report::{Timings, outcome_text, shorten_paths};
use crate::cli::Verbosity;

/// Draws the events of one run.
pub(crate) struct View {
    json: bool,
    /// Somebody else who changes the system is waited for.
    waits: bool,
    level: Level,
    lines: Lines,
    bar: Option<ProgressBar>,
    /// The step that started last: the bar is its. Others may be under way too.
    step: Option<Step>,
    timings: Timings,
    started: Instant,
}

impl View {
    /// A view that suits what standard output is.
    pub(crate) fn new(verbosity: Verbosity, json: bool) -> Self {
        let level = Level::from(verbosity);
        let terminal = !json && level > Level::Quiet && std::io::stdout().is_terminal();
        Self {
            json,
            waits: false,
            level,
            lines: Lines::new(level, !terminal),
            bar: terminal.then(hidden_bar),
            step: None,
            timings: Timings::default(),
            started: Instant::now(),
        }
    }

    /// A view for verbs whose output is what they read.
    pub(crate) fn quiet() -> Self {
        let verbosity = Verbosity {
            quiet: true,
            verbose: false,
        };
        Self::new(verbosity, false)
    }

    /// The same view for a verb that waits for others, or does not.
    pub(crate) fn waiting(mut self, waits: bool) -> Self {
        self.waits = waits;
        self
    }

    pub(crate) const fn waits(&self) -> bool {
        self.waits
    }

    /// Draws a line of the worker's answer, but not a failure: the work may be tried again.
    pub(crate) fn reply(&mut self, line: &str, reply: &Reply) {
        match reply {
            Reply::Event(event) => {
                self.raw(line);
                self.event(event);
            }
            Reply::Finished { .. } => self.raw(line),
            Reply::Failed { .. } => {}
        }
    }

    /// Draws an event of this side.
    pub(crate) fn tell(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            self.raw(&line);
        }
        self.event(event);
    }

    /// Passes on a failure where the lines of the protocol are the output.
    pub(crate) fn failed(&self, failure: &Failure) {
        let reply = Reply::Failed {
            failed: failure.clone(),
        };
        if let Ok(line) = serde_json::to_string(&reply) {
            self.raw(&line);
        }
    }

    fn raw(&self, line: &str) {
        if self.json {
            print(&format!("{line}\n"));
        }
    }

    /// Draws one event.
    pub(crate) fn event(&mut self, event: &Event) {
        if let Event::StepFinished { step, seconds, .. } = event {
            *self.timings.steps.entry(*step).or_default() += seconds;
        }
        if self.json {
            return;
        }
        if let Event::StepStarted { step } = event {
            self.step = Some(*step);
        }
        if let Some(bar) = &self.bar
            && self.is_shown(event)
        {
            update_bar(bar, event);
        }
        match self.lines.render(event) {
            None => {}
            Some(Line::Out(text)) => self.above_bar(|| print(&text)),
            Some(Line::Warning(text)) => self.warn(&text),
        }
    }

    fn is_shown(&self, event: &Event) -> bool {
        match event {
            Event::StepProgress { step, .. } => self.step == Some(*step),
            _ => true,
        }
    }

    /// Prints a warning.
    pub(crate) fn warn(&mut self, text: &str) {
        let open = self.lines.break_line();
        self.above_bar(|| {
            print(open);
            super::print_warning(text);
        });
    }

    /// Removes the bar and prints what came of the run.
    pub(crate) fn finish(&mut self, outcome: &Outcome) {
        self.clear();
        let asked_for = matches!(outcome, Outcome::Planned { .. });
        if !self.json && (self.level > Level::Quiet || asked_for) {
            self.timings.total = self.started.elapsed().as_secs_f64();
            let verbose = self.level == Level::Verbose;
            let mut outcome = outcome.clone();
            if let Ok(directory) = std::env::current_dir() {
                shorten_paths(&mut outcome, &directory);
            }
            print(&outcome_text(&outcome, &self.timings, verbose));
        }
    }

    /// Removes the bar and prints what came of a change of a system.
    pub(crate) fn finish_client(&mut self, outcome: &ClientOutcome, ending: Ending) {
        self.clear();
        let asked_for = matches!(
            outcome,
            ClientOutcome::Planned(_) | ClientOutcome::Available(_)
        );
        if !self.json && (self.level > Level::Quiet || asked_for) {
            print(&client_text(outcome, ending));
        }
    }

    /// Removes the bar and ends an open line.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        print(self.lines.break_line());
    }

    fn above_bar(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// Writes to standard output; a reader that went away doesn't stop the work.
fn print(text: &str) {
    let mut stdout = anstream::stdout().lock();
    drop(
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush()),
    );
}

fn hidden_bar() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout_with_hz(10))
}

fn update_bar(bar: &ProgressBar, event: &Event) {
    match event {
        Event::StepStarted { step } => {
            // In this order: each call draws.
            show_spinner(bar, *step);
            bar.unset_length();
            bar.reset();
        }
        Event::StepProgress {
            step,
            done,
            total,
            bytes,
            item,
        } => {
            if *total == 0 {
                show_spinner(bar, *step);
            } else {
                bar.set_style(style(if *bytes { BYTES } else { ITEMS }));
                bar.set_prefix(step.title());
                bar.set_length(*total);
                bar.set_position(*done);
            }
            bar.set_message(item.as_deref().map(escape).unwrap_or_default());
        }
        Event::StepFinished { .. } => {
            bar.disable_steady_tick();
            bar.finish_and_clear();
        }
        _ => {}
    }
}

const SPINNER: &str = "{spinner} {prefix}... {wide_msg}";
const BYTES: &str =
    "{spinner} {prefix} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}";
const ITEMS: &str = "{spinner} {prefix} [{bar:24}] {pos}/{len} {wide_msg}";

fn show_spinner(bar: &ProgressBar, step: Step) {
    bar.set_style(style(SPINNER));
    bar.set_prefix(step.title());
    bar.set_message("");
    bar.enable_steady_tick(Duration::from_millis(120));
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_that_of_the_step_that_started_last() {
        let mut view = View::new(Verbosity::default(), true);
        let progress = |step| Event::StepProgress {
            step,
            done: 1,
            total: 2,
            bytes: false,
            item: None,
        };
        view.step = Some(Step::Import);
        assert!(view.is_shown(&progress(Step::Import)));
        assert!(!view.is_shown(&progress(Step::Configure)));
        assert!(view.is_shown(&Event::StepStarted {
            step: Step::Configure
        }));
    }

    #[test]
    fn times_of_a_step_that_runs_twice_add_up() {
        let mut view = View::new(Verbosity::default(), true);
        for _ in 0..2 {
            view.event(&Event::StepFinished {
                step: Step::Postprocess,
                seconds: 0.5,
                summary: String::new(),
            });
        }
        assert_eq!(view.timings.steps[&Step::Postprocess], 1.0);
    }
}
