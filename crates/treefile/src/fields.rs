//! The table of all treefile fields: the one source of parsing, merging, suggestions, the JSON
//! schema and the reference.

mod base;
mod nested;
mod refused;

use std::sync::LazyLock;

/// Everything known about one field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) name: &'static str,
    /// Older spellings that are accepted.
    pub(crate) aliases: &'static [&'static str],
    /// What its value looks like.
    pub(crate) shape: Shape,
    /// How the values of an including and an included file become one.
    pub(crate) merge: Merge,
    /// Whether `${var}` in it is replaced.
    pub(crate) substitute: bool,
    /// Must be given (inner fields only).
    pub(crate) required: bool,
    /// What its absence means, for readers.
    pub(crate) default: &'static str,
    /// What it does, for readers; Markdown.
    pub(crate) doc: &'static str,
    /// Whether it may be used.
    pub(crate) status: Status,
    /// Values that the shape forbids, with what to do instead.
    pub(crate) refused_values: &'static [(&'static str, &'static str)],
    /// Chapter of the reference.
    pub(crate) section: Section,
}

/// Whether a field may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It works.
    Active,
    /// It works, with a warning that names what replaces it.
    Deprecated(&'static str),
    /// It is checked and has no further effect.
    Ignored,
    /// It is an error; says what to use instead.
    Refused(&'static str),
    /// It is an error: it describes an installed system. Says what to use instead.
    Derived(&'static str),
}

/// What a value looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// One line of text; numbers and the like are taken as written.
    Text,
    /// Text of any number of lines.
    Lines,
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Integer(i64, i64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A boolean, number or text.
    Scalar,
    /// Anything that JSON can express.
    Any,
    /// A list.
    List(&'static Self),
    /// A list of exactly two.
    Pair(&'static Self),
    /// A map with free keys.
    Map(&'static Self),
    /// A map with these keys.
    Record(&'static [Field]),
    /// What it is depends on how it is written.
    Either(&'static Either),
    /// A whole treefile.
    Treefile,
}

/// The shapes of a value by how it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Either {
    pub(crate) scalar: Option<Shape>,
    pub(crate) list: Option<Shape>,
    pub(crate) map: Option<Shape>,
}

/// How the values of an including (outer) and an included file become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merge {
    /// The outer one wins.
    Outer,
    /// Included items come first.
    List,
    /// As `List`, each item once.
    Set,
    /// All keys; the outer one wins where both have a key.
    Map,
    /// As `List`; a later entry takes its packages away from earlier ones.
    RepoPackages,
    /// As `List`; an outer entry replaces an included one of the same name.
    Repos,
    /// Used while its own file is read.
    Local,
}

/// Chapters of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    General,
    Includes,
    Repositories,
    Packages,
    Content,
    Layout,
    Systemd,
    Versions,
    Accounts,
    Changes,
    Commit,
    Compatibility,
}

impl Section {
    /// All chapters in order, with their titles.
    pub(crate) const ALL: [(Self, &'static str); 12] = [
        (Self::General, "General"),
        (Self::Includes, "Includes and variables"),
        (Self::Repositories, "Repositories"),
        (Self::Packages, "Packages"),
        (Self::Content, "What is installed"),
        (Self::Layout, "Layout and boot"),
        (Self::Systemd, "systemd"),
        (Self::Versions, "Versions"),
        (Self::Accounts, "Users and groups"),
        (Self::Changes, "Changing the tree"),
        (Self::Commit, "Commit and image"),
        (Self::Compatibility, "Accepted for compatibility"),
    ];
}

impl Field {
    /// An optional field that works, where the outer value wins.
    const fn new(
        name: &'static str,
        shape: Shape,
        default: &'static str,
        doc: &'static str,
    ) -> Self {
        Self {
            name,
            aliases: &[],
            shape,
            merge: Merge::Outer,
            substitute: false,
            required: false,
            default,
            doc,
            status: Status::Active,
            refused_values: &[],
            section: Section::General,
        }
    }

    const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn merge(mut self, merge: Merge) -> Self {
        self.merge = merge;
        self
    }

    const fn substitute(mut self) -> Self {
        self.substitute = true;
        self
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    const fn refuse(mut self, values: &'static [(&'static str, &'static str)]) -> Self {
        self.refused_values = values;
        self
    }

    const fn section(mut self, section: Section) -> Self {
        self.section = section;
        self
    }

    /// True when the field can be written without an error.
    pub(crate) fn is_usable(&self) -> bool {
        !matches!(self.status, Status::Refused(_) | Status::Derived(_))
    }

    /// True for this name or one of its aliases.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

/// All fields of a treefile, those that are refused as well.
pub(crate) static FIELDS: LazyLock<Vec<Field>> =
    LazyLock::new(|| [base::PARTS.concat(), refused::FIELDS.to_vec()].concat());

/// The field of this name.
pub(crate) fn find(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|f| f.is_called(name))
}

/// Architectures by Debian's name and the machine name.
pub(crate) const ARCHITECTURES: [(&str, &str); 12] = [
    ("amd64", "x86_64"),
    ("arm64", "aarch64"),
    ("armel", "armel"),
    ("armhf", "armv7l"),
    ("i386", "i686"),
    ("loong64", "loongarch64"),
    ("mips64el", "mips64"),
    ("ppc64el", "ppc64le"),
    ("ppc64", "ppc64"),
    ("riscv64", "riscv64"),
    ("s390x", "s390x"),
    ("x32", "x32"),
];

/// Debian's name of an architecture under either name.
pub(crate) fn debian_arch(name: &str) -> Option<&'static str> {
    let found = ARCHITECTURES
        .iter()
        .find(|(deb, base)| *deb == name || *base == name);
    found.map(|(deb, _)| *deb)
}

/// The known name that `name` is probably a slip of.
pub(crate) fn suggest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = name.to_ascii_lowercase().replace('_', "-");
    let limit = 1 + plain.chars().count() / 4;
    known
        .map(|k| (strsim::damerau_levenshtein(&plain, k), k))
        .filter(|(distance, k)| *distance <= limit && *distance < k.len())
        .min()
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_used_once() {
        let names: Vec<&str> = FIELDS
            .iter()
            .flat_map(|f| f.aliases.iter().copied().chain([f.name]))
            .collect();
        let unique: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(names.len(), unique.len());
    }

    #[test]
    fn every_field_is_documented() {
        for field in FIELDS.iter() {
            if field.is_usable() {
                assert!(field.doc.ends_with('.'), "{}", field.name);
                assert!(!field.default.is_empty(), "{}", field.name);
            }
            if let Status::Refused(instead) = field.status {
                assert!(
                    instead.len() > 20 && !instead.ends_with('.'),
                    "{}",
                    field.name
                );
            }
        }
    }

    #[test]
    fn slips_are_recognised() {
        let names = || FIELDS.iter().filter(|f| f.is_usable()).map(|f| f.name);
        assert_eq!(suggest("pakages", names()), Some("packages"));
        assert_eq!(suggest("add_files", names()), Some("add-files"));
        assert_eq!(suggest("Repo", names()), Some("repos"));
        assert_eq!(suggest("qqqqqq", names()), None);
    }
}
