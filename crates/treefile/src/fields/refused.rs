//! Fields of rpm-ostree that can't be used, with what to use instead.

use super::{Field, Section, Shape, Status};

const fn refused(name: &'static str, instead: &'static str) -> Field {
    Field::new(name, Shape::Any, "", "")
        .status(Status::Refused(instead))
        .section(Section::Compatibility)
}

/// Fields without a Debian meaning, and fields that only describe an installed system.
pub(super) const FIELDS: &[Field] = &[
    refused(
        "selinux-label-version",
        "SELinux labels are not supported, so there is no version of them to choose",
    ),
    refused(
        "platform-module",
        "Debian has no modules; name the packages in 'packages'",
    ),
    refused(
        "modules",
        "Debian has no modules; name the packages in 'packages' and choose versions with 'pins'",
    ),
    refused(
        "rojig",
        "rojig packages don't exist for Debian; set 'ref' and write an image with --format",
    ),
    refused(
        "cliwrap-binaries",
        "programs are not replaced by wrappers; use 'add-files' for your own",
    ),
    refused(
        "jigdo",
        "jigdo packages don't exist for Debian; set 'ref' and write an image with --format",
    ),
    refused(
        "boot_locations",
        "kernel and initramfs always live in usr/lib/modules; remove the field",
    ),
    refused(
        "comps",
        "Debian has no comps groups; use 'task:NAME' in 'packages'",
    ),
    refused("dnf", "packages come from apt; use 'repos' and 'pins'"),
    derive("base-refspec", "to start from a commit use 'ostree-layers'"),
    derive(
        "container-image-reference",
        "to start from an image use it as the base of a container build",
    ),
    derive("packages-local", "for .deb files use 'local-packages'"),
    derive(
        "packages-local-fileoverride",
        "for .deb files use 'local-packages'",
    ),
    derive(
        "override-remove",
        "to leave a package out use 'exclude-packages'",
    ),
    derive(
        "override-replace-local",
        "for .deb files use 'local-packages'",
    ),
    derive(
        "override-replace",
        "to take packages from one repository use 'repo-packages'",
    ),
    derive(
        "ex-override-replace",
        "to take packages from one repository use 'repo-packages'",
    ),
    derive("initramfs", "use 'no-initramfs' and 'initramfs-args'"),
    derive("custom", "use 'metadata' or 'add-commit-metadata'"),
    derive("override-commit", "use --previous-commit or --parent"),
    derive(
        "unconfigured-state",
        "use 'add-files' to ship configuration",
    ),
];

/// A field of the origin of an installed system.
const fn derive(name: &'static str, instead: &'static str) -> Field {
    Field::new(name, Shape::Any, "", "")
        .status(Status::Derived(instead))
        .section(Section::Compatibility)
}
