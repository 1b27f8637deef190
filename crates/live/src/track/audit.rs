//! Whether an epoch's marks can be trusted: the kernel's own counters against the tracker's.
//!
//! Marks are made at issue and at completion, so a change is lost only if both were missed. Each
//! side is therefore held against the sectors of `/sys/block/X/stat` by itself, and an epoch is
//! suspect only if *both* fall short:
//!
//! * The completion is traced right before the kernel accounts it. If nothing was missed, what the
//!   kernel counted between two points (from after the first to before the second) is never more
//!   than what the tracker counted; no tolerance is needed.
//! * An issue comes earlier than the accounting: requests in flight at the first point were issued
//!   before it and are accounted after it. That much may be missing, as [`Flight`] estimates it
//!   from the tracker's own counts, and nothing may if nothing was in flight. Requests that were
//!   taken back count once.
//!
//! Sectors are compared and not requests, because the kernel accounts empty flushes as requests.

use super::TrackerKind;
use super::sysdisk::{KernelCounts, SysDisk};
use carreto_error::Result;
use serde::Serialize;

/// What a tracker counted at one of its sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TrackedCounts {
    /// Writes, zeroing included.
    pub writes: u64,
    /// Sectors of 512 bytes of those.
    pub write_sectors: u64,
    /// Discards.
    pub discards: u64,
    /// Sectors of those.
    pub discard_sectors: u64,
}

impl TrackedCounts {
    /// Counts one request.
    pub(super) fn add(&mut self, discard: bool, sectors: u64) {
        let (requests, sum) = if discard {
            (&mut self.discards, &mut self.discard_sectors)
        } else {
            (&mut self.writes, &mut self.write_sectors)
        };
        *requests = requests.wrapping_add(1);
        *sum = sum.wrapping_add(sectors);
    }

    /// What remains without `back`.
    pub(super) fn without(self, back: Self) -> Self {
        Self {
            writes: self.writes.saturating_sub(back.writes),
            write_sectors: self.write_sectors.saturating_sub(back.write_sectors),
            discards: self.discards.saturating_sub(back.discards),
            discard_sectors: self.discard_sectors.saturating_sub(back.discard_sectors),
        }
    }

    fn sectors(self) -> [u64; 2] {
        [self.write_sectors, self.discard_sectors]
    }
}

/// All counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditPoint {
    /// Who counted.
    pub kind: TrackerKind,
    /// The kernel's counters, read before those of the tracker.
    pub kernel: KernelCounts,
    /// The kernel's counters again, read after those of the tracker.
    pub kernel_after: KernelCounts,
    /// Counted at issue, without requests that were taken back.
    pub issued: TrackedCounts,
    /// Counted at completion.
    pub completed: TrackedCounts,
    /// Requests in flight that are not reads.
    pub in_flight: u64,
    /// About how many sectors those write, and discard.
    pub in_flight_sectors: [u64; 2],
    /// Requests that changed the disk at places that are not known.
    pub unknown: u64,
    /// Events that a buffer had no room for.
    pub dropped: u64,
    /// Runs of the program that the kernel left out; harmless unless sectors are missing.
    pub missed_runs: u64,
    /// Whether the tracker still sees events.
    pub attached: bool,
    /// Whether the kernel counts at all (`queue/iostats`).
    pub iostats: bool,
    /// The number of the disk's attachment.
    pub diskseq: Option<u64>,
    /// The size of the disk in bytes.
    pub size: u64,
}

impl AuditPoint {
    /// A point of an attached tracker; `counts` reads its counters at issue and at completion.
    pub(super) fn take(
        kind: TrackerKind,
        sys: &SysDisk,
        flight: &mut Flight,
        counts: impl FnOnce() -> Result<(TrackedCounts, TrackedCounts)>,
    ) -> Result<Self> {
        let earlier = sys.in_flight();
        let kernel = sys.counts()?;
        let (issued, completed) = counts()?;
        let kernel_after = sys.counts()?;
        let in_flight = sys.in_flight();
        let still = kernel == kernel_after && sys.counts()? == kernel;
        let most = earlier.max(in_flight);
        let seen = Seen { in_flight, most, still, kernel: kernel.sectors(), issued, completed };
        let in_flight_sectors = flight.observe(seen);
        Ok(Self {
            kind,
            kernel,
            kernel_after,
            issued,
            completed,
            in_flight,
            in_flight_sectors,
            unknown: 0,
            dropped: 0,
            missed_runs: 0,
            attached: true,
            iostats: sys.iostats(),
            diskseq: sys.diskseq(),
            size: sys.size(),
        })
    }
}

