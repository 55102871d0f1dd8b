//! What becomes of each path in /var: the table.

/// Content of `/var` that never ships. A pattern is relative to `/var`; `*` stands for any text
/// in a name, a final `**` for everything below.
const DROPPED: [&str; 38] = [
    "backups/**",
    "cache/**",
    "crash/**",
    "tmp/**",
    "log/**",
    "lock/**",
    "run/**",
    "lib/apt/lists/**",
    "lib/apt/periodic/**",
    "lib/apt/cdroms.list*",
    "lib/command-not-found/**",
    "lib/dbus/machine-id",
    "lib/initramfs-tools/**",
    "lib/lastlog/**",
    "lib/logrotate/status",
    "lib/logrotate.status",
    "lib/mlocate/**",
    "lib/plocate/**",
    "lib/systemd/catalog/database",
    "lib/systemd/credential.secret",
    "lib/systemd/random-seed",
    "lib/systemd/timers/**",
    "lib/systemd/timesync/**",
    "lib/update-notifier/**",
    "lib/ubuntu-release-upgrader/**",
    "lib/urandom/**",
    "lib/wtmpdb/**",
    "lib/NetworkManager/secret_key",
    "lib/NetworkManager/timestamps",
    "lib/NetworkManager/seen-bssids",
    "lib/misc/random-seed",
    "lib/ntpsec/ntp.drift",
    "lib/chrony/chrony.drift",
    "lib/snapd/**",
    "lib/PackageKit/**",
    "lib/man-db/auto-update.lock",
    "spool/*/pid/**",
    "lib/*/*.pid",
];

/// Login records that programs expect to exist, although empty.
const LOGIN_RECORDS: [&str; 4] = ["log/wtmp", "log/btmp", "log/lastlog", "log/faillog"];

/// Directories whose entries are separate units of state: each entry is copied or not, as a
/// whole.
const CONTAINERS: [&str; 17] = [
    "",
    "lib",
    "lib/apt",
    "lib/misc",
    "lib/systemd",
    "cache",
    "log",
    "spool",
    "home",
    "srv",
    "mnt",
    "opt",
    "local",
    "usrlocal",
    "games",
    "www",
    "mail",
];

/// Data of services that was made on the build machine: shipping it is possible, wanting it rare.
const SERVICE_DATA: [&str; 9] = [
    "lib/mysql",
    "lib/postgresql",
    "lib/ldap",
    "lib/slapd",
    "lib/redis",
    "lib/mongodb",
    "lib/couchdb",
    "lib/rabbitmq",
    "lib/cassandra",
];

/// True when `name` fits `pattern`, where `*` stands for any text.
pub(super) fn name_matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match name.find(part) {
            Some(index) => name = &name[index + part.len()..],
            None => return false,
        }
    }
    name.ends_with(end)
}

/// True when `path` fits `pattern`, component by component.
pub(super) fn path_matches(pattern: &str, path: &str) -> bool {
    let mut names = path.split('/');
    for part in pattern.split('/') {
        if part == "**" {
            return names.next().is_some();
        }
        if !names.next().is_some_and(|name| name_matches(part, name)) {
            return false;
        }
    }
    names.next().is_none()
}

/// True for content (relative to `/var`) that never ships. Login records are not among it.
pub(super) fn is_dropped(path: &str) -> bool {
    !is_login_record(path) && DROPPED.iter().any(|pattern| path_matches(pattern, path))
}

/// True for the empty login records.
pub(super) fn is_login_record(path: &str) -> bool {
    LOGIN_RECORDS.contains(&path)
}

/// True for data that a service made on the build machine.
pub(super) fn is_service_data(unit: &str) -> bool {
    SERVICE_DATA.contains(&unit)
}

/// The unit of state that a path (relative to `/var`) belongs to: the shortest prefix that is no
/// container directory.
pub(super) fn unit_of(path: &str) -> &str {
    let mut end = 0;
    loop {
        end = match path[end..].find('/').map(|i| end + i) {
            None => return path,
            Some(end) => end,
        };
        let prefix = &path[..end];
        let in_usrlocal = prefix.starts_with("usrlocal/");
        if !in_usrlocal && !CONTAINERS.contains(&prefix) {
            return prefix;
        }
        end += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        assert!(path_matches("lib/*/*.pid", "lib/x/a.pid"));
        assert!(!path_matches("lib/*/*.pid", "lib/a.pid"));
        assert!(path_matches("log/**", "log/a/b") && !path_matches("log/**", "log"));
        assert!(name_matches("a*b*c", "aXbYbc") && !name_matches("a*b*c", "ac"));
        assert!(name_matches("*-old", "status-old") && !name_matches("*-old", "status-older"));
        assert!(!name_matches("ab*ba", "aba"));
    }

    #[test]
    fn units_are_entries_of_container_directories() {
        assert_eq!(unit_of("lib/foo/bar/baz"), "lib/foo");
        assert_eq!(unit_of("lib/foo.conf"), "lib/foo.conf");
        assert_eq!(unit_of("roothome/.bashrc"), "roothome");
        assert_eq!(unit_of("lib/systemd/linger/x"), "lib/systemd/linger");
        assert_eq!(unit_of("usrlocal/bin/tool"), "usrlocal/bin/tool");
        assert_eq!(unit_of("www/html/index.html"), "www/html");
    }

    #[test]
    fn logs_and_caches_are_dropped_but_login_records_stay() {
        assert!(is_dropped("log/dpkg.log") && is_dropped("cache/man/index.db"));
        assert!(!is_dropped("log/wtmp") && !is_dropped("lib/foo/state"));
    }
}
