//! Storage back ends: local files, block devices and object stores.

mod local;

pub use local::{
    DeviceTarget, DirectoryGate, FileTarget, LocalFile, Obstacle, TargetFacts, TargetKind,
    directory_of, grant, inspect_target,
};
