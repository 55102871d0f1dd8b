//! Replies of the worker to the signals that rpm-ostree's clients know.

use apt_ostree_model::compose::Reply;
use apt_ostree_model::{Event, Step};

/// A signal with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    Message(String),
    TaskBegin(String),
    TaskEnd(String),
    Percent(String, u32),
    ProgressEnd,
}

/// Which bar is drawn.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bar: Option<Step>,
}

impl Progress {
    /// The signals for one line of the protocol. Details and output of scripts are in `Reply`
    /// alone.
    pub(super) fn signals(&mut self, line: &str) -> Vec<Signal> {
        let Ok(Reply::Event(event)) = serde_json::from_str(line) else {
            return Vec::new();
        };
        match event {
            Event::StepStarted { step } => vec![Signal::TaskBegin(step.title().to_owned())],
            Event::StepProgress {
                step, done, total, ..
            } if total > 0 => {
                self.bar = Some(step);
                let percent = done.min(total).saturating_mul(100) / total;
                let percent = u32::try_from(percent).unwrap_or(100);
                vec![Signal::Percent(step.title().to_owned(), percent)]
            }
            Event::StepFinished { step, summary, .. } => {
                let bar = self.bar.take().map(|_| Signal::ProgressEnd);
                let text = match summary.as_str() {
                    "" => step.title().to_owned(),
                    summary => format!("{}: {summary}", step.title()),
                };
                bar.into_iter().chain([Signal::TaskEnd(text)]).collect()
            }
            Event::Message { text } => vec![Signal::Message(text)],
            Event::Warning { text } => vec![Signal::Message(format!("warning: {text}"))],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_becomes_a_task_with_a_bar() {
        let mut progress = Progress::default();
        let mut signals =
            |event: Event| progress.signals(&serde_json::to_string(&Reply::Event(event)).unwrap());
        let step = Step::Acquire;
        let title = || "Downloading packages".to_owned();
        assert_eq!(
            signals(Event::StepStarted { step }),
            [Signal::TaskBegin(title())]
        );
        let event = Event::StepProgress {
            step,
            done: u64::MAX,
            total: 3,
            bytes: true,
            item: None,
        };
        assert_eq!(signals(event), [Signal::Percent(title(), 100)]);
        let event = Event::StepFinished {
            step,
            seconds: 1.0,
            summary: "3 packages".into(),
        };
        assert_eq!(
            signals(event),
            [
                Signal::ProgressEnd,
                Signal::TaskEnd("Downloading packages: 3 packages".into())
            ]
        );
        assert!(progress.signals("no reply").is_empty());
    }
}
