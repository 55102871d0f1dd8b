//! Origin files: GLib key files with libostree's, rpm-ostree's and our own groups.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use apt_ostree_fsx::escape_cut;
use apt_ostree_model::origin::{LocalRequest, Origin};
use apt_ostree_model::reference::Follows;
use ostree::glib::{KeyFile, KeyFileFlags};

use crate::error::{self, invalid};

const ORIGIN: &str = "origin";
const PACKAGES: &str = "packages";
const OVERRIDES: &str = "overrides";
const OURS: &str = "aptostree";
/// libostree's notes about one deployment, such as that it is pinned.
const TRANSIENT: &str = "libostree-transient";

/// Keys with a meaning here, by group.
const KNOWN: [(&str, &[&str]); 4] = [
    (
        ORIGIN,
        &[
            "refspec",
            "baserefspec",
            "container-image-reference",
            "override-commit",
            "custom-url",
            "custom-description",
            "unconfigured-state",
        ],
    ),
    (
        PACKAGES,
        &[
            "requested",
            "requested-local",
            "requested-local-fileoverride",
        ],
    ),
    (OVERRIDES, &["remove", "replace-local", "replace"]),
    (
        OURS,
        &["regenerate-initramfs", "initramfs-args", "initramfs-etc"],
    ),
];

/// Reads the text of an origin file.
///
/// # Errors
/// When it is no key file or has values that can't be.
pub fn origin_from_text(text: &str) -> Result<Origin> {
    let file = KeyFile::new();
    file.load_from_data(text, KeyFileFlags::NONE)
        .map_err(|e| invalid(apt_ostree_fsx::escape(e.message())))?;
    from_key_file(&file)
}

/// The text of an origin file.
pub fn origin_to_text(origin: &Origin) -> String {
    to_key_file(origin).to_data().into()
}

pub(crate) fn from_key_file(file: &KeyFile) -> Result<Origin> {
    let has =
        |group: &str, key: &str| file.has_group(group) && file.has_key(group, key).unwrap_or(false);
    let text = |group: &str, key: &str| -> Result<Option<String>> {
        if !has(group, key) {
            return Ok(None);
        }
        let value = file
            .string(group, key)
            .map_err(|e| error::ostree(&e))
            .with_context(|| format!("reading '{key}' of group '{group}'"))?;
        Ok(Some(value.into()))
    };
    let origin = |key| text(ORIGIN, key);
    let list = |group: &str, key: &str| -> Result<Vec<String>> {
        if !has(group, key) {
            return Ok(Vec::new());
        }
        let values = file
            .string_list(group, key)
            .map_err(|e| error::ostree(&e))
            .with_context(|| format!("reading '{key}' of group '{group}'"))?;
        Ok(values.iter().map(|v| v.to_string()).collect())
    };
    let set =
        |group, key| -> Result<BTreeSet<String>> { Ok(list(group, key)?.into_iter().collect()) };
    let locals = |group, key| -> Result<BTreeSet<LocalRequest>> {
        list(group, key)?
            .iter()
            .map(|item| Ok(item.parse::<LocalRequest>()?))
            .collect::<Result<_>>()
            .with_context(|| format!("reading '{key}' of group '{group}'"))
    };
    let followed = origin("container-image-reference")?
        .or(origin("baserefspec")?)
        .or(origin("refspec")?);
    let custom_url = origin("custom-url")?;
    let custom = custom_url
        .map(|url| -> Result<_> { Ok((url, origin("custom-description")?.unwrap_or_default())) });
    let mut typed = Origin {
        follows: followed.map(|f| f.parse::<Follows>()).transpose()?,
        override_commit: origin("override-commit")?,
        custom_origin: custom.transpose()?,
        unconfigured_state: origin("unconfigured-state")?,
        packages: set(PACKAGES, "requested")?,
        local_packages: locals(PACKAGES, "requested-local")?,
        local_packages_replacing_files: locals(PACKAGES, "requested-local-fileoverride")?,
        override_remove: set(OVERRIDES, "remove")?,
        override_replace_local: locals(OVERRIDES, "replace-local")?,
        override_replace: replacements(&list(OVERRIDES, "replace")?)?,
        initramfs: apt_ostree_model::origin::Initramfs {
            regenerate: text(OURS, "regenerate-initramfs")?.as_deref() == Some("true"),
            args: list(OURS, "initramfs-args")?,
            etc: set(OURS, "initramfs-etc")?,
        },
        unknown: BTreeMap::new(),
    };
    typed.unknown = unknown(file)?;
    Ok(typed)
}

