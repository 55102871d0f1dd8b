//! What a request does, in a few words for people.

use apt_ostree_fsx::escape_cut;
use apt_ostree_model::client::{BaseChange, UpdateRequest};

/// A title names at most so many characters of what the caller chose.
const LIMIT: usize = 120;

/// The title of a transaction, such as `upgrade` or `install nginx, vim`.
pub(crate) fn title_of(request: &UpdateRequest) -> String {
    let mut parts = Vec::new();
    match &request.base {
        BaseChange::Keep => {}
        BaseChange::Upgrade if request.check || request.preview => {
            parts.push("check for updates".to_owned());
        }
        BaseChange::Upgrade => parts.push("upgrade".to_owned()),
        BaseChange::Deploy { revision } => parts.push(format!("deploy {revision}")),
        BaseChange::Rebase { refspec, .. } => parts.push(format!("rebase to {refspec}")),
    }
    for (verb, names) in [
        ("install", &request.install),
        ("uninstall", &request.uninstall),
        ("override remove", &request.override_remove),
        ("override reset", &request.override_reset),
    ] {
        if !names.is_empty() {
            parts.push(format!("{verb} {}", names.join(", ")));
        }
    }
    let flags = [
        (!request.install_local.is_empty(), "install local packages"),
        (
            !request.override_replace_local.is_empty() || !request.override_replace.is_empty(),
            "override replace",
        ),
        (request.uninstall_all, "uninstall all"),
        (request.override_reset_all, "reset overrides"),
        (request.reset_initramfs, "reset initramfs"),
        (request.apply_live, "apply live"),
    ];
    parts.extend(
        flags
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, t)| (*t).to_owned()),
    );
    if parts.is_empty() {
        parts.push("deploy again".to_owned());
    }
    escape_cut(&parts.join("; "), LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_says_what_happens_and_stays_short() {
        let mut request = UpdateRequest {
            install: vec!["nginx".into(), "vim".into()],
            uninstall: vec!["nano".into()],
            ..UpdateRequest::default()
        };
        assert_eq!(title_of(&request), "install nginx, vim; uninstall nano");
        request.install = vec!["x".repeat(5000)];
        assert_eq!(title_of(&request).chars().count(), LIMIT + 1);
        assert_eq!(title_of(&UpdateRequest::default()), "deploy again");
    }
}
