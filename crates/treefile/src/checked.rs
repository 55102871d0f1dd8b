//! From merged fields to the checked [`ComposeSpec`].

mod content;
mod edits;

use std::collections::{BTreeMap, BTreeSet};

use apt_ostree_model::{Arch, PackageName};
use camino::Utf8PathBuf;

use crate::error::TreefileError;
use crate::include::Merged;
use crate::loader::Loader;
use crate::merge::{self, Fields};
use crate::node::Node;
use crate::repos::{self, Repos, Surroundings};
use crate::spec::{
    ComposeSpec, ExternalFile, IdCheck, IdSpec, InitramfsSpec, MetadataPlacement, OptUsrLocal,
    VersionSpec,
};
use crate::{LoadOptions, accounts, names, packages};

/// Metadata keys that the commit or image gets from elsewhere.
const RESERVED_KEYS: [&str; 7] = [
    "ostree.",
    "rpmostree.",
    "aptostree.",
    "containers.bootc",
    "org.opencontainers.",
    "xa.",
    "version",
];
/// Keys below a reserved prefix that authors do set.
const FREE_KEYS: [&str; 2] = ["ostree.endoflife", "ostree.endoflife-rebase"];

/// Typed access to merged fields; the shapes are checked already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a>(pub(crate) &'a Fields);

