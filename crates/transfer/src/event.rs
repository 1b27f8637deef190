//! What the engine reports while it works.

use carreto_block::ByteRange;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Bytes go from the source to the target.
    Copy,
    /// The target is read back.
    Verify,
    /// The first bytes of the disk are written, which makes it bootable.
    Finish,
}

impl Phase {
    /// The stable name used in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Verify => "verify",
            Self::Finish => "finish",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A range is done.
    Advanced {
        /// What the run is doing.
        phase: Phase,
        /// The range of the disk.
        range: ByteRange,
        /// How many bytes of it the source has data for.
        data: u64,
    },
    /// A checkpoint became durable.
    Flushed,
    /// A wait began that is no sign of a fault, however long it takes.
    WaitBegan(Wait),
    /// Such a wait ended, or was given up.
    WaitEnded(Wait),
    /// Something moved that no other event tells about.
    Alive,
}

/// What a run waits for of its own will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The disk, which takes what it was given into its safe place.
    Flush,
    /// The clock, to keep to the rate that the user wants.
    Pace,
}

/// Tells the end of a wait when it is dropped.
pub(crate) struct Waiting<'o> {
    observer: &'o dyn Observer,
    wait: Wait,
}

impl<'o> Waiting<'o> {
    pub(crate) fn begin(observer: &'o dyn Observer, wait: Wait) -> Self {
        observer.event(&Event::WaitBegan(wait));
        Self { observer, wait }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.observer.event(&Event::WaitEnded(self.wait));
    }
}

/// Hears events. Called from worker threads; must return quickly.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event) {}
}

/// Running totals of a run, in bytes.
#[derive(Debug, Default)]
pub struct Counters {
    /// Read from the files of the source while copying, gaps included.
    pub read: AtomicU64,
    /// Guest bytes that the source had data for.
    pub data: AtomicU64,
    /// Guest bytes that were known or found to be zero and not written as data.
    pub zero: AtomicU64,
    /// Written to the target as data.
    pub written: AtomicU64,
    /// Zeroed on the target without data.
    pub zeroed: AtomicU64,
    /// Read back from the target.
    pub verified: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The value of one counter.
    pub fn value(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
