//! Packages and sources.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use apt_ostree_ipc::proxy::{Received, TransactionProxy};
use apt_ostree_testkit::privileged;
use futures_util::StreamExt as _;
use zbus::Connection;

use crate::fixture::{Fixture, NOBODY, Options, os};
use crate::rights::error_of;

fn text(found: &Received, key: &str) -> String {
    let value = found
        .get(key)
        .and_then(|value| value.downcast_ref::<String>().ok());
    value.unwrap_or_default()
}

fn names(found: &[Received]) -> Vec<String> {
    found.iter().map(|package| text(package, "name")).collect()
}

/// Runs a transaction to its end, which must be good.
async fn finish(connection: &Connection, path: String) -> Result<()> {
    let transaction = TransactionProxy::builder(connection)
        .path(path)?
        .build()
        .await?;
    let mut ends = transaction.receive_finished().await?;
    transaction.start().await?;
    let end = tokio::time::timeout(Duration::from_secs(60), ends.next())
        .await?
        .context("the bus is gone")?;
    let args = end.args()?;
    assert!(args.success, "{}", args.error_message);
    Ok(())
}

#[test]
fn packages_are_found_before_and_after_a_refresh() -> Result<()> {
    if !privileged("packages_are_found_before_and_after_a_refresh") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    // Who may not refresh the indices needs none to be fetched for a source on this disk.
    fixture.as_user(NOBODY, async move |connection| {
        let found = os(&connection).await?.search(&["demo-doc"]).await?;
        assert_eq!(names(&found), ["demo-doc"]);
        Ok(())
    })?;
    fixture.as_user(0, async move |connection| {
        let os = os(&connection).await?;
        let options = HashMap::from([("force", true.into())]);
        finish(&connection, os.refresh_md(options).await?).await
    })?;
    fixture.as_user(NOBODY, async move |connection| {
        let os = os(&connection).await?;
        let found = os.search(&["DEMO"]).await?;
        let keys: Vec<String> = found.iter().map(|f| text(f, "key")).collect();
        assert_eq!(names(&found), ["demo", "demo-doc", "other"]);
        assert_eq!(keys, ["match_group_b", "match_group_b", "match_group_c"]);
        let demo = &found[0];
        assert_eq!(text(demo, "evr"), "1:1-2");
        assert_eq!(text(demo, "nevra"), "demo_1:1-2_all");
        assert_eq!(
            (text(demo, "version"), text(demo, "arch")),
            ("1".into(), "all".into())
        );
        assert_eq!(demo["epoch"].downcast_ref::<u64>()?, 1);
        assert_eq!(text(demo, "installed"), "1:1-1");
        assert_eq!(text(demo, "reponame"), "local");
        assert_eq!(text(demo, "summary"), "a tool to show");
        assert_eq!(names(&os.what_provides(&["manual"]).await?), ["demo-doc"]);
        let found = os.get_packages(&["demo", "nothing"]).await?;
        assert_eq!(names(&found), ["demo"]);
        assert!(!found[0].contains_key("key"));
        Ok(())
    })
}

#[test]
fn sources_are_listed_and_switched() -> Result<()> {
    if !privileged("sources_are_listed_and_switched") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.as_user(0, async move |connection| {
        let os = os(&connection).await?;
        let enabled = async || -> Result<bool> {
            let sources = os.list_repos().await?;
            assert_eq!(sources.len(), 1);
            assert_eq!(text(&sources[0], "id"), "local");
            assert!(!sources[0]["is-source"].downcast_ref::<bool>()?);
            Ok(sources[0]["is-enabled"].downcast_ref::<bool>()?)
        };
        assert!(enabled().await?);
        for state in ["0", "1"] {
            let settings = HashMap::from([("enabled", state)]);
            finish(&connection, os.modify_apt_source("local", settings).await?).await?;
            assert_eq!(enabled().await?, state == "1");
        }
        let entry = os.get_deployment_boot_config("", true).await?;
        assert!(text(&entry, "options").contains("quiet"), "{entry:?}");
        assert!(!entry["staged"].downcast_ref::<bool>()?);
        let (name, _) = error_of(os.get_deployment_boot_config("none", false).await);
        assert_eq!(name, "org.aptostree1.Error.Failed");
        Ok(())
    })
}
