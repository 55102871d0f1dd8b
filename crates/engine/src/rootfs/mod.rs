//! From packages to a configured root.

pub mod accounts;
pub mod assemble;
pub mod configure;
pub mod dpkgdb;
pub mod initramfs;
pub mod live;
