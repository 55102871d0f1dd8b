//! Whether this process runs in a container that is no booted system.

use std::path::Path;

/// True in a container, such as a step of an image build. A container that was booted from a
/// deployment is a system.
pub fn is_container() -> bool {
    if Path::new("/run/ostree-booted").exists() {
        return false;
    }
    let named = std::env::var_os("container").is_some_and(|name| !name.is_empty());
    named
        || ["/run/.containerenv", "/.dockerenv"]
            .iter()
            .any(|path| Path::new(path).exists())
}
