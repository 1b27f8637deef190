//! One disk on its way.

use super::machine::{MachineDisk, ReadDisk};
use super::under_way::UnderWay;
use crate::granule::{GranuleSet, granules_in};
use crate::ledger::{Known, Ledger};
use crate::track::{AuditPoint, KernelCounts, Tracker, TrackerKind, compare};
use crate::wire::{Knowledge, LedgerPage, SourceDisk};
use carreto_error::{Error, Kind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What the threads that read share about a disk.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) number: u16,
    pub(super) size: u64,
    pub(super) reader: Arc<dyn ReadDisk>,
    /// What the receiver has, as it confirmed.
    ledger: Mutex<Ledger>,
}

impl Shared {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plain BLAKE3 of what the receiver has; `None` while something is missing.
    ///
    /// Takes time for the pages whose value was not asked for since they changed.
    pub(super) fn compute_root(&self) -> Option<[u8; 32]> {
        self.ledger().root()
    }

    /// Pages of the ledger that may differ from the receiver's, whose values are `theirs`.
    pub(super) fn differing_pages(
        &self,
        known: Knowledge,
        theirs: &[Option<[u8; 32]>],
    ) -> Vec<u64> {
        if known == Knowledge::Nothing {
            return Vec::new();
        }
        let mut ledger = self.ledger();
        let differs = |(page, theirs): &(u64, &Option<[u8; 32]>)| {
            theirs.is_none() || ledger.page_value(*page) != **theirs
        };
        (0..).zip(theirs).filter(differs).map(|(page, _)| page).collect()
    }
}

/// A pass over the whole disk, some of it with each epoch, so that what changes is sent meanwhile.
#[derive(Debug)]
struct Sweep {
    /// Not begun yet.
    rest: GranuleSet,
    /// Begun, and not with the receiver yet.
    open: GranuleSet,
    /// Written since the sweep began.
    touched: GranuleSet,
    /// The counters when the sweep began.
    base: AuditPoint,
    begun: Instant,
}

/// One disk of the migration.
#[derive(Debug)]
pub(super) struct DiskSync {
    pub(super) machine: MachineDisk,
    pub(super) shared: Arc<Shared>,
    pub(super) target: String,
    pub(super) tracker: Box<dyn Tracker>,
    pub(super) refused: Vec<String>,
    /// An earlier process of this migration followed the disk without a gap.
    resumed: bool,
    /// To be read and compared.
    pub(super) dirty: GranuleSet,
    /// Writes that were under way when they were drained: read once more in the next epoch.
    carry: GranuleSet,
    under_way: UnderWay,
    /// Written since the last pass over the whole disk began.
    pub(super) touched: GranuleSet,
    /// When that was.
    touched_since: Instant,
    sweep: Option<Sweep>,
    /// Granules that were written during the last sweep.
    pub(super) left_by_sweep: Option<u64>,
    /// Why tracking since then is not trusted.
    pub(super) distrust: Option<String>,
    /// Passes over the whole disk that an audit asked for and that were in vain.
    pub(super) vain_rescans: u32,
    /// The counters at the last drain.
    audit: AuditPoint,
    /// The counters when the last pass over the whole disk began: what is too little to be seen in
    /// one epoch is seen in all of them.
    base: AuditPoint,
    pub(super) root: Option<String>,
    /// What the kernel had counted when the last proof began, where the tracker does not count.
    stood: Option<AuditPoint>,
}

/// What an epoch begins with.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// Granules that the tracker marked.
    pub(super) marked: u64,
    /// The audit failed, for this reason.
    pub(super) suspect: Option<String>,
}

