//! Names on the bus.

/// The well-known name of the daemon.
pub const BUS_NAME: &str = "org.aptostree1";

/// Parent of all objects; its object manager tells which there are.
pub const BASE_PATH: &str = "/org/aptostree1";

/// Where the system bus listens, unless `DBUS_SYSTEM_BUS_ADDRESS` says otherwise. The name of old, in
/// `/var/run`, is not there before tmpfiles has run.
pub fn bus_address() -> String {
    std::env::var("DBUS_SYSTEM_BUS_ADDRESS")
        .unwrap_or_else(|_| "unix:path=/run/dbus/system_bus_socket".to_owned())
}

/// The object of the sysroot.
pub const SYSROOT_PATH: &str = "/org/aptostree1/Sysroot";

/// Parent of the objects of transactions.
pub const TRANSACTIONS_PATH: &str = "/org/aptostree1/transactions";

/// The source of the interfaces.
pub const INTERFACE_XML: &str = include_str!("../../../data/dbus/org.aptostree1.xml");

/// Path of the object of a stateroot: `-` and `/` become `_`, other bytes that a path can't hold `_`
/// and two hexadecimal digits.
pub fn os_path(stateroot: &str) -> String {
    let mut path = format!("{BASE_PATH}/");
    for byte in stateroot.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => path.push(char::from(byte)),
            b'-' | b'/' => path.push('_'),
            _ => path.push_str(&format!("_{byte:02x}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stateroots_become_path_elements() {
        assert_eq!(os_path("debian"), "/org/aptostree1/debian");
        assert_eq!(os_path("my-os"), "/org/aptostree1/my_os");
        assert_eq!(os_path("a_b.ä"), "/org/aptostree1/a_5fb_2e_c3_a4");
    }
}
