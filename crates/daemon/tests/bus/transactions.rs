//! From a method to `Finished`.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use apt_ostree_ipc::proxy::TransactionProxy;
use apt_ostree_testkit::privileged;
use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal};
use zbus::Connection;

use crate::fixture::{Fixture, Options, os, sysroot, wait_for};
use crate::rights::error_of;

const BUSY: &str = "org.aptostree1.Error.UpdateInProgress";

async fn add_karg(connection: &Connection, argument: &str) -> Result<TransactionProxy<'static>> {
    let os = os(connection).await?;
    let path = os
        .kernel_args("", &[argument], &[], &[], HashMap::new())
        .await?;
    Ok(TransactionProxy::builder(connection)
        .path(path)?
        .build()
        .await?)
}

/// Success and message of the end, after `begin` was done.
async fn end_after<F: Future<Output = Result<()>>>(
    transaction: &TransactionProxy<'_>,
    begin: impl FnOnce() -> F,
) -> Result<(bool, String)> {
    let mut ends = transaction.receive_finished().await?;
    begin().await?;
    let end = tokio::time::timeout(Duration::from_secs(60), ends.next())
        .await?
        .context("the bus is gone")?;
    let args = end.args()?;
    Ok((args.success, args.error_message.to_owned()))
}

async fn start(transaction: &TransactionProxy<'_>) -> Result<()> {
    assert!(transaction.start().await?);
    Ok(())
}

#[test]
fn kernel_arguments_are_changed_and_told() -> Result<()> {
    if !privileged("kernel_arguments_are_changed_and_told") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.as_user(0, async |connection| {
        let transaction = add_karg(&connection, "added=1").await?;
        assert_eq!(transaction.title().await?, "kargs");
        let mut replies = transaction.receive_reply().await?;
        let end = end_after(&transaction, || start(&transaction)).await?;
        assert_eq!(end, (true, String::new()));
        // The properties are fresh when the end is told.
        assert_eq!(sysroot(&connection).await?.deployments().await?.len(), 2);
        let mut last = String::new();
        while let Ok(Some(reply)) =
            tokio::time::timeout(Duration::from_millis(200), replies.next()).await
        {
            last = reply.args()?.json.to_owned();
        }
        assert!(last.contains("\"deployed\""), "{last}");
        // Who is late hears the end once more.
        let again = end_after(&transaction, || async {
            assert!(!transaction.start().await?);
            Ok(())
        });
        assert!(again.await?.0);
        Ok(())
    })?;
    assert!(fixture.boots_with("added=1"));
    Ok(())
}

#[test]
fn a_second_change_is_told_who_is_first_and_the_same_one_joins() -> Result<()> {
    if !privileged("a_second_change_is_told_who_is_first_and_the_same_one_joins") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.hold();
    fixture.as_user(0, async |connection| {
        let mine = HashMap::from([("id", "first".into())]);
        sysroot(&connection).await?.register_client(mine).await?;
        let first = add_karg(&connection, "a=1").await?;
        assert!(first.start().await?);
        let path = first.inner().path().to_string();
        let mut ends = first.receive_finished().await?;
        fixture.as_user(0, async move |other| {
            let os = os(&other).await?;
            let (name, text) = error_of(os.cleanup(&["base"]).await);
            assert_eq!(name, BUSY);
            for word in [
                "kargs",
                "id:first",
                "uid:0",
                "since 20",
                "apt-ostree cancel",
            ] {
                assert!(text.contains(word), "{text}");
            }
            let joined = add_karg(&other, "a=1").await?;
            assert_eq!(joined.inner().path().as_str(), path);
            assert!(!joined.start().await?);
            // Status answers meanwhile.
            let sysroot = sysroot(&other).await?;
            let (method, _, active) = sysroot.active_transaction().await?;
            assert_eq!(
                (method.as_str(), active.as_str()),
                ("KernelArgs", path.as_str())
            );
            assert_eq!(sysroot.deployments().await?.len(), 1);
            Ok(())
        })?;
        fixture.go_on();
        assert!(ends.next().await.context("gone")?.args()?.success);
        Ok(())
    })
}

#[test]
fn a_client_that_leaves_before_start_leaves_nothing() -> Result<()> {
    if !privileged("a_client_that_leaves_before_start_leaves_nothing") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.as_user(0, async move |connection| {
        add_karg(&connection, "gone=1").await?;
        Ok(())
    })?;
    let idle = || {
        fixture
            .as_user(0, async move |connection| {
                Ok(sysroot(&connection)
                    .await?
                    .active_transaction_path()
                    .await?)
            })
            .is_ok_and(|path| path.is_empty())
    };
    wait_for("the end", idle)?;
    assert!(!fixture.boots_with("gone=1"));
    Ok(())
}

#[test]
fn a_client_that_leaves_after_start_is_not_missed() -> Result<()> {
    if !privileged("a_client_that_leaves_after_start_is_not_missed") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.as_user(0, async move |connection| {
        start(&add_karg(&connection, "stays=1").await?).await
    })?;
    wait_for("the deployment", || fixture.boots_with("stays=1"))
}

#[test]
fn a_transaction_is_cancelled_while_it_waits_and_while_it_runs() -> Result<()> {
    if !privileged("a_transaction_is_cancelled_while_it_waits_and_while_it_runs") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.hold();
    fixture.as_user(0, async |connection| {
        let waiting = add_karg(&connection, "never=1").await?;
        let end = end_after(&waiting, || async { Ok(waiting.cancel().await?) }).await?;
        assert_eq!(end, (false, "cancelled".to_owned()));
        assert!(!waiting.start().await?);
        let running = add_karg(&connection, "never=1").await?;
        start(&running).await?;
        fixture.held_worker()?;
        let end = end_after(&running, || async { Ok(running.cancel().await?) }).await?;
        assert_eq!(end, (false, "cancelled".to_owned()));
        fixture.go_on();
        let next = add_karg(&connection, "next=1").await?;
        assert!(end_after(&next, || start(&next)).await?.0);
        Ok(())
    })?;
    assert!(!fixture.boots_with("never=1"));
    assert!(fixture.boots_with("next=1"));
    Ok(())
}

#[test]
fn a_worker_that_is_killed_is_a_failure_and_no_more() -> Result<()> {
    if !privileged("a_worker_that_is_killed_is_a_failure_and_no_more") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.hold();
    fixture.as_user(0, async |connection| {
        let transaction = add_karg(&connection, "never=1").await?;
        start(&transaction).await?;
        let pid = Pid::from_raw(fixture.held_worker()?).context("no id")?;
        let end = end_after(&transaction, || async {
            Ok(rustix::process::kill_process(pid, Signal::KILL)?)
        });
        let (success, message) = end.await?;
        assert!(!success);
        assert!(message.contains("died of signal 9"), "{message}");
        fixture.go_on();
        let next = add_karg(&connection, "next=1").await?;
        assert!(end_after(&next, || start(&next)).await?.0);
        Ok(())
    })
}
