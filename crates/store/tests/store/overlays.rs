use std::process::Command;

use apt_ostree_model::Tree;
use camino::Utf8Path;
use proptest::prelude::*;

use crate::support::{Fixture, run, specs};

/// An overlay that is unmounted in the end, whatever happens.
struct Overlay(camino::Utf8PathBuf);

impl Overlay {
    /// Mounts `lowers`, topmost first, with a new upper directory if it has a name.
    fn mount(fixture: &Fixture, lowers: &[&str], upper: Option<&str>) -> Self {
        let point = fixture.path("merged");
        std::fs::create_dir_all(&point).unwrap();
        let lowers: Vec<String> = lowers
            .iter()
            .map(|l| fixture.path(l).into_string())
            .collect();
        let mut options = format!(
            "metacopy=off,redirect_dir=off,lowerdir={}",
            lowers.join(":")
        );
        if let Some(upper) = upper {
            let (upper, work) = (fixture.path(upper), fixture.path("work"));
            std::fs::create_dir_all(&upper).unwrap();
            std::fs::create_dir_all(&work).unwrap();
            options.push_str(&format!(",upperdir={upper},workdir={work}"));
        }
        run(
            "mount",
            &["-t", "overlay", "overlay", "-o", &options, point.as_str()],
        );
        Self(point)
    }

    fn path(&self) -> &Utf8Path {
        &self.0
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_diff_layer_over_a_checkout_shows_the_new_tree(before in specs(), after in specs()) {
        let fixture = Fixture::new();
        let (from, to) = (fixture.build(&before), fixture.build(&after));
        fixture.cache.checkout(&from, &fixture.path("base")).unwrap();
        fixture.cache.checkout_diff(&from, &to, &fixture.path("diff")).unwrap();
        let seen = {
            let overlay = Overlay::mount(&fixture, &["diff", "base"], None);
            fixture.cache.scan_dir(overlay.path()).unwrap()
        };
        prop_assert_eq!(&seen, &to);
        // As an upper directory it says the same.
        let (scanned, report) = fixture.cache.scan_upper(&fixture.path("diff"), &from).unwrap();
        prop_assert_eq!(&scanned, &to);
        prop_assert!(report.devices.is_empty());
    }
}

const CHANGES: &str = r"
set -e
echo new > new; echo more >> dir/appended; touch dir/touched
chmod 4711 dir/moded; chown 33:44 dir/owned
rm dir/removed; rm -r dir/gone; mkdir dir/gone; echo again > dir/gone/again
rm -r tree; echo file > tree
rm link; mkdir link; echo in > link/in
mv dir/file dir/renamed; ln dir/renamed dir/hard; ln -s nowhere dir/dangling
rm dir/swapped; ln -s renamed dir/swapped
mkfifo dir/pipe; mkdir empty; chmod 700 empty; rmdir bare
chmod 1777 .
";

fn base(fixture: &Fixture) -> Tree {
    let mut tree = Tree::default();
    for name in [
        "appended",
        "touched",
        "moded",
        "owned",
        "removed",
        "file",
        "swapped",
        "noted",
        "gone/old",
        "gone/older",
    ] {
        fixture.put(&mut tree, &format!("dir/{name}"), 0o644, name);
    }
    fixture.put(&mut tree, "tree/a/b", 0o644, "b");
    fixture.put(&mut tree, "dir/pipe.conf", 0o644, "stays");
    fixture.link(&mut tree, "link", "dir");
    tree.ensure_dir("bare", &apt_ostree_model::Meta::root(0o755))
        .unwrap();
    tree
}

#[test]
fn what_scripts_change_in_an_overlay_is_read_from_its_upper_directory() {
    let fixture = Fixture::new();
    let tree = base(&fixture);
    fixture
        .cache
        .checkout(&tree, &fixture.path("base"))
        .unwrap();
    let seen = {
        let overlay = Overlay::mount(&fixture, &["base"], Some("upper"));
        let noted = overlay.path().join("dir/noted");
        rustix::fs::setxattr(
            noted.as_str(),
            "user.note",
            b"hello",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        let output = Command::new("sh")
            .args(["-c", CHANGES])
            .current_dir(overlay.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fixture.cache.scan_dir(overlay.path()).unwrap()
    };
    let (scanned, report) = fixture
        .cache
        .scan_upper(&fixture.path("upper"), &tree)
        .unwrap();
    assert_eq!(scanned, seen);
    assert_eq!(report.dropped, ["dir/pipe"]);
    assert_eq!(scanned.get("dir/touched"), tree.get("dir/touched"));
    assert_eq!(scanned.file("dir/hard"), scanned.file("dir/renamed"));
    assert!(
        scanned
            .dir("dir/gone")
            .unwrap()
            .entries
            .keys()
            .eq(["again"])
    );
    // The cache itself was not touched.
    fixture.fsck();
    // The upper directory is a valid lower layer of the next run.
    let overlay = Overlay::mount(&fixture, &["upper", "base"], None);
    assert_eq!(fixture.cache.scan_dir(overlay.path()).unwrap(), scanned);
}

#[test]
fn layers_that_keep_content_elsewhere_are_refused() {
    let fixture = Fixture::new();
    for (attribute, word) in [
        ("trusted.overlay.redirect", "redirect_dir"),
        ("trusted.overlay.metacopy", "metacopy"),
    ] {
        let upper = fixture.path(word);
        let inner = upper.join("x");
        std::fs::create_dir(&upper).unwrap();
        if word == "metacopy" {
            std::fs::write(&inner, "").unwrap();
        } else {
            std::fs::create_dir(&inner).unwrap();
        }
        rustix::fs::setxattr(
            inner.as_str(),
            attribute,
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        let error = fixture
            .cache
            .scan_upper(&upper, &Tree::default())
            .unwrap_err();
        assert!(format!("{error:#}").contains(word), "{error:#}");
    }
}

#[test]
fn only_attributes_of_the_content_are_kept() {
    let fixture = Fixture::new();
    let dir = fixture.path("d");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("f"), "x").unwrap();
    for (path, name) in [
        ("f", "user.note"),
        ("f", "trusted.secret"),
        ("", "user.note"),
        ("", "trusted.secret"),
    ] {
        rustix::fs::setxattr(
            dir.join(path).as_str(),
            name,
            b"v",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    }
    let tree = fixture.cache.scan_dir(&dir).unwrap();
    assert!(tree.root.meta.xattrs.keys().eq(["user.note"]));
    assert!(tree.file("f").unwrap().meta.xattrs.keys().eq(["user.note"]));
}
