//! Trackers on real disks: every block that changed was marked, whatever changed it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod track_support;

use carreto_live::granule::GranuleSet;
use carreto_live::track::{
    AuditPoint, AuditVerdict, BpfOptions, Tracker, TrackerChoice, TrackerKind, attach_with,
    compare, end_blktrace, list_pins, remove_pins,
};
use std::path::{Path, PathBuf};
use std::time::Duration;
use track_support::{Disk, Mounted, allowed, folder, load, say};

const SIZE: u64 = 512 << 20;

/// A BPF file system of the test's own; pins go below it.
fn pins(place: &Path) -> (Mounted, PathBuf) {
    let mounted = Mounted::new(&["-t", "bpf", "bpf"], &place.join("pins"));
    let pins = mounted.0.join("carreto/test");
    (mounted, pins)
}

fn start(disk: &Disk, kind: TrackerKind, pins: &Path, options: BpfOptions) -> Box<dyn Tracker> {
    let choice = TrackerChoice::Only(kind);
    let attached = attach_with(&disk.tracked(), choice, pins, options).unwrap();
    assert!(!attached.resumed);
    assert!(attached.refused.is_empty() && attached.tracker.kind() == kind);
    attached.tracker
}

/// Waits for `children` and drains now and then, as an agent does.
fn follow(tracker: &mut dyn Tracker, children: Vec<std::process::Child>) -> GranuleSet {
    let mut dirty = tracker.drain().unwrap().dirty;
    for mut child in children {
        while child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(200));
            dirty.union_with(&tracker.drain().unwrap().dirty);
        }
        assert!(child.wait().unwrap().success());
    }
    dirty
}

/// What a workload did to a disk, and what the tracker saw of it.
struct Outcome {
    differing: GranuleSet,
    dirty: GranuleSet,
    points: (AuditPoint, AuditPoint),
}

impl Outcome {
    fn missed(&self) -> u64 {
        let mut missed = self.differing.clone();
        missed.subtract(&self.dirty);
        missed.len()
    }

    fn verdict(&self) -> AuditVerdict {
        compare(&self.points.0, &self.points.1)
    }

    fn say(&self, what: &str) {
        let (differing, dirty, all) =
            (self.differing.len(), self.dirty.len(), self.dirty.capacity());
        let (missed, verdict) = (self.missed(), self.verdict());
        let runs = self.points.1.missed_runs;
        say(&format!(
            "{what}: of {all} blocks {differing} differ, {dirty} were marked, {missed} missed; \
             {verdict:?}, {runs} runs left out"
        ));
    }
}

/// Changes a disk of random bytes with a file system of `kind` in every way.
fn work(disk: &Disk, kind: &str, place: &Path, tracker: &mut dyn Tracker) -> Outcome {
    load::make(kind, &disk.device);
    let mounted = Mounted::new(&[&disk.device], &place.join("mounted"));
    load::prepare(&mounted.0);
    tracker.drain().unwrap();
    let before = tracker.audit().unwrap();
    let copy = disk.snapshot();
    let children = vec![load::fio(&mounted.0, "libaio", 4), load::fio(&mounted.0, "mmap", 4)];
    std::thread::sleep(Duration::from_millis(500));
    load::holes(&mounted.0);
    let mut dirty = follow(tracker, children);
    load::holes_again(&mounted.0);
    drop(mounted);
    let after = tracker.audit().unwrap();
    dirty.union_with(&tracker.drain().unwrap().dirty);
    let outcome = Outcome { differing: disk.differing(&copy), dirty, points: (before, after) };
    std::fs::remove_file(copy).unwrap();
    outcome
}

