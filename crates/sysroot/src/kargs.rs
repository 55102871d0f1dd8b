//! Kernel arguments.

use std::fmt;

use apt_ostree_model::client::KargsRequest;
use apt_ostree_model::{ErrorKind, Kinded};

use crate::error::invalid;

/// The kernel itself takes no more than this on most architectures.
const MAX_LENGTH: usize = 4096;

/// Kernel arguments in their order. A key may be there several times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelArguments(Vec<String>);

/// How kernel arguments change.
#[derive(Debug, Clone, Copy)]
pub struct KargsChange<'a>(&'a KargsRequest);

impl KernelArguments {
    /// Splits a command line. A blank inside double quotes is part of an argument. The argument
    /// `ostree=` is left out: libostree sets it.
    pub fn parse(line: &str) -> Self {
        let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for c in line.chars() {
            if c.is_ascii_whitespace() && !quoted {
                all.push(std::mem::take(&mut word));
            } else {
                quoted ^= c == '"';
                word.push(c);
            }
        }
        all.push(word);
        all.retain(|word| !word.is_empty() && !word.starts_with("ostree="));
        Self(all)
    }

    /// Those that the running kernel was given, without what a boot loader adds.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn of_running_kernel() -> anyhow::Result<Self> {
        let arguments = ostree::KernelArgs::new();
        arguments
            .append_proc_cmdline(ostree::gio::Cancellable::NONE)
            .map_err(|e| crate::error::ostree(&e))?;
        let words = arguments.to_strv();
        let words: Vec<&str> = words.iter().map(|w| w.as_str()).collect();
        Ok(Self::parse(&words.join(" ")))
    }

    /// The arguments.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Refuses what could not be given to the kernel, or would add lines to the boot loader's
    /// configuration.
    ///
    /// # Errors
    /// When an argument has control characters or unquoted blanks, or all are too long.
    pub fn require_clean(&self) -> Result<(), Kinded> {
        for argument in &self.0 {
            require_clean(argument)?;
        }
        let length = self.to_string().len();
        if length > MAX_LENGTH {
            let message = format!("kernel arguments of {length} bytes are more than {MAX_LENGTH}");
            return Err(invalid(message));
        }
        Ok(())
    }

    fn count(&self, key: &str) -> usize {
        self.0.iter().filter(|a| split(a).0 == key).count()
    }

    /// Where the only argument with a key is.
    fn only(&self, key: &str) -> Result<usize, Kinded> {
        let shown = key.escape_debug();
        match self.count(key) {
            0 => Err(invalid(format!("no kernel argument '{shown}'"))),
            1 => Ok(self.0.iter().position(|a| split(a).0 == key).unwrap_or(0)),
            _ => Err(
                invalid(format!("multiple values for kernel argument '{shown}'"))
                    .with_hint(format!("name the value: {shown}=VALUE")),
            ),
        }
    }

    fn exact(&self, argument: &str) -> Option<usize> {
        self.0.iter().position(|a| a == argument)
    }

    fn missing(argument: &str) -> Kinded {
        invalid(format!("no kernel argument '{}'", argument.escape_debug()))
    }

    fn replace(&mut self, text: &str) -> Result<(), Kinded> {
        let Some((key, value)) = text.split_once('=') else {
            self.only(text)?;
            return Err(invalid(format!(
                "replacing kernel argument '{}' needs a value",
                text.escape_debug()
            )));
        };
        let old_and_new = value.split_once('=').filter(|_| self.count(key) > 0);
        if let Some((old, new)) = old_and_new
            && let Some(at) = self.exact(&format!("{key}={old}"))
        {
            self.0[at] = format!("{key}={new}");
            return Ok(());
        }
        let at = match (self.only(key), old_and_new) {
            // With one value only, KEY=OLD=NEW is a new value that holds a `=`, as for root=UUID=.
            (Ok(at), _) => at,
            (Err(_), Some((old, _))) => return Err(Self::missing(&format!("{key}={old}"))),
            (Err(error), None) => {
                return Err(error.with_hint(format!(
                    "name the value: --replace={0}=OLD=NEW",
                    key.escape_debug()
                )));
            }
        };
        text.clone_into(&mut self.0[at]);
        Ok(())
    }

    fn delete(&mut self, text: &str) -> Result<(), Kinded> {
        let at = match self.exact(text) {
            // A key alone that is there twice is as unclear as any other.
            Some(at) if text.contains('=') || self.count(text) == 1 => at,
            _ if text.contains('=') => return Err(Self::missing(text)),
            _ => self.only(text)?,
        };
        self.0.remove(at);
        Ok(())
    }
}

