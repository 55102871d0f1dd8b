//! Kernel arguments in the user's editor.

use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use apt_ostree_fsx::escape;
use apt_ostree_model::{ErrorKind, Kinded};

const HEADER: &str = "\
# The kernel arguments of the new deployment. Those of one line are in the order of the line.
# Lines that start with '#' are left out. An empty file changes nothing.
";

/// Longer files are no kernel arguments.
const MAX_SIZE: u64 = 64 << 10;

/// Lets the user edit `kargs`. `None`: they are the same afterwards.
pub(super) fn edit(kargs: &str) -> Result<Option<String>, Kinded> {
    let editor = editor(|name| std::env::var_os(name));
    let mut file = tempfile::Builder::new()
        .prefix("apt-ostree-kargs-")
        .suffix(".txt")
        .tempfile()
        .map_err(|error| failed(format!("making a temporary file: {error}")))?;
    file.write_all(file_text(kargs).as_bytes())
        .and_then(|()| file.flush())
        .map_err(|error| failed(format!("writing '{}': {error}", file.path().display())))?;
    run(&editor, file.path())?;
    // Many editors write another file to the same name.
    let text = read(file.path())?;
    let edited = parse(&text)?;
    Ok((words(kargs) != words(&edited) && !edited.is_empty()).then_some(edited))
}

/// The command that `$VISUAL` or `$EDITOR` names, else Debian's `editor`.
fn editor(variable: impl Fn(&str) -> Option<OsString>) -> OsString {
    ["VISUAL", "EDITOR"]
        .into_iter()
        .filter_map(variable)
        .find(|value| !value.is_empty())
        .unwrap_or_else(|| "editor".into())
}

/// Runs the editor on the terminal. Its command is a line for the shell, as other programs take it.
fn run(editor: &OsString, path: &Path) -> Result<(), Kinded> {
    let mut script = editor.clone();
    script.push(" \"$@\"");
    let name = escape(&editor.to_string_lossy());
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(script)
        .arg(editor)
        .arg(path)
        .status()
        .map_err(|error| failed(format!("starting the editor '{name}': {error}")))?;
    if status.success() {
        return Ok(());
    }
    Err(failed(format!("the editor '{name}' failed: {status}"))
        .with_hint("name another one in EDITOR"))
}

fn read(path: &Path) -> Result<String, Kinded> {
    let failed = |error| failed(format!("reading '{}': {error}", path.display()));
    let mut text = String::new();
    let mut file = std::fs::File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    file.take(MAX_SIZE)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

/// The file to edit: one argument a line.
fn file_text(kargs: &str) -> String {
    let mut text = String::from(HEADER);
    for word in words(kargs) {
        text.push_str(&word);
        text.push('\n');
    }
    text
}

/// The arguments of an edited file, joined by blanks.
fn parse(text: &str) -> Result<String, Kinded> {
    let mut all = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for word in words(line) {
            if word.chars().any(|c| c.is_control() && c != '\t') {
                let message = format!("'{}' holds a control character", escape(&word));
                return Err(Kinded::new(ErrorKind::InvalidInput, message));
            }
            if word.starts_with('=') {
                let message = format!("'{}' has no key", escape(&word));
                return Err(Kinded::new(ErrorKind::InvalidInput, message));
            }
            if word.matches('"').count() % 2 == 1 {
                let message = format!("'{}' has a double quote that is not closed", escape(&word));
                return Err(Kinded::new(ErrorKind::InvalidInput, message));
            }
            all.push(word);
        }
    }
    Ok(all.join(" "))
}

/// Splits at blanks outside of double quotes, as the kernel does.
fn words(text: &str) -> Vec<String> {
    let mut quoted = false;
    let parts = text.split(|c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    });
    let parts = parts.filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

fn failed(message: String) -> Kinded {
    Kinded::new(ErrorKind::Failed, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn visual_goes_before_editor_and_empty_ones_don_t_count() {
        let choose = |visual: &str, other: &str| {
            editor(|name| Some(if name == "VISUAL" { visual } else { other }.into()))
        };
        assert_eq!(choose("vim", "ed"), "vim");
        assert_eq!(choose("", "ed"), "ed");
        assert_eq!(choose("", ""), "editor");
        assert_eq!(editor(|_| None), "editor");
    }

    #[test]
    fn an_editor_with_arguments_changes_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), file_text("ro quiet")).unwrap();
        run(&"sed -i s/quiet/splash/".into(), file.path()).unwrap();
        let text = read(file.path()).unwrap();
        assert_eq!(parse(&text).unwrap(), "ro splash");
    }

    #[test]
    fn an_editor_that_fails_is_an_error() {
        let error = run(&"false".into(), Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.message, "the editor 'false' failed: exit status: 1");
        let error = run(&"/nonexistent/editor".into(), Path::new("x")).unwrap_err();
        assert!(
            error.message.contains("exit status: 127"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_script_as_editor_gets_names_with_blanks_whole() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("my-editor");
        std::fs::write(&script, "#!/bin/sh\n[ $# = 1 ] && echo x=1 >\"$1\"\n").unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let file = dir.path().join("a file");
        run(&script.into(), &file).unwrap();
        assert_eq!(read(&file).unwrap(), "x=1\n");
    }

    #[test]
    fn comments_and_empty_lines_are_left_out() {
        let text = format!("{HEADER}\n root=UUID=1   rw\n\n#quiet\nconsole=\"a b\"\n");
        assert_eq!(parse(&text).unwrap(), "root=UUID=1 rw console=\"a b\"");
        assert_eq!(parse(HEADER).unwrap(), "");
    }

    #[test]
    fn what_the_kernel_can_t_take_is_refused() {
        for (text, expected) in [
            ("a\u{1b}[2Jb", "'a\\x1b[2Jb' holds a control character"),
            ("a\0b", "'a\\x00b' holds a control character"),
            ("=v", "'=v' has no key"),
            ("a=\"b", "'a=\"b' has a double quote that is not closed"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.message, expected);
            assert_eq!(error.kind, ErrorKind::InvalidInput);
        }
    }

    proptest! {
        #[test]
        fn arguments_survive_an_editor_that_changes_nothing(
            kargs in prop::collection::vec("[a-z][a-z0-9.]{0,6}(=([a-z0-9/=]{0,8}|\"[a-z ]{0,8}\"))?", 0..6)
        ) {
            let kargs = kargs.join(" ");
            prop_assert_eq!(parse(&file_text(&kargs)).unwrap(), kargs);
        }

        #[test]
        fn no_text_gives_control_characters(text in "\\PC*|[\0-\u{7f}]{0,40}") {
            if let Ok(kargs) = parse(&text) {
                prop_assert!(kargs.chars().all(|c| c == '\t' || !c.is_control()), "{kargs:?}");
            }
        }
    }
}
