//! Storage back ends: local files, block devices and object stores.

mod local;
mod nbd;

pub use local::{
    DeviceTarget, DirectoryGate, FileLock, FileTarget, LocalFile, LocalOptions, Obstacle,
    TargetFacts, TargetKind, directory_of, grant, inspect_source, inspect_target, lock_file,
};
pub use nbd::{NbdAddress, NbdOptions, NbdSource, NbdTarget};
mod config;
mod object;
mod url;

pub use config::Checksum;
pub use config::{CredentialProvider, Credentials, Provider, Secret, StoreConfig, StoreSettings};
pub use object::{Finding, StoreProbe, Verdict};
pub use object::{MAX_PARTS, MIN_PART, ObjectFacts, ObjectUpload};
pub use object::{ObjectSource, ObjectStoreHandle, ObjectStores};
pub use object::{PendingUpload, PendingUploads, SentParts, StoreAdmin, StorePlace};
pub use object::{SilentObserver, StoreEvent, StoreObserver};
pub use url::{Location, ObjectUrl, Scheme};

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
