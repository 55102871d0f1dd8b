//! The docs book as HTML: `SUMMARY.md` gives the chapters, in the form that mdBook reads too.
//!
//! Links between chapters are checked: a link to a page or heading that doesn't exist is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

const STYLE: &str = include_str!("book.css");

/// A page of the book.
struct Page {
    title: String,
    file: String,
    text: String,
}

/// Renders the book in `source` into `out`.
pub(crate) fn write(source: &Path, out: &Path) -> Result<()> {
    let pages = load(source)?;
    let anchors: BTreeMap<&str, BTreeSet<String>> = pages
        .iter()
        .map(|page| (page.file.as_str(), anchors(&page.text)))
        .collect();
    for page in &pages {
        check_links(page, &anchors)?;
    }
    fs::create_dir_all(out).with_context(|| format!("making '{}'", out.display()))?;
    for (index, page) in pages.iter().enumerate() {
        let name = if index == 0 {
            "index.html".to_owned()
        } else {
            html_name(&page.file)
        };
        let path = out.join(name);
        fs::write(&path, render(page, &pages))
            .with_context(|| format!("writing '{}'", path.display()))?;
    }
    Ok(())
}

fn load(source: &Path) -> Result<Vec<Page>> {
    let read = |file: &str| {
        let path = source.join(file);
        fs::read_to_string(&path).with_context(|| format!("reading '{}'", path.display()))
    };
    let chapters = chapters(&read("SUMMARY.md")?);
    if chapters.is_empty() {
        bail!("'{}' has no chapters", source.join("SUMMARY.md").display());
    }
    chapters
        .into_iter()
        .map(|(title, file)| {
            let text = read(&file)?;
            Ok(Page { title, file, text })
        })
        .collect()
}

/// Title and file of every link in the summary.
fn chapters(summary: &str) -> Vec<(String, String)> {
    let mut chapters = Vec::new();
    let mut open: Option<(String, String)> = None;
    for event in Parser::new(summary) {
        match event {
            Event::Start(Tag::Link { dest_url, .. }) => {
                open = Some((String::new(), dest_url.into_string()));
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some((title, _)) = &mut open {
                    title.push_str(&text);
                }
            }
            Event::End(TagEnd::Link) => chapters.extend(open.take()),
            _ => {}
        }
    }
    chapters
}

fn options() -> Options {
    Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH
}

/// Ids of all headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, options()) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            Event::End(TagEnd::Heading(_)) => anchors.extend(heading.take().map(|h| slug(&h))),
            _ => {}
        }
    }
    anchors
}

/// The id that mdBook gives a heading.
fn slug(heading: &str) -> String {
    heading
        .trim()
        .chars()
        .filter_map(|c| match c {
            c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c.to_ascii_lowercase()),
            c if c.is_whitespace() => Some('-'),
            _ => None,
        })
        .collect()
}

fn is_external(link: &str) -> bool {
    link.contains("://") || link.starts_with("mailto:")
}

