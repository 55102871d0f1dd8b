//! The one rule for paths inside a package.

use crate::limits::Limits;

/// Checks the name of an archive entry and gives it as a clean relative path: no leading `./`, no
/// trailing `/`; the root is `""`. Nothing else is repaired.
pub(crate) fn clean(name: &[u8], limits: &Limits) -> Result<String, String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.len() > limits.max_path {
        return Err(format!("the path is longer than {} bytes", limits.max_path));
    }
    let Ok(text) = std::str::from_utf8(name) else {
        return Err("the path is not UTF-8 text".into());
    };
    if text.starts_with('/') {
        return Err("the path is absolute".into());
    }
    if text.chars().any(char::is_control) {
        return Err("the path holds a control character".into());
    }
    let text = match text.strip_prefix("./") {
        Some("") => return Ok(String::new()),
        Some(rest) => rest,
        None if text == "." => return Ok(String::new()),
        None => text,
    };
    let text = text.strip_suffix('/').unwrap_or(text);
    check_components(text, limits)?;
    Ok(text.to_owned())
}

/// Checks an absolute path, such as a conffile's, and gives it without the leading `/`.
pub(crate) fn clean_absolute<'a>(path: &'a str, limits: &Limits) -> Result<&'a str, String> {
    if path.len() > limits.max_path {
        return Err(format!("the path is longer than {} bytes", limits.max_path));
    }
    let Some(relative) = path.strip_prefix('/') else {
        return Err("the path is not absolute".into());
    };
    if path.chars().any(char::is_control) {
        return Err("the path holds a control character".into());
    }
    check_components(relative, limits)?;
    Ok(relative)
}

fn check_components(path: &str, limits: &Limits) -> Result<(), String> {
    let mut depth = 0;
    for component in path.split('/') {
        match component {
            "" => return Err("the path has an empty component".into()),
            "." => return Err("the path has a '.' component".into()),
            ".." => return Err("the path has a '..' component".into()),
            _ => {}
        }
        if component.len() > limits.max_component {
            return Err(format!(
                "a component of the path is longer than {} bytes",
                limits.max_component
            ));
        }
        depth += 1;
    }
    if depth > limits.max_depth {
        return Err(format!(
            "the path has more than {} components",
            limits.max_depth
        ));
    }
    Ok(())
}
