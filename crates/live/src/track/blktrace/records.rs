//! The stream of records of one processor (`struct blk_io_trace` of
//! `include/uapi/linux/blktrace_api.h`).

use crate::granule::{GRANULE, GranuleSet};
use crate::track::audit::TrackedCounts;
use crate::track::marks::Drained;

/// Bytes of a record without what follows it.
const RECORD: usize = 48;
/// Magic and version, the latter in the lowest byte.
const MAGIC: u32 = 0x6561_7407;
/// Categories, in the upper half of an action.
const WRITE: u32 = 1 << 17;
const PASSED: u32 = 1 << 25;
const NOTIFY: u32 = 1 << 26;
const DISCARD: u32 = 1 << 29;
/// Actions, in the lower half.
const REQUEUE: u32 = 6;
const ISSUE: u32 = 7;
const COMPLETE: u32 = 8;

/// What the records said, and what they marked since the last drain.
#[derive(Debug)]
pub(super) struct Tracked {
    issued: GranuleSet,
    completed: GranuleSet,
    /// A discard may have several ranges, of which its record names the first one alone.
    merges_discards: bool,
    pub(super) tally: Tally,
}

/// The counters for the audit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) issued: TrackedCounts,
    pub(super) completed: TrackedCounts,
    pub(super) requeued: TrackedCounts,
    /// Commands and discards that changed the disk at unknown places.
    pub(super) unknown: u64,
    /// Places where the stream made no sense.
    pub(super) garbled: u64,
}

impl Tracked {
    pub(super) fn new(granules: u64, merges_discards: bool) -> Self {
        let empty = || GranuleSet::empty(granules);
        Self { issued: empty(), completed: empty(), merges_discards, tally: Tally::default() }
    }

    /// Takes the marks.
    pub(super) fn take(&mut self) -> Drained {
        let (mut incomplete, completed) = (self.issued.take(), self.completed.take());
        let mut dirty = completed.clone();
        dirty.union_with(&incomplete);
        incomplete.subtract(&completed);
        Drained { dirty, incomplete }
    }

    fn add(&mut self, record: &Record) {
        if record.action & (WRITE | DISCARD) == 0 || record.action & NOTIFY != 0 {
            return;
        }
        let event = record.action & 0xffff;
        if !matches!(event, REQUEUE | ISSUE | COMPLETE) {
            return;
        }
        if record.action & PASSED != 0 {
            self.tally.unknown += 1;
            return;
        }
        // The steps of a flush are requests without data.
        if record.bytes == 0 {
            return;
        }
        let (marks, counts) = match event {
            ISSUE => (Some(&mut self.issued), &mut self.tally.issued),
            COMPLETE => (Some(&mut self.completed), &mut self.tally.completed),
            _ => (None, &mut self.tally.requeued),
        };
        let is_discard = record.action & DISCARD != 0;
        counts.add(is_discard, u64::from(record.bytes / 512));
        if is_discard && self.merges_discards {
            self.tally.unknown += 1;
            return;
        }
        let (Some(start), Some(end)) = (record.start(), record.end()) else {
            self.tally.unknown += 1;
            return;
        };
        if let Some(marks) = marks {
            marks.insert_range(start / GRANULE, end.div_ceil(GRANULE));
        }
    }
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    sequence: u32,
    sector: u64,
    bytes: u32,
    action: u32,
    /// Bytes that follow.
    more: u16,
}

impl Record {
    fn read(bytes: &[u8; RECORD]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |index: usize| u32::from_ne_bytes(words[index]);
        let long = |index: usize| {
            let (longs, _) = bytes.as_chunks::<8>();
            u64::from_ne_bytes(longs[index])
        };
        let halves = bytes.as_chunks::<2>().0;
        (word(0) == MAGIC).then(|| Self {
            sequence: word(1),
            sector: long(2),
            bytes: word(6),
            action: word(7),
            more: u16::from_ne_bytes(halves[23]),
        })
    }

    fn start(&self) -> Option<u64> {
        self.sector.checked_mul(512)
    }

    fn end(&self) -> Option<u64> {
        self.start()?.checked_add(u64::from(self.bytes))
    }
}

/// The records of one processor, which arrive in pieces of any length.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The beginning of a record whose rest did not arrive.
    rest: Vec<u8>,
    /// The number of the last event; they count up by one on each processor.
    last: Option<u32>,
}

impl Stream {
    /// Takes the next piece.
    pub(super) fn feed(&mut self, piece: &[u8], tracked: &mut Tracked) {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(piece);
        let mut left = bytes.as_slice();
        while let Some((head, tail)) = left.split_first_chunk::<RECORD>() {
            let Some(record) = Record::read(head) else {
                tracked.tally.garbled += 1;
                left = next_magic(left);
                continue;
            };
            let Some(next) = tail.get(usize::from(record.more)..) else {
                break;
            };
            self.follow(&record, tracked);
            tracked.add(&record);
            left = next;
        }
        self.rest = left.to_vec();
    }