fn check_links(page: &Page, anchors: &BTreeMap<&str, BTreeSet<String>>) -> Result<()> {
    for event in Parser::new_ext(&page.text, options()) {
        let Event::Start(Tag::Link { dest_url, .. }) = event else {
            continue;
        };
        if is_external(&dest_url) {
            continue;
        }
        let (file, anchor) = dest_url.split_once('#').unwrap_or((&dest_url, ""));
        let file = if file.is_empty() {
            page.file.as_str()
        } else {
            file
        };
        match anchors.get(file) {
            None => bail!("'{}' links to '{file}', which is no chapter", page.file),
            Some(known) if !anchor.is_empty() && !known.contains(anchor) => {
                bail!("'{}' links to '{dest_url}', which is no heading", page.file)
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn html_name(file: &str) -> String {
    format!("{}.html", file.strip_suffix(".md").unwrap_or(file))
}

fn render(page: &Page, pages: &[Page]) -> String {
    let link = |file: &str| {
        if pages.first().is_some_and(|first| first.file == file) {
            "index.html".to_owned()
        } else {
            html_name(file)
        }
    };
    let mut nav = String::new();
    for other in pages {
        let current = if other.file == page.file {
            " class=\"current\""
        } else {
            ""
        };
        let (file, title) = (link(&other.file), escape(&other.title));
        nav.push_str(&format!(
            "<li><a{current} href=\"{file}\">{title}</a></li>\n"
        ));
    }
    let mut body = String::new();
    html::push_html(&mut body, with_ids(relink(&page.text, &link)).into_iter());
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title} - apt-ostree</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <nav>\n<ul>\n{nav}</ul>\n</nav>\n<main>\n{body}</main>\n</body>\n</html>\n",
        title = escape(&page.title),
    )
}

/// The events of `text` with links to chapters turned into links to HTML files.
fn relink<'a>(text: &'a str, link: &dyn Fn(&str) -> String) -> Vec<Event<'a>> {
    Parser::new_ext(text, options())
        .map(|event| match event {
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            }) => {
                let dest_url = match dest_url.split_once('#') {
                    _ if is_external(&dest_url) => dest_url,
                    Some(("", _)) => dest_url,
                    Some((file, anchor)) => CowStr::from(format!("{}#{anchor}", link(file))),
                    None => CowStr::from(link(&dest_url)),
                };
                Event::Start(Tag::Link {
                    link_type,
                    dest_url,
                    title,
                    id,
                })
            }
            event => event,
        })
        .collect()
}

/// Gives every heading its id.
fn with_ids(events: Vec<Event<'_>>) -> Vec<Event<'_>> {
    let mut result: Vec<Event<'_>> = Vec::with_capacity(events.len());
    let mut heading: Option<(usize, HeadingLevel, String)> = None;
    for event in events {
        match &event {
            Event::Start(Tag::Heading { level, .. }) => {
                heading = Some((result.len(), *level, String::new()));
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some((_, _, words)) = &mut heading {
                    words.push_str(text);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                if let Some((start, level, words)) = heading.take() {
                    result[start] = Event::Start(Tag::Heading {
                        level,
                        id: Some(CowStr::from(slug(&words))),
                        classes: Vec::new(),
                        attrs: Vec::new(),
                    });
                }
            }
            _ => {}
        }
        result.push(event);
    }
    result
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(file: &str, text: &str) -> Page {
        Page {
            title: file.to_owned(),
            file: file.to_owned(),
            text: text.to_owned(),
        }
    }

    fn check(text: &str) -> Result<()> {
        let pages = [page("a.md", text), page("b.md", "# Exit codes & `JSON`\n")];
        let anchors = pages
            .iter()
            .map(|page| (page.file.as_str(), anchors(&page.text)))
            .collect();
        check_links(&pages[0], &anchors)
    }

    #[test]
    fn the_summary_lists_chapters_in_order() {
        let summary = "# Summary\n\n[Intro](intro.md)\n\n- [The `x` file](x.md)\n  - [Y](y.md)\n";
        let pair = |title: &str, file: &str| (title.to_owned(), file.to_owned());
        assert_eq!(
            chapters(summary),
            [
                pair("Intro", "intro.md"),
                pair("The x file", "x.md"),
                pair("Y", "y.md")
            ]
        );
    }

    #[test]
    fn links_to_missing_pages_and_headings_are_errors() {
        assert!(check("[b](b.md) [c](b.md#exit-codes--json) [x](https://x.example/)").is_ok());
        assert!(check("# Here\n[up](#here)").is_ok());
        assert!(check("[c](c.md)").is_err());
        assert!(check("[b](b.md#nowhere)").is_err());
        assert!(check("[up](#nowhere)").is_err());
    }

    #[test]
    fn pages_link_to_html_files_and_headings_have_ids() {
        let pages = [
            page("a.md", "# One\n[b](b.md#two) [a](a.md)\n"),
            page("b.md", "## Two\n"),
        ];
        let first = render(&pages[0], &pages);
        assert!(first.contains("<h1 id=\"one\">One</h1>"), "{first}");
        assert!(first.contains("<a href=\"b.html#two\">b</a>"), "{first}");
        assert!(first.contains("<a href=\"index.html\">a</a>"), "{first}");
    }
}