/// Runs [`work`] and expects that nothing was missed.
fn nothing_is_missed(kind: TrackerKind, options: BpfOptions, files: &str) {
    let place = folder();
    let (_mounted, pins) = pins(place.path());
    let disk = Disk::random(place.path(), SIZE);
    let mut tracker = start(&disk, kind, &pins, options);
    let outcome = work(&disk, files, place.path(), tracker.as_mut());
    outcome.say(&format!("{} {files} {options:?}", kind.name()));
    assert!(outcome.differing.len() > 1_000, "the load changed little");
    assert_eq!(outcome.missed(), 0);
    assert_eq!(outcome.verdict().suspect, None);
    tracker.detach().unwrap();
    assert!(list_pins(&pins).unwrap().is_empty() && remove_pins(&pins).unwrap().is_empty());
}

#[test]
fn bpf_misses_nothing() {
    let Some(_alone) = allowed("bpf_misses_nothing") else {
        return;
    };
    for files in ["ext4", "xfs", "btrfs"] {
        nothing_is_missed(TrackerKind::Bpf, BpfOptions::default(), files);
    }
    let untyped = BpfOptions { untyped: true, ..BpfOptions::default() };
    nothing_is_missed(TrackerKind::Bpf, untyped, "ext4");
}

#[test]
fn bpf_misses_nothing_beside_a_foreign_tracer() {
    let Some(_alone) = allowed("bpf_misses_nothing_beside_a_foreign_tracer") else {
        return;
    };
    let Some(_foreign) = load::Foreign::start() else {
        say("SKIPPED bpf_misses_nothing_beside_a_foreign_tracer: there is no bpftrace");
        return;
    };
    nothing_is_missed(TrackerKind::Bpf, BpfOptions::default(), "ext4");
}

#[test]
fn blktrace_misses_nothing() {
    let Some(_alone) = allowed("blktrace_misses_nothing") else {
        return;
    };
    let place = folder();
    let _debugfs = Mounted::new(&["-t", "debugfs", "debugfs"], &place.path().join("debug"));
    let disk = Disk::sparse(place.path(), SIZE);
    let pins = place.path().join("none");
    let choice = TrackerChoice::Only(TrackerKind::Blktrace);
    let attached = match attach_with(&disk.tracked(), choice, &pins, BpfOptions::default()) {
        Err(error) if error.detail() == "the kernel is locked down" => {
            assert!(!end_blktrace(&disk.tracked()).unwrap(), "what was refused left a trace");
            say("SKIPPED blktrace_misses_nothing: the kernel is locked down");
            return;
        }
        attached => attached.unwrap(),
    };
    // One trace is in the way of the next.
    assert_eq!(attached.tracker.identity(), None);
    let error = attach_with(&disk.tracked(), choice, &pins, BpfOptions::default()).unwrap_err();
    assert_eq!(error.kind(), carreto_error::Kind::Locked);
    attached.tracker.detach().unwrap();
    assert!(!end_blktrace(&disk.tracked()).unwrap());
    drop(disk);
    for files in ["ext4", "xfs"] {
        nothing_is_missed(TrackerKind::Blktrace, BpfOptions::default(), files);
    }
}

#[test]
fn without_debugfs_block_tracing_says_so() {
    let Some(_alone) = allowed("without_debugfs_block_tracing_says_so") else {
        return;
    };
    if std::fs::read_to_string("/proc/mounts").unwrap().contains(" debugfs ") {
        say("SKIPPED without_debugfs_block_tracing_says_so: it is mounted");
        return;
    }
    let place = folder();
    let disk = Disk::sparse(place.path(), SIZE);
    let choice = TrackerChoice::Only(TrackerKind::Blktrace);
    let error = attach_with(&disk.tracked(), choice, place.path(), BpfOptions::default());
    assert_eq!(error.unwrap_err().detail(), "debugfs is not mounted");
}

#[test]
fn a_loss_of_one_percent_is_suspect() {
    let Some(_alone) = allowed("a_loss_of_one_percent_is_suspect") else {
        return;
    };
    let place = folder();
    let (_mounted, pins) = pins(place.path());
    let disk = Disk::random(place.path(), SIZE);
    let options = BpfOptions { drop_one_in: 100, ..BpfOptions::default() };
    let mut tracker = start(&disk, TrackerKind::Bpf, &pins, options);
    let outcome = work(&disk, "ext4", place.path(), tracker.as_mut());
    outcome.say("bpf ext4, 1 % left out");
    assert!(outcome.verdict().suspect.unwrap().contains("were not seen"));
    assert_eq!(remove_pins(&pins).unwrap().len(), 5);
}

