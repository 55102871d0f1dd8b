//! The fields that can be used.

use super::nested as n;
use super::{Field, Merge, Section, Shape, Status};

const NEW_BOOT: &str =
    "kernel and initramfs always live in usr/lib/modules; use 'modules' or remove the field";
const RPM_BACKEND: &str = "dpkg's database is text; use 'target' or remove the field";

macro_rules! section {
    ($section:ident: $($field:expr),+ $(,)?) => {
        &[$($field.section(Section::$section)),+]
    };
}

/// All, in the order of the reference.
pub(super) const PARTS: [&[Field]; 12] = [
    GENERAL,
    INCLUDES,
    REPOSITORIES,
    PACKAGES,
    CONTENT,
    LAYOUT,
    SYSTEMD,
    VERSIONS,
    ACCOUNTS,
    CHANGES,
    COMMIT,
    COMPATIBILITY,
];

const GENERAL: &[Field] = section![General:
    Field::new("ref", Shape::Text, "none; verbs that commit need it", "OSTree ref to write, such as `debian/13/x86_64/server`.").substitute(),
    Field::new(
        "architecture",
        Shape::Text,
        "`--arch`, else that of the host",
        "Architecture of the tree, by Debian's name (`amd64`) or the machine name (`x86_64`).",
    )
    .aliases(&["basearch"]),
    Field::new(
        "metadata",
        Shape::Map(&Shape::Any),
        "none",
        "Free data of the author. Not part of the input hash: a change of it alone composes nothing.",
    )
    .merge(Merge::Map)
    .substitute(),
];

const INCLUDES: &[Field] = section![Includes:
    Field::new("include", n::ONE_OR_MORE, "none", "Treefiles to merge into this one.").merge(Merge::Local),
    Field::new(
        "arch-include",
        Shape::Map(&n::ONE_OR_MORE),
        "none",
        "Architecture (Debian's or the machine name) to treefiles that are merged only for it.",
    )
    .merge(Merge::Local),
    Field::new("conditional-include", n::CONDITIONAL, "none", "Treefiles that are merged only when a condition holds.")
        .merge(Merge::Local),
    Field::new(
        "variables",
        Shape::Map(&Shape::Scalar),
        "none",
        "Names and their boolean, number or text, for `${name}` and conditions. The including file's value wins, and `--var` over all.",
    )
    .merge(Merge::Local),
    Field::new(
        "repovars",
        Shape::Map(&Shape::Text),
        "none",
        "Names and text for `${name}` inside of repository definitions only, those in `*.sources` files included.",
    )
    .merge(Merge::Map),
];

const REPOSITORIES: &[Field] = section![Repositories:
    Field::new(
        "repos",
        n::REPOS,
        "none; needed as soon as packages are named",
        "Repositories to take packages from. A text names a `NAME.sources` file (deb822) beside the treefile, a stanza with `X-Repolib-ID: NAME` in any `*.sources` file there, or a repository that another entry defines. A map defines one in place.",
    )
    .merge(Merge::Repos),
    Field::new(
        "lockfile-repos",
        n::REPOS,
        "none",
        "Repositories that serve only packages named in a lockfile.",
    )
    .merge(Merge::Repos),
    Field::new(
        "repo-packages",
        n::REPO_PACKAGES,
        "none",
        "Packages to install from one repository only. A later entry takes a package away from an earlier one.",
    )
    .merge(Merge::RepoPackages),
    Field::new("pins", n::PINS, "none", "apt pins, as in apt_preferences(5).").merge(Merge::List),
    Field::new(
        "releasever",
        Shape::Text,
        "none",
        "Suite for repositories that give none; also the variable `releasever`.",
    ),
];

const PACKAGES: &[Field] = section![Packages:
    Field::new(
        "packages",
        n::PACKAGES,
        "none",
        "Packages to install: `name`, `name:arch`, `name=version`, `name/suite`, virtual packages, `task:NAME`, `priority:required` (or `important`, `standard`). One entry may hold several, separated by blanks. Instead of a list, a map of `include` and `exclude`. `packages-ARCH` is the same for one architecture.",
    )
    .merge(Merge::Set),
    Field::new(
        "bootstrap-packages",
        n::TEXTS,
        "none",
        "Older name of `packages`.",
    )
    .aliases(&["bootstrap_packages"])
    .merge(Merge::Set)
    .status(Status::Deprecated("packages")),
    Field::new(
        "exclude-packages",
        n::TEXTS,
        "none",
        "Packages that the solver must not use. When one is needed, the compose fails.",
    )
    .merge(Merge::Set),
    Field::new("local-packages", n::TEXTS, "none", "`.deb` files to install, relative to this file.").merge(Merge::List),
    Field::new(
        "recommends",
        Shape::Bool,
        "`false` (rpm-ostree: `true`)",
        "Also install what packages recommend.",
    ),
    Field::new("ostree-layers", n::TEXTS, "none", "OSTree refs or commits that are merged before the packages.")
        .merge(Merge::List),
    Field::new("ostree-override-layers", n::TEXTS, "none", "OSTree refs or commits that are merged over the packages.")
        .merge(Merge::List),
];

