//! What the daemon says of itself is what the XML says.

use std::collections::BTreeMap;

use anyhow::Result;
use apt_ostree_ipc::names::INTERFACE_XML;
use apt_ostree_testkit::privileged;
use zbus::fdo::IntrospectableProxy;
use zbus_xml::Node;

use crate::fixture::{Fixture, Options, data, os, sysroot};

/// Every member with its arguments and types, one a line.
fn members(node: &Node<'_>) -> BTreeMap<String, Vec<String>> {
    let mut interfaces = BTreeMap::new();
    for interface in node.interfaces() {
        if !interface.name().starts_with("org.aptostree1") {
            continue;
        }
        let mut lines = Vec::new();
        for method in interface.methods() {
            let args: Vec<String> = method
                .args()
                .iter()
                .map(|a| format!("{:?} {:?} {:?}", a.direction(), a.name(), a.ty()))
                .collect();
            lines.push(format!("method {} {args:?}", method.name()));
        }
        for signal in interface.signals() {
            let args: Vec<String> = signal
                .args()
                .iter()
                .map(|a| format!("{:?} {:?}", a.name(), a.ty()))
                .collect();
            lines.push(format!("signal {} {args:?}", signal.name()));
        }
        for property in interface.properties() {
            lines.push(format!(
                "property {} {:?} {:?}",
                property.name(),
                property.ty(),
                property.access()
            ));
        }
        lines.sort();
        interfaces.insert(interface.name().to_string(), lines);
    }
    interfaces
}

#[test]
fn introspection_equals_the_xml() -> Result<()> {
    if !privileged("introspection_equals_the_xml") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    let expected = members(&Node::from_reader(INTERFACE_XML.as_bytes())?);
    assert_eq!(expected.len(), 4);
    let live = fixture.as_user(0, async move |connection| {
        let os = os(&connection).await?;
        let transaction = os.cleanup(&["repomd"]).await?;
        let mut live = BTreeMap::new();
        for path in [
            "/org/aptostree1/Sysroot",
            os.inner().path().as_str(),
            transaction.as_str(),
        ] {
            let introspected = IntrospectableProxy::builder(&connection)
                .destination("org.aptostree1")?
                .path(path)?
                .build()
                .await?;
            let xml = introspected.introspect().await?;
            live.append(&mut members(&Node::from_reader(xml.as_bytes())?));
        }
        Ok(live)
    })?;
    for (name, lines) in &expected {
        assert_eq!(&live[name], lines, "{name}");
    }
    assert_eq!(live.len(), expected.len());
    Ok(())
}

#[test]
fn the_proxies_read_the_properties() -> Result<()> {
    if !privileged("the_proxies_read_the_properties") {
        return Ok(());
    }
    let fixture = Fixture::new(&Options::default())?;
    fixture.as_user(0, async move |connection| {
        let sysroot = sysroot(&connection).await?;
        assert_eq!(sysroot.booted().await?.as_str(), "/");
        assert_eq!(sysroot.automatic_update_policy().await?, "none");
        assert_eq!(sysroot.configuration_error().await?, "");
        assert_eq!(sysroot.active_transaction_path().await?, "");
        assert!(sysroot.path().await?.ends_with("/sysroot"));
        let deployments = sysroot.deployments().await?;
        assert_eq!(deployments.len(), 1);
        let os = os(&connection).await?;
        assert_eq!(os.name().await?, "test-os");
        assert_eq!(os.default_deployment().await?, deployments[0]);
        assert!(os.booted_deployment().await?.is_empty());
        assert!(os.rollback_deployment().await?.is_empty());
        assert!(os.cached_update().await?.is_empty());
        Ok(())
    })
}

#[test]
fn every_action_has_a_policy_and_every_policy_an_action() {
    let policy = std::fs::read_to_string(data().join("polkit/org.aptostree1.policy")).unwrap();
    let mut known: Vec<&str> = policy
        .split("<action id=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    known.sort_unstable();
    let mut used: Vec<&str> = apt_ostree_ipc::Action::ALL
        .iter()
        .map(|action| action.id())
        .filter(|id| id.starts_with("org.aptostree1."))
        .collect();
    used.sort_unstable();
    assert_eq!(known, used);
}
