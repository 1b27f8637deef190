//! Points made up, one rule at a time.

use super::*;

type Change = fn(&mut AuditPoint);

fn point(kernel: u64, issued: u64, completed: u64) -> AuditPoint {
    let counts = KernelCounts { write_sectors: kernel, ..KernelCounts::default() };
    let tracked = |sectors| TrackedCounts { write_sectors: sectors, ..TrackedCounts::default() };
    AuditPoint {
        kind: TrackerKind::Bpf,
        kernel: counts,
        kernel_after: counts,
        issued: tracked(issued),
        completed: tracked(completed),
        in_flight: 0,
        in_flight_sectors: [0; 2],
        unknown: 0,
        dropped: 0,
        missed_runs: 0,
        attached: true,
        iostats: true,
        diskseq: Some(7),
        size: 1 << 30,
    }
}

fn reason(before: &AuditPoint, after: &AuditPoint) -> Option<String> {
    compare(before, after).suspect
}

#[test]
fn equal_sums_are_trusted() {
    assert_eq!(reason(&point(900, 0, 0), &point(1900, 1000, 1000)), None);
}

#[test]
fn a_loss_at_one_side_alone_is_harmless() {
    assert_eq!(reason(&point(0, 0, 0), &point(1000, 1000, 1)), None);
    assert_eq!(reason(&point(0, 0, 0), &point(1000, 1, 1000)), None);
}

#[test]
fn a_loss_at_both_sides_is_suspect() {
    let verdict = compare(&point(0, 0, 0), &point(1000, 992, 990));
    assert_eq!((verdict.missing_issued, verdict.missing_completed), (8, 10));
    let text = verdict.suspect.unwrap();
    assert_eq!(text, "of 1000 sectors, 8 were not seen at issue, 10 at completion");
}

#[test]
fn what_was_in_flight_at_the_first_point_was_issued_before_it() {
    let mut before = point(0, 100, 0);
    before.in_flight_sectors[0] = 100;
    let after = point(1000, 1000, 900);
    assert_eq!(reason(&before, &after), None);
    before.in_flight_sectors[0] = 0;
    assert!(reason(&before, &after).is_some());
}

#[test]
fn a_loss_does_not_hide_behind_what_is_in_flight() {
    let (mut before, mut after) = (point(0, 512, 0), point(80_000, 80_512, 80_000));
    for (point, writes) in [(&mut before, 64), (&mut after, 10_064)] {
        point.in_flight = 64;
        point.in_flight_sectors[0] = 512;
        point.issued.writes = writes;
    }
    assert_eq!(reason(&before, &after), None);
    // A burst of completions that were missed, with all issues seen.
    after.completed.write_sectors -= 500;
    assert_eq!(reason(&before, &after), None);
    // The same requests were missed at issue.
    after.issued.write_sectors -= 500;
    assert!(reason(&before, &after).unwrap().contains("not seen at issue, 500 at completion"));
}

#[test]
fn what_is_in_flight_is_put_right_when_the_disk_is_idle() {
    let counts =
        |writes, write_sectors| TrackedCounts { writes, write_sectors, ..Default::default() };
    let mut flight = Flight::new(0);
    assert_eq!(flight.observe(4, true, counts(10, 80), counts(6, 48)), [32, 0]);
    // Two completions were missed, one after the other idle moment.
    assert_eq!(flight.observe(0, true, counts(20, 160), counts(18, 144)), [0, 0]);
    assert_eq!(flight.observe(1, true, counts(21, 168), counts(18, 144)), [8, 0]);
    // Four requests of the time before were not seen at issue.
    let mut flight = Flight::new(4);
    assert_eq!(flight.observe(4, true, counts(0, 0), counts(0, 0)), [2048, 2048]);
    assert_eq!(flight.observe(4, true, counts(10, 80), counts(10, 80)), [64, 2048]);
    assert_eq!(flight.observe(0, false, counts(10, 80), counts(14, 112)), [0, 0]);
    assert_eq!(flight.observe(4, true, counts(14, 112), counts(14, 112)), [64, 2048]);
    assert_eq!(flight.observe(0, true, counts(14, 112), counts(18, 144)), [0, 0]);
    assert_eq!(flight.observe(4, true, counts(18, 144), counts(18, 144)), [32, 0]);
}

#[test]
fn what_happened_while_a_point_was_taken_is_not_held_against_it() {
    let mut before = point(0, 0, 0);
    before.kernel_after.write_sectors = 16;
    assert_eq!(reason(&before, &point(1000, 984, 984)), None);
    assert!(reason(&before, &point(1000, 976, 976)).is_some());
}

#[test]
fn a_loss_of_discards_does_not_hide_behind_writes() {
    let (before, mut after) = (point(0, 0, 0), point(1000, 2000, 2000));
    after.kernel.discard_sectors = 64;
    assert!(reason(&before, &after).unwrap().contains("64 were not seen at issue, 64"));
    after.issued.discard_sectors = 64;
    assert_eq!(reason(&before, &after), None);
}

#[test]
fn whatever_breaks_the_count_is_suspect() {
    let before = point(0, 0, 0);
    let changes: [(Change, &str); 6] = [
        (|point| point.unknown = 1, "1 commands changed the disk at unknown places"),
        (|point| point.dropped = 5, "the kernel dropped 5 events"),
        (|point| point.attached = false, "the tracker was detached"),
        (|point| point.iostats = false, "queue/iostats"),
        (|point| point.diskseq = Some(8), "the disk was replaced"),
        (|point| point.size = 5, "resized from 1073741824 to 5 bytes"),
    ];
    for (change, text) in changes {
        let mut after = point(0, 0, 0);
        change(&mut after);
        assert!(reason(&before, &after).unwrap().contains(text), "{text}");
    }
}

#[test]
fn a_rescan_is_never_suspect_unless_the_disk_changed() {
    let rescan = |kernel| AuditPoint { kind: TrackerKind::Rescan, ..point(kernel, 0, 0) };
    assert_eq!(reason(&rescan(0), &rescan(1000)), None);
    let larger = AuditPoint { size: 2 << 30, ..rescan(0) };
    assert!(reason(&rescan(0), &larger).is_some());
    assert!(reason(&rescan(0), &point(0, 0, 0)).is_some());
}
