//! Storage back ends: local files, block devices and object stores.

mod local;

pub use local::{
    DeviceTarget, FileTarget, LocalFile, Obstacle, TargetFacts, TargetKind, inspect_target,
};
