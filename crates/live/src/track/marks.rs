//! Taking marks out of the shared memory.
//!
//! The kernel stores single bytes while this takes eight at a time, and an agent may die at any
//! instruction. So a word is first noted as pending and then exchanged for zero, provided that it is
//! still what was noted; marks that come later stay for the next drain. Whoever drains reads the
//! disk afterwards.

use super::layout::{COARSE, Layout, Side, first_word};
use crate::granule::GranuleSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a drain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Granules that changed, or may be about to.
    pub dirty: GranuleSet,
    /// Those of `dirty` that were issued without a completion being seen: they are in flight, or
    /// the completion was missed. The device may not have the data yet, so they are to be read
    /// again in the next epoch.
    pub incomplete: GranuleSet,
}

impl Drained {
    /// Nothing of `granules`.
    pub(super) fn nothing(granules: u64) -> Self {
        Self { dirty: GranuleSet::empty(granules), incomplete: GranuleSet::empty(granules) }
    }

    fn add(&mut self, granules: Range<u64>, completed: bool) {
        self.dirty.insert_range(granules.start, granules.end);
        if !completed {
            self.incomplete.insert_range(granules.start, granules.end);
        }
    }
}

/// The memory of one disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory<'a> {
    pub(super) layout: Layout,
    /// The map of marks.
    pub(super) marks: &'a [AtomicU64],
    /// The map of what is pending, a bit a granule.
    pub(super) pending: &'a [AtomicU64],
}

