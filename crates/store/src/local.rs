//! Local files and block devices.
//!
//! [`LocalFile`] reads a regular file or a block device; [`FileTarget`] writes a regular file,
//! [`DeviceTarget`] a block device. [`inspect_target`] says beforehand what speaks against it.
//! [`DirectoryGate`] opens the other files that an image names.
//! Their blocking paths ([`carreto_block::LocalRead`], [`carreto_block::LocalWrite`]) are plain
//! system calls for the copy engine's own threads; the async methods make the same calls on
//! tokio's blocking threads and so need a tokio runtime.
//!
//! Constructors block for as long as the file system takes to open a file.

mod calls;
mod device_target;
mod direct;
mod extents;
mod file_target;
mod gate;
mod inspect;
mod lock;
mod mounts;
mod node;
mod obstacle;
mod source;
mod sync;
mod sysfs;
mod turns;
mod zero;

pub use device_target::DeviceTarget;
pub use file_target::FileTarget;
pub use gate::{DirectoryGate, directory_of, grant};
pub use inspect::{TargetFacts, TargetKind, inspect_source, inspect_target};
pub use lock::{FileLock, lock_file};
pub use obstacle::Obstacle;
pub use source::{LocalFile, LocalOptions};
