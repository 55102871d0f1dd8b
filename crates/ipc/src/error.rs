//! Errors of the daemon's methods.

/// An error with a name of its own on the bus.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.aptostree1.Error", impl_display = true)]
pub enum Error {
    /// An error of the bus itself.
    #[zbus(error)]
    Bus(zbus::Error),
    /// Anything without a name of its own.
    Failed(String),
    /// The sysroot can't be read, or is none.
    InvalidSysroot(String),
    /// The caller may not do this.
    NotAuthorized(String),
    /// Another transaction is there; the message says whose and since when.
    UpdateInProgress(String),
    /// A ref or image reference is wrong.
    InvalidRefspec(String),
    /// An option is unknown, of another type, or can't go with another one.
    InvalidArguments(String),
    /// The caller, or all callers together, want too much at a time.
    LimitsExceeded(String),
    /// The administrator has switched this off.
    Locked(String),
}

/// The result of a method.
pub type Result<T> = std::result::Result<T, Error>;

/// An [`Error::InvalidArguments`].
pub fn invalid(text: impl Into<String>) -> Error {
    Error::InvalidArguments(text.into())
}