impl<'a> View<'a> {
    fn node(self, name: &str) -> Option<&'a Node> {
        self.0.get(name)
    }

    fn text(self, name: &str) -> Option<String> {
        self.node(name).map(|n| n.text().to_owned())
    }

    fn flag(self, name: &str, default: bool) -> bool {
        self.node(name).and_then(Node::as_bool).unwrap_or(default)
    }

    fn items(self, name: &str) -> &'a [Node] {
        self.node(name).map_or(&[], Node::items)
    }

    fn texts(self, name: &str) -> Vec<String> {
        self.items(name)
            .iter()
            .map(|n| n.text().to_owned())
            .collect()
    }

    /// The items of a list, each converted, errors placed.
    fn parsed<T>(
        self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, TreefileError> {
        let convert = |node: &Node| parse(node.text()).map_err(|why| node.error(why));
        self.items(name).iter().map(convert).collect()
    }

    /// The items of a list, each checked.
    fn verified(
        self,
        name: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Vec<String>, TreefileError> {
        self.parsed(name, |text| check(text).map(|()| text.to_owned()))
    }
}

/// Builds the checked treefile.
pub(crate) fn build(
    merged: Merged,
    loader: &dyn Loader,
    options: &LoadOptions,
) -> Result<ComposeSpec, TreefileError> {
    let view = View(&merged.fields);
    let arch = arch_of(&merged)?;
    let repos = resolve_repos(&merged, loader, options)?;
    let container = view.flag("container", false);
    let chosen = content::packages(view, &repos)?;
    if repos.all.is_empty()
        && !chosen.packages.is_empty()
        && view.items("local-packages").is_empty()
    {
        return Err(merged
            .start
            .error("packages are named but no 'repos' to take them from"));
    }
    let edits = edits::edits(view, loader)?;
    let (ids, id_files) = ids(view, loader, container)?;
    let mut files = repos.files;
    files.extend(edits.files);
    files.extend(id_files);
    Ok(ComposeSpec {
        r#ref: checked_ref(view)?,
        arch,
        metadata: json_map(view, "metadata"),
        repos: repos.all,
        lockfile_repos: repos.lockfile,
        packages: chosen.packages,
        repo_packages: chosen.repo_packages,
        exclude_packages: chosen.excluded,
        pins: content::pins(view)?,
        local_packages: content::local_packages(view, loader)?,
        recommends: view.flag("recommends", false),
        documentation: view.flag("documentation", true),
        install_langs: content::install_langs(view)?,
        debconf: content::debconf(view)?,
        container,
        ostree_layers: view.verified("ostree-layers", names::check_layer)?,
        ostree_override_layers: view.verified("ostree-override-layers", names::check_layer)?,
        initramfs: initramfs(view, container),
        opt_usrlocal: opt_usrlocal(view),
        tmp_is_dir: tmp_is_dir(view, container)?,
        readonly_executables: view.flag("readonly-executables", false),
        units: view.verified("units", names::check_unit)?,
        default_target: default_target(view)?,
        machineid_compat: machineid_compat(view)?,
        version: version(view)?,
        mutate_os_release: view.text("mutate-os-release"),
        ids,
        sysusers_forced: view.text("sysusers").as_deref() == Some("compose-forced"),
        edits: edits.spec,
        add_commit_metadata: commit_metadata(view)?,
        repo_metadata: repo_metadata(view),
        gpg_key: gpg_key(view)?,
        container_cmd: view
            .node("container-cmd")
            .map(|_| view.texts("container-cmd")),
        composefs: composefs(view),
        files,
        flattened: merge::flatten(&merged.fields),
        directory: merged.start.source.dir.clone(),
        warnings: merged.warnings,
    })
}

fn arch_of(merged: &Merged) -> Result<Arch, TreefileError> {
    merged
        .arch
        .parse()
        .map_err(|e: apt_ostree_model::InvalidName| merged.start.error(e.to_string()))
}

fn resolve_repos(
    merged: &Merged,
    loader: &dyn Loader,
    options: &LoadOptions,
) -> Result<Repos, TreefileError> {
    let releasever = merged.fields.get("releasever");
    if let Some(node) = releasever {
        packages::parse_suite(node.text()).map_err(|why| node.error(why))?;
    }
    let around = Surroundings {
        loader,
        source_root: options.source_root.as_deref(),
        mirror: options.mirror.as_deref(),
        releasever: releasever.map(|n| n.text().to_owned()),
        variables: &merged.repo_variables,
    };
    repos::resolve(&merged.fields, &around)
}

fn checked_ref(view: View<'_>) -> Result<Option<String>, TreefileError> {
    let Some(node) = view.node("ref") else {
        return Ok(None);
    };
    names::check_ref(node.text()).map_err(|why| node.error(why))?;
    Ok(Some(node.text().to_owned()))
}

fn json_map(view: View<'_>, name: &str) -> BTreeMap<String, serde_json::Value> {
    match view.node(name).map(merge::json_of) {
        Some(serde_json::Value::Object(map)) => map.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}

/// Metadata for the commit: what it gets from elsewhere can't be set, and OSTree has no null.
fn commit_metadata(view: View<'_>) -> Result<BTreeMap<String, serde_json::Value>, TreefileError> {
    for (key, value) in view
        .node("add-commit-metadata")
        .map_or(&[][..], Node::entries)
    {
        let name = key.text.as_str();
        let clashes = |reserved: &str| {
            name == reserved || reserved.ends_with('.') && name.starts_with(reserved)
        };
        if RESERVED_KEYS.iter().any(|r| clashes(r)) && !FREE_KEYS.contains(&name) {
            let message = format!("metadata key '{}' is reserved", crate::error::escape(name));
            return Err(key.mark.error(message));
        }
        if name.len() > 255 || name.contains(char::is_control) {
            return Err(key
                .mark
                .error("a metadata key is at most 255 bytes without control characters"));
        }
        if value.is_null() {
            return Err(value.error("a metadata value can't be null"));
        }
    }
    Ok(json_map(view, "add-commit-metadata"))
}

fn initramfs(view: View<'_>, container: bool) -> InitramfsSpec {
    InitramfsSpec {
        enabled: !container && !view.flag("no-initramfs", false),
        args: view.texts("initramfs-args"),
    }
}

fn opt_usrlocal(view: View<'_>) -> OptUsrLocal {
    match view.text("opt-usrlocal").as_deref() {
        Some("root") => OptUsrLocal::Root,
        Some("state-overlay") => OptUsrLocal::StateOverlay,
        _ => OptUsrLocal::Var,
    }
}

fn tmp_is_dir(view: View<'_>, container: bool) -> Result<bool, TreefileError> {
    let wanted = view.flag("tmp-is-dir", true);
    match view.node("tmp-is-dir") {
        Some(node) if container && !wanted => {
            Err(node.error("'tmp-is-dir: false' and 'container: true' exclude each other: a container has no sysroot"))
        }
        _ => Ok(wanted),
    }
}

fn default_target(view: View<'_>) -> Result<Option<String>, TreefileError> {
    let Some(node) = view.node("default-target") else {
        return Ok(None);
    };
    names::check_unit(node.text()).map_err(|why| node.error(why))?;
    if !node.text().ends_with(".target") {
        return Err(node.error(format!(
            "'default-target' must end in '.target', found '{}'",
            node.text()
        )));
    }
    Ok(Some(node.text().to_owned()))
}

/// Without `/etc/machine-id` systemd applies presets at first boot and drops what was enabled.
fn machineid_compat(view: View<'_>) -> Result<bool, TreefileError> {
    let wanted = view.flag("machineid-compat", true);
    match view.node("machineid-compat") {
        Some(node) if !wanted && !view.items("units").is_empty() => {
            Err(node.error("'machineid-compat: false' and 'units' exclude each other; ship a systemd preset instead"))
        }
        _ => Ok(wanted),
    }
}

fn version(view: View<'_>) -> Result<VersionSpec, TreefileError> {
    let suffix = match view.node("automatic-version-suffix") {
        None => None,
        Some(node) => {
            let mut characters = node.text().chars();
            match (characters.next(), characters.next()) {
                (Some(c), None) if c.is_ascii_graphic() => Some(c),
                _ => {
                    return Err(
                        node.error("'automatic-version-suffix' must be one ASCII character")
                    );
                }
            }
        }
    };
    Ok(VersionSpec {
        automatic_prefix: view.text("automatic-version-prefix"),
        automatic_suffix: suffix,
    })
}

fn ids(
    view: View<'_>,
    loader: &dyn Loader,
    container: bool,
) -> Result<(IdSpec, Vec<ExternalFile>), TreefileError> {
    let mut files = Vec::new();
    let mut check = |name: &str, half| -> Result<IdCheck, TreefileError> {
        let Some(node) = view.node(name) else {
            return Ok(if container {
                IdCheck::None
            } else {
                IdCheck::Previous
            });
        };
        let (check, path) = accounts::id_check(node, half, loader)?;
        files.extend(path.map(|path| external(path, name)));
        Ok(check)
    };
    let check_passwd = check("check-passwd", accounts::Half::Users)?;
    let check_groups = check("check-groups", accounts::Half::Groups)?;
    let removed = |name: &str| -> Result<BTreeSet<String>, TreefileError> {
        let check = |text: &str| {
            if text == "*" {
                Ok(())
            } else {
                accounts::check_name(text)
            }
        };
        Ok(view.verified(name, check)?.into_iter().collect())
    };
    let spec = IdSpec {
        preserve: view.flag("preserve-passwd", !container),
        check_passwd,
        check_groups,
        ignore_removed_users: removed("ignore-removed-users")?,
        ignore_removed_groups: removed("ignore-removed-groups")?,
    };
    Ok((spec, files))
}

fn external(path: Utf8PathBuf, role: &str) -> ExternalFile {
    ExternalFile {
        path,
        role: role.to_owned(),
    }
}

fn repo_metadata(view: View<'_>) -> MetadataPlacement {
    match view.text("repo-metadata").as_deref() {
        Some("detached") => MetadataPlacement::Detached,
        Some("disabled") => MetadataPlacement::Disabled,
        _ => MetadataPlacement::Inline,
    }
}

fn gpg_key(view: View<'_>) -> Result<Option<String>, TreefileError> {
    let Some(node) = view.node("gpg-key") else {
        return Ok(None);
    };
    let text = node.text();
    if text.starts_with('-') || text.len() > 200 {
        return Err(node.error("'gpg-key' must be the id of a key"));
    }
    Ok(Some(text.to_owned()))
}

fn composefs(view: View<'_>) -> Option<String> {
    view.text("composefs").map(|text| match text.as_str() {
        "true" => "yes".to_owned(),
        "false" => "no".to_owned(),
        _ => text,
    })
}

/// A package name at its place.
fn package_name(node: &Node) -> Result<PackageName, TreefileError> {
    packages::parse_name(node.text()).map_err(|why| node.error(why))
}
