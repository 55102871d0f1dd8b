//! What the user sees of a running verb.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use apt_ostree_fsx::escape;
use apt_ostree_model::compose::{Failure, Outcome};
use apt_ostree_model::{ErrorKind, Event, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::lines::{Level, Line, Lines};
use super::report::{Timings, outcome_text, shorten_paths};
use crate::cli::Verbosity;

/// So many lines of output are shown after a script failed.
const RECENT_LINES: usize = 20;

/// Draws the events of one run.
pub(crate) struct View {
    json: bool,
    level: Level,
    lines: Lines,
    bar: Option<ProgressBar>,
    recent: VecDeque<(String, String)>,
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
            level,
            lines: Lines::new(level, !terminal),
            bar: terminal.then(hidden_bar),
            recent: VecDeque::with_capacity(RECENT_LINES),
            timings: Timings::default(),
            started: Instant::now(),
        }
    }

    /// Passes on a line of the worker's answer when that is what the user wants to see.
    pub(crate) fn raw(&self, line: &str) {
        if self.json {
            print(&format!("{line}\n"));
        }
    }

    /// Draws one event.
    pub(crate) fn event(&mut self, event: &Event) {
        self.remember(event);
        if self.json {
            return;
        }
        if let Some(bar) = &self.bar {
            update_bar(bar, event);
        }
        match self.lines.render(event) {
            None => {}
            Some(Line::Out(text)) => self.above_bar(|| print(&text)),
            Some(Line::Warning(text)) => self.warn(&text),
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

    /// Removes the bar and prints what a script said before it failed, unless that was shown.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        self.clear();
        if failure.kind == ErrorKind::Script && (self.json || self.level < Level::Verbose) {
            super::print_stderr(&last_output(&self.recent));
        }
    }

    /// Removes the bar and ends an open line.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        print(self.lines.break_line());
    }

    fn remember(&mut self, event: &Event) {
        match event {
            Event::Output { source, line } => {
                if self.recent.len() == RECENT_LINES {
                    self.recent.pop_front();
                }
                self.recent.push_back((source.clone(), line.clone()));
            }
            Event::StepFinished { step, seconds, .. } => {
                *self.timings.steps.entry(*step).or_default() += seconds;
            }
            _ => {}
        }
    }

    fn above_bar(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// The last lines of the source that printed last, under a heading.
fn last_output(recent: &VecDeque<(String, String)>) -> String {
    let Some((source, _)) = recent.back() else {
        return String::new();
    };
    let mut text = format!("last output of {}:\n", escape(source));
    for (_, line) in recent.iter().filter(|(s, _)| s == source) {
        text.push_str("  ");
        text.push_str(&escape(line));
        text.push('\n');
    }
    text
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
    fn only_the_output_of_the_last_script_is_repeated() {
        let line = |source: &str, line: &str| (source.to_owned(), line.to_owned());
        let recent = VecDeque::from([
            line("a.postinst", "one"),
            line("b.postinst", "two"),
            line("a.postinst", "late"),
            line("b.postinst", "thr\x07ee"),
        ]);
        assert_eq!(
            last_output(&recent),
            "last output of b.postinst:\n  two\n  thr\\x07ee\n"
        );
        assert_eq!(last_output(&VecDeque::new()), "");
    }

    #[test]
    fn old_output_is_forgotten_and_step_times_add_up() {
        let mut view = View::new(Verbosity::default(), true);
        for number in 0..50 {
            view.event(&Event::Output {
                source: "x".to_owned(),
                line: number.to_string(),
            });
            view.event(&Event::StepFinished {
                step: Step::Configure,
                seconds: 0.5,
                summary: String::new(),
            });
        }
        assert_eq!(view.recent.len(), RECENT_LINES);
        assert_eq!(view.recent.back().unwrap().1, "49");
        assert_eq!(view.timings.steps[&Step::Configure], 25.0);
    }
}
