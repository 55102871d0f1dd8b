//! Images wherever they are, read through skopeo: it knows registries, their accounts and
//! certificates, and the storage of podman.

use anyhow::{Context as _, Result};
use apt_ostree_fsx::Cmd;
use apt_ostree_model::reference::{ContainerReference, Transport};
use apt_ostree_model::{ErrorKind, Kinded};
use camino::Utf8Path;
use serde_json::Value;

use super::blob::{LayerStream, Progress};
use super::proxy::Proxy;
pub(crate) use super::proxy::Refused;
use super::remote::{RemoteImage, RemoteLayer, config_of};

/// Accounts of registries, the first that is there.
const AUTH_FILES: [&str; 3] = [
    "/run/ostree/auth.json",
    "/etc/ostree/auth.json",
    "/usr/lib/ostree/auth.json",
];
/// What skopeo may know of our surroundings.
const ENVIRONMENT: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// What registries and layouts say of a name or tag that they don't have.
const UNKNOWN: [&str; 6] = [
    "manifest unknown",
    "name unknown",
    "no descriptor found",
    "does not resolve to an image",
    "no such file or directory",
    "does not exist",
];
/// What the containers policy makes it say.
const POLICY: [&str; 3] = ["rejected", "ignature", "policy.json"];
const DENIED: [&str; 4] = [
    "unauthorized",
    "authentication required",
    "denied",
    "403 (Forbidden)",
];

/// An image that is open for reading.
#[derive(Debug)]
pub struct Skopeo {
    proxy: Proxy,
    image: Value,
    transport: Transport,
}

impl Skopeo {
    /// Opens an image. Archives are unpacked to `tmp`.
    ///
    /// # Errors
    /// [`ErrorKind::Network`] when it can't be reached, [`ErrorKind::InvalidInput`] when there is
    /// no such image, and when skopeo is missing.
    pub fn open(reference: &ContainerReference, tmp: &Utf8Path) -> Result<Self> {
        let command = command(tmp).arg("experimental-image-proxy").args(auth());
        let name = reference.image();
        let open = || {
            let mut proxy = Proxy::start(command)?;
            let image = proxy.value("OpenImage", &[name.clone().into()])?;
            Ok(Self {
                proxy,
                image,
                transport: reference.transport,
            })
        };
        open()
            .map_err(|error| explained(error, reference.transport))
            .with_context(|| format!("opening image '{name}'"))
    }

    /// Reads the manifest and the configuration.
    ///
    /// # Errors
    /// When they can't be fetched or are malformed.
    pub fn image(&mut self) -> Result<RemoteImage> {
        let args = [self.image.clone()];
        let transport = self.transport;
        let explain = |error| explained(error, transport);
        let manifest = self.proxy.document("GetManifest", &args).map_err(explain);
        let (digest, manifest) = manifest.context("fetching the manifest")?;
        // The blob itself: what 'GetFullConfig' gives was read and written again.
        let (config_digest, size) = config_of(&manifest)?;
        let args = [
            self.image.clone(),
            config_digest.to_oci().into(),
            size.into(),
        ];
        let config = self.proxy.document("GetBlob", &args).map_err(explain);
        let (_, config) = config.context("fetching the configuration")?;
        RemoteImage::parse(digest.as_str().unwrap_or_default(), &manifest, &config)
    }

    /// Opens a layer.
    ///
    /// # Errors
    /// When it can't be fetched.
    pub fn layer<'s>(
        &'s mut self,
        layer: &RemoteLayer,
        progress: Progress<'s>,
    ) -> Result<LayerStream<'s>> {
        // podman keeps layers unpacked, and names them by what they unpack to.
        let unpacked = self.transport == Transport::ContainersStorage;
        let digest = if unpacked {
            layer.diff_id
        } else {
            layer.digest
        };
        let args = [
            self.image.clone(),
            digest.to_oci().into(),
            layer.size.into(),
        ];
        let transport = self.transport;
        let pipe = self.proxy.pipe("GetBlob", &args);
        let (_, pipe) = pipe
            .map_err(|error| explained(error, transport))
            .with_context(|| format!("fetching layer {}", layer.digest.to_oci()))?;
        LayerStream::new(pipe, layer, unpacked, progress)
    }
}

/// `skopeo` in clean surroundings.
pub(crate) fn command(tmp: &Utf8Path) -> Cmd {
    let command = Cmd::new("skopeo").env("TMPDIR", tmp.as_str());
    ENVIRONMENT
        .iter()
        .fold(command, |command, name| command.inherit_env(name))
}

/// Options that name the accounts to use: those of the system, never those of a user.
fn auth() -> Vec<String> {
    match auth_file() {
        Some(file) => vec!["--authfile".to_owned(), file.to_owned()],
        None => vec!["--no-creds".to_owned()],
    }
}

/// The accounts of the system.
pub(crate) fn auth_file() -> Option<&'static str> {
    let there = |path: &&str| Utf8Path::new(path).exists();
    AUTH_FILES.iter().find(|path| there(path)).copied()
}

/// Gives what skopeo says a kind and, where it is known, a way out.
pub(crate) fn explained(error: anyhow::Error, transport: Transport) -> anyhow::Error {
    let Some(Refused(message)) = error.downcast_ref() else {
        return error;
    };
    let says = |list: &[&str]| list.iter().any(|text| message.contains(text));
    if says(&POLICY) {
        return super::rejected(message.clone())
            .with_hint("see containers-policy.json(5) for who may sign images")
            .into();
    }
    if says(&UNKNOWN) {
        return Kinded::new(ErrorKind::InvalidInput, message.clone())
            .with_hint("look at the name and the tag: there is no such image")
            .into();
    }
    if transport != Transport::Registry {
        return Kinded::new(ErrorKind::Failed, message.clone()).into();
    }
    if says(&DENIED) {
        return Kinded::new(ErrorKind::Network, message.clone())
            .with_hint("put the account for this registry into /etc/ostree/auth.json")
            .into();
    }
    if message.contains("server gave HTTP response to HTTPS client") {
        return Kinded::new(ErrorKind::Network, message.clone())
            .with_hint("allow it as insecure in /etc/containers/registries.conf")
            .into();
    }
    Kinded::new(ErrorKind::Network, message.clone()).into()
}
