//! Who may do what.

use std::collections::HashMap;

use anyhow::Result;
use apt_ostree_ipc::proxy::{OsExperimentalProxy, OsProxy, SysrootProxy, TransactionProxy};
use apt_ostree_testkit::privileged;
use zbus::Connection;
use zbus::fdo::PropertiesProxy;

use crate::fixture::{Fixture, NOBODY, OTHER, Options, os, sysroot};

const NOT_AUTHORIZED: &str = "org.aptostree1.Error.NotAuthorized";

/// Name and text of the error that a call must end with.
pub(crate) fn error_of<T: std::fmt::Debug>(result: zbus::Result<T>) -> (String, String) {
    match result.unwrap_err() {
        zbus::Error::MethodError(name, text, _) => (name.to_string(), text.unwrap_or_default()),
        zbus::Error::FDO(error) => (
            zbus::DBusError::name(&*error).to_string(),
            error.to_string(),
        ),
        other => panic!("no error of a method: {other:?}"),
    }
}

/// The names of the errors by which every method refuses.
async fn refusals(os: &OsProxy<'_>, sysroot: &SysrootProxy<'_>) -> Vec<(&'static str, String)> {
    let no = HashMap::new;
    vec![
        (
            "RegisterClient",
            error_of(sysroot.register_client(no()).await).0,
        ),
        ("ReloadConfig", error_of(sysroot.reload_config().await).0),
        (
            "UpdateDeployment",
            error_of(os.update_deployment(no(), no()).await).0,
        ),
        ("Deploy", error_of(os.deploy("1.0", no()).await).0),
        ("Upgrade", error_of(os.upgrade(no()).await).0),
        ("Rollback", error_of(os.rollback(no()).await).0),
        (
            "ClearRollbackTarget",
            error_of(os.clear_rollback_target(no()).await).0,
        ),
        ("Rebase", error_of(os.rebase(no(), "other", &[]).await).0),
        (
            "PkgChange",
            error_of(os.pkg_change(no(), &["vim"], &[]).await).0,
        ),
        (
            "SetInitramfsState",
            error_of(os.set_initramfs_state(true, &[], no()).await).0,
        ),
        (
            "InitramfsEtc",
            error_of(os.initramfs_etc(&["/etc/x"], &[], false, false, no()).await).0,
        ),
        (
            "KernelArgs",
            error_of(os.kernel_args("", &["a"], &[], &[], no()).await).0,
        ),
        ("Cleanup", error_of(os.cleanup(&["base"]).await).0),
        ("RefreshMd", error_of(os.refresh_md(no()).await).0),
        (
            "ModifyAptSource",
            error_of(
                os.modify_apt_source("x", HashMap::from([("enabled", "0")]))
                    .await,
            )
            .0,
        ),
        (
            "FinalizeDeployment",
            error_of(
                os.finalize_deployment(HashMap::from([("allow-missing-checksum", true.into())]))
                    .await,
            )
            .0,
        ),
        (
            "AutomaticUpdateTrigger",
            error_of(os.automatic_update_trigger(no()).await).0,
        ),
        (
            "GetDeploymentsRpmDiff",
            error_of(os.get_deployments_rpm_diff("", "").await).0,
        ),
    ]
}

async fn experimental<'c>(
    connection: &Connection,
    os: &OsProxy<'_>,
) -> Result<OsExperimentalProxy<'c>> {
    let path = os.inner().path().to_owned();
    Ok(OsExperimentalProxy::new(connection, path).await?)
}

async fn changes_nothing(connection: Connection) -> Result<()> {
    // Reading needs no right.
    let sysroot = sysroot(&connection).await?;
    assert_eq!(sysroot.deployments().await?.len(), 1);
    sysroot.reload().await?;
    let os = os(&connection).await?;
    assert!(!os.default_deployment().await?.is_empty());
    for (method, name) in refusals(&os, &sysroot).await {
        assert_eq!(name, NOT_AUTHORIZED, "{method}");
    }
    let live = experimental(&connection, &os).await?;
    let error = error_of(live.live_fs(HashMap::new()).await);
    assert_eq!(error.0, NOT_AUTHORIZED);
    assert_eq!(sysroot.active_transaction_path().await?, "");
    // The bus itself refuses what is no part of the interface.
    let properties = PropertiesProxy::builder(&connection)
        .destination("org.aptostree1")?
        .path("/org/aptostree1/Sysroot")?
        .build()
        .await?;
    let interface = "org.aptostree1.Sysroot".try_into()?;
    let set = properties.set(interface, "Path", "/".into()).await;
    assert!(set.unwrap_err().to_string().contains("AccessDenied"));
    Ok(())
}

#[test]
fn users_read_but_change_nothing() -> Result<()> {
    if !privileged("users_read_but_change_nothing") {
        return Ok(());
    }
    Fixture::new(&Options::default())?.as_user(NOBODY, changes_nothing)
}

#[test]
fn without_polkit_root_may_and_others_may_not() -> Result<()> {
    if !privileged("without_polkit_root_may_and_others_may_not") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options {
        without_polkit: true,
        ..Options::default()
    })?;
    fixture.as_user(NOBODY, changes_nothing)?;
    fixture.as_user(0, async move |connection| {
        sysroot(&connection)
            .await?
            .register_client(HashMap::new())
            .await?;
        sysroot(&connection).await?.reload_config().await?;
        let path = os(&connection).await?.cleanup(&["base"]).await?;
        assert!(path.starts_with("/org/aptostree1/transactions/"));
        Ok(())
    })
}

