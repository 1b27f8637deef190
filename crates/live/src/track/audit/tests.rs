//! Points made up, one rule at a time.

use super::*;
use proptest::prelude::*;

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

fn counts(writes: u64, write_sectors: u64) -> TrackedCounts {
    TrackedCounts { writes, write_sectors, ..TrackedCounts::default() }
}

/// Numbers read while nothing completed; the kernel accounted `kernel` sectors of writes.
fn seen(in_flight: u64, kernel: u64, issued: TrackedCounts, completed: TrackedCounts) -> Seen {
    Seen { in_flight, most: in_flight, still: true, kernel: [kernel, 0], issued, completed }
}

#[test]
fn what_is_in_flight_is_put_right_when_the_disk_is_idle() {
    let mut flight = Flight::new(0);
    let mut at = |in_flight, kernel, issued, completed| {
        flight.observe(seen(in_flight, kernel, issued, completed))
    };
    assert_eq!(at(4, 48, counts(10, 80), counts(6, 48)), [32, 0]);
    // Two completions were missed, one after the other idle moment.
    assert_eq!(at(0, 160, counts(20, 160), counts(18, 144)), [0, 0]);
    assert_eq!(at(1, 160, counts(21, 168), counts(18, 144)), [8, 0]);
    // Four requests of the time before were not seen at issue.
    let mut flight = Flight::new(4);
    let mut at = |in_flight, still, issued, completed: TrackedCounts| {
        let kernel = completed.write_sectors;
        flight.observe(Seen { still, ..seen(in_flight, kernel, issued, completed) })
    };
    assert_eq!(at(4, true, counts(0, 0), counts(0, 0)), [2048, 2048]);
    assert_eq!(at(4, true, counts(10, 80), counts(10, 80)), [64, 2048]);
    assert_eq!(at(0, false, counts(10, 80), counts(14, 112)), [0, 0]);
    assert_eq!(at(4, true, counts(14, 112), counts(14, 112)), [64, 2048]);
    assert_eq!(at(0, true, counts(14, 112), counts(18, 144)), [0, 0]);
    assert_eq!(at(4, true, counts(18, 144), counts(18, 144)), [32, 0]);
}

#[test]
fn missed_completions_do_not_hide_a_later_loss() {
    let mut flight = Flight::new(0);
    assert_eq!(flight.observe(seen(0, 700, counts(0, 0), counts(0, 0))), [0, 0]);
    // Two requests are always in flight; of a thousand that ended, a hundred were missed.
    let first = seen(2, 700 + 8_000, counts(1_002, 8_016), counts(900, 7_200));
    let allowed = flight.observe(first)[0];
    assert!((16..=32).contains(&allowed), "{allowed}");
    let mut before = point(first.kernel[0], 8_016, 7_200);
    (before.issued.writes, before.in_flight) = (1_002, 2);
    before.in_flight_sectors[0] = allowed;
    // Of the next hundred, ten were missed at both sides.
    let mut after = point(first.kernel[0] + 800, 8_016 + 720, 7_200 + 720);
    (after.issued.writes, after.in_flight) = (1_092, 2);
    assert!(reason(&before, &after).is_some());
    // Completions alone are no reason for doubt.
    after.issued = counts(1_102, 8_016 + 800);
    assert_eq!(reason(&before, &after), None);
}

#[test]
fn long_requests_in_flight_are_no_reason_for_doubt() {
    let mut flight = Flight::new(0);
    flight.observe(seen(0, 0, counts(0, 0), counts(0, 0)));
    // Ten of a MiB each after thousands of a few sectors, and a completion was missed.
    let (small, large) = (80_000, 20_480);
    let first = seen(10, small, counts(10_010, small + large), counts(9_999, small - 8));
    assert_eq!(flight.observe(first), [large, 0]);
}

#[test]
fn what_was_in_flight_at_the_attachment_is_not_allowed_for_ever() {
    let mut flight = Flight::new(64);
    flight.observe(seen(64, 0, counts(0, 0), counts(0, 0)));
    let later = seen(1, 100_512, counts(12_501, 100_008), counts(12_564, 100_512));
    let allowed = flight.observe(later)[0];
    assert!((8..=16).contains(&allowed), "{allowed}");
}

proptest! {
    /// Where all issues are seen, the estimate is enough, whatever completions are missed; and it is
    /// not more than as many requests can have.
    #[test]
    fn the_estimate_lies_between_the_truth_and_the_bound(
        steps in prop::collection::vec((1u64..3_000, 0usize..8, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let mut flight = Flight::new(0);
        let (mut issued, mut completed, mut kernel) = (counts(0, 0), counts(0, 0), 500);
        flight.observe(seen(0, kernel, issued, completed));
        let mut queue = std::collections::VecDeque::new();
        for (sectors, ended, is_missed, is_point) in steps {
            issued.add(false, sectors);
            queue.push_back(sectors);
            for done in queue.drain(..ended.min(queue.len())) {
                kernel += done;
                if !is_missed {
                    completed.add(false, done);
                }
            }
            if !is_point {
                continue;
            }
            let (truth, in_flight) = (queue.iter().sum::<u64>(), queue.len() as u64);
            let [found, _] = flight.observe(seen(in_flight, kernel, issued, completed));
            let mean = issued.write_sectors / issued.writes;
            prop_assert!(found >= truth, "{found} for {truth}");
            prop_assert!(found <= truth.max(in_flight * 2 * mean), "{found} for {truth}");
        }
    }
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
