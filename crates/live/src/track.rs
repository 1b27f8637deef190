//! Which granules of a disk change while the server works.
//!
//! Without a kernel module, by a ladder that is gone down at run time: a BPF program at issue and
//! completion of block requests ([`TrackerKind::Bpf`]), the kernel's block tracing
//! ([`TrackerKind::Blktrace`]), and reading everything again ([`TrackerKind::Rescan`]). Tracking is
//! a hint: each epoch is audited against the kernel's own counters ([`compare`]), and the proof is
//! the ledger of hashes.
//!
//! Only whole disks that make requests are tracked: partitions and file systems reach the disk with
//! absolute sectors there. All calls block shortly.

mod asm;
mod attach;
mod audit;
mod blktrace;
mod bpf;
mod btf;
mod fields;
mod layout;
mod marks;
mod pins;
mod program;
mod rescan;
mod sysdisk;

pub use attach::{Attached, attach, attach_with};
pub use audit::{AuditPoint, AuditVerdict, TrackedCounts, compare};
pub use blktrace::end_blktrace;
pub use bpf::BpfOptions;
pub use marks::Drained;
pub use pins::{list_pins, remove_pins};
pub use sysdisk::KernelCounts;

use crate::granule::GranuleSet;
use carreto_error::Result;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

/// The disk to track: a whole block device that makes requests (vda, sda, nvme0n1, loop0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedDisk {
    /// Its name in `/sys/block`.
    pub name: String,
    /// Major and minor number.
    pub devno: (u32, u32),
    /// The number of its attachment, since Linux 5.15.
    pub diskseq: Option<u64>,
    /// Bytes.
    pub size: u64,
}

#[cfg(test)]
impl TrackedDisk {
    fn named(name: &str, size: u64) -> Self {
        Self { name: name.to_owned(), devno: (7, 0), diskseq: Some(1), size }
    }
}

/// How changes are followed, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackerKind {
    /// A BPF program that marks granules in shared memory.
    Bpf,
    /// The events of the kernel's block tracing.
    Blktrace,
    /// Nothing is followed; every granule counts as changed.
    Rescan,
}

impl TrackerKind {
    /// The name in settings and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::Blktrace => "blktrace",
            Self::Rescan => "rescan",
        }
    }
}

/// Which rungs of the ladder may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackerChoice {
    /// The best one that works.
    Auto,
    /// This one or none.
    Only(TrackerKind),
}

/// Follows the changes of one disk.
pub trait Tracker: Send + Debug {
    /// Which rung of the ladder this is.
    fn kind(&self) -> TrackerKind;

    /// A text that is equal in two processes only if no change can have been lost between them.
    /// `None` if marks are lost with this process.
    fn identity(&self) -> Option<&str>;

    /// Moves every mark into the result. What is drained is remembered as pending first, where that
    /// outlives this process. The disk is to be read after this, never before.
    ///
    /// # Errors
    /// Where marks are read from the kernel, what went wrong; nothing is known then.
    fn drain(&mut self) -> Result<Drained>;

    /// Forgets that `done` is pending: the receiver has what was read after the drain. Granules
    /// that were drained once more since must not be among them.
    ///
    /// # Errors
    /// None of the present trackers fails.
    fn settle(&mut self, done: &GranuleSet) -> Result<()>;

    /// What an earlier process drained and did not settle, as found when this one attached.
    fn pending(&self) -> GranuleSet;

    /// The counters at this moment, for [`compare`].
    ///
    /// # Errors
    /// If the kernel's counters cannot be read; the disk may be gone.
    fn audit(&mut self) -> Result<AuditPoint>;

    /// Stops following. Nothing of it stays in the kernel or in the BPF file system.
    ///
    /// # Errors
    /// What could not be removed.
    fn detach(self: Box<Self>) -> Result<()>;
}
