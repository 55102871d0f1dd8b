//! Reading Debian control data: borrowed, tolerant, no copies.

/// One stanza: its lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stanza<'a>(&'a str);

/// The stanzas of `text`; comment lines are skipped when fields are read.
pub(crate) fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(['\n', '\r']);
        if rest.is_empty() {
            return None;
        }
        let mut end = 0;
        for line in rest.split_inclusive('\n') {
            if line.trim().is_empty() {
                break;
            }
            end += line.len();
        }
        let (stanza, after) = rest.split_at(end);
        rest = after.split_once('\n').map_or("", |(_, after)| after);
        Some(Stanza(stanza))
    })
    .filter(|stanza| !stanza.0.trim().is_empty())
}

impl<'a> Stanza<'a> {
    /// The fields in order: name and value lines, the first one as it is after the colon.
    pub(crate) fn fields(self) -> Vec<(&'a str, Vec<&'a str>)> {
        let mut fields: Vec<(&str, Vec<&str>)> = Vec::new();
        for line in self.0.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with([' ', '\t']) {
                if let Some((_, lines)) = fields.last_mut() {
                    lines.push(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim(), vec![value.trim()]));
            }
        }
        fields
    }

    /// The value of `name` as one line.
    pub(crate) fn joined(self, name: &str) -> Option<String> {
        let lines = self
            .fields()
            .into_iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))?
            .1;
        Some(lines.join(" ").trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_split_at_blank_lines() {
        let text = "\n\nA: 1\n# note\nB: x\n y\n  \n\nC:3\n";
        let found: Vec<_> = stanzas(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].joined("b").as_deref(), Some("x y"));
        assert_eq!(found[0].fields().len(), 2);
        assert_eq!(found[1].joined("C").as_deref(), Some("3"));
    }
}
