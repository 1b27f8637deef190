//! The tracker that works everywhere: it follows nothing, and says that everything changed.

use super::audit::{AuditPoint, Flight, TrackedCounts};
use super::marks::Drained;
use super::sysdisk::SysDisk;
use super::{TrackedDisk, Tracker, TrackerKind};
use crate::granule::{GranuleSet, granules_in};
use carreto_error::Result;

/// Every drain returns the whole disk; hashes tell what really changed.
#[derive(Debug)]
pub(super) struct RescanTracker {
    disk: TrackedDisk,
    sys: SysDisk,
}

impl RescanTracker {
    pub(super) fn new(disk: &TrackedDisk) -> Result<Self> {
        Ok(Self { disk: disk.clone(), sys: SysDisk::open(disk)? })
    }
}

impl Tracker for RescanTracker {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Rescan
    }

    fn identity(&self) -> Option<&str> {
        None
    }

    fn drain(&mut self) -> Result<Drained> {
        let mut drained = Drained::nothing(granules_in(self.disk.size));
        drained.dirty.insert_range(0, granules_in(self.disk.size));
        Ok(drained)
    }

    fn settle(&mut self, _done: &GranuleSet) -> Result<()> {
        Ok(())
    }

    fn pending(&self) -> GranuleSet {
        GranuleSet::empty(granules_in(self.disk.size))
    }

    fn audit(&mut self) -> Result<AuditPoint> {
        let none = TrackedCounts::default();
        AuditPoint::take(TrackerKind::Rescan, &self.sys, &mut Flight::new(0), || Ok((none, none)))
    }

    fn detach(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
