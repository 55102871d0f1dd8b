//! Layers packages as the job in a file says, and writes what came of it beside that file, for
//! `tests/layering.rs`.

use std::process::ExitCode;

use apt_ostree_engine::layering::{InitramfsState, LayerJob, LocalDeb, layer};
use apt_ostree_model::{Event, Kinded, Reporter};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

/// Prints what happens, for the case that the test fails.
struct Printer;

impl Reporter for Printer {
    fn report(&self, event: Event) {
        let line = match event {
            Event::StepFinished {
                step,
                seconds,
                summary,
            } => format!("{step:?} {seconds:.2}s {summary}\n"),
            Event::Warning { text } => format!("warning: {text}\n"),
            Event::Output { source, line } => format!("{source}: {line}\n"),
            _ => return,
        };
        drop(std::io::Write::write_all(
            &mut std::io::stderr(),
            line.as_bytes(),
        ));
    }
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn debs(value: &Value) -> Vec<LocalDeb> {
    let list = texts(value).into_iter();
    list.map(|path| LocalDeb {
        path: Some(path.into()),
        sha256: None,
    })
    .collect()
}

fn main() -> ExitCode {
    // The sandbox starts this program again for its own processes.
    if let Some(code) = apt_ostree_sandbox::maybe_init() {
        return code;
    }
    let Some(path) = std::env::args().nth(1) else {
        return ExitCode::from(2);
    };
    let done = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .and_then(|job: Value| {
            let result = run_job(&job)?;
            std::fs::write(format!("{path}.out"), result.to_string()).ok()
        });
    match done {
        Some(()) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

/// `None` when the job is malformed.
fn run_job(job: &Value) -> Option<Value> {
    let (packages, local) = (texts(&job["packages"]), debs(&job["local"]));
    let (replacing, freeze) = (debs(&job["local-replacing"]), texts(&job["freeze"]));
    let (remove, replace) = (texts(&job["remove"]), texts(&job["replace"]));
    let replace_local = debs(&job["replace-local"]);
    let initramfs = InitramfsState {
        regenerate: job["regenerate"] == true,
        args: Vec::new(),
    };
    let repo = Utf8PathBuf::from(job["repo"].as_str()?);
    let layer_job = LayerJob {
        repo: &repo,
        base: job["base"].as_str()?,
        etc: job["etc"].as_str().map(Utf8Path::new),
        packages: &packages,
        local: &local,
        local_replacing: &replacing,
        remove: &remove,
        replace: &replace,
        freeze: &freeze,
        replace_local: &replace_local,
        initramfs: &initramfs,
        recommends: None,
        current_state: job["current"].as_str(),
        cache_only: job["cache-only"] == true,
        download_only: job["download-only"] == true,
        dry_run: job["dry-run"] == true,
    };
    Some(match layer(&layer_job, &Printer) {
        Ok(layered) => json!({
            "commit": layered.commit,
            "unchanged": layered.unchanged,
            "state": layered.state,
            "plan": layered.plan.packages.iter().map(|p| p.name.to_string()).collect::<Vec<_>>(),
            "packages": layered.plan.packages,
            "inactive": layered.inactive,
            "removed": layered.removed.iter().map(|c| c.name.clone()).collect::<Vec<_>>(),
            "replaced": layered.replaced.iter().map(|c| c.name.clone()).collect::<Vec<_>>(),
            "pkgdiff": layered.pkgdiff,
        }),
        Err(error) => {
            let kinded = error.chain().find_map(|e| e.downcast_ref::<Kinded>());
            json!({
                "error": format!("{error:#}"),
                "kind": kinded.map(|k| k.kind),
                "hint": kinded.and_then(|k| k.hint.clone()),
            })
        }
    })
}
