//! Local packages of a request.

use std::fs::File;
use std::io::Seek as _;

use anyhow::{Context as _, Result};
use apt_ostree_deb::{DebReader, Limits};
use apt_ostree_model::client::{LocalPackage, UpdateRequest};
use apt_ostree_model::origin::{LocalRequest, LocalRequests};
use apt_ostree_model::{ErrorKind, Kinded};

use super::layering::LocalFile;

/// Local packages, identified.
#[derive(Debug, Default)]
pub(crate) struct Locals {
    /// For the origin.
    pub(crate) requests: LocalRequests,
    /// Where they are.
    pub(crate) files: Vec<LocalFile>,
}

/// Reads what the local packages of a request are.
pub(crate) fn read(request: &UpdateRequest) -> Result<Locals> {
    let mut locals = Locals::default();
    for package in &request.install_local {
        let file = identify(package)?;
        locals.requests.install.push(file.request.clone());
        locals.files.push(file);
    }
    for package in &request.override_replace_local {
        let file = identify(package)?;
        locals.requests.override_replace.push(file.request.clone());
        locals.files.push(file);
    }
    Ok(locals)
}

fn identify(package: &LocalPackage) -> Result<LocalFile> {
    let shown = apt_ostree_fsx::escape(&package.path.to_string_lossy());
    let context = || format!("reading package '{shown}'");
    let mut file = File::open(&package.path)
        .map_err(|error| Kinded::new(ErrorKind::InvalidInput, error.to_string()))
        .with_context(context)?;
    if !file.metadata().with_context(context)?.is_file() {
        let error = Kinded::new(ErrorKind::InvalidInput, "it is not a regular file");
        return Err(error).with_context(context);
    }
    let (sha256, _) = apt_ostree_fsx::sha256_reader(&mut file).with_context(context)?;
    if let Some(expected) = package.sha256.filter(|expected| *expected != sha256) {
        let message = format!("its SHA-256 is {sha256}, not {expected}");
        return Err(Kinded::new(ErrorKind::Verification, message)).with_context(context);
    }
    file.rewind().with_context(context)?;
    let reader = DebReader::open(file, Limits::default())
        .map_err(|error| Kinded::new(ErrorKind::InvalidPackage, error.to_string()))
        .with_context(context)?;
    let control = reader.control();
    Ok(LocalFile {
        request: LocalRequest {
            name: control.package().clone(),
            version: control.version().clone(),
            arch: control.arch().clone(),
            sha256,
        },
        path: package.path.clone(),
    })
}
