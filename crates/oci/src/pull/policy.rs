//! The containers policy of the machine: who must have signed an image.
//!
//! skopeo decides. Only `skopeo copy` asks the policy in all its versions, so an image is copied
//! to a scratch directory in which every layer is there already, as an empty file: what is
//! transferred and checked is the manifest and the configuration, which name all the rest by
//! digest.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use apt_ostree_fsx::{CmdError, escape, escape_cut};
use apt_ostree_model::reference::{ContainerReference, Transport, Verification};
use apt_ostree_model::{ErrorKind, Kinded};
use camino::Utf8Path;
use serde::Deserialize;

use super::rejected;
use super::remote::RemoteImage;
use super::skopeo::{Refused, auth_file, command, explained};

/// Where the policy is, the first that is there.
const FILES: [&str; 2] = [
    "/etc/containers/policy.json",
    "/usr/share/containers/policy.json",
];
const ANYTHING: &str = "insecureAcceptAnything";
const NO_POLICY: &str = "no containers policy";

/// A policy file.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Policy {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Requirement {
    r#type: String,
}

impl Policy {
    /// Reads the policy of this machine.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub fn load() -> Result<Self> {
        let file = FILES.iter().find(|path| Utf8Path::new(path).exists());
        let Some(file) = file else {
            let message = format!("{NO_POLICY}: '{}' is missing", FILES[0]);
            return Err(rejected(message)
                .with_hint("install golang-github-containers-common, or write one")
                .into());
        };
        let read = || -> Result<Self> {
            let text = std::fs::read(file)?;
            let error = |e: serde_json::Error| rejected(escape_cut(&e.to_string(), 200));
            Ok(serde_json::from_slice(&text).map_err(error)?)
        };
        read().with_context(|| format!("reading '{file}'"))
    }

    /// Refuses a policy that takes an image without a signature, when its reference asks for one.
    ///
    /// # Errors
    /// [`ErrorKind::Verification`] when it does.
    pub fn require_signatures(&self, reference: &ContainerReference) -> Result<()> {
        if reference.verification != Verification::Policy {
            return Ok(());
        }
        let rules = self.rules(reference);
        if !rules.iter().all(|rule| rule.r#type == ANYTHING) {
            return Ok(());
        }
        let image = reference.image();
        let message = format!("the containers policy accepts '{image}' without a signature");
        Err(rejected(message)
            .with_hint("name its key in /etc/containers/policy.json, or follow it unverified")
            .into())
    }

    /// The rules for an image: those of the longest scope that it is in.
    fn rules(&self, reference: &ContainerReference) -> &[Requirement] {
        let scopes = self.transports.get(transport(reference.transport));
        let found = scopes.and_then(|scopes| {
            let names = scope_names(reference);
            names.iter().find_map(|name| scopes.get(name))
        });
        found.unwrap_or(&self.default)
    }

    /// Lets skopeo compare an image with the policy.
    ///
    /// # Errors
    /// [`ErrorKind::Verification`] when the policy rejects it, or it is another image by now.
    pub fn check(
        reference: &ContainerReference,
        image: &RemoteImage,
        tmp: &Utf8Path,
    ) -> Result<()> {
        let name = reference.image();
        let checked = check(reference, image, tmp);
        checked.with_context(|| format!("checking image '{name}' against the containers policy"))
    }
}

fn check(reference: &ContainerReference, image: &RemoteImage, tmp: &Utf8Path) -> Result<()> {
    let layout = tmp.join("policy");
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).with_context(|| format!("creating '{blobs}'"))?;
    for layer in &image.layers {
        for digest in [layer.digest, layer.diff_id] {
            std::fs::write(blobs.join(digest.to_string()), b"")?;
        }
    }
    let mut copy = command(tmp).args(["copy", "--quiet", "--remove-signatures"]);
    copy = match auth_file() {
        Some(file) => copy.args(["--authfile", file]),
        None => copy.arg("--src-no-creds"),
    };
    let copied = copy
        .arg(reference.image())
        .arg(format!("oci:{layout}:image"))
        .run();
    let same = copied
        .map_err(|error| explain(error, reference.transport))
        .map(|_| {
            let config = blobs.join(image.config_digest.to_string());
            config.exists()
        });
    // The next check needs an empty one; a work directory is removed in any case.
    apt_ostree_fsx::remove_tree(&layout).with_context(|| format!("removing '{layout}'"))?;
    if same? {
        return Ok(());
    }
    let error = Kinded::new(ErrorKind::Verification, "the image changed meanwhile");
    Err(error.with_hint("try again").into())
}

