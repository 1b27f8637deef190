//! A source with disks in memory, a tracker that can lose marks, and freezing that blocks writers.

use carreto_block::{ByteRange, LocalRead};
use carreto_error::{Error, Kind, Result};
use carreto_live::agent::{Freezing, Machine, MachineDisk};
use carreto_live::granule::{GRANULE, GranuleSet, granules_in};
use carreto_live::track::{
    Attached, AuditPoint, Drained, KernelCounts, TrackedCounts, TrackedDisk, Tracker,
    TrackerChoice, TrackerKind,
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How a tracker fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    None,
    /// One mark in so many is lost and the counters agree.
    Silent(u64),
    /// The same, and the counters tell.
    Told(u64),
}

/// What happens to the marks when the agent's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pins {
    Kept,
    Lost,
}

#[derive(Debug)]
struct Inner {
    bytes: Vec<u8>,
    dirty: GranuleSet,
    pending: GranuleSet,
    writes: u64,
    kernel_sectors: u64,
    tracked_sectors: u64,
    loss: Loss,
}

/// A disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) size: u64,
    inner: Mutex<Inner>,
    gate: Arc<Gate>,
    pub(crate) read: AtomicU64,
    pub(crate) detached: AtomicBool,
    /// Whether the kernel counts.
    pub(crate) iostats: AtomicBool,
}

impl Disk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.inner().bytes.clone()
    }

    /// Writes, as soon as nothing is frozen.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let _pass = self.gate.pass();
        self.put(offset, data);
    }

    fn put(&self, offset: u64, data: &[u8]) {
        let mut inner = self.inner();
        let start = usize::try_from(offset).unwrap();
        inner.bytes[start..start + data.len()].copy_from_slice(data);
        let sectors = (data.len() as u64).div_ceil(512);
        if self.iostats.load(Ordering::Acquire) {
            inner.kernel_sectors += sectors;
        }
        inner.writes += 1;
        let lost = match inner.loss {
            Loss::None => false,
            Loss::Silent(every) | Loss::Told(every) => inner.writes.is_multiple_of(every),
        };
        if lost && matches!(inner.loss, Loss::Told(_)) {
            return;
        }
        inner.tracked_sectors += sectors;
        if !lost {
            let end = (offset + data.len() as u64).div_ceil(GRANULE);
            inner.dirty.insert_range(offset / GRANULE, end);
        }
    }

    /// Writes although everything is frozen, as what cannot be frozen does.
    pub(crate) fn sneak(&self, offset: u64, data: &[u8]) {
        self.put(offset, data);
    }

    pub(crate) fn lose(&self, loss: Loss) {
        self.inner().loss = loss;
    }
}

impl LocalRead for Disk {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.inner().bytes[start..start + buf.len()]);
        Ok(())
    }
}

/// What writers pass through.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().1 -= 1;
        self.0.changed.notify_all();
    }
}

impl Gate {
    fn pass(&self) -> Pass<'_> {
        let state = self.state.lock().unwrap();
        let mut state = self.changed.wait_while(state, |(frozen, _)| *frozen).unwrap();
        state.1 += 1;
        Pass(self)
    }

    fn freeze(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        drop(self.changed.wait_while(state, |(_, inside)| *inside > 0).unwrap());
    }

    fn thaw(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }
}

type Happening = Box<dyn FnMut() + Send>;

/// The source.
pub(crate) struct FakeMachine {
    pub(crate) disks: Vec<Arc<Disk>>,
    gate: Arc<Gate>,
    pub(crate) kind: Mutex<TrackerKind>,
    pub(crate) pins: Mutex<Pins>,
    attached: Mutex<Vec<u64>>,
    /// What the disks were when they were frozen last.
    pub(crate) frozen: Arc<Mutex<Vec<Vec<u8>>>>,
    pub(crate) freezes: Arc<AtomicU64>,
    /// The lease runs out right after the next freeze.
    pub(crate) lose_lease: Arc<AtomicBool>,
    on_freeze: Arc<Mutex<Option<Happening>>>,
    /// The run folder is on what is frozen.
    pub(crate) freezes_run_folder: AtomicBool,
    /// What a freeze only synchronises.
    pub(crate) unfrozen: Mutex<Vec<String>>,
    /// There is one disk more than is known of.
    pub(crate) has_grown: AtomicBool,
}

