//! Makes what is derived from the sources: man pages, completions, the docs book, the treefile
//! reference and schema.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod bench;
mod bench_client;
mod book;
mod completions;
mod man;
mod treefile_docs;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: xtask dist DIR    write man pages and completions to DIR
       xtask book DIR    write the docs book as HTML to DIR
       xtask generate    write the treefile reference and its JSON schema again
       xtask generate --check
                         fail when they differ from what would be written
       xtask bench [SET...]
                         measure against ordinary tools
       xtask bench-client
                         measure verbs on a system
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is gone.
            drop(writeln!(std::io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    match args {
        ["dist", dir] => dist(Path::new(dir)),
        ["book", dir] => book::write(&top().join("docs/src"), Path::new(dir)),
        ["bench", sets @ ..] => bench(sets),
        ["bench-client"] => Ok(std::io::stdout().write_all(bench_client::run()?.as_bytes())?),
        ["generate"] => treefile_docs::write(&top()),
        ["generate", "--check"] => treefile_docs::check(&top()),
        _ => bail!("{USAGE}"),
    }
}

fn bench(sets: &[&str]) -> Result<()> {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    let table = bench::run(&sets)?;
    std::io::stdout().write_all(table.as_bytes())?;
    Ok(())
}

/// Everything that `make install` installs beside the programs.
fn dist(dir: &Path) -> Result<()> {
    let command = apt_ostree::cli::command();
    man::write(&command, &dir.join("man/man1"))?;
    completions::write(&command, &dir.join("completions"))
}

/// The top of the source tree.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
