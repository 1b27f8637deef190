//! A sweep reads everything, and forgets nothing that was written or lost since it began.

use super::*;
use crate::agent::machine::Machine as _;
use crate::agent::testing::{Fake, set_of};
use crate::granule::GRANULE;
use crate::track::{Attached, Drained, TrackedCounts};

/// Granules of the disk.
const ALL: u64 = 100;

/// What a tracker will drain next.
#[derive(Debug, Clone, Default)]
struct Marks(Arc<Mutex<Next>>);

#[derive(Debug, Default)]
struct Next {
    dirty: Vec<u64>,
    incomplete: Vec<u64>,
    in_flight: u64,
    /// As the kernel counts.
    write_sectors: u64,
}

impl Marks {
    fn write(&self, granule: u64) {
        self.0.lock().expect("sound").dirty.push(granule);
    }

    /// A write of which only the kernel's counters tell.
    fn lose_one(&self) {
        self.0.lock().expect("sound").write_sectors += 8;
    }

    /// A write that is issued and goes on.
    fn issue(&self, granule: u64) {
        let mut next = self.0.lock().expect("sound");
        next.dirty.push(granule);
        next.incomplete.push(granule);
        next.in_flight += 1;
    }

    /// Writes end, and their completions are missed.
    fn end(&self) {
        self.0.lock().expect("sound").in_flight = 0;
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
        let mut next = self.0.lock().expect("sound");
        let dirty = set_of(ALL, &std::mem::take(&mut next.dirty));
        let incomplete = set_of(ALL, &std::mem::take(&mut next.incomplete));
        Ok(Drained { dirty, incomplete })
    }

    fn settle(&mut self, _: &GranuleSet) -> Result<()> {
        Ok(())
    }

    fn pending(&self) -> GranuleSet {
        GranuleSet::empty(ALL)
    }

    fn audit(&mut self) -> Result<AuditPoint> {
        let (write_sectors, in_flight) = {
            let next = self.0.lock().expect("sound");
            (next.write_sectors, next.in_flight)
        };
        let kernel = KernelCounts { write_sectors, ..KernelCounts::default() };
        Ok(AuditPoint {
            kind: TrackerKind::Bpf,
            kernel,
            kernel_after: kernel,
            issued: TrackedCounts::default(),
            completed: TrackedCounts::default(),
            in_flight_sectors: [0; 2],
            in_flight,
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
    // What was written just before may be under way still.
    assert_eq!(disk.touched.iter().collect::<Vec<_>>(), [3, 5, 17, 90]);
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

#[test]
fn a_write_that_takes_long_counts_as_made_after_a_pass_that_begins_meanwhile() {
    for is_whole in [false, true] {
        let (mut disk, marks) = followed();
        marks.issue(3);
        epoch(&mut disk, 0);
        epoch(&mut disk, 0);
        if is_whole {
            disk.begin_whole_pass();
        } else {
            disk.begin_sweep();
        }
        epoch(&mut disk, ALL);
        assert!(!disk.is_sweeping());
        // It lands now, and nobody tells.
        marks.end();
        assert!(disk.touched.contains(3), "{is_whole}");
    }
}