impl std::fmt::Debug for FakeMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeMachine").finish_non_exhaustive()
    }
}

impl FakeMachine {
    pub(crate) fn new(contents: Vec<(&str, Vec<u8>)>) -> Arc<Self> {
        let gate = Arc::new(Gate::default());
        let disk = |(name, bytes): (&str, Vec<u8>)| {
            let size = bytes.len() as u64;
            let none = || GranuleSet::empty(granules_in(size));
            let inner = Inner {
                bytes,
                dirty: none(),
                pending: none(),
                writes: 0,
                kernel_sectors: 0,
                tracked_sectors: 0,
                loss: Loss::None,
            };
            Arc::new(Disk {
                name: name.to_owned(),
                size,
                inner: Mutex::new(inner),
                gate: Arc::clone(&gate),
                read: AtomicU64::new(0),
                detached: AtomicBool::new(false),
                iostats: AtomicBool::new(true),
            })
        };
        let disks: Vec<_> = contents.into_iter().map(disk).collect();
        Arc::new(Self {
            attached: Mutex::new(vec![0; disks.len()]),
            disks,
            gate,
            kind: Mutex::new(TrackerKind::Bpf),
            pins: Mutex::new(Pins::Kept),
            frozen: Arc::default(),
            freezes: Arc::default(),
            lose_lease: Arc::default(),
            on_freeze: Arc::default(),
            freezes_run_folder: AtomicBool::new(false),
            unfrozen: Mutex::default(),
            has_grown: AtomicBool::new(false),
        })
    }

    /// Does `happening` at each freeze, once everything is frozen.
    pub(crate) fn on_freeze(&self, happening: impl FnMut() + Send + 'static) {
        *self.on_freeze.lock().unwrap() = Some(Box::new(happening));
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.gate.state.lock().unwrap().0
    }

    pub(crate) fn thaw(&self) {
        self.gate.thaw();
    }

    pub(crate) fn freeze_count(&self) -> u64 {
        self.freezes.load(Ordering::Acquire)
    }
}

impl Machine for FakeMachine {
    fn disks(&self, _wished: &[String]) -> Result<Vec<MachineDisk>> {
        let disk = |(index, disk): (usize, &Arc<Disk>)| MachineDisk {
            tracked: TrackedDisk {
                name: disk.name.clone(),
                devno: (8, u32::try_from(index).unwrap()),
                diskseq: Some(1),
                size: disk.size,
            },
            identity: format!("serial:{}:{}", disk.name, disk.size),
            reader: disk.clone(),
        };
        let mut found: Vec<_> = self.disks.iter().enumerate().map(disk).collect();
        if self.has_grown.load(Ordering::Acquire) {
            let mut new = found[0].clone();
            (new.tracked.name, new.identity) = ("vdz".to_owned(), "serial:new".to_owned());
            found.push(new);
        }
        Ok(found)
    }

    fn attach(&self, disk: &TrackedDisk, _: TrackerChoice, _: &Path) -> Result<Attached> {
        let index = self.disks.iter().position(|found| found.name == disk.name).unwrap();
        let mut attached = self.attached.lock().unwrap();
        let resumed = attached[index] > 0 && *self.pins.lock().unwrap() == Pins::Kept;
        if !resumed {
            attached[index] += 1;
            let mut inner = self.disks[index].inner();
            let none = GranuleSet::empty(granules_in(disk.size));
            (inner.dirty, inner.pending) = (none.clone(), none);
        }
        let tracker = FakeTracker {
            disk: Arc::clone(&self.disks[index]),
            kind: *self.kind.lock().unwrap(),
            identity: format!("tracker {}", attached[index]),
        };
        Ok(Attached {
            tracker: Box::new(tracker),
            refused: Vec::new(),
            resumed,
            since: None,
            unpinned: None,
        })
    }

    fn would_freeze(&self, _: &[MachineDisk], _: &Path) -> Result<bool> {
        Ok(self.freezes_run_folder.load(Ordering::Acquire))
    }

