//! The treefile reference in Markdown, made from the table of fields.

use crate::fields::{ARCHITECTURES, Either, FIELDS, Field, Merge, Section, Shape, Status};

const INTRODUCTION: &str = "\
# Treefile reference

A treefile is one YAML document, or a JSON document in a file named `*.json`. It says what a tree
is made of; `apt-ostree compose` turns it into an OSTree commit and an image. A name that is not
on this page is an error. An empty value counts as absent.

The smallest useful treefile:

```yaml
ref: debian/13/x86_64/minimal
repos:
  - name: debian
packages:
  - bash
  - coreutils
```

Text is taken as it is written: `ref: 010` is the text `010`. Booleans are `true` and `false`;
`yes` and `no` are text. YAML tags (`!name`), several documents in one file and duplicate keys are
errors; anchors and aliases work.

## Files

Paths are relative to the file that names them. They must stay below the directory of the first
treefile: absolute paths, `..` and symbolic links that lead out are errors. Keyrings of the host
(`/usr/share/keyrings`, `/etc/apt/keyrings`, `/etc/apt/trusted.gpg.d`) may be named by their
absolute path.

## Merging

Included files are merged into the including (outer) one. A file that is included twice on
different ways counts once, where it is met first; a file that includes itself is an error.
Includes may be nested 50 levels deep. The rule of each field is in the tables:

- *outer wins*: the value of the including file; among several includes the first one has it.
- *list*: the items of included files come first; a later include comes before an earlier one.
- *set*: as a list, but each item counts once.
- *map*: all keys; the outer file's value where both have a key.

Within one file `include` comes first, then `arch-include`, then `conditional-include`; a treefile
written in place (as `include:` of a condition) is merged before the files.

## Variables

`${name}` is replaced in the fields marked with *variables*. Always defined are `basearch` (the
machine name, such as `x86_64`), `suite` (the first suite that a repository names, else
`releasever`, else `trixie`) and, when the field is set, `releasever`. A variable that is not
defined is an error, and a variable's value can't use another one.
";

/// The whole page.
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for (section, title) in Section::ALL {
        let fields = FIELDS
            .iter()
            .filter(|f| f.section == section && f.is_usable());
        page.push_str(&format!("\n## {title}\n"));
        for field in fields {
            field_entry(&mut page, field);
        }
    }
    architectures(&mut page);
    refused(&mut page);
    page
}

fn field_entry(page: &mut String, field: &Field) {
    let mut put = |text: String| {
        page.push_str(&text);
        page.push('\n');
    };
    put(format!("\n### `{}`\n", field.name));
    put(field.doc.to_owned());
    put(String::new());
    put(format!("- Type: {}", shape_name(&field.shape)));
    put(format!("- Default: {}", field.default));
    if let Some(rule) = merge_rule(field.merge) {
        put(format!("- Merging: {rule}"));
    }
    if field.substitute || field.merge == Merge::Repos {
        put("- *variables*".to_owned());
    }
    if !field.aliases.is_empty() {
        put(format!(
            "- Also written: {}",
            code_list(field.aliases.iter().copied())
        ));
    }
    match field.status {
        Status::Deprecated(instead) => put(format!("- Deprecated: use `{instead}`")),
        Status::Ignored => put("- No further effect".to_owned()),
        _ => {}
    }
    for (value, why) in field.refused_values {
        put(format!("- `{value}` is an error: {why}"));
    }
    for (title, fields) in records(&field.shape) {
        put(format!(
            "\n{title}\n\n| Key | Type | Default | Meaning |\n|---|---|---|---|"
        ));
        for inner in fields {
            put(record_row(inner));
        }
    }
}

fn record_row(field: &Field) -> String {
    let default = if field.required {
        "required"
    } else {
        field.default
    };
    let variables = if field.substitute { " *variables*" } else { "" };
    let cell = |text: &str| text.replace('|', "\\|");
    format!(
        "| `{}` | {} | {default} | {}{variables} |",
        field.name,
        cell(&shape_name(&field.shape)),
        cell(field.doc)
    )
}

/// The maps with known keys inside of a shape.
fn records(shape: &Shape) -> Vec<(&'static str, &'static [Field])> {
    match shape {
        Shape::Record(fields) => vec![("Its keys:", fields)],
        Shape::List(inner) | Shape::Map(inner) => records(inner)
            .into_iter()
            .map(|(_, fields)| ("Keys of a map in it:", fields))
            .collect(),
        Shape::Either(Either { scalar, list, map }) => [scalar, list, map]
            .into_iter()
            .flatten()
            .flat_map(records)
            .map(|(_, f)| ("Keys of the map:", f))
            .collect(),
        _ => Vec::new(),
    }
}

fn shape_name(shape: &Shape) -> String {
    match shape {
        Shape::Text => "text".to_owned(),
        Shape::Lines => "text of any number of lines".to_owned(),
        Shape::Bool => "`true` or `false`".to_owned(),
        Shape::Integer(min, max) => format!("whole number from {min} to {max}"),
        Shape::Choice([word]) => format!("`{word}`"),
        Shape::Choice(words) => format!("one of {}", code_list(words.iter().copied())),
        Shape::Scalar => "boolean, whole number or text".to_owned(),
        Shape::Any => "anything".to_owned(),
        Shape::List(inner) => format!("list of {}", inner_name(inner)),
        Shape::Pair(inner) => format!("list of two {}", inner_name(inner)),
        Shape::Map(inner) => format!("map of names to {}", inner_name(inner)),
        Shape::Record(_) => "map".to_owned(),
        Shape::Treefile => "treefile".to_owned(),
        Shape::Either(Either { scalar, list, map }) => {
            let shapes = [scalar, list, map].into_iter().flatten();
            shapes.map(shape_name).collect::<Vec<_>>().join(", or ")
        }
    }
}

/// A choice inside of something else, in brackets.
fn inner_name(shape: &Shape) -> String {
    match shape {
        Shape::Either(_) => format!("({})", shape_name(shape)),
        _ => shape_name(shape),
    }
}

fn merge_rule(merge: Merge) -> Option<&'static str> {
    match merge {
        Merge::Outer => Some("outer wins"),
        Merge::List => Some("list"),
        Merge::Set => Some("set"),
        Merge::Map => Some("map"),
        Merge::RepoPackages => {
            Some("list; a later entry takes its packages away from earlier ones")
        }
        Merge::Repos => Some("list; an outer entry replaces an included one of the same name"),
        Merge::Local => None,
    }
}

fn code_list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words
        .map(|w| format!("`{w}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn architectures(page: &mut String) {
    let names = ARCHITECTURES.iter().map(|(deb, base)| {
        if deb == base {
            format!("`{deb}`")
        } else {
            format!("`{deb}` (`{base}`)")
        }
    });
    let names = names.collect::<Vec<_>>().join(", ");
    page.push_str(&format!(
        "\n## Architectures\n\n`packages-ARCH`, `arch-include` and `architecture` know {names}.\n"
    ));
}

fn refused(page: &mut String) {
    page.push_str(
        "\n## Fields of rpm-ostree that are errors here\n\n| Field | Instead |\n|---|---|\n",
    );
    for field in FIELDS.iter() {
        let (Status::Refused(instead) | Status::Derived(instead)) = field.status else {
            continue;
        };
        page.push_str(&format!("| `{}` | {instead} |\n", field.name));
    }
}