impl DiskSync {
    /// A disk whose tracker is attached. `established` is the identity of the tracker with which an
    /// earlier process of this migration worked.
    pub(super) fn new(
        number: u16,
        machine: MachineDisk,
        attached: crate::track::Attached,
        established: Option<&str>,
    ) -> Result<Self> {
        let size = machine.tracked.size;
        let granules = granules_in(size);
        let ledger = Mutex::new(Ledger::unknown(size)?);
        let reader = Arc::clone(&machine.reader);
        let shared = Arc::new(Shared { number, size, reader, ledger });
        let mut tracker = attached.tracker;
        let resumed =
            attached.resumed && established.is_some() && established == tracker.identity();
        let dirty = if resumed { tracker.pending() } else { GranuleSet::full(granules) };
        // Of a tracker that went on alone, the time without an agent is audited too.
        let audit = match attached.since.filter(|_| resumed) {
            Some(since) => since,
            None => tracker.audit()?,
        };
        let mut refused: Vec<String> = attached
            .refused
            .iter()
            .map(|(kind, error)| format!("{}: {}", kind.name(), carreto_error::chain_text(error)))
            .collect();
        refused.extend(attached.unpinned.iter().map(|error| {
            format!(
                "a restart of the agent reads the disk again: {}",
                carreto_error::chain_text(error)
            )
        }));
        Ok(Self {
            machine,
            shared,
            target: String::new(),
            tracker,
            refused,
            resumed,
            dirty,
            carry: GranuleSet::empty(granules),
            under_way: UnderWay::new(granules),
            // What an earlier process read is not known to this one.
            touched: GranuleSet::full(granules),
            touched_since: Instant::now(),
            sweep: None,
            left_by_sweep: None,
            distrust: None,
            vain_rescans: 0,
            base: audit.clone(),
            audit,
            root: None,
            stood: None,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.machine.tracked.name
    }

    pub(super) fn size(&self) -> u64 {
        self.shared.size
    }

    pub(super) fn granules(&self) -> u64 {
        granules_in(self.size())
    }

    /// What the receiver is told about it.
    pub(super) fn described(&self) -> SourceDisk {
        SourceDisk {
            name: self.name().to_owned(),
            identity: self.machine.identity.clone(),
            size: self.size(),
        }
    }

    /// Takes everything that changed since the last call.
    ///
    /// The disk is read after this, never before.
    pub(super) fn drain(&mut self) -> Result<Drain> {
        let drained = self.tracker.drain()?;
        let marked = drained.dirty.len();
        self.under_way.add(&drained);
        self.touched.union_with(&drained.dirty);
        self.touched.union_with(&drained.incomplete);
        if let Some(sweep) = &mut self.sweep {
            sweep.touched.union_with(&drained.dirty);
            sweep.touched.union_with(&drained.incomplete);
        }
        self.dirty.union_with(&drained.dirty);
        self.dirty.union_with(&self.carry);
        self.carry = drained.incomplete;
        self.dirty.union_with(&self.carry);
        Ok(Drain { marked, suspect: self.judge()? })
    }

    /// Requests that the disk works on.
    pub(super) fn in_flight(&mut self) -> Result<u64> {
        Ok(self.tracker.audit()?.in_flight)
    }

    /// `done` is with the receiver.
    pub(super) fn settle(&mut self, done: &GranuleSet) -> Result<()> {
        self.dirty.subtract(done);
        if let Some(sweep) = &mut self.sweep {
            sweep.open.subtract(done);
        }
        if let Some(sweep) =
            self.sweep.take_if(|sweep| sweep.rest.is_empty() && sweep.open.is_empty())
        {
            self.left_by_sweep = Some(sweep.touched.len());
            self.touched = sweep.touched;
            self.touched_since = sweep.begun;
            self.base = sweep.base;
            self.distrust = None;
        }
        self.tracker.settle(done)
    }

    /// From now on the whole disk is read and compared; what is tracked from now on counts.
    pub(super) fn begin_whole_pass(&mut self) {
        self.touched = self.under_way.all();
        self.touched_since = Instant::now();
        self.sweep = None;
        self.left_by_sweep = None;
        self.base = self.audit.clone();
        self.distrust = None;
        self.dirty = GranuleSet::full(self.granules());
    }

    /// As [`Self::begin_whole_pass`], of which [`Self::sweep_on`] makes granules due. Once all of
    /// them were read, it counts, and tracking is trusted again.
    pub(super) fn begin_sweep(&mut self) {
        self.sweep = Some(Sweep {
            rest: GranuleSet::full(self.granules()),
            open: GranuleSet::empty(self.granules()),
            touched: self.under_way.all(),
            base: self.audit.clone(),
            begun: Instant::now(),
        });
    }

    pub(super) fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Makes `most` further granules of a sweep due.
    pub(super) fn sweep_on(&mut self, most: u64) {
        let Some(sweep) = &mut self.sweep else { return };
        let mut due = GranuleSet::empty(sweep.rest.capacity());
        let mut next = 0;
        while due.len() < most
            && let Some((start, end)) = sweep.rest.run_from(next, most - due.len())
        {
            due.insert_range(start, end);
            next = end;
        }
        sweep.rest.subtract(&due);
        sweep.open.union_with(&due);
        self.dirty.union_with(&due);
    }

    /// Whether every granule counts as written since the last whole pass, as where there was none.
    pub(super) fn is_touched_everywhere(&self) -> bool {
        self.touched.len() == self.granules()
    }

    /// Whether a pass that begins now would end with as much.
    pub(super) fn is_under_way_everywhere(&self) -> bool {
        self.is_touched_everywhere() && self.under_way.all().len() == self.granules()
    }

    /// Seconds since the pass began that [`Self::touched`] is about.
    pub(super) fn touched_for(&self) -> f64 {
        self.touched_since.elapsed().as_secs_f64()
    }

    /// Tracking is not trusted until the whole disk was read again.
    pub(super) fn doubt(&mut self, reason: String) {
        self.distrust = Some(reason);
        self.sweep = None;
    }

    /// What was lost so far is known: from now on only what is lost later is told.
    pub(super) fn forgive(&mut self) {
        self.base = self.audit.clone();
    }

    /// Whether every granule was read and compared since something was lost, and what changed
    /// meanwhile is known.
    pub(super) fn is_proved_by_tracking(&self) -> bool {
        !self.is_blind() && self.distrust.is_none() && self.touched.len() < self.granules()
    }

    /// Whether nothing is followed: every drain says that the whole disk changed.
    pub(super) fn is_blind(&self) -> bool {
        self.tracker.kind() == TrackerKind::Rescan
    }

    /// Whether the disk is still what it was, for one that is blind; nothing is drained.
    pub(super) fn look(&mut self) -> Result<Drain> {
        Ok(Drain { marked: 0, suspect: self.judge()? })
    }

    /// The proof begins: whether the disk stands still since the last drain or look is asked by
    /// [`Self::stood_still`].
    pub(super) fn begin_proof(&mut self) {
        self.stood = (!self.is_proved_by_tracking()).then(|| self.audit.clone());
    }

    /// Makes sure that it can be told whether the disk stands still.
    pub(super) fn expect_counters(&mut self) -> Result<()> {
        if self.is_blind() && !self.tracker.audit()?.iostats {
            return Err(self.uncounted());
        }
        Ok(())
    }

    fn uncounted(&self) -> Error {
        let text = "whether the disk stands still cannot be told: nothing follows its changes, and \
                    the kernel does not count its requests";
        let folder = self.name().replace('/', "!");
        Error::new(Kind::SourceChanged, text)
            .path(self.name())
            .remedied_by(format!("echo 1 > /sys/block/{folder}/queue/iostats, then cut over again"))
    }

    /// Whether nothing was written since it was read for the proof, but to `volatile`. What the
    /// tracker saw of it is dirty. Where the tracker does not count, the kernel's counters tell;
    /// writes to swap cannot be told from others there.
    ///
    /// # Errors
    /// `SourceChanged` where nothing counts; what the tracker meets.
    pub(super) fn stood_still(&mut self, volatile: &GranuleSet) -> Result<bool> {
        let drain = if self.is_blind() { self.look()? } else { self.drain()? };
        let mut rest = self.dirty.clone();
        rest.subtract(volatile);
        let Some(before) = &self.stood else {
            let is_trusted = drain.suspect.is_none();
            if let Some(reason) = drain.suspect {
                self.doubt(reason);
            }
            return Ok(is_trusted && rest.is_empty());
        };
        if self.is_blind() && !(before.iostats && self.audit.iostats) {
            return Err(self.uncounted());
        }
        let sectors = |counts: KernelCounts| (counts.write_sectors, counts.discard_sectors);
        let is_same = sectors(before.kernel) == sectors(self.audit.kernel);
        Ok((self.is_blind() || rest.is_empty()) && (is_same || !volatile.is_empty()))
    }

    fn judge(&mut self) -> Result<Option<String>> {
        let now = self.tracker.audit()?;
        if (now.size, now.diskseq) != (self.base.size, self.base.diskseq) {
            let (was, is) = (self.base.size, now.size);
            let text = format!("the disk was replaced or resized: it had {was} bytes and has {is}");
            let remedy = format!("give the target the new size, and {}", crate::remedy::BEGIN_ANEW);
            return Err(Error::new(Kind::SourceChanged, text)
                .path(self.name())
                .remedied_by(remedy));
        }
        let lately = compare(&self.audit, &now).suspect;
        let verdict = lately.or_else(|| compare(&self.base, &now).suspect);
        self.under_way.observe(now.in_flight);
        self.audit = now;
        Ok(verdict)
    }

    /// Takes over what the receiver has. What this agent believed otherwise is to be sent again.
    pub(super) fn take_over(&mut self, page: &LedgerPage, first_time: bool) -> Result<()> {
        let mut ledger = self.shared.ledger();
        let first = page.page.saturating_mul(crate::ledger::PAGE);
        for (granule, theirs) in (first..).zip(&page.granules) {
            if granule >= granules_in(ledger.size()) {
                let text = "the receiver's ledger is longer than the disk";
                return Err(Error::new(Kind::Unavailable, text));
            }
            if !first_time && ledger.get(granule) != *theirs {
                self.dirty.insert(granule);
            }
            match theirs {
                Some(known) => ledger.set(granule, *known),
                None => ledger.forget(granule),
            }
        }
        Ok(())
    }

    /// Everything that the receiver lacks has to be read.
    pub(super) fn want_unknown(&mut self) {
        let unknown = self.shared.ledger().unknown_set();
        self.dirty.union_with(&unknown);
    }

    /// Whether this process goes on where an earlier one stopped.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Forgets everything about what the receiver has.
    pub(super) fn receiver_knows_nothing(&mut self) {
        let mut ledger = self.shared.ledger();
        (0..granules_in(ledger.size())).for_each(|granule| ledger.forget(granule));
        drop(ledger);
        self.dirty = GranuleSet::full(self.granules());
    }
}

/// Whether a granule is what the receiver has.
pub(super) fn is_same(ledger: &Ledger, granule: u64, known: Known) -> bool {
    ledger.get(granule) == Some(known)
}

#[cfg(test)]
mod tests;