/// What has no meaning here, as it is written.
fn unknown(file: &KeyFile) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut unknown: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for group in file.groups().iter().map(|g| g.to_string()) {
        if group == TRANSIENT {
            continue;
        }
        let known = KNOWN
            .iter()
            .find(|(name, _)| *name == group)
            .map_or(&[][..], |(_, keys)| keys);
        let keys = file.keys(&group).map_err(|e| error::ostree(&e))?;
        for key in keys.iter().map(|k| k.to_string()) {
            if known.contains(&key.as_str()) {
                continue;
            }
            let value = file.value(&group, &key).map_err(|e| error::ostree(&e))?;
            unknown
                .entry(group.clone())
                .or_default()
                .insert(key, value.into());
        }
    }
    Ok(unknown)
}

pub(crate) fn to_key_file(origin: &Origin) -> KeyFile {
    let file = KeyFile::new();
    let text = |group: &str, key: &str, value: Option<&str>| {
        if let Some(value) = value {
            file.set_string(group, key, value);
        }
    };
    let list = |group: &str, key: &str, values: Vec<String>| {
        if !values.is_empty() {
            file.set_value(group, key, &join(&values));
        }
    };
    let locals = |set: &BTreeSet<LocalRequest>| set.iter().map(ToString::to_string).collect();
    let names = |set: &BTreeSet<String>| set.iter().cloned().collect();
    let key = match &origin.follows {
        Some(Follows::Container(_)) => "container-image-reference",
        // `ostree admin upgrade` must not upgrade over what is layered.
        _ if origin.is_changed_here() => "baserefspec",
        _ => "refspec",
    };
    let followed = origin.follows.as_ref().map(ToString::to_string);
    text(ORIGIN, key, followed.as_deref());
    text(ORIGIN, "override-commit", origin.override_commit.as_deref());
    if let Some((url, description)) = &origin.custom_origin {
        text(ORIGIN, "custom-url", Some(url));
        text(ORIGIN, "custom-description", Some(description));
    }
    text(
        ORIGIN,
        "unconfigured-state",
        origin.unconfigured_state.as_deref(),
    );
    list(PACKAGES, "requested", names(&origin.packages));
    list(PACKAGES, "requested-local", locals(&origin.local_packages));
    list(
        PACKAGES,
        "requested-local-fileoverride",
        locals(&origin.local_packages_replacing_files),
    );
    list(OVERRIDES, "remove", names(&origin.override_remove));
    list(
        OVERRIDES,
        "replace-local",
        locals(&origin.override_replace_local),
    );
    let replacements = origin.override_replace.iter().map(|(source, names)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        format!("{source},{}", names.join(","))
    });
    list(OVERRIDES, "replace", replacements.collect());
    if origin.initramfs.regenerate {
        file.set_boolean(OURS, "regenerate-initramfs", true);
    }
    list(OURS, "initramfs-args", origin.initramfs.args.clone());
    list(OURS, "initramfs-etc", names(&origin.initramfs.etc));
    for (group, keys) in &origin.unknown {
        for (key, value) in keys {
            file.set_value(group, key, value);
        }
    }
    file
}

