//! What speaks against writing to a target, in values that become errors with a remedy.

use carreto_error::{Error, Kind};
use std::fmt;

/// One thing that speaks against writing. Ordered, the gravest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Obstacle {
    /// The path names neither a file nor a block device.
    NotADisk {
        /// What it is.
        what: &'static str,
    },
    /// The device node is there and the device is not.
    Gone {
        /// The path of the node.
        device: String,
    },
    /// The running system's root file system is on it.
    SystemDisk {
        /// The device.
        device: String,
    },
    /// A file system on it is mounted.
    Mounted {
        /// The target, a partition of it, or a device built on them.
        device: String,
        /// Where.
        mount_point: String,
    },
    /// The system swaps to it.
    Swap {
        /// The target, a partition of it, or a device built on them.
        device: String,
    },
    /// Another device is built on it: device mapper, RAID, a loop device.
    Held {
        /// The target, a partition of it, the disk it is on, or a device built on them.
        device: String,
        /// What is built on that.
        holder: String,
    },
    /// The device does not take writes.
    ReadOnlyDevice {
        /// The device.
        device: String,
    },
    /// The drive is empty, or the loop device has no file.
    NoMedium {
        /// The device.
        device: String,
    },
    /// The directory of a file that is to be created is not there.
    NoDirectory {
        /// The directory.
        directory: String,
    },
    /// The file system is mounted read-only.
    ReadOnlyFileSystem {
        /// The file or directory on it.
        path: String,
    },
    /// This user may not write.
    NotWritable {
        /// The file, device or directory.
        path: String,
    },
}

impl Obstacle {
    /// The kind of the error that this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotADisk { .. } => Kind::Usage,
            Self::NoDirectory { .. } => Kind::NotFound,
            Self::NotWritable { .. } => Kind::Denied,
            _ => Kind::TargetUnusable,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotADisk { .. } => "name a block device, a file, or a file to create".into(),
            Self::Gone { .. } => "attach the device again, or name another target".into(),
            Self::SystemDisk { .. } => {
                "name another disk: writing this one would destroy the running system".into()
            }
            Self::Mounted { mount_point, .. } => format!("unmount {mount_point} and retry"),
            Self::Swap { device } => format!("run swapoff {device} and retry"),
            Self::Held { device, holder } => {
                format!("remove {holder} from {device}, or name {holder} as the target")
            }
            Self::ReadOnlyDevice { device } => {
                format!("make {device} writable (blockdev --setrw) and retry")
            }
            Self::NoMedium { .. } => "insert or attach a medium and retry".into(),
            Self::NoDirectory { directory } => format!("create the directory {directory}"),
            Self::ReadOnlyFileSystem { .. } => {
                "remount the file system read-write, or name another place".into()
            }
            Self::NotWritable { .. } => "run as a user who may write there".into(),
        }
    }

    /// The error for the target `path`.
    pub fn to_error(&self, path: &str) -> Error {
        Error::new(self.kind(), self.to_string())
            .during("check the target")
            .path(path)
            .remedied_by(self.remedy())
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADisk { what } => {
                write!(f, "it is {what}, expected a regular file or a block device")
            }
            Self::Gone { device } => write!(f, "the device behind {device} is gone"),
            Self::SystemDisk { device } => write!(f, "{device} carries the running system"),
            Self::Mounted { device, mount_point } => {
                write!(f, "{device} is mounted on {mount_point}")
            }
            Self::Swap { device } => write!(f, "the system swaps to {device}"),
            Self::Held { device, holder } => write!(f, "{device} is in use by {holder}"),
            Self::ReadOnlyDevice { device } => write!(f, "{device} is read-only"),
            Self::NoMedium { device } => write!(f, "{device} has no medium: its size is 0"),
            Self::NoDirectory { directory } => write!(f, "the directory {directory} is missing"),
            Self::ReadOnlyFileSystem { path } => {
                write!(f, "the file system of {path} is read-only")
            }
            Self::NotWritable { path } => write!(f, "this user may not write {path}"),
        }
    }
}
