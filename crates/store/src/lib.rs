//! Storage back ends: local files, block devices and object stores.

mod local;

pub use local::{
    DeviceTarget, DirectoryGate, FileLock, FileTarget, LocalFile, Obstacle, TargetFacts,
    TargetKind, directory_of, grant, inspect_target, lock_file,
};