impl<'a> KargsChange<'a> {
    /// The change that a request asks for.
    ///
    /// # Errors
    /// When its options exclude each other.
    pub fn new(request: &'a KargsRequest) -> Result<Self, Kinded> {
        let usage = |message: &str| Err(Kinded::new(ErrorKind::Usage, message));
        let edits = Self(request).has_edits();
        if !request.delete.is_empty() && !request.replace.is_empty() {
            return usage("kernel arguments can't be deleted and replaced at the same time");
        }
        if request.replace_all.is_some() && (edits || request.import_proc_cmdline) {
            return usage("edited kernel arguments exclude other changes of them");
        }
        if request.import_proc_cmdline && request.deploy_index.is_some() {
            return usage("the arguments of the running kernel are no deployment's");
        }
        Ok(Self(request))
    }

    /// Whether nothing is asked for, so that the arguments are printed.
    pub fn is_empty(&self) -> bool {
        !self.has_edits() && self.0.replace_all.is_none() && !self.0.import_proc_cmdline
    }

    fn has_edits(&self) -> bool {
        let request = self.0;
        ![
            &request.append,
            &request.append_if_missing,
            &request.replace,
            &request.delete,
            &request.delete_if_present,
        ]
        .iter()
        .all(|list| list.is_empty())
    }

    /// The arguments after the change of `current`.
    ///
    /// # Errors
    /// When they are not what the change was thought out for, something to be replaced or deleted
    /// is missing or there several times, or the result is nothing for a kernel.
    pub fn apply(&self, current: &KernelArguments) -> Result<KernelArguments, Kinded> {
        let request = self.0;
        if let Some(expected) = &request.expected
            && KernelArguments::parse(expected) != *current
        {
            return Err(
                invalid("kernel arguments were changed by someone else meanwhile")
                    .with_hint("look at them again: apt-ostree kargs"),
            );
        }
        if let Some(all) = &request.replace_all {
            let all = all.trim();
            require_no_control(all)?;
            let new = KernelArguments::parse(all);
            new.require_clean()?;
            return Ok(new);
        }
        let mut new = current.clone();
        for text in &request.delete {
            new.delete(text)?;
        }
        for text in &request.delete_if_present {
            if text.contains('=') && new.exact(text).is_none() || new.count(split(text).0) == 0 {
                continue;
            }
            new.delete(text)?;
        }
        for text in &request.replace {
            require_clean(text)?;
            new.replace(text)?;
        }
        for text in &request.append {
            require_clean(text)?;
            new.0.push(text.clone());
        }
        for text in &request.append_if_missing {
            require_clean(text)?;
            if new.exact(text).is_none() {
                new.0.push(text.clone());
            }
        }
        new.require_clean()?;
        Ok(new)
    }
}

impl fmt::Display for KernelArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

fn split(argument: &str) -> (&str, Option<&str>) {
    match argument.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (argument, None),
    }
}

fn require_no_control(text: &str) -> Result<(), Kinded> {
    if text.chars().any(char::is_control) {
        let shown: String = text.chars().take(120).collect();
        let message = format!(
            "kernel argument '{}' has control characters",
            shown.escape_debug()
        );
        return Err(invalid(message));
    }
    Ok(())
}