/// Short epochs of a constant load are told from honest ones too, if there is something to lose in
/// them: a machine that is busy otherwise may write little in half a second.
#[test]
fn short_epochs_under_load_are_judged_rightly() {
    let Some(_alone) = allowed("short_epochs_under_load_are_judged_rightly") else {
        return;
    };
    for (drop_one_in, flagged) in [(0, false), (100, true)] {
        let place = folder();
        let (_mounted, pins) = pins(place.path());
        let disk = Disk::sparse(place.path(), SIZE);
        let options = BpfOptions { drop_one_in, ..BpfOptions::default() };
        let mut tracker = start(&disk, TrackerKind::Bpf, &pins, options);
        let mut child = load::raw(&disk.device, 10);
        let mut points = vec![tracker.audit().unwrap()];
        while child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(500));
            tracker.drain().unwrap();
            points.push(tracker.audit().unwrap());
        }
        let verdicts: Vec<_> = points.windows(2).map(|two| compare(&two[0], &two[1])).collect();
        let suspects = verdicts.iter().filter(|verdict| verdict.suspect.is_some()).count();
        let short = verdicts.iter().filter(|verdict| verdict.missing_completed > 0).count();
        let all = compare(&points[0], &points[points.len() - 1]);
        say(&format!(
            "drop {drop_one_in}: {} epochs, {suspects} suspect, {short} short of completions; \
             in all {all:?}",
            verdicts.len()
        ));
        assert_eq!(all.suspect.is_some(), flagged);
        assert_eq!(suspects > 0, flagged);
        tracker.detach().unwrap();
    }
}

#[test]
fn long_discards_and_zeroing_mark_their_whole_range() {
    let Some(_alone) = allowed("long_discards_and_zeroing_mark_their_whole_range") else {
        return;
    };
    let place = folder();
    let (_mounted, pins) = pins(place.path());
    let disk = Disk::sparse(place.path(), 16 << 30);
    for (untyped, merges_discards) in [(false, false), (false, true), (true, true)] {
        let options = BpfOptions { untyped, merges_discards, ..BpfOptions::default() };
        let tracker = start(&disk, TrackerKind::Bpf, &pins, options);
        discards_are_marked(&disk, tracker);
    }
}

fn discards_are_marked(disk: &Disk, mut tracker: Box<dyn Tracker>) {
    let granules = |set: GranuleSet| (set.run_from(0, u64::MAX), set.len());
    track_support::run("blkdiscard", &["-o", "1048576", "-l", "9663676416", &disk.device]);
    let dirty = granules(tracker.drain().unwrap().dirty);
    let (start, end) = dirty.0.unwrap();
    assert!(start <= 16 && end >= 16 + 9 * 16_384 && dirty.1 == end - start, "{dirty:?}");
    track_support::run("blkdiscard", &["-z", "-o", "65536", "-l", "131072", &disk.device]);
    assert_eq!(granules(tracker.drain().unwrap().dirty), (Some((1, 3)), 2));
    assert_eq!(tracker.audit().unwrap().unknown, 0);
    tracker.detach().unwrap();
}