/// What skopeo says in its last line, with a kind.
fn explain(error: CmdError, transport: Transport) -> anyhow::Error {
    let CmdError::Failed { tail, .. } = &error else {
        return Kinded::from(error).into();
    };
    let line = tail.last().map_or("", String::as_str);
    let message = line.split_once("msg=").map_or(line, |(_, message)| message);
    let message = message.trim_matches('"').replace("\\\"", "\"");
    explained(Refused(escape(&message)).into(), transport)
}

/// The name of a transport in policies.
const fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Registry => "docker",
        Transport::Oci => "oci",
        Transport::OciArchive => "oci-archive",
        Transport::DockerArchive => "docker-archive",
        Transport::ContainersStorage => "containers-storage",
        Transport::Dir => "dir",
    }
}

/// Scopes that an image is in, the longest first.
fn scope_names(reference: &ContainerReference) -> Vec<String> {
    let mut names = Vec::new();
    if reference.transport == Transport::Registry {
        names.push(reference.name.clone());
        let name = reference.name.split('@').next().unwrap_or_default();
        let slash = name.rfind('/').unwrap_or(0);
        let end = name[slash..].find(':').map_or(name.len(), |at| slash + at);
        names.push(name[..end].to_owned());
        names.extend(parents(&name[..end]));
        let host = name.split('/').next().unwrap_or_default();
        let domains = host.char_indices().filter(|(_, c)| *c == '.');
        names.extend(domains.map(|(at, _)| format!("*{}", &host[at..])));
    } else {
        names.push(reference.name.clone());
        let path = reference.name.split(':').next().unwrap_or_default();
        names.push(path.to_owned());
        names.extend(parents(path));
    }
    names.push(String::new());
    names
}

fn parents(name: &str) -> impl Iterator<Item = String> {
    let slashes = name.rmatch_indices('/').filter(|(at, _)| *at > 0);
    slashes.map(|(at, _)| name[..at].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(policy: &str, reference: &str) -> bool {
        let policy: Policy = serde_json::from_str(policy).unwrap();
        let reference = reference.parse().unwrap();
        policy.require_signatures(&reference).is_ok()
    }

    #[test]
    fn a_signed_reference_needs_a_policy_that_asks_for_signatures() {
        let anything = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        let reject = r#"{"default": [{"type": "reject"}]}"#;
        let signed = "ostree-image-signed:docker://registry.example/a/b:1";
        assert!(!accepts(anything, signed));
        assert!(accepts(reject, signed));
        assert!(accepts(
            anything,
            "ostree-unverified-registry:registry.example/a/b:1"
        ));
    }

    #[test]
    fn the_longest_scope_decides() {
        let policy = |scope: &str| {
            format!(
                r#"{{"default": [{{"type": "insecureAcceptAnything"}}],
                "transports": {{"docker": {{"{scope}": [{{"type": "signedBy"}}]}}}}}}"#
            )
        };
        let signed = "ostree-image-signed:docker://registry.example/a/b:1";
        for scope in [
            "registry.example/a/b:1",
            "registry.example/a/b",
            "registry.example/a",
            "registry.example",
            "*.example",
            "",
        ] {
            assert!(accepts(&policy(scope), signed), "{scope}");
        }
        for scope in [
            "registry.example/a/c",
            "other.example",
            "registry.example/a/b:2",
        ] {
            assert!(!accepts(&policy(scope), signed), "{scope}");
        }
        assert!(!accepts(&policy(""), "ostree-image-signed:oci:/srv/x"));
    }
}