    fn follow(&mut self, record: &Record, tracked: &mut Tracked) {
        // Notes about processes have no number.
        if record.action & NOTIFY != 0 {
            return;
        }
        if self.last.is_some_and(|last| last.wrapping_add(1) != record.sequence) {
            tracked.tally.garbled += 1;
        }
        self.last = Some(record.sequence);
    }
}

/// From the next record that looks like one; never from the first byte again.
fn next_magic(bytes: &[u8]) -> &[u8] {
    let magic = MAGIC.to_ne_bytes();
    let found = (1..bytes.len()).find(|at| magic.starts_with(head(&bytes[*at..])));
    found.map_or(&[], |at| &bytes[at..])
}

fn head(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(4)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(sequence: u32, sector: u64, bytes: u32, action: u32, more: u16) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC.to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(1u64.to_ne_bytes());
        out.extend(sector.to_ne_bytes());
        out.extend(bytes.to_ne_bytes());
        out.extend(action.to_ne_bytes());
        out.extend([0; 14]);
        out.extend(more.to_ne_bytes());
        out.extend(vec![0xee; usize::from(more)]);
        out
    }

    fn sample() -> Vec<u8> {
        [
            record(1, 0, 0, NOTIFY | WRITE, 16),
            record(1, 127, 1024, WRITE | ISSUE, 0),
            record(2, 0, 4096, ISSUE, 0),
            record(3, 127, 1024, WRITE | COMPLETE, 0),
            record(4, 1280, 65536, WRITE | DISCARD | ISSUE, 0),
            record(5, u64::MAX, 0, WRITE | ISSUE, 0),
            record(6, 0, 512, WRITE | PASSED | ISSUE, 6),
            record(7, 1280, 65536, WRITE | DISCARD | REQUEUE, 0),
        ]
        .concat()
    }

    fn fed(pieces: &[&[u8]]) -> Tracked {
        fed_to(Tracked::new(100, false), pieces)
    }

    fn fed_to(mut tracked: Tracked, pieces: &[&[u8]]) -> Tracked {
        let mut stream = Stream::default();
        for piece in pieces {
            stream.feed(piece, &mut tracked);
        }
        tracked
    }

    #[test]
    fn changes_are_marked_and_counted() {
        let mut tracked = fed(&[&sample()]);
        let drained = tracked.take();
        assert_eq!(drained.dirty.iter().collect::<Vec<_>>(), [0, 1, 10]);
        assert_eq!(drained.incomplete.iter().collect::<Vec<_>>(), [10]);
        let tally = tracked.tally;
        assert_eq!((tally.issued.writes, tally.issued.write_sectors), (1, 2));
        assert_eq!((tally.issued.discards, tally.requeued.discard_sectors), (1, 128));
        assert_eq!((tally.completed.write_sectors, tally.unknown, tally.garbled), (2, 1, 0));
        assert!(tracked.take().dirty.is_empty());
    }

    #[test]
    fn discards_are_nowhere_where_they_may_have_several_ranges() {
        let mut tracked = fed_to(Tracked::new(100, true), &[&sample()]);
        let drained = tracked.take();
        assert_eq!(drained.dirty.iter().collect::<Vec<_>>(), [0, 1]);
        assert!(drained.incomplete.is_empty());
        assert_eq!((tracked.tally.issued.discards, tracked.tally.unknown), (1, 3));
    }

    #[test]
    fn gaps_and_nonsense_are_counted() {
        let gap = [record(1, 0, 512, WRITE | ISSUE, 0), record(3, 0, 512, WRITE | ISSUE, 0)];
        assert_eq!(fed(&[&gap.concat()]).tally.garbled, 1);
        let mut nonsense = vec![7; 100];
        nonsense.extend(record(1, 256, 512, WRITE | ISSUE, 0));
        let mut tracked = fed(&[&nonsense]);
        assert!(tracked.tally.garbled >= 1);
        assert_eq!(tracked.take().dirty.iter().collect::<Vec<_>>(), [2]);
        let far = record(1, u64::MAX - 1, 512, WRITE | ISSUE, 0);
        assert_eq!(fed(&[&far]).tally.unknown, 1);
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_say_the_same(cuts in prop::collection::vec(0usize..500, 0..6)) {
            let bytes = sample();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|two| &bytes[two[0]..two[1]]).collect();
            let (mut whole, mut cut) = (fed(&[&bytes]), fed(&pieces));
            prop_assert_eq!(whole.tally, cut.tally);
            prop_assert_eq!(whole.take(), cut.take());
        }

        #[test]
        fn bytes_of_any_kind_never_panic(
            flips in prop::collection::vec((0usize..500, any::<u8>()), 0..20),
        ) {
            let mut bytes = sample();
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            fed(&[&bytes, &bytes]);
        }
    }
}
