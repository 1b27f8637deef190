//! Following changes by a BPF program, marks in memory that is shared with it.

mod hooks;
mod state;

use super::attach::Attached;
use super::audit::{AuditPoint, Flight};
use super::marks::{Drained, Memory};
use super::pins::{Pin, Pins};
use super::program::Event;
use super::sysdisk::SysDisk;
use super::{TrackedDisk, Tracker, TrackerKind};
use crate::granule::GranuleSet;
use carreto_error::Result;
use hooks::Hooks;
use state::State;
use std::path::Path;

/// How the program is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BpfOptions {
    /// Leaves the events of one of so many requests out, so that the audit can be tested. 0 leaves
    /// out none; anything else loses changes.
    pub drop_one_in: u32,
    /// Reads requests by a function of the kernel instead of typed pointers, as on kernels that
    /// refuse those.
    pub untyped: bool,
    /// Looks at how many ranges a discard has, as on disks that merge them.
    pub merges_discards: bool,
}

/// A program on the trace points, and the maps it writes to.
#[derive(Debug)]
pub(super) struct BpfTracker {
    sys: SysDisk,
    flight: Flight,
    state: State,
    hooks: Hooks,
    pins: Option<Pins>,
    identity: Option<String>,
    /// What an earlier process left pending.
    left: GranuleSet,
}

/// Goes on with the pinned tracker of `disk`, or makes a new one.
pub(super) fn attach(disk: &TrackedDisk, folder: &Path, options: BpfOptions) -> Result<Attached> {
    let sys = SysDisk::open(disk)?;
    sys.makes_plain_requests()?;
    let pins = Pins::at(folder, disk);
    if let Ok(found) = &pins {
        if let Some((state, hooks)) = resume(disk, found)? {
            return resumed(BpfTracker::new(sys, state, hooks), pins);
        }
        found.clear()?;
    }
    let mut tracker = match fresh(disk, sys, options) {
        Ok(tracker) => tracker,
        Err(error) => {
            // The folder was made for nothing; that it stays is the smaller of the two errors.
            drop(pins.map(|pins| pins.remove()));
            return Err(error);
        }
    };
    let pinned = pins.and_then(|pins| tracker.pin(pins));
    Ok(Attached { unpinned: pinned.err(), ..Attached::new(tracker) })
}

fn fresh(disk: &TrackedDisk, sys: SysDisk, options: BpfOptions) -> Result<BpfTracker> {
    let state = State::create(disk)?;
    let before = sys.in_flight();
    let merges_discards = options.merges_discards || sys.merges_discards();
    let options = BpfOptions { merges_discards, ..options };
    let hooks = Hooks::attach(disk, &state, options)?;
    let mut tracker = BpfTracker::new(sys, state, hooks);
    tracker.flight = Flight::new(before);
    let point = tracker.audit()?;
    tracker.state.remember(&point);
    Ok(tracker)
}

/// Makes `tracker` the heir of the process that pinned it.
fn resumed(mut tracker: BpfTracker, pins: Result<Pins>) -> Result<Attached> {
    tracker.pins = pins.ok();
    tracker.identity = Some(tracker.state.identity());
    let now = tracker.audit()?;
    let since = tracker.state.remembered(&now);
    Ok(Attached { resumed: true, since: Some(since), ..Attached::new(tracker) })
}

/// What an earlier process left, if all of it is there and belongs to this disk.
fn resume(disk: &TrackedDisk, pins: &Pins) -> Result<Option<(State, Hooks)>> {
    let (Some(marks), Some(pending)) = (pins.open(Pin::Marks)?, pins.open(Pin::Pending)?) else {
        return Ok(None);
    };
    let Some(state) = State::reopen(disk, marks, pending)? else {
        return Ok(None);
    };
    let mut links = Vec::new();
    for event in Event::ALL {
        let Some(link) = pins.open(Pin::Link(event))? else {
            return Ok(None);
        };
        links.push((event, link));
    }
    Ok(Hooks::reopen(links).ok().map(|hooks| (state, hooks)))
}

impl BpfTracker {
    fn new(sys: SysDisk, state: State, hooks: Hooks) -> Self {
        let flight = Flight::new(sys.in_flight());
        let left = state.memory().pending();
        Self { sys, flight, state, hooks, pins: None, identity: None, left }
    }

    fn memory(&self) -> Memory<'_> {
        self.state.memory()
    }

    /// Pins everything, and only then says in the map that it is complete.
    fn pin(&mut self, pins: Pins) -> Result<()> {
        for (pin, object) in self.state.objects().into_iter().chain(self.hooks.links()) {
            if let Err(error) = pins.set(pin, object) {
                pins.remove()?;
                return Err(error);
            }
        }
        self.state.set_ready();
        self.identity = Some(self.state.identity());
        self.pins = Some(pins);
        Ok(())
    }
}

impl Tracker for BpfTracker {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Bpf
    }

    fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    fn drain(&mut self) -> Result<Drained> {
        Ok(self.memory().drain())
    }

    fn settle(&mut self, done: &GranuleSet) -> Result<()> {
        self.memory().settle(done);
        Ok(())
    }

    fn pending(&self) -> GranuleSet {
        self.left.clone()
    }

    fn audit(&mut self) -> Result<AuditPoint> {
        let (missed_runs, attached) = self.hooks.health();
        let (state, flight) = (&self.state, &mut self.flight);
        let point = AuditPoint::take(TrackerKind::Bpf, &self.sys, flight, || Ok(state.sums()))?;
        Ok(AuditPoint { unknown: self.state.unknown(), missed_runs, attached, ..point })
    }

    fn detach(self: Box<Self>) -> Result<()> {
        self.pins.as_ref().map_or(Ok(()), Pins::remove)
    }
}
