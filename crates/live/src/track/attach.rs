//! Going down the ladder.

use super::blktrace;
use super::bpf::{self, BpfOptions};
use super::rescan::RescanTracker;
use super::sysdisk::SysDisk;
use super::{AuditPoint, TrackedDisk, Tracker, TrackerChoice, TrackerKind};
use carreto_error::{Error, Kind, Result};
use std::path::Path;

/// A tracker at work, and how it was come to.
#[derive(Debug)]
pub struct Attached {
    /// The tracker.
    pub tracker: Box<dyn Tracker>,
    /// The better rungs that did not hold, each with its reason.
    pub refused: Vec<(TrackerKind, Error)>,
    /// Whether this goes on with what an earlier process attached.
    pub resumed: bool,
    /// For a resumed tracker, the counters of the time when it was attached: what
    /// [`super::compare`] needs to judge the time in which no process looked.
    pub since: Option<AuditPoint>,
    /// Why marks are lost when this process ends, where they could have been kept.
    pub unpinned: Option<Error>,
}

impl Attached {
    pub(super) fn new(tracker: impl Tracker + 'static) -> Self {
        Self {
            tracker: Box::new(tracker),
            refused: Vec::new(),
            resumed: false,
            since: None,
            unpinned: None,
        }
    }
}

/// Follows `disk` by the best means that `choice` allows and this kernel has.
///
/// `pins` is a folder of this migration in a BPF file system (`/sys/fs/bpf/carreto/NAME`; no dots in
/// it, the kernel refuses them), made if missing. Nothing is mounted: without such a file system the
/// tracker works, and a restart loses its marks. Only one process at a time may track a disk under
/// the same `pins`.
///
/// # Errors
/// `SourceChanged` if the disk is not the one that was looked at; with [`TrackerChoice::Only`], why
/// that one does not work.
pub fn attach(disk: &TrackedDisk, choice: TrackerChoice, pins: &Path) -> Result<Attached> {
    attach_with(disk, choice, pins, BpfOptions::default())
}

/// As [`attach`], with settings for tests.
///
/// # Errors
/// As [`attach`].
pub fn attach_with(
    disk: &TrackedDisk,
    choice: TrackerChoice,
    pins: &Path,
    options: BpfOptions,
) -> Result<Attached> {
    SysDisk::open(disk)?;
    let rungs: &[TrackerKind] = match choice {
        TrackerChoice::Auto => &[TrackerKind::Bpf, TrackerKind::Blktrace, TrackerKind::Rescan],
        TrackerChoice::Only(kind) => &[kind],
    };
    let mut refused = Vec::new();
    for kind in rungs {
        match step(*kind, disk, pins, options) {
            Ok(attached) => return Ok(Attached { refused, ..attached }),
            Err(error) => refused.push((*kind, error)),
        }
    }
    let last = refused.pop().map(|(_, error)| error);
    Err(last.unwrap_or_else(|| Error::new(Kind::Unsupported, "no tracker is allowed")))
}

fn step(
    kind: TrackerKind,
    disk: &TrackedDisk,
    pins: &Path,
    options: BpfOptions,
) -> Result<Attached> {
    match kind {
        TrackerKind::Bpf => bpf::attach(disk, pins, options),
        TrackerKind::Blktrace => blktrace::attach(disk),
        TrackerKind::Rescan => Ok(Attached::new(RescanTracker::new(disk)?)),
    }
}
