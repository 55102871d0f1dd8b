//! Our verdict is never looser than dpkg's: what we accept, dpkg accepts.
//!
//! The packages hold an empty root directory and no scripts, so that dpkg has nothing to do that
//! could reach outside of the directory that it is given.

use std::path::Path;
use std::process::Command;

use crate::builder::*;

/// dpkg's verdict on unpacking the package into an empty root.
fn dpkg_accepts(package: &[u8]) -> Option<Result<(), String>> {
    let root = tempfile::tempdir().unwrap();
    let admin = root.path().join("var/lib/dpkg");
    for dir in ["info", "updates", "triggers"] {
        std::fs::create_dir_all(admin.join(dir)).unwrap();
    }
    for file in ["status", "available"] {
        std::fs::write(admin.join(file), "").unwrap();
    }
    let deb = root.path().join("x.deb");
    std::fs::write(&deb, package).unwrap();
    run_dpkg(root.path(), &deb)
}

fn run_dpkg(root: &Path, deb: &Path) -> Option<Result<(), String>> {
    let output = Command::new("dpkg")
        .arg(format!("--root={}", root.display()))
        .args([
            "--force-not-root",
            "--force-architecture",
            "--force-depends",
        ])
        .args([
            "--force-unsafe-io",
            "--force-bad-path",
            "--force-conflicts",
            "--force-breaks",
        ])
        .args(["--log=/dev/null", "--unpack"])
        .arg(deb)
        .output()
        .ok()?;
    if output.status.success() {
        return Some(Ok(()));
    }
    Some(Err(String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn controls() -> Vec<Vec<u8>> {
    let lines = [
        "Depends: libc6 (>= 2.34), a0 | b1:any (<< 1:2~rc1),\n c2 ( = 3 )",
        "Depends: a0(>=1)",
        "Depends:",
        "Depends:\nX-Free: x",
        "Depends: a0,",
        "Depends: a0 (1)",
        "Depends: a0 (> 1)",
        "Depends: a0 (=> 1)",
        "Depends: a0 (= 1",
        "Depends: a0:b_c",
        "Depends: a0 [amd64]",
        "Depends: a0 b1",
        "Depends: A0",
        "Conflicts: a0 | b1",
        "Enhances: a0 | b1",
        "Replaces: a0 | b1",
        "Provides: a0 (= 1), b1",
        "Provides: a0 (>= 1)",
        "Multi-Arch: same",
        "Multi-Arch: foreign",
        "Multi-Arch: no",
        "Multi-Arch: other",
        "Essential: no",
        "Essential: no!",
        "Important: no",
        "Protected: no",
        "Status: install ok installed",
        "Config-Version: 1",
        "Conffiles:\n /x 0",
        "Triggers-Pending: x",
        "X-Free: text\n more\n .\n\tmore",
        "X-Free:text",
        "X_Free: text",
        "X-Free : text",
        "X-Free\n",
        "-X: text",
        "#X: text",
        "X\u{e9}: text",
        "X-Free: caf\u{e9}\x1b",
        "\n",
        "\n\nPackage: b\nVersion: 1",
        " \nX: 1",
        "version: 2",
        "Priority: odd",
        "Section: a/b/c",
        "Installed-Size: many",
    ];
    let mut list: Vec<Vec<u8>> = lines
        .iter()
        .map(|l| format!("{CONTROL}{l}\n").into_bytes())
        .collect();
    for version in [
        "1:1.0", "1", "a", "1_0", "1.0-", "-1", "1:", "01:1", "1.0-1-1", "0~~",
    ] {
        list.push(CONTROL.replace("1.0-1", version).into_bytes());
    }
    for name in ["a", "ab", "0ad", "a+b.c-d", "Ab", "a_b", "+ab", "a/b"] {
        list.push(CONTROL.replace("demo\n", &format!("{name}\n")).into_bytes());
    }
    for arch in [
        "all",
        "amd64",
        "any",
        "linux-any",
        "source",
        "a b",
        "AMD64",
        "musl-linux-amd64",
    ] {
        list.push(CONTROL.replace("amd64", arch).into_bytes());
    }
    list.push(CONTROL.trim_end().as_bytes().to_vec());
    list.push([b"\n", CONTROL.as_bytes(), b"\n"].concat());
    list
}

fn members() -> Vec<TarEntry> {
    let triggers = [
        "interest a\n",
        "interest-noawait /x/y\n",
        "activate /e/\n",
        "interest a # b\n",
        "x y\n",
        "interest\n",
        "interest a b\n",
        "interest \u{e9}\n",
        "interest a",
        " interest\ta \n",
        "# only\n\n",
        "",
    ];
    let conffiles = [
        "remove-on-upgrade /etc/x\n",
        "remove-on-upgrade  /etc/x\n",
        "\n \n",
        "etc/x\n",
        "",
        "other /etc/x\n",
        "remove-on-upgrade\n",
        "remove-on-upgrade /etc/x",
        "remove-on-upgrade /etc/x\nremove-on-upgrade /etc/x\n",
    ];
    let triggers = triggers.iter().map(|text| file("./triggers", text));
    triggers
        .chain(conffiles.iter().map(|text| file("./conffiles", text)))
        .collect()
}

#[test]
fn what_is_accepted_is_accepted_by_dpkg() {
    let controls = controls().into_iter().map(|c| {
        (
            format!("{:?}", String::from_utf8_lossy(&c)),
            with_control(c),
        )
    });
    let members = members().into_iter().map(|m| {
        (
            format!("{:?}", String::from_utf8_lossy(m.content())),
            with_members(&[m]),
        )
    });
    let mut accepted = 0;
    for (what, package) in controls.chain(members) {
        if read(&package).is_err() {
            continue;
        }
        accepted += 1;
        match dpkg_accepts(&package) {
            None => {
                eprintln!("SKIPPED: dpkg can't be run");
                return;
            }
            Some(verdict) => assert_eq!(verdict, Ok(()), "{what}"),
        }
    }
    assert!(accepted > 30, "only {accepted} were compared");
}