#[test]
fn a_killed_process_loses_nothing() {
    let Some(_alone) = allowed("a_killed_process_loses_nothing") else {
        return;
    };
    let place = folder();
    let (_mounted, pins) = pins(place.path());
    let disk = Disk::random(place.path(), 64 << 20);
    let before = programs();
    let identity = child::attach_drain_and_die(&disk, &pins);
    // One granule was drained by the dead, one was marked and not drained; this one comes later.
    track_support::write_granule(&disk.device, 5);
    let choice = TrackerChoice::Auto;
    let attached = attach_with(&disk.tracked(), choice, &pins, BpfOptions::default()).unwrap();
    assert!(attached.resumed);
    let mut tracker = attached.tracker;
    assert_eq!(tracker.identity(), Some(identity.as_str()));
    // The time in which no process looked is judged too.
    let verdict = compare(&attached.since.unwrap(), &tracker.audit().unwrap());
    assert_eq!((verdict.suspect, verdict.kernel, verdict.issued), (None, 384, 384));
    let left = tracker.pending();
    assert_eq!(left.iter().collect::<Vec<_>>(), [3]);
    let drained = tracker.drain().unwrap();
    assert_eq!(drained.dirty.iter().collect::<Vec<_>>(), [4, 5]);
    let mut done = left;
    done.union_with(&drained.dirty);
    tracker.settle(&done).unwrap();
    drop(tracker);
    let again = attach_with(&disk.tracked(), choice, &pins, BpfOptions::default()).unwrap();
    assert!(again.resumed && again.tracker.pending().is_empty());
    assert_eq!(list_pins(&pins).unwrap().len(), 5);
    assert_eq!(programs() - before, 3);
    again.tracker.detach().unwrap();
    assert!(!pins.exists());
    // The kernel frees programs a moment after the last link is gone.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(programs(), before);
}

/// A disk that is not what it was, under the same name, finds nothing to go on with.
#[test]
fn pins_of_another_disk_are_replaced() {
    let Some(_alone) = allowed("pins_of_another_disk_are_replaced") else {
        return;
    };
    let place = folder();
    let (_mounted, pins) = pins(place.path());
    let disk = Disk::sparse(place.path(), 1 << 20);
    let first = start(&disk, TrackerKind::Bpf, &pins, BpfOptions::default());
    let identity = first.identity().unwrap().to_owned();
    drop(first);
    disk.grow(2 << 20);
    let second = start(&disk, TrackerKind::Bpf, &pins, BpfOptions::default());
    assert_ne!(second.identity(), Some(identity.as_str()));
    second.detach().unwrap();
}

#[test]
fn without_a_bpf_file_system_marks_are_lost_with_the_process() {
    let Some(_alone) = allowed("without_a_bpf_file_system_marks_are_lost_with_the_process") else {
        return;
    };
    let place = folder();
    let disk = Disk::sparse(place.path(), 1 << 20);
    let pins = place.path().join("none/test");
    let attached =
        attach_with(&disk.tracked(), TrackerChoice::Auto, &pins, BpfOptions::default()).unwrap();
    assert_eq!(attached.tracker.kind(), TrackerKind::Bpf);
    assert_eq!(attached.tracker.identity(), None);
    assert!(attached.unpinned.is_some() && !pins.exists());
    let mut moved = disk.tracked();
    moved.diskseq = Some(1);
    let error = attach_with(&moved, TrackerChoice::Auto, &pins, BpfOptions::default());
    assert_eq!(error.unwrap_err().kind(), carreto_error::Kind::SourceChanged);
    attached.tracker.detach().unwrap();
}

/// How many programs of trackers are in the kernel.
fn programs() -> usize {
    let (mut count, mut id) = (0, 0);
    while let Some(next) = carreto_kernel::bpf::next_program(id).unwrap() {
        id = next;
        let Ok(program) = carreto_kernel::bpf::open_program(id) else {
            continue;
        };
        let info = carreto_kernel::bpf::program_info(std::os::fd::AsFd::as_fd(&program)).unwrap();
        count += usize::from(info.name.starts_with("carreto_"));
    }
    count
}

/// This test binary, run once more as an agent that gets killed.
mod child {
    use super::*;
    use std::process::{Command, Stdio};

    const DISK: &str = "CARRETO_TEST_CHILD_DISK";
    const PINS: &str = "CARRETO_TEST_CHILD_PINS";

