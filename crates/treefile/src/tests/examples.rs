//! The examples, the schema and the reference.

use super::*;

/// The examples, with an empty file in place of each package that one of them takes.
fn loader() -> MemoryLoader {
    let dir = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let names = DirLoader::new(dir.clone()).list(&dir, ".yaml").unwrap();
    let add = |loader: MemoryLoader, name: String| {
        loader.with(&name, std::fs::read(dir.join(&name)).unwrap())
    };
    let local = MemoryLoader::new().with("apt-ostree.deb", "");
    names.into_iter().fold(local, add)
}

fn example(name: &str, arch: &str) -> ComposeSpec {
    let mut options = options();
    options.arch = Some(arch.parse().unwrap());
    load(&loader(), name, &options).unwrap()
}

fn example_names() -> Vec<String> {
    let loader = loader();
    loader.list(&loader.root().unwrap(), ".yaml").unwrap()
}

#[test]
fn every_example_loads() {
    let names = example_names();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        for arch in ["amd64", "arm64"] {
            let spec = example(&name, arch);
            assert!(
                spec.r#ref.is_some() && !spec.packages.is_empty() && spec.warnings.is_empty(),
                "{name}"
            );
            assert!(
                spec.repos.iter().all(|r| r.url.is_none()),
                "{name} names a mirror"
            );
        }
    }
}

#[test]
fn bootable_examples_have_one_kernel() {
    for name in [
        "bootable.yaml",
        "bootable-client.yaml",
        "server.yaml",
        "desktop.yaml",
    ] {
        for arch in ["amd64", "arm64"] {
            let names = names(&example(name, arch));
            let kernels: Vec<&String> = names
                .iter()
                .filter(|n| n.starts_with("linux-image"))
                .collect();
            assert_eq!(kernels, [&format!("linux-image-{arch}")], "{name}");
        }
    }
}

#[test]
fn the_outer_example_decides_the_ref() {
    assert_eq!(
        example("server.yaml", "arm64").r#ref.as_deref(),
        Some("debian/13/aarch64/server")
    );
    assert_eq!(
        example("desktop.yaml", "amd64").default_target.as_deref(),
        Some("graphical.target")
    );
}

#[test]
fn the_schema_knows_every_field_and_no_other() {
    let schema = json_schema();
    let properties = schema["properties"].as_object().unwrap();
    for field in fields::FIELDS.iter() {
        assert_eq!(
            properties.contains_key(field.name),
            field.is_usable(),
            "{}",
            field.name
        );
    }
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(
        properties["packages"]["anyOf"][1]["properties"]["include"]["items"]["type"][0],
        "string"
    );
    assert_eq!(
        properties["repos"]["items"]["anyOf"][1]["required"],
        serde_json::json!(["name"])
    );
    assert_eq!(properties["gpg_key"]["deprecated"], true);
}

#[test]
fn the_reference_knows_every_field() {
    let page = reference();
    for field in fields::FIELDS.iter() {
        let heading = format!("\n### `{}`\n", field.name);
        let row = format!("\n| `{}` | ", field.name);
        assert!(
            page.contains(&heading) != page.contains(&row) || field.is_usable(),
            "{}",
            field.name
        );
        assert_eq!(page.contains(&heading), field.is_usable(), "{}", field.name);
    }
}

#[test]
fn the_example_of_the_reference_loads() {
    let page = reference();
    let text = page
        .split("```yaml\n")
        .nth(1)
        .and_then(|t| t.split("```").next())
        .unwrap();
    assert_eq!(names(&parse(text).unwrap()), ["bash", "coreutils"]);
}
