//! Storage back ends: local files, block devices and object stores.

mod local;

pub use local::{FileTarget, LocalFile};