    fn prepare_freeze(&self, _: &[MachineDisk], _: Duration) -> Result<Box<dyn Freezing>> {
        Ok(Box::new(FakeFreezing {
            disks: self.disks.clone(),
            gate: Arc::clone(&self.gate),
            frozen: Arc::clone(&self.frozen),
            freezes: Arc::clone(&self.freezes),
            lose_lease: Arc::clone(&self.lose_lease),
            lost: false,
            stays: false,
            unfrozen: self.unfrozen.lock().unwrap().clone(),
            on_freeze: Arc::clone(&self.on_freeze),
        }))
    }

    fn volatile(&self, _: &[MachineDisk]) -> Vec<(String, ByteRange)> {
        Vec::new()
    }
}

#[derive(Debug)]
struct FakeTracker {
    disk: Arc<Disk>,
    kind: TrackerKind,
    identity: String,
}

impl Tracker for FakeTracker {
    fn kind(&self) -> TrackerKind {
        self.kind
    }

    fn identity(&self) -> Option<&str> {
        (self.kind == TrackerKind::Bpf).then_some(self.identity.as_str())
    }

    fn drain(&mut self) -> Result<Drained> {
        let mut inner = self.disk.inner();
        let mut dirty = inner.dirty.take();
        let incomplete = GranuleSet::empty(dirty.capacity());
        if self.kind == TrackerKind::Rescan {
            dirty = GranuleSet::full(dirty.capacity());
        } else {
            inner.pending.union_with(&dirty);
        }
        Ok(Drained { dirty, incomplete })
    }

    fn settle(&mut self, done: &GranuleSet) -> Result<()> {
        self.disk.inner().pending.subtract(done);
        Ok(())
    }

    fn pending(&self) -> GranuleSet {
        self.disk.inner().pending.clone()
    }

    fn audit(&mut self) -> Result<AuditPoint> {
        let inner = self.disk.inner();
        let kernel =
            KernelCounts { write_sectors: inner.kernel_sectors, ..KernelCounts::default() };
        let counts =
            TrackedCounts { write_sectors: inner.tracked_sectors, ..TrackedCounts::default() };
        Ok(AuditPoint {
            kind: self.kind,
            kernel,
            kernel_after: kernel,
            issued: counts,
            completed: counts,
            in_flight_sectors: [0; 2],
            in_flight: 0,
            unknown: 0,
            dropped: 0,
            missed_runs: 0,
            attached: true,
            iostats: self.disk.iostats.load(Ordering::Acquire),
            diskseq: Some(1),
            size: self.disk.size,
        })
    }

    fn detach(self: Box<Self>) -> Result<()> {
        self.disk.detached.store(true, Ordering::Release);
        Ok(())
    }
}

struct FakeFreezing {
    disks: Vec<Arc<Disk>>,
    gate: Arc<Gate>,
    frozen: Arc<Mutex<Vec<Vec<u8>>>>,
    freezes: Arc<AtomicU64>,
    lose_lease: Arc<AtomicBool>,
    lost: bool,
    stays: bool,
    unfrozen: Vec<String>,
    on_freeze: Arc<Mutex<Option<Happening>>>,
}

impl std::fmt::Debug for FakeFreezing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeFreezing").finish_non_exhaustive()
    }
}

impl FakeFreezing {
    fn check(&mut self) -> Result<()> {
        if self.lose_lease.swap(false, Ordering::AcqRel) {
            self.gate.thaw();
            self.lost = true;
        }
        if self.lost {
            return Err(Error::new(Kind::Timeout, "the freeze was lost"));
        }
        Ok(())
    }
}

impl Freezing for FakeFreezing {
    fn freeze(&mut self) -> Result<()> {
        self.gate.freeze();
        *self.frozen.lock().unwrap() = self.disks.iter().map(|disk| disk.content()).collect();
        if let Some(happening) = self.on_freeze.lock().unwrap().as_mut() {
            happening();
        }
        self.freezes.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn renew(&mut self) -> Result<()> {
        self.check()
    }

    fn thaw(&mut self) -> Result<Duration> {
        self.check()?;
        self.gate.thaw();
        Ok(Duration::ZERO)
    }

    fn stay(&mut self) -> Result<()> {
        self.check()?;
        self.stays = true;
        Ok(())
    }

    fn unfrozen(&self) -> Vec<String> {
        self.unfrozen.clone()
    }
}

impl Drop for FakeFreezing {
    fn drop(&mut self) {
        if !self.stays {
            self.gate.thaw();
        }
    }
}