fn require_clean(argument: &str) -> Result<(), Kinded> {
    require_no_control(argument)?;
    let shown = || argument.chars().take(120).collect::<String>();
    if KernelArguments::parse(argument).0 != [argument] {
        let message = format!("'{}' is not one kernel argument", shown());
        return Err(invalid(message).with_hint("put double quotes around a value with blanks"));
    }
    if argument.starts_with('=') || argument.matches('"').count() % 2 == 1 {
        return Err(invalid(format!("'{}' is no kernel argument", shown())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change(line: &str, edit: impl FnOnce(&mut KargsRequest)) -> Result<String, String> {
        let mut request = KargsRequest::default();
        edit(&mut request);
        KargsChange::new(&request)
            .and_then(|change| change.apply(&KernelArguments::parse(line)))
            .map(|new| new.to_string())
            .map_err(|error| error.message)
    }

    fn list(values: &[&str]) -> Vec<String> {
        values.iter().map(|v| (*v).to_owned()).collect()
    }

    fn refused(message: &str) -> Result<String, String> {
        Err(message.to_owned())
    }

    #[test]
    fn arguments_are_appended() {
        let append = |line, values: &[&str]| change(line, |r| r.append = list(values));
        assert_eq!(append("ro", &["a=1", "a=2"]), Ok("ro a=1 a=2".into()));
        let missing = |line, values: &[&str]| change(line, |r| r.append_if_missing = list(values));
        assert_eq!(missing("ro a=1", &["a=1", "a=2"]), Ok("ro a=1 a=2".into()));
        assert_eq!(
            append("", &["dyndbg=\"file x +p\""]),
            Ok("dyndbg=\"file x +p\"".into())
        );
    }

    #[test]
    fn a_key_with_several_values_needs_the_value() {
        let delete = |line, value: &str| change(line, |r| r.delete = list(&[value]));
        assert_eq!(delete("ro a=1", "a"), Ok("ro".into()));
        assert_eq!(delete("a=1 a=2", "a=1"), Ok("a=2".into()));
        assert_eq!(
            delete("a=1 a=2", "a"),
            refused("multiple values for kernel argument 'a'")
        );
        assert_eq!(delete("a=1", "a=2"), refused("no kernel argument 'a=2'"));
        assert_eq!(delete("a=1", "b"), refused("no kernel argument 'b'"));
        assert_eq!(
            delete("q q", "q"),
            refused("multiple values for kernel argument 'q'")
        );
        let replace = |line, value: &str| change(line, |r| r.replace = list(&[value]));
        assert_eq!(replace("x a=1 y", "a=2"), Ok("x a=2 y".into()));
        assert_eq!(replace("a=1 a=2", "a=2=3"), Ok("a=1 a=3".into()));
        assert_eq!(
            replace("root=LABEL=x", "root=UUID=y"),
            Ok("root=UUID=y".into())
        );
        assert_eq!(
            replace("a=1 a=2", "a=3"),
            refused("multiple values for kernel argument 'a'")
        );
        assert_eq!(
            replace("a=1 a=2", "a=3=4"),
            refused("no kernel argument 'a=3'")
        );
        assert_eq!(replace("ro", "a=1"), refused("no kernel argument 'a'"));
    }

    #[test]
    fn deleting_what_is_not_there_can_be_allowed() {
        let delete = |line, values: &[&str]| change(line, |r| r.delete_if_present = list(values));
        assert_eq!(delete("ro a=1", &["a=2", "b", "ro"]), Ok("a=1".into()));
        assert_eq!(
            delete("a=1 a=2", &["a"]),
            refused("multiple values for kernel argument 'a'")
        );
    }

    #[test]
    fn control_characters_and_blanks_are_refused() {
        for bad in [
            "a\nlinux /evil",
            "a\tb",
            "a b",
            "",
            "a\u{1b}",
            "=x",
            "a=\"b",
            "ostree=/x",
        ] {
            assert!(
                change("ro", |r| r.append = list(&[bad])).is_err(),
                "{bad:?}"
            );
            assert!(change("a=1", |r| r.replace = vec![format!("a={bad}\n")]).is_err());
        }
        assert!(change("ro", |r| r.replace_all = Some("a\nb".into())).is_err());
        assert_eq!(
            change("ro", |r| r.replace_all = Some("a  b=2\n".into())),
            Ok("a b=2".into())
        );
        let long = format!("a={}", "x".repeat(MAX_LENGTH));
        assert!(change("ro", |r| r.append = vec![long]).is_err());
    }

    #[test]
    fn a_change_meanwhile_is_noticed() {
        let edit = |line| {
            change(line, |r| {
                r.expected = Some("ro ostree=/x a".into());
                r.append = list(&["b"]);
            })
        };
        assert_eq!(edit("ro a"), Ok("ro a b".into()));
        let message = "kernel arguments were changed by someone else meanwhile";
        assert_eq!(edit("ro"), refused(message));
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        let both = change("a b", |r| {
            r.delete = list(&["a"]);
            r.replace = list(&["b=1"]);
        });
        assert!(both.is_err());
        let editor = change("a", |r| {
            r.replace_all = Some("b".into());
            r.append = list(&["c"]);
        });
        assert!(editor.is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_line_and_parses_to_the_same(
            line in "[a-c=\" ]{0,12}",
            appended in proptest::collection::vec("\\PC{0,6}", 0..3),
        ) {
            if let Ok(text) = change(&line, |r| r.append = appended) {
                prop_assert!(!text.contains('\n'));
                prop_assert_eq!(KernelArguments::parse(&text).to_string(), text);
            }
        }
    }
}