const CONTENT: &[Field] = section![Content:
    Field::new(
        "documentation",
        Shape::Bool,
        "`true`",
        "Keep `/usr/share/doc`, `man`, `info` and the like. Copyright files stay in any case.",
    ),
    Field::new(
        "install-langs",
        n::TEXTS,
        "all",
        "Locales to keep, by their names in `/usr/share/locale`, such as `[en, de]`.",
    )
    .merge(Merge::List),
    Field::new(
        "debconf",
        n::LINES,
        "none",
        "Answers for debconf, as debconf-set-selections(1) reads them: `package question type value`.",
    )
    .merge(Merge::List),
    Field::new(
        "container",
        Shape::Bool,
        "`false`",
        "The tree is for containers only: no kernel, no initramfs, no boot checks, and ids are neither kept nor compared unless the treefile asks for it.",
    ),
    Field::new("readonly-executables", Shape::Bool, "`false`", "Clear the write bits of executable files."),
    Field::new(
        "sysusers",
        Shape::Choice(&["compose-auto", "compose-forced"]),
        "`compose-auto`",
        "When to run systemd-sysusers: for packages that ask for it, or for all that ship a sysusers.d file.",
    ),
];

const LAYOUT: &[Field] = section![Layout:
    Field::new("no-initramfs", Shape::Bool, "`false`", "Make no initramfs."),
    Field::new("initramfs-args", n::TEXTS, "none", "More arguments for dracut, one per entry.").merge(Merge::List),
    Field::new("tmp-is-dir", Shape::Bool, "`true`", "`/tmp` is a directory; else a link to `sysroot/tmp`."),
    Field::new(
        "opt-usrlocal",
        Shape::Choice(&["var", "root", "state-overlay"]),
        "`var`",
        "`/opt` and `/usr/local`: links into `/var`, plain directories of the image, or directories with a writable overlay.",
    ),
    Field::new(
        "composefs",
        Shape::Choice(&["yes", "no", "maybe", "true", "false", "signed", "verity"]),
        "what the libostree of the tree can do",
        "`composefs.enabled` of `prepare-root.conf`.",
    ),
    Field::new("boot-location", Shape::Choice(&["modules"]), "`modules`", "Where the kernel lives: always `usr/lib/modules`.")
        .aliases(&["boot_location"])
        .refuse(&[("new", NEW_BOOT), ("both", NEW_BOOT), ("legacy", NEW_BOOT), ("kernel-install", NEW_BOOT)]),
];

const SYSTEMD: &[Field] = section![Systemd:
    Field::new("units", n::TEXTS, "none", "Units to enable.").merge(Merge::List),
    Field::new("default-target", Shape::Text, "that of systemd", "What `default.target` points to.").aliases(&["default_target"]),
    Field::new(
        "machineid-compat",
        Shape::Bool,
        "`true`",
        "Ship `/etc/machine-id` with the text `uninitialized`; else ship none, which rules out `units`.",
    ),
];

const VERSIONS: &[Field] = section![Versions:
    Field::new(
        "automatic-version-prefix",
        Shape::Text,
        "none; then the commit has a version only when one is given",
        "Version of the commit: this prefix and a number that counts on from the previous commit. `<date:%Y%m%d>` is replaced by the date.",
    )
    .aliases(&["automatic_version_prefix"])
    .substitute(),
    Field::new("automatic-version-suffix", Shape::Text, "`.`", "One ASCII character between prefix and number."),
    Field::new("mutate-os-release", Shape::Text, "none", "Text in os-release that is replaced by the commit's version.").substitute(),
];

const ACCOUNTS: &[Field] = section![Accounts:
    Field::new(
        "preserve-passwd",
        Shape::Bool,
        "`true`; with `container`, `false`",
        "Keep the user and group ids of the previous commit.",
    ),
    Field::new(
        "check-passwd",
        n::CHECK_PASSWD,
        "`{type: previous}`; with `container`, `{type: none}`",
        "Fail when a user vanishes or its id changes.",
    ),
    Field::new(
        "check-groups",
        n::CHECK_GROUPS,
        "`{type: previous}`; with `container`, `{type: none}`",
        "Fail when a group vanishes or its id changes.",
    ),
    Field::new("ignore-removed-users", n::TEXTS, "none", "Users that may vanish; `*` for all.").merge(Merge::Set),
    Field::new("ignore-removed-groups", n::TEXTS, "none", "Groups that may vanish; `*` for all.").merge(Merge::Set),
];

