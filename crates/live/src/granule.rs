//! The unit of tracking, hashing and sending, and sets of it.

use carreto_block::ByteRange;

/// Bytes of a granule. The last one of a disk may be shorter.
pub const GRANULE: u64 = 64 << 10;
/// [`GRANULE`] for lengths in memory.
pub const GRANULE_LEN: usize = 64 << 10;

/// The number of granules that cover `size` bytes.
pub const fn granules_in(size: u64) -> u64 {
    size.div_ceil(GRANULE)
}

/// The bytes of granule `index` on a disk of `size` bytes; empty past the end.
pub fn bytes_of(index: u64, size: u64) -> ByteRange {
    let start = index.saturating_mul(GRANULE).min(size);
    let end = index.saturating_add(1).saturating_mul(GRANULE).min(size);
    ByteRange::new(start, end).unwrap_or(ByteRange::whole(0))
}

/// Granules of one disk, a bit each: 2 MiB of memory for 1 TiB of disk.
#[derive(Clone, PartialEq, Eq)]
pub struct GranuleSet {
    words: Vec<u64>,
    count: u64,
    /// How many are in the set.
    len: u64,
}

impl GranuleSet {
    /// None of the `count` granules of a disk.
    pub fn empty(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(usize::MAX);
        Self { words: vec![0; words], count, len: 0 }
    }

    /// All of the `count` granules of a disk.
    pub fn full(count: u64) -> Self {
        let mut set = Self::empty(count);
        set.insert_range(0, count);
        set
    }

    /// How many granules the disk has.
    pub fn capacity(&self) -> u64 {
        self.count
    }

    /// How many granules are in the set.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no granule is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `index` is in the set.
    pub fn contains(&self, index: u64) -> bool {
        index < self.count && self.words[word(index)] & bit(index) != 0
    }

    /// Adds `index`; one past the end of the disk is ignored. Says whether it was new.
    pub fn insert(&mut self, index: u64) -> bool {
        if index >= self.count || self.contains(index) {
            return false;
        }
        self.words[word(index)] |= bit(index);
        self.len += 1;
        true
    }

    /// Adds `start..end`, as far as it is on the disk.
    pub fn insert_range(&mut self, start: u64, end: u64) {
        let end = end.min(self.count);
        let mut index = start;
        while index < end {
            if index.is_multiple_of(64) && end - index >= 64 {
                let word = &mut self.words[word(index)];
                self.len += u64::from(word.count_zeros());
                *word = u64::MAX;
                index += 64;
            } else {
                self.insert(index);
                index += 1;
            }
        }
    }

    /// Takes `index` out. Says whether it was in.
    pub fn remove(&mut self, index: u64) -> bool {
        if !self.contains(index) {
            return false;
        }
        self.words[word(index)] &= !bit(index);
        self.len -= 1;
        true
    }

    /// Adds everything of `other`, a set of the same disk.
    pub fn union_with(&mut self, other: &Self) {
        for (index, theirs) in other.words.iter().enumerate().take(self.words.len()) {
            let mine = &mut self.words[index];
            self.len += u64::from((theirs & !*mine).count_ones());
            *mine |= theirs;
        }
    }

    /// Takes everything of `other` out.
    pub fn subtract(&mut self, other: &Self) {
        for (index, theirs) in other.words.iter().enumerate().take(self.words.len()) {
            let mine = &mut self.words[index];
            self.len -= u64::from((theirs & *mine).count_ones());
            *mine &= !theirs;
        }
    }

    /// Takes all out and returns them.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let count = self.count;
        std::mem::replace(self, Self::empty(count))
    }

    /// The members from `from` on, ascending.
    pub fn iter_from(&self, from: u64) -> impl Iterator<Item = u64> + '_ {
        let first = word(from);
        let words = self.words.iter().enumerate().skip(first);
        words.flat_map(move |(index, word)| {
            let mask = if index == first { u64::MAX << (from % 64) } else { u64::MAX };
            Bits(word & mask).map(move |bit| index as u64 * 64 + bit)
        })
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.iter_from(0)
    }

    /// The longest piece without gaps that begins with the first member at or after `from` and has
    /// at most `limit` granules, as `start..end`.
    pub fn run_from(&self, from: u64, limit: u64) -> Option<(u64, u64)> {
        let start = self.iter_from(from).next()?;
        let mut end = start + 1;
        while end - start < limit && self.contains(end) {
            end += 1;
        }
        Some((start, end))
    }
}

impl std::fmt::Debug for GranuleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GranuleSet({} of {})", self.len, self.count)
    }
}

const fn word(index: u64) -> usize {
    (index / 64) as usize
}

const fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

/// The numbers of the bits that are set, ascending.
struct Bits(u64);

impl Iterator for Bits {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let bit = (self.0 != 0).then(|| u64::from(self.0.trailing_zeros()))?;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_last_granule_may_be_short() {
        assert_eq!(granules_in(GRANULE + 1), 2);
        assert_eq!(bytes_of(1, GRANULE + 1).len(), 1);
        assert_eq!(bytes_of(2, GRANULE + 1).len(), 0);
        assert_eq!(bytes_of(u64::MAX, GRANULE).len(), 0);
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set(
            count in 0u64..400,
            steps in prop::collection::vec((0u8..4, 0u64..420, 0u64..200), 0..40),
        ) {
            let (mut set, mut model) = (GranuleSet::empty(count), BTreeSet::new());
            for (what, index, len) in steps {
                match what {
                    0 => prop_assert_eq!(set.insert(index), index < count && model.insert(index)),
                    1 => prop_assert_eq!(set.remove(index), model.remove(&index)),
                    2 => {
                        set.insert_range(index, index + len);
                        model.extend(index..(index + len).min(count));
                    }
                    _ => {
                        let mut other = GranuleSet::empty(count);
                        other.insert_range(index, index + len);
                        if len.is_multiple_of(2) {
                            set.union_with(&other);
                            model.extend(other.iter());
                        } else {
                            set.subtract(&other);
                            model.retain(|member| !other.contains(*member));
                        }
                    }
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert!(set.iter().eq(model.iter().copied()));
                prop_assert!(set.iter_from(index).eq(model.range(index..).copied()));
            }
            prop_assert_eq!(GranuleSet::full(count).len(), count);
        }
    }

    #[test]
    fn runs_end_at_gaps_and_at_the_limit() {
        let mut set = GranuleSet::empty(200);
        set.insert_range(3, 90);
        set.insert(100);
        assert_eq!(set.run_from(0, 16), Some((3, 19)));
        assert_eq!(set.run_from(80, 64), Some((80, 90)));
        assert_eq!(set.run_from(90, 64), Some((100, 101)));
        assert_eq!(set.run_from(101, 64), None);
    }
}
