//! Local files and block devices.
//!
//! [`LocalFile`] reads a regular file or a block device; [`FileTarget`] writes a regular file.
//! Their blocking paths ([`carreto_block::LocalRead`], [`carreto_block::LocalWrite`]) are plain
//! system calls for the copy engine's own threads; the async methods make the same calls on
//! tokio's blocking threads and so need a tokio runtime.
//!
//! Constructors block for as long as the file system takes to open a file.

mod calls;
mod direct;
mod extents;
mod file_target;
mod lock;
mod node;
mod source;
mod sync;
mod zero;

pub use file_target::FileTarget;
pub use source::LocalFile;
