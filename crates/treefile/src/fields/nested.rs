//! Shapes that fields share, and the fields inside of fields.

use super::{Either, Field, Merge, Shape};

/// A list of lines of text.
pub(super) const TEXTS: Shape = Shape::List(&Shape::Text);
/// A list of texts of any length.
pub(super) const LINES: Shape = Shape::List(&Shape::Lines);
/// One text, or a list of them.
pub(super) const ONE_OR_MORE: Shape = Shape::Either(&Either {
    scalar: Some(Shape::Text),
    list: Some(TEXTS),
    map: None,
});
/// Package names, or a map of those to install and those to leave out.
pub(super) const PACKAGES: Shape = Shape::Either(&Either {
    scalar: None,
    list: Some(TEXTS),
    map: Some(Shape::Record(PACKAGES_MAP)),
});
/// Repositories by name or in full.
pub(super) const REPOS: Shape = Shape::List(&Shape::Either(&Either {
    scalar: Some(Shape::Text),
    list: None,
    map: Some(Shape::Record(REPO)),
}));
/// Conditional includes.
pub(super) const CONDITIONAL: Shape = Shape::List(&Shape::Record(CONDITIONAL_ENTRY));
/// File name, or whole treefile.
const INCLUDED: Shape = Shape::Either(&Either {
    scalar: Some(Shape::Text),
    list: Some(TEXTS),
    map: Some(Shape::Treefile),
});
/// Packages of one repository.
pub(super) const REPO_PACKAGES: Shape = Shape::List(&Shape::Record(REPO_PACKAGES_ENTRY));
/// apt pins.
pub(super) const PINS: Shape = Shape::List(&Shape::Record(PIN));
/// Check of users.
pub(super) const CHECK_PASSWD: Shape = Shape::Record(CHECK_PASSWD_FIELDS);
/// Check of groups.
pub(super) const CHECK_GROUPS: Shape = Shape::Record(CHECK_GROUPS_FIELDS);

const MAX_ID: i64 = u32::MAX as i64 - 1;
const ID: Shape = Shape::Integer(0, MAX_ID);
const CHECK_TYPES: Shape = Shape::Choice(&["none", "previous", "file", "data"]);
const TYPE_DOC: &str = "`none`: compare with nothing. `previous`: with the previous commit. `file`: with `filename`. `data`: with `entries`.";

const PACKAGES_MAP: &[Field] = &[
    Field::new("include", TEXTS, "none", "Packages to install.").merge(Merge::Set),
    Field::new("exclude", TEXTS, "none", "As `exclude-packages`.").merge(Merge::Set),
];

const REPO: &[Field] = &[
    Field::new(
        "name",
        Shape::Text,
        "",
        "Id of the repository: letters, digits, `-`, `_` and `.`.",
    )
    .required(),
    Field::new(
        "url",
        Shape::Text,
        "the mirror that the host's apt sources name for `distribution`, or `--mirror`",
        "Base URL: `http:`, `https:`, `file:`, or a directory relative to this file.",
    )
    .substitute(),
    Field::new(
        "distribution",
        Shape::Choice(&["debian", "ubuntu"]),
        "`debian`",
        "Whose mirror, keyring, suite and components apply where this entry says nothing.",
    ),
    Field::new(
        "suite",
        Shape::Text,
        "`releasever`, else `trixie` (Debian 13); must be given for Ubuntu; `./` for a directory",
        "Suite or codename; for a flat repository a path that ends in `/`.",
    )
    .substitute(),
    Field::new(
        "suites",
        TEXTS,
        "that of `suite`",
        "Several suites, such as `[trixie, trixie-updates]`.",
    )
    .substitute(),
    Field::new(
        "components",
        TEXTS,
        "`[main]`; Ubuntu: `[main, universe]`; flat repository: none",
        "Components, such as `main`, `contrib`, `non-free-firmware`.",
    )
    .substitute(),
    Field::new(
        "architectures",
        TEXTS,
        "that of the tree",
        "Architectures to read from this repository.",
    ),
    Field::new(
        "gpg-keys",
        LINES,
        "the distribution's archive keyring of the host",
        "Keys that may sign it: keyring files relative to this file (or below `/usr/share/keyrings` or `/etc/apt`), or armored public key blocks.",
    ),
    Field::new(
        "trusted",
        Shape::Bool,
        "`false`",
        "Use it although it is unsigned or its signature is unknown.",
    ),
    Field::new(
        "check-valid-until",
        Shape::Bool,
        "`true`",
        "Refuse an expired Release file.",
    ),
    Field::new(
        "priority",
        Shape::Integer(-32768, 32767),
        "apt's 500",
        "apt priority of all its packages; not 0.",
    ),
];

const CONDITIONAL_ENTRY: &[Field] = &[
    Field::new(
        "if",
        ONE_OR_MORE,
        "",
        "Condition, or several that must all hold: `VARIABLE OPERATOR VALUE` with `==`, `!=`, `<`, `<=`, `>`, `>=`; text in quotes, as in `basearch == \"x86_64\"`. Only numbers have an order. Both sides must have one type.",
    )
    .required(),
    Field::new("include", INCLUDED, "", "File, files, or a treefile written in place.").required(),
];

const REPO_PACKAGES_ENTRY: &[Field] = &[
    Field::new("repo", Shape::Text, "", "Name of a repository.").required(),
    Field::new("packages", TEXTS, "", "Package names.").required(),
];

const PIN: &[Field] = &[
    Field::new(
        "packages",
        ONE_OR_MORE,
        "",
        "Package names or globs, as in apt's `Package:`.",
    )
    .required(),
    Field::new(
        "pin",
        Shape::Text,
        "",
        "`release ...`, `origin ...` or `version ...`, as in apt's `Pin:`.",
    )
    .required(),
    Field::new(
        "priority",
        Shape::Integer(-32768, 32767),
        "",
        "As apt's `Pin-Priority:`; not 0.",
    )
    .required(),
];

const CHECK_PASSWD_FIELDS: &[Field] = &[
    Field::new("type", CHECK_TYPES, "", TYPE_DOC).required(),
    Field::new(
        "filename",
        Shape::Text,
        "none",
        "A file in the format of passwd(5), relative to this file.",
    ),
    Field::new(
        "entries",
        Shape::Map(&Shape::Either(&Either {
            scalar: Some(ID),
            list: Some(Shape::List(&ID)),
            map: None,
        })),
        "none",
        "User name to user id, or to `[user id, group id]`.",
    ),
];

const CHECK_GROUPS_FIELDS: &[Field] = &[
    Field::new("type", CHECK_TYPES, "", TYPE_DOC).required(),
    Field::new(
        "filename",
        Shape::Text,
        "none",
        "A file in the format of group(5), relative to this file.",
    ),
    Field::new(
        "entries",
        Shape::Map(&ID),
        "none",
        "Group name to group id.",
    ),
];