/// Sectors of a request where none was seen yet: 128 KiB.
const LONG: u64 = 256;

/// What there is to estimate from.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Requests in flight that are not reads.
    in_flight: u64,
    /// The most of them while the numbers were read.
    most: u64,
    /// Nothing completed meanwhile.
    still: bool,
    /// Sectors that the kernel had accounted before the tracker's counters were read.
    kernel: [u64; 2],
    issued: TrackedCounts,
    completed: TrackedCounts,
}

impl Seen {
    /// Issued less `ended`, of one class of requests.
    fn open(&self, class: usize, ended: u64) -> i64 {
        self.issued.sectors()[class].wrapping_sub(ended).cast_signed()
    }
}

/// How many sectors are in flight: what was issued and not completed, but not more than can be.
///
/// What was in flight while the tracker attached completes without an issue, and completions that
/// are missed look in flight for ever. Both are put right whenever the disk is found idle. One under
/// constant load never is, and what adds up there must not hide a loss later: so the estimate ends at
/// what the kernel has not accounted (which counts from the least that was ever in flight, and is
/// too little by issues that were missed), or at twice the usual length of as many requests as are in
/// flight, whichever is more.
#[derive(Debug)]
pub(super) struct Flight {
    /// Issued less completed when the disk was last idle.
    idle: [i64; 2],
    /// Issued less what the kernel accounted, when that was least; as much is never in flight.
    least: [i64; 2],
    /// Requests in flight at the attachment, until the disk is idle.
    unseen: u64,
}

impl Flight {
    /// For a tracker that attached while so many requests were `in_flight`.
    pub(super) fn new(in_flight: u64) -> Self {
        Self { idle: [0; 2], least: [i64::MAX; 2], unseen: in_flight }
    }

    /// The estimate.
    fn observe(&mut self, seen: Seen) -> [u64; 2] {
        let completed = seen.completed.sectors();
        let open = [0, 1].map(|class| seen.open(class, completed[class]));
        let unaccounted = [0, 1].map(|class| seen.open(class, seen.kernel[class]));
        if seen.in_flight == 0 && seen.still {
            *self = Self { idle: open, least: unaccounted, unseen: 0 };
            return [0; 2];
        }
        // Those that were not seen are taken to be twice as long as the others.
        let long = [(seen.issued.writes, 0), (seen.issued.discards, 1)].map(|(requests, class)| {
            let mean = seen.issued.sectors()[class].checked_div(requests).unwrap_or(LONG);
            mean.max(1).saturating_mul(2)
        });
        [0, 1].map(|class| {
            self.least[class] = self.least[class].min(unaccounted[class]);
            let certain = distance(self.least[class], unaccounted[class]);
            let most = certain.max(seen.most.saturating_mul(long[class]));
            let unseen = self.unseen.saturating_mul(long[class]);
            distance(self.idle[class], open[class]).saturating_add(unseen).min(most)
        })
    }
}

/// How far `to` is above `from`.
fn distance(from: i64, to: i64) -> u64 {
    to.saturating_sub(from).max(0).cast_unsigned()
}

/// The comparison of two points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditVerdict {
    /// Why changes may have been lost between the points; `None` if none were.
    pub suspect: Option<String>,
    /// Sectors that the kernel counted, writes and discards.
    pub kernel: u64,
    /// Sectors that the tracker counted at issue.
    pub issued: u64,
    /// Sectors that the tracker counted at completion.
    pub completed: u64,
    /// Sectors missing at issue beyond what was in flight.
    pub missing_issued: u64,
    /// Sectors missing at completion.
    pub missing_completed: u64,
}

/// What happened between two points of one tracker.
///
/// Under constant load a short epoch can hide a loss of some of the sectors that are in flight;
/// comparing with an older first point, or with a last point under a freeze, shows it.
pub fn compare(before: &AuditPoint, after: &AuditPoint) -> AuditVerdict {
    let (mut verdict, lost) = sectors(before, after);
    verdict.suspect = broken(before, after).or_else(|| lost.then(|| short(&verdict)));
    if before.kind == TrackerKind::Rescan && after.kind == TrackerKind::Rescan {
        // Nothing was tracked, so nothing was lost.
        verdict.suspect = moved(before, after);
    }
    verdict
}

