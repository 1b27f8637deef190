//! A set of byte ranges.

use carreto_block::ByteRange;
use std::collections::BTreeMap;

/// Disjoint, merged byte ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds `range`, merging it with what it touches.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start(), range.end());
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            start = start.min(s);
            end = end.max(e);
            self.ranges.remove(&s);
        }
        self.ranges.insert(start, end);
    }

    /// Removes `range`.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        while let Some((&s, &e)) = self.ranges.range(..range.end()).next_back() {
            if e <= range.start() {
                break;
            }
            self.ranges.remove(&s);
            if s < range.start() {
                self.ranges.insert(s, range.start());
            }
            if e > range.end() {
                self.ranges.insert(range.end(), e);
            }
        }
    }

    /// Whether all of `range` is in the set.
    pub fn contains(&self, range: ByteRange) -> bool {
        range.is_empty()
            || self
                .ranges
                .range(..=range.start())
                .next_back()
                .is_some_and(|(_, end)| *end >= range.end())
    }

    /// The parts of `whole` that are not in the set, in order.
    pub fn gaps(&self, whole: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut at = whole.start();
        let before = self.ranges.range(..whole.start()).next_back();
        let inside = self.ranges.range(whole.start()..whole.end());
        for (&start, &end) in before.into_iter().chain(inside) {
            gaps.extend(ByteRange::new(at, start.min(whole.end())).filter(|g| !g.is_empty()));
            at = at.max(end);
        }
        gaps.extend(ByteRange::new(at, whole.end()).filter(|gap| !gap.is_empty()));
        gaps
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> {
        self.ranges.iter().filter_map(|(start, end)| ByteRange::new(*start, *end))
    }

    /// The number of bytes in the set.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the model has 64 bytes")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the plainest model: a boolean for each byte.
        #[test]
        fn behaves_like_a_bitmap(ops in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..64), 0..40)) {
            let mut set = RangeSet::default();
            let mut model = [false; 64];
            for (add, a, b) in ops {
                let range = ByteRange::new(a.min(b), a.max(b)).unwrap();
                if add { set.insert(range) } else { set.remove(range) }
                model[a.min(b) as usize..a.max(b) as usize].fill(add);
                prop_assert_eq!(set.total(), model.iter().filter(|m| **m).count() as u64);
            }
            let mut seen = [true; 64];
            for gap in set.gaps(ByteRange::whole(64)) {
                prop_assert!(!gap.is_empty());
                seen[gap.start() as usize..gap.end() as usize].fill(false);
                prop_assert!(!set.contains(gap));
            }
            prop_assert_eq!(seen, model);
        }
    }
}