#[test]
fn a_rule_allows_its_action_and_no_other() -> Result<()> {
    if !privileged("a_rule_allows_its_action_and_no_other") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options {
        rules: "polkit.addRule(function(action, subject) { \
                if (action.id == 'org.aptostree1.upgrade') return polkit.Result.YES; });",
        ..Options::default()
    })?;
    fixture.as_user(NOBODY, async move |connection| {
        let os = os(&connection).await?;
        let no = HashMap::new;
        let refused = [
            ("allow-downgrade", true),
            ("reboot", true),
            ("apply-live", true),
            ("no-layering", true),
            ("no-overrides", true),
            ("no-initramfs", true),
            ("skip-branch-check", true),
            ("no-pull-base", true),
        ];
        for (option, value) in refused {
            let options = HashMap::from([(option, value.into())]);
            let (name, _) = error_of(os.update_deployment(no(), options).await);
            assert_eq!(name, NOT_AUTHORIZED, "{option}");
        }
        let modifiers = HashMap::from([("custom-origin", ("url", "text").into())]);
        let (name, _) = error_of(os.update_deployment(modifiers, no()).await);
        assert_eq!(name, NOT_AUTHORIZED);
        let path = os.upgrade(no()).await?;
        let transaction = TransactionProxy::builder(&connection)
            .path(path)?
            .build()
            .await?;
        // Who made it may cancel it.
        transaction.cancel().await?;
        Ok(())
    })
}

#[test]
fn transactions_of_others_are_neither_started_nor_cancelled() -> Result<()> {
    if !privileged("transactions_of_others_are_neither_started_nor_cancelled") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options {
        rules: "polkit.addRule(function(action, subject) { \
                if (subject.user == 'nobody' && action.id != 'org.aptostree1.cancel') \
                return polkit.Result.YES; });",
        ..Options::default()
    })?;
    fixture.as_user(0, async |connection| {
        let path = os(&connection).await?.cleanup(&["base"]).await?;
        for uid in [NOBODY, OTHER] {
            let path = path.clone();
            fixture.as_user(uid, async move |connection| {
                let transaction = TransactionProxy::builder(&connection)
                    .path(path)?
                    .build()
                    .await?;
                assert_eq!(error_of(transaction.start().await).0, NOT_AUTHORIZED);
                assert_eq!(error_of(transaction.cancel().await).0, NOT_AUTHORIZED);
                Ok(())
            })?;
        }
        let transaction = TransactionProxy::builder(&connection)
            .path(path)?
            .build()
            .await?;
        assert!(transaction.start().await?);
        Ok(())
    })
}

#[test]
fn unknown_and_wrong_options_are_refused_before_polkit() -> Result<()> {
    if !privileged("unknown_and_wrong_options_are_refused_before_polkit") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.as_user(NOBODY, async move |connection| {
        let os = os(&connection).await?;
        let no = HashMap::new;
        let cases = [
            os.update_deployment(no(), HashMap::from([("frobnicate", true.into())]))
                .await,
            os.update_deployment(HashMap::from([("treefile", "x".into())]), no())
                .await,
            os.update_deployment(no(), HashMap::from([("reboot", "yes".into())]))
                .await,
            os.rollback(HashMap::from([("dry-run", true.into())])).await,
            os.cleanup(&["everything"]).await,
            os.cleanup(&[]).await,
            os.refresh_md(HashMap::from([("frobnicate", true.into())]))
                .await,
            os.modify_apt_source("x", HashMap::from([("enabled", "maybe")]))
                .await,
            os.modify_apt_source("x", HashMap::from([("url", "x")]))
                .await,
            os.modify_apt_source("x", HashMap::new()).await,
            os.kernel_args("", &["a\nb"], &[], &[], no()).await,
            os.finalize_deployment(no()).await,
        ];
        for (number, result) in cases.into_iter().enumerate() {
            let (name, _) = error_of(result);
            assert_eq!(
                name, "org.aptostree1.Error.InvalidArguments",
                "case {number}"
            );
        }
        Ok(())
    })
}

#[test]
fn layers_can_be_locked() -> Result<()> {
    if !privileged("layers_can_be_locked") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options {
        config: "[Daemon]\nLockLayering=true\n",
        ..Options::default()
    })?;
    fixture.as_user(0, async move |connection| {
        let os = os(&connection).await?;
        let (name, text) = error_of(os.pkg_change(HashMap::new(), &["vim"], &[]).await);
        assert_eq!(name, "org.aptostree1.Error.Locked");
        assert!(text.contains("LockLayering"), "{text}");
        let kargs = os
            .kernel_args("", &["a=1"], &[], &[], HashMap::new())
            .await?;
        assert!(!kargs.is_empty());
        Ok(())
    })
}

#[test]
fn changing_the_running_system_has_an_action_of_its_own() -> Result<()> {
    if !privileged("changing_the_running_system_has_an_action_of_its_own") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options {
        rules: "polkit.addRule(function(action, subject) { \
                if (action.id == 'org.aptostree1.apply-live') return polkit.Result.YES; });",
        ..Options::default()
    })?;
    fixture.as_user(NOBODY, async move |connection| {
        let os = os(&connection).await?;
        let live = experimental(&connection, &os).await?;
        let both = HashMap::from([("reset", true.into()), ("target", "abc".into())]);
        let (name, text) = error_of(live.live_fs(both).await);
        assert!(text.contains("'reset' excludes 'target'"), "{name}: {text}");
        let wrong = error_of(live.live_fs(HashMap::from([("reboot", true.into())])).await);
        assert!(wrong.1.contains("'reboot' is unknown"), "{}", wrong.1);
        let path = live
            .live_fs(HashMap::from([("replace", true.into())]))
            .await?;
        assert!(path.starts_with("/org/aptostree1/transactions/"));
        let refused = error_of(
            os.initramfs_etc(&[], &[], true, false, HashMap::new())
                .await,
        );
        assert_eq!(refused.0, NOT_AUTHORIZED);
        Ok(())
    })
}