const CHANGES: &[Field] = section![Changes:
    Field::new("remove-files", n::TEXTS, "none", "Paths to remove from the tree.").merge(Merge::List),
    Field::new(
        "add-files",
        Shape::List(&Shape::Pair(&Shape::Text)),
        "none",
        "Pairs of a file, relative to this file, and its path in the tree: below `/usr` (not `/usr/local`), `/etc`, `/bin`, `/sbin`, `/lib` or `/lib64`.",
    )
    .merge(Merge::List),
    Field::new(
        "remove-from-packages",
        Shape::List(&n::TEXTS),
        "none",
        "Lists of a package and regular expressions: files of that package that one of them matches are removed.",
    )
    .merge(Merge::List),
    Field::new(
        "postprocess",
        n::LINES,
        "none",
        "Scripts that are run in the finished tree, each beginning with `#!`. Those of included files run first.",
    )
    .merge(Merge::List),
    Field::new(
        "postprocess-script",
        Shape::Text,
        "none",
        "A file, relative to this file, that is run after the scripts of `postprocess`.",
    ),
];

const COMMIT: &[Field] = section![Commit:
    Field::new(
        "add-commit-metadata",
        Shape::Map(&Shape::Any),
        "none",
        "Keys and values for the metadata of the commit.",
    )
    .merge(Merge::Map)
    .substitute(),
    Field::new(
        "repo-metadata",
        Shape::Choice(&["inline", "detached", "disabled"]),
        "`inline`",
        "Where the suites and dates of the repositories are noted: in the commit, beside it, or nowhere.",
    ),
    Field::new("gpg-key", Shape::Text, "none", "Id of the GPG key that signs the commit.").aliases(&["gpg_key"]),
    Field::new("container-cmd", n::TEXTS, "none", "Command of the container image."),
];

const COMPATIBILITY: &[Field] = section![Compatibility:
    Field::new("edition", Shape::Choice(&["2014", "2024"]), "`2024`", "rpm-ostree's sets of defaults; the defaults here are those of 2024.")
        .status(Status::Ignored),
    Field::new("selinux", Shape::Choice(&["false"]), "`false`", "Debian trees carry no SELinux labels.")
        .status(Status::Ignored)
        .refuse(&[("true", "SELinux labels are not supported; AppArmor works without labels, so remove the field")]),
    Field::new("ignore-devices", Shape::Choice(&["true"]), "`true`", "Device nodes in packages are left out.")
        .status(Status::Ignored)
        .refuse(&[("false", "device nodes in packages are always left out; remove the field")]),
    Field::new("ima", Shape::Choice(&["false"]), "`false`", "Debian packages carry no IMA signatures.")
        .status(Status::Ignored)
        .refuse(&[("true", "Debian packages carry no IMA signatures; remove the field")]),
    Field::new("rpmdb", Shape::Choice(&["target"]), "`target`", "dpkg's database has one format.")
        .status(Status::Ignored)
        .refuse(&[("host", RPM_BACKEND), ("bdb", RPM_BACKEND), ("sqlite", RPM_BACKEND), ("ndb", RPM_BACKEND)]),
    Field::new("rpmdb-normalize", Shape::Choice(&["true"]), "`true`", "dpkg's database is always written the same way.")
        .status(Status::Ignored)
        .refuse(&[("false", "dpkg's database is always written reproducibly; remove the field")]),
    Field::new(
        "advisories-metadata",
        Shape::Choice(&["disabled"]),
        "`disabled`",
        "Debian's archive carries no advisories.",
    )
    .status(Status::Ignored)
    .refuse(&[
        ("inline", "Debian's archive carries no advisories; use 'disabled' or remove the field"),
        ("detached", "Debian's archive carries no advisories; use 'disabled' or remove the field"),
    ]),
    Field::new(
        "etc-group-members",
        n::TEXTS,
        "all",
        "Groups that stay in `/etc/group`; here all of them do.",
    )
    .merge(Merge::List)
    .status(Status::Ignored),
    Field::new("cliwrap", Shape::Choice(&["false"]), "`false`", "Programs are not replaced by wrappers.")
        .status(Status::Ignored)
        .refuse(&[("true", "programs are not replaced by wrappers; use 'add-files' for your own")]),
];