impl Memory<'_> {
    /// Moves all marks into the result, noting them as pending first.
    pub(super) fn drain(self) -> Drained {
        let mut drained = Drained::nothing(self.layout.granules);
        let layout = self.layout;
        let fine = (layout.fine(Side::Issued), layout.fine(Side::Completed));
        self.drain_part(fine, layout.granules, 1, &mut drained);
        let coarse = (layout.coarse(Side::Issued), layout.coarse(Side::Completed));
        self.drain_part(coarse, layout.coarse_marks(), COARSE, &mut drained);
        drained
    }

    /// Drains `count` marks of `granules` granules each from two parts of the map.
    fn drain_part(self, parts: (u32, u32), count: u64, granules: u64, drained: &mut Drained) {
        let (issued, completed) = (self.part(parts.0, count), self.part(parts.1, count));
        for ((index, issued), completed) in (0u64..).zip(issued).zip(completed) {
            if issued.load(Ordering::Relaxed) == 0 && completed.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let span = |byte: u64| {
                let start = (index * 8 + byte) * granules;
                start..start.saturating_add(granules).min(self.layout.granules)
            };
            let note = |marks: [u8; 8]| marked(marks).for_each(|byte| self.note(span(byte)));
            // Completions first: a request that ends in between is then at worst incomplete.
            let completed = take(completed, note);
            let issued = take(issued, note);
            for byte in 0..8 {
                let (issued, completed) = (issued[byte] != 0, completed[byte] != 0);
                if issued || completed {
                    drained.add(span(byte as u64), completed);
                }
            }
        }
    }

    /// The words that hold `count` marks from `element` on.
    fn part(&self, element: u32, count: u64) -> &[AtomicU64] {
        let start = first_word(element);
        let words = usize::try_from(count.div_ceil(8)).unwrap_or(usize::MAX);
        let end = start.saturating_add(words).min(self.marks.len());
        self.marks.get(start..end).unwrap_or_default()
    }

    /// Remembers `granules` as drained and not settled.
    fn note(self, granules: Range<u64>) {
        self.each_pending(granules, |word, bits| {
            word.fetch_or(bits, Ordering::Release);
        });
    }

    /// Forgets `done`.
    pub(super) fn settle(self, done: &GranuleSet) {
        let mut from = 0;
        while let Some((start, end)) = done.run_from(from, u64::MAX) {
            self.each_pending(start..end, |word, bits| {
                word.fetch_and(!bits, Ordering::AcqRel);
            });
            from = end;
        }
    }

    /// What was drained and not settled.
    pub(super) fn pending(self) -> GranuleSet {
        let mut set = GranuleSet::empty(self.layout.granules);
        for (index, word) in (0u64..).zip(self.pending) {
            let mut bits = word.load(Ordering::Acquire);
            while bits != 0 {
                set.insert(index * 64 + u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
        set
    }

    fn each_pending(self, granules: Range<u64>, mut change: impl FnMut(&AtomicU64, u64)) {
        let end = granules.end.min(self.layout.granules);
        let mut at = granules.start;
        while at < end {
            let stop = (at / 64 * 64 + 64).min(end);
            let bits = (u64::MAX >> (64 - (stop - at))) << (at % 64);
            let word = usize::try_from(at / 64).ok().and_then(|word| self.pending.get(word));
            if let Some(word) = word {
                change(word, bits);
            }
            at = stop;
        }
    }
}

/// Exchanges `word` for zero after `note` saw exactly what is taken.
fn take(word: &AtomicU64, note: impl Fn([u8; 8])) -> [u8; 8] {
    let mut seen = word.load(Ordering::Acquire);
    loop {
        note(seen.to_ne_bytes());
        match word.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(taken) => return taken.to_ne_bytes(),
            Err(now) => seen = now,
        }
    }
}

fn marked(marks: [u8; 8]) -> impl Iterator<Item = u64> {
    (0..).zip(marks).filter(|(_, mark)| *mark != 0).map(|(byte, _)| byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::granule::GRANULE;
    use crate::track::TrackedDisk;

    /// Memory as the maps would have it.
    struct Owned {
        layout: Layout,
        marks: Vec<AtomicU64>,
        pending: Vec<AtomicU64>,
    }

    impl Owned {
        fn new(granules: u64) -> Self {
            let layout = Layout::of(&TrackedDisk::named("x", granules * GRANULE)).unwrap();
            let zeros = |elements| (0..first_word(elements)).map(|_| AtomicU64::new(0)).collect();
            let marks = zeros(layout.elements());
            Self { layout, marks, pending: zeros(layout.pending_elements()) }
        }

        fn memory(&self) -> Memory<'_> {
            Memory { layout: self.layout, marks: &self.marks, pending: &self.pending }
        }

        /// Stores a byte as the program does.
        fn mark(&self, element: u32, index: u64) {
            let mut bytes = [0; 8];
            bytes[(index % 8) as usize] = 1;
            let word = first_word(element) + (index / 8) as usize;
            self.marks[word].fetch_or(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
    }

    fn members(set: &GranuleSet) -> Vec<u64> {
        set.iter().collect()
    }

    #[test]
    fn marks_move_once_and_stay_pending_until_settled() {
        let owned = Owned::new(200_000);
        for index in [0, 7, 65_536, 199_999] {
            owned.mark(owned.layout.fine(Side::Issued), index);
            owned.mark(owned.layout.fine(Side::Completed), index);
        }
        let drained = owned.memory().drain();
        assert_eq!(members(&drained.dirty), [0, 7, 65_536, 199_999]);
        assert!(drained.incomplete.is_empty());
        assert_eq!(owned.memory().pending(), drained.dirty);
        assert!(owned.memory().drain().dirty.is_empty());
        let mut done = GranuleSet::empty(200_000);
        done.insert_range(1, 70_000);
        owned.memory().settle(&done);
        assert_eq!(members(&owned.memory().pending()), [0, 199_999]);
    }

    #[test]
    fn what_is_in_flight_is_incomplete_and_a_lost_issue_is_not() {
        let owned = Owned::new(100);
        owned.mark(owned.layout.fine(Side::Issued), 5);
        owned.mark(owned.layout.fine(Side::Completed), 6);
        let drained = owned.memory().drain();
        assert_eq!(members(&drained.dirty), [5, 6]);
        assert_eq!(members(&drained.incomplete), [5]);
    }

    #[test]
    fn coarse_marks_expand_to_their_granules_and_not_past_the_disk() {
        let owned = Owned::new(2_500);
        for index in [0, 2] {
            owned.mark(owned.layout.coarse(Side::Issued), index);
        }
        owned.mark(owned.layout.coarse(Side::Completed), 2);
        let drained = owned.memory().drain();
        let expected: Vec<u64> = (0..1024).chain(2048..2500).collect();
        assert_eq!(members(&drained.dirty), expected);
        assert_eq!(members(&drained.incomplete), (0..1024).collect::<Vec<_>>());
        assert_eq!(owned.memory().pending(), drained.dirty);
    }

    #[test]
    fn marks_that_come_while_draining_are_never_lost() {
        let owned = Owned::new(4_096);
        let mut seen = GranuleSet::empty(4_096);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for index in 0..4_096 {
                    owned.mark(owned.layout.fine(Side::Issued), index);
                }
            });
            while !writer.is_finished() {
                seen.union_with(&owned.memory().drain().dirty);
            }
        });
        seen.union_with(&owned.memory().drain().dirty);
        assert_eq!(seen.len(), 4_096);
        assert_eq!(owned.memory().pending().len(), 4_096);
    }
}
