//! Ids of messages in the journal that are read back.

/// A deployment was made.
pub const DEPLOYMENT_MADE: &str = "e2295e4ac09c446a8bd37182b6fca9d5";

/// libostree's, of the initramfs: this deployment is booted.
pub const OSTREE_BOOTED: &str = "7170336a73ba4601bad31af888aa0df7";
