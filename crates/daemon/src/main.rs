//! The system daemon: answers on the bus, asks polkit, and starts one worker per transaction.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod caller;
mod clients;
mod config;
mod daemon;
mod files;
mod gate;
mod journal;
mod life;
mod objects;
mod runner;
mod status;
mod title;
mod transaction;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use apt_ostree_ipc::worker;
use clap::Parser;

use crate::daemon::Setup;
use crate::journal::Level;
use crate::runner::Runner;

/// The system daemon of apt-ostree; systemd starts it when somebody calls it on the bus.
#[derive(Debug, Parser)]
#[command(name = "apt-ostreed", version)]
struct Args {
    /// Work on this physical root instead of /
    #[arg(long, value_name = "PATH")]
    sysroot: Option<PathBuf>,
    /// Read this file instead of /etc/apt-ostreed.conf
    #[arg(long, value_name = "PATH", default_value = "/etc/apt-ostreed.conf")]
    config: PathBuf,
    /// How long a cancelled worker may clean up before it is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    cancel_grace: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            journal::log(
                Level::Error,
                journal::LIFE_CYCLE,
                &format!("ending: {error:#}"),
                &[],
            );
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let program = worker::find(std::env::var_os("APTOSTREE_WORKER"))
        .map_err(|failure| anyhow::anyhow!(failure.message))?;
    let setup = Setup {
        sysroot: args.sysroot,
        config: args.config,
        runner: Runner {
            program,
            grace: Duration::from_secs(args.cancel_grace.into()),
        },
    };
    // One thread serves the bus; few more copy files.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()?
        .block_on(life::live(setup))
}