    /// Lets a process attach, drain granule 3, see granule 4 marked, and die. Returns the identity
    /// that it had.
    pub(crate) fn attach_drain_and_die(disk: &Disk, pins: &Path) -> String {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::agent", "--nocapture"])
            .env(DISK, format!("{} {}", disk.device, disk.file.display()))
            .env(PINS, pins)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let identity =
            lines.find_map(|line| Some(line.unwrap().split_once("identity ")?.1.to_owned()));
        child.kill().unwrap();
        child.wait().unwrap();
        identity.unwrap()
    }

    #[test]
    fn agent() {
        let (Ok(disk), Some(pins)) = (std::env::var(DISK), std::env::var_os(PINS)) else {
            return;
        };
        let (device, file) = disk.split_once(' ').unwrap();
        let disk = std::mem::ManuallyDrop::new(Disk { device: device.into(), file: file.into() });
        let pins = PathBuf::from(pins);
        let mut tracker = start(&disk, TrackerKind::Bpf, &pins, BpfOptions::default());
        track_support::write_granule(device, 3);
        assert_eq!(tracker.drain().unwrap().dirty.iter().collect::<Vec<_>>(), [3]);
        track_support::write_granule(device, 4);
        let line = format!("identity {}\n", tracker.identity().unwrap());
        std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_mins(1));
    }
}

/// What a terabyte costs, in time and memory.
#[test]
fn a_tebibyte_is_drained_fast() {
    let Some(_alone) = allowed("a_tebibyte_is_drained_fast") else {
        return;
    };
    let place = folder();
    let (_mounted, pins) = pins(place.path());
    let disk = Disk::sparse(place.path(), 1 << 40);
    let before = track_support::resident();
    let mut tracker = start(&disk, TrackerKind::Bpf, &pins, BpfOptions::default());
    let timed = |tracker: &mut dyn Tracker| {
        let begin = std::time::Instant::now();
        (tracker.drain().unwrap().dirty, begin.elapsed())
    };
    let (none, first) = timed(tracker.as_mut());
    let (_, empty) = timed(tracker.as_mut());
    let mut child = load::raw(&disk.device, 2);
    child.wait().unwrap();
    let (some, full) = timed(tracker.as_mut());
    let resident = track_support::resident().saturating_sub(before) >> 20;
    say(&format!(
        "1 TiB: first drain {first:?}, empty {empty:?}, with {} granules {full:?}; \
         {resident} MiB more are resident",
        some.len()
    ));
    assert!(none.is_empty() && !some.is_empty());
    assert!(empty < Duration::from_secs(1));
    tracker.detach().unwrap();
}

/// Random writes with and without a tracker, by turns; what is measured is printed.
#[test]
fn the_overhead_is_small() {
    let Some(_alone) = allowed("the_overhead_is_small") else {
        return;
    };
    let place = folder();
    let (_mounted, pins) = pins(place.path());
    let disk = Disk::sparse(place.path(), SIZE);
    load::iops(&disk.device, 2);
    let mut ratios = Vec::new();
    for round in 0..6 {
        // Every other pair begins with the tracker, so that a drift counts for neither.
        let mut pair = [0.0; 2];
        for step in 0..2 {
            let tracked = usize::from((step + round) % 2 == 0);
            pair[tracked] = if tracked == 1 {
                let mut tracker = start(&disk, TrackerKind::Bpf, &pins, BpfOptions::default());
                let iops = load::iops(&disk.device, 3);
                tracker.drain().unwrap();
                tracker.detach().unwrap();
                iops
            } else {
                load::iops(&disk.device, 3)
            };
        }
        let ratio = pair[1] / pair[0];
        say(&format!("IOPS without {:.0}, with {:.0}, ratio {ratio:.3}", pair[0], pair[1]));
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let median = f64::midpoint(ratios[2], ratios[3]);
    say(&format!("median ratio {median:.3}"));
    assert!(median > 0.5, "a shared machine is noisy, but not that much");
}