/// Reasons that need no sums.
fn broken(before: &AuditPoint, after: &AuditPoint) -> Option<String> {
    if before.kind != after.kind {
        return Some("the tracker was replaced".to_owned());
    }
    if let Some(reason) = moved(before, after) {
        return Some(reason);
    }
    if !before.attached || !after.attached {
        return Some("the tracker was detached".to_owned());
    }
    if !before.iostats || !after.iostats {
        return Some("the kernel does not count requests: queue/iostats is 0".to_owned());
    }
    let more = |what: fn(&AuditPoint) -> u64| what(after).wrapping_sub(what(before));
    match (more(|point| point.unknown), more(|point| point.dropped)) {
        (0, 0) => None,
        (0, dropped) => Some(format!("the kernel dropped {dropped} events")),
        (unknown, _) => Some(format!("{unknown} commands changed the disk at unknown places")),
    }
}

fn moved(before: &AuditPoint, after: &AuditPoint) -> Option<String> {
    if before.diskseq != after.diskseq {
        return Some("the disk was replaced".to_owned());
    }
    (before.size != after.size)
        .then(|| format!("the disk was resized from {} to {} bytes", before.size, after.size))
}

fn short(verdict: &AuditVerdict) -> String {
    let AuditVerdict { kernel, missing_issued, missing_completed, .. } = verdict;
    format!(
        "of {kernel} sectors, {missing_issued} were not seen at issue, \
         {missing_completed} at completion"
    )
}

/// Sectors of writes that are likely to be missing at issue, although what was in flight at both
/// points could hide them: by the kernel's number of those and the mean length of a request. Only if
/// it is about as much as is missing at completion, and more than the lengths may differ by.
fn likely_missing(
    before: &AuditPoint,
    after: &AuditPoint,
    certain: u64,
    missing_completed: u64,
) -> u64 {
    let requests = after.issued.writes.saturating_sub(before.issued.writes);
    let issued = after.issued.write_sectors.saturating_sub(before.issued.write_sectors);
    let Some(mean) = issued.checked_div(requests) else {
        return 0;
    };
    let expected = certain.saturating_add(after.in_flight.saturating_mul(mean));
    let seen = issued.saturating_add(before.in_flight.saturating_mul(mean));
    let missing = expected.saturating_sub(seen);
    let noise = before.in_flight.saturating_add(after.in_flight).saturating_mul(mean) / 4;
    if missing > noise && missing >= missing_completed.div_ceil(2) { missing } else { 0 }
}

/// The sums, and whether one class of requests is short at both sides.
fn sectors(before: &AuditPoint, after: &AuditPoint) -> (AuditVerdict, bool) {
    let mut lost = false;
    let mut verdict = AuditVerdict {
        suspect: None,
        kernel: 0,
        issued: 0,
        completed: 0,
        missing_issued: 0,
        missing_completed: 0,
    };
    for class in 0..2 {
        // A counter that went back is of another disk or tracker, which `broken` says.
        let more = |what: &dyn Fn(&AuditPoint) -> u64| what(after).saturating_sub(what(before));
        let kernel = more(&|point| point.kernel.sectors()[class]);
        let issued = more(&|point| point.issued.sectors()[class]);
        let completed = more(&|point| point.completed.sectors()[class]);
        let certain =
            after.kernel.sectors()[class].saturating_sub(before.kernel_after.sectors()[class]);
        let in_flight = before.in_flight_sectors[class];
        verdict.kernel += kernel;
        verdict.issued += issued;
        verdict.completed += completed;
        let missing_completed = certain.saturating_sub(completed);
        let mut missing_issued = certain.saturating_sub(issued).saturating_sub(in_flight);
        if class == 0 && missing_issued == 0 {
            missing_issued = likely_missing(before, after, certain, missing_completed);
        }
        verdict.missing_issued += missing_issued;
        verdict.missing_completed += missing_completed;
        lost |= missing_issued > 0 && missing_completed > 0;
    }
    (verdict, lost)
}

#[cfg(test)]
mod tests;