/// Entries `SOURCE,NAME,NAME`.
fn replacements(entries: &[String]) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut replacements: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in entries {
        let (source, names) = entry
            .split_once(',')
            .ok_or_else(|| invalid(format!("'{}' is not SOURCE,PACKAGE", escape_cut(entry, 80))))?;
        let names = names.split(',').map(str::to_owned);
        replacements
            .entry(source.to_owned())
            .or_default()
            .extend(names);
    }
    Ok(replacements)
}

/// A list as GLib writes it. Its own function for that is not bound.
fn join(values: &[String]) -> String {
    let mut text = String::new();
    for value in values {
        for (at, c) in value.char_indices() {
            match c {
                ' ' if at == 0 => text.push_str("\\s"),
                '\t' if at == 0 => text.push_str("\\t"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\\' => text.push_str("\\\\"),
                ';' => text.push_str("\\;"),
                c => text.push(c),
            }
        }
        text.push(';');
    }
    text
}

#[cfg(test)]
mod tests {
    use apt_ostree_model::origin::Initramfs;
    use proptest::prelude::*;

    use super::*;

    const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn groups_and_keys_of_others_survive_and_transient_state_does_not() {
        let text = format!(
            "[origin]\nrefspec=origin:debian/13\nmystery=a;b\\s\n\n[rpmostree]\nex-cliwrap=true\n\n\
             [packages]\nrequested=vim;htop\nrequested-local={SUM}:foo_1:2-1_amd64;\n\n\
             [libostree-transient]\npinned=true\n"
        );
        let origin = origin_from_text(&text).unwrap();
        assert_eq!(origin.packages.len(), 2);
        assert_eq!(origin.local_packages.len(), 1);
        let written = origin_to_text(&origin);
        assert!(!written.contains("transient"), "{written}");
        for line in [
            "baserefspec=origin:debian/13",
            "mystery=a;b\\s",
            "ex-cliwrap=true",
            "requested=htop;vim;",
        ] {
            assert!(written.lines().any(|l| l == line), "{line}: {written}");
        }
        assert_eq!(origin_from_text(&written).unwrap(), origin);
    }

    #[test]
    fn an_origin_without_layers_can_be_upgraded_by_others() {
        let origin = origin_from_text("[origin]\nbaserefspec=a\n").unwrap();
        assert_eq!(origin_to_text(&origin), "[origin]\nrefspec=a\n");
        let image = "[origin]\ncontainer-image-reference=ostree-unverified-registry:a/b\n";
        assert_eq!(origin_to_text(&origin_from_text(image).unwrap()), image);
    }

    #[test]
    fn values_that_can_not_be_are_refused() {
        for bad in [
            "[origin]\nrefspec=a b\n",
            "[packages]\nrequested-local=x;\n",
            "[overrides]\nreplace=x;\n",
            "no key file",
        ] {
            assert!(origin_from_text(bad).is_err(), "{bad}");
        }
    }

    fn names() -> impl Strategy<Value = BTreeSet<String>> {
        proptest::collection::btree_set("[a-z][a-z0-9+.=/:-]{1,6}", 0..4)
    }

    proptest! {
        #[test]
        fn origins_round_trip(
            packages in names(),
            override_remove in names(),
            sources in proptest::collection::btree_map("(suite|origin)=[A-Za-z0-9 .-]{1,6}", proptest::collection::btree_set("[a-z]{2,4}", 1..3), 0..3),
            args in proptest::collection::vec("\\PC{1,8}", 0..3),
            etc in names(),
            custom in proptest::option::of(("\\PC{0,8}", "\\PC{0,8}")),
        ) {
            let origin = Origin {
                follows: Some("a:b/c".parse().unwrap()),
                packages,
                override_remove,
                override_replace: sources,
                initramfs: Initramfs { regenerate: true, args, etc },
                custom_origin: custom,
                ..Origin::default()
            };
            prop_assert_eq!(origin_from_text(&origin_to_text(&origin)).unwrap(), origin);
        }
    }
}
