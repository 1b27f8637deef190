//! A sweep reads everything, and forgets nothing that was written or lost since it began.

use super::*;
use crate::agent::machine::Machine as _;
use crate::agent::testing::Fake;
use crate::granule::GRANULE;
use crate::track::{Attached, Drained, TrackedCounts};

/// Granules of the disk.
const ALL: u64 = 100;

/// What a tracker will drain next.
#[derive(Debug, Clone, Default)]
struct Marks(Arc<Mutex<(Vec<u64>, u64)>>);

impl Marks {
    fn write(&self, granule: u64) {
        self.0.lock().expect("sound").0.push(granule);
    }

    /// A write of which only the kernel's counters tell.
    fn lose_one(&self) {
        self.0.lock().expect("sound").1 += 8;
    }
}

impl Tracker for Marks {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Bpf
    }

    fn identity(&self) -> Option<&str> {
        None
    }

    fn drain(&mut self) -> Result<Drained> {
        let mut dirty = GranuleSet::empty(ALL);
        for granule in std::mem::take(&mut self.0.lock().expect("sound").0) {
            dirty.insert(granule);
        }
        Ok(Drained { dirty, incomplete: GranuleSet::empty(ALL) })
    }

    fn settle(&mut self, _: &GranuleSet) -> Result<()> {
        Ok(())
    }

    fn pending(&self) -> GranuleSet {
        GranuleSet::empty(ALL)
    }

    fn audit(&mut self) -> Result<AuditPoint> {
        let write_sectors = self.0.lock().expect("sound").1;
        let kernel = KernelCounts { write_sectors, ..KernelCounts::default() };
        Ok(AuditPoint {
            kind: TrackerKind::Bpf,
            kernel,
            kernel_after: kernel,
            issued: TrackedCounts::default(),
            completed: TrackedCounts::default(),
            in_flight_sectors: [0; 2],
            in_flight: 0,
            unknown: 0,
            dropped: 0,
            missed_runs: 0,
            attached: true,
            iostats: true,
            diskseq: None,
            size: ALL * GRANULE,
        })
    }

    fn detach(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// A disk whose content the receiver has, of which everything counts as touched.
fn followed() -> (DiskSync, Marks) {
    let marks = Marks::default();
    let size = usize::try_from(ALL * GRANULE).expect("small");
    let machine = Fake(vec![("vda".to_owned(), vec![0; size])]).disks(&[]).expect("one").remove(0);
    let attached = Attached {
        tracker: Box::new(marks.clone()),
        refused: Vec::new(),
        resumed: false,
        since: None,
        unpinned: None,
    };
    let mut disk = DiskSync::new(0, machine, attached, None).expect("a disk");
    disk.settle(&GranuleSet::full(ALL)).expect("settled");
    (disk, marks)
}

/// An epoch in which everything that is due is read; gives it.
fn epoch(disk: &mut DiskSync, share: u64) -> GranuleSet {
    disk.drain().expect("drained");
    disk.sweep_on(share);
    let due = disk.dirty.clone();
    disk.settle(&due).expect("settled");
    due
}

#[test]
fn a_sweep_reads_everything_and_knows_what_was_written_since_it_began() {
    let (mut disk, marks) = followed();
    marks.write(3);
    disk.drain().expect("drained");
    disk.begin_sweep();
    let mut read = GranuleSet::empty(ALL);
    for (round, granule) in [5, 90, 17].into_iter().enumerate() {
        marks.write(granule);
        assert!(disk.is_sweeping() && disk.touched.len() == ALL, "{round}");
        let due = epoch(&mut disk, 40);
        assert!(due.contains(granule), "what changes is sent meanwhile");
        read.union_with(&due);
    }
    assert_eq!(read.len(), ALL);
    assert!(!disk.is_sweeping() && disk.is_proved_by_tracking());
    assert_eq!(disk.touched.iter().collect::<Vec<_>>(), [5, 17, 90]);
}

#[test]
fn a_sweep_ends_once_all_of_it_is_with_the_receiver() {
    let (mut disk, _marks) = followed();
    disk.begin_sweep();
    disk.drain().expect("drained");
    disk.sweep_on(u64::MAX);
    let mut most = GranuleSet::full(ALL);
    most.remove(42);
    disk.settle(&most).expect("settled");
    assert!(disk.is_sweeping() && disk.touched.len() == ALL);
    assert_eq!(epoch(&mut disk, 40).iter().collect::<Vec<_>>(), [42]);
    assert!(!disk.is_sweeping() && disk.touched.is_empty());
}

#[test]
fn what_is_lost_in_a_sweep_is_not_forgotten_by_its_end() {
    let (mut disk, marks) = followed();
    disk.doubt("it lost something".to_owned());
    disk.begin_sweep();
    epoch(&mut disk, 40);
    marks.lose_one();
    let drain = disk.drain().expect("drained");
    disk.doubt(drain.suspect.expect("the counters tell"));
    assert!(!disk.is_sweeping());
    epoch(&mut disk, u64::MAX);
    assert!(disk.distrust.is_some() && !disk.is_proved_by_tracking());
    // What was lost is known, and told once.
    disk.forgive();
    assert_eq!(disk.drain().expect("drained").suspect, None);
    disk.begin_sweep();
    epoch(&mut disk, u64::MAX);
    assert!(disk.distrust.is_none() && disk.is_proved_by_tracking());
}
