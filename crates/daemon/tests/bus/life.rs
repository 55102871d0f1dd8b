//! Start, end, and whatever comes between.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use apt_ostree_ipc::proxy::TransactionProxy;
use apt_ostree_testkit::privileged;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal};

use crate::fixture::{Fixture, NOBODY, Options, os, sysroot, wait_for};
use crate::rights::error_of;

#[test]
fn an_idle_daemon_ends_unless_a_client_is_there() -> Result<()> {
    if !privileged("an_idle_daemon_ends_unless_a_client_is_there") {
        return Ok(());
    }
    let mut fixture = Fixture::new(&Options {
        config: "[Daemon]\nIdleExitTimeout=1\n",
        ..Options::default()
    })?;
    let daemon = fixture.as_user(0, async move |connection| {
        sysroot(&connection)
            .await?
            .register_client(HashMap::new())
            .await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(sysroot(&connection).await?.deployments().await?.len(), 1);
        Ok(())
    });
    daemon?;
    let daemon = fixture.daemon();
    wait_for("the exit", || daemon.try_wait().is_ok_and(|s| s.is_some()))?;
    assert!(daemon.wait()?.success());
    Ok(())
}

#[test]
fn a_killed_daemon_takes_its_worker_along_and_the_next_one_goes_on() -> Result<()> {
    if !privileged("a_killed_daemon_takes_its_worker_along_and_the_next_one_goes_on") {
        return Ok(());
    }
    let mut fixture = Fixture::new(&Options::default())?;
    fixture.hold();
    fixture.as_user(0, async |connection| {
        let os = os(&connection).await?;
        let path = os
            .kernel_args("", &["never=1"], &[], &[], HashMap::new())
            .await?;
        let transaction = TransactionProxy::builder(&connection)
            .path(path)?
            .build()
            .await?;
        assert!(transaction.start().await?);
        Ok(())
    })?;
    let worker = Pid::from_raw(fixture.held_worker()?).context("no id")?;
    fixture.daemon().kill()?;
    fixture.daemon().wait()?;
    wait_for("the end of the worker", || {
        rustix::process::test_kill_process(worker).is_err()
    })?;
    fixture.start_daemon()?;
    fixture.as_user(0, async |connection| {
        let sysroot = sysroot(&connection).await?;
        assert_eq!(sysroot.active_transaction_path().await?, "");
        assert_eq!(sysroot.deployments().await?.len(), 1);
        Ok(())
    })
}

#[test]
fn a_daemon_that_shall_end_lets_its_worker_end_first() -> Result<()> {
    if !privileged("a_daemon_that_shall_end_lets_its_worker_end_first") {
        return Ok(());
    }
    let mut fixture = Fixture::new(&Options::default())?;
    fixture.hold();
    let id = i32::try_from(fixture.daemon().id())?;
    fixture.as_user(0, async |connection| {
        let os = os(&connection).await?;
        let path = os.cleanup(&["base"]).await?;
        let transaction = TransactionProxy::builder(&connection)
            .path(path)?
            .build()
            .await?;
        let mut ends = transaction.receive_finished().await?;
        assert!(transaction.start().await?);
        let worker = Pid::from_raw(fixture.held_worker()?).context("no id")?;
        rustix::process::kill_process(Pid::from_raw(id).context("no id")?, Signal::TERM)?;
        let end = futures_util::StreamExt::next(&mut ends)
            .await
            .context("gone")?;
        assert!(!end.args()?.success);
        assert!(rustix::process::test_kill_process(worker).is_err());
        Ok(())
    })?;
    assert!(fixture.daemon().wait()?.success());
    Ok(())
}

#[test]
fn a_broken_configuration_is_told_and_never_half_used() -> Result<()> {
    if !privileged("a_broken_configuration_is_told_and_never_half_used") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options {
        config: "[Daemon]\nAutomaticUpdatePolicy=apply\nIdleExitTimeout=soon\n",
        ..Options::default()
    })?;
    let path = fixture.path("apt-ostreed.conf");
    fixture.as_user(0, async move |connection| {
        let sysroot = sysroot(&connection).await?;
        assert_eq!(sysroot.automatic_update_policy().await?, "none");
        let text = sysroot.configuration_error().await?;
        assert!(
            text.contains(":3: ") && text.contains("defaults apply"),
            "{text}"
        );
        std::fs::write(&path, "[Daemon]\nAutomaticUpdatePolicy=check\n")?;
        sysroot.reload_config().await?;
        assert_eq!(sysroot.automatic_update_policy().await?, "check");
        assert_eq!(sysroot.configuration_error().await?, "");
        std::fs::write(&path, "[Daemon]\nAutomaticUpdatePolicy=never\n")?;
        let (_, text) = error_of(sysroot.reload_config().await);
        assert!(text.contains("from before"), "{text}");
        assert_eq!(sysroot.automatic_update_policy().await?, "check");
        Ok(())
    })
}

#[test]
fn changes_by_other_programs_are_seen() -> Result<()> {
    if !privileged("changes_by_other_programs_are_seen") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.as_user(0, async |connection| {
        let sysroot = sysroot(&connection).await?;
        assert_eq!(sysroot.deployments().await?.len(), 1);
        let option = format!("--sysroot={}", fixture.path("sysroot").display());
        apt_ostree_testkit::success(std::process::Command::new("ostree").args([
            "admin",
            "deploy",
            &option,
            "--os=test-os",
            "--karg-append=other=1",
            "test",
        ]))?;
        assert_eq!(sysroot.deployments().await?.len(), 2);
        Ok(())
    })
}

#[test]
fn a_flood_is_bounded_and_locks_nobody_out() -> Result<()> {
    if !privileged("a_flood_is_bounded_and_locks_nobody_out") {
        return Ok(());
    }
    let mut fixture = Fixture::new(&Options::default())?;
    let id = fixture.daemon().id();
    fixture.as_user(NOBODY, async |connection| {
        let os = &os(&connection).await?;
        let calls = (0..2000).map(|_| os.upgrade(HashMap::new()));
        let (results, status) = tokio::join!(join_all(calls), async {
            fixture.as_user(0, async move |connection| {
                let start = Instant::now();
                assert_eq!(sysroot(&connection).await?.deployments().await?.len(), 1);
                Ok(start.elapsed())
            })
        });
        status?;
        let mut names: Vec<String> = results.into_iter().map(|r| error_of(r).0).collect();
        names.sort();
        names.dedup();
        let known = [
            "org.aptostree1.Error.LimitsExceeded",
            "org.aptostree1.Error.NotAuthorized",
        ];
        assert!(
            names.iter().all(|n| known.contains(&n.as_str())),
            "{names:?}"
        );
        let long = "x".repeat(1 << 20);
        let lists = vec!["x"; 100_000];
        let (name, _) = error_of(os.pkg_change(HashMap::new(), &[&long], &[]).await);
        assert_eq!(name, "org.aptostree1.Error.InvalidArguments");
        let (name, _) = error_of(os.pkg_change(HashMap::new(), &lists, &[]).await);
        assert_eq!(name, "org.aptostree1.Error.InvalidArguments");
        Ok(())
    })?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let peak = status
        .lines()
        .find(|l| l.starts_with("VmHWM:"))
        .context("no peak")?;
    let kib: u64 = peak
        .split_whitespace()
        .nth(1)
        .context("no number")?
        .parse()?;
    assert!(kib < 256 << 10, "{kib} KiB");
    Ok(())
}
