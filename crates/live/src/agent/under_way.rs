//! Where a write may still be under way whose end nobody may see.
//!
//! A pass over a disk reads a granule once. A write that was issued before the pass and ends after
//! its granule was read is seen at its completion; completions may be missed, though, and the audit
//! cannot tell, because the write was counted when it was issued. Such granules count as written
//! since the pass began.

use crate::granule::GranuleSet;
use crate::track::Drained;
use std::time::{Duration, Instant};

/// Longer than a request takes, with what the kernel waits before it gives one up.
const LONG: Duration = Duration::from_mins(1);

/// What was written lately, in two generations, and what was issued and is not seen to end.
#[derive(Debug)]
pub(super) struct UnderWay {
    now: GranuleSet,
    before: GranuleSet,
    /// Without a completion since. One that was missed stays until the disk is idle.
    unended: GranuleSet,
    since: Instant,
}

impl UnderWay {
    /// Of a disk of `granules`.
    pub(super) fn new(granules: u64) -> Self {
        let nothing = GranuleSet::empty(granules);
        Self {
            now: nothing.clone(),
            before: nothing.clone(),
            unended: nothing,
            since: Instant::now(),
        }
    }

    /// What a drain found. A granule with a write that ended may have another that did not.
    pub(super) fn add(&mut self, drained: &Drained) {
        self.now.union_with(&drained.dirty);
        self.unended.subtract(&drained.dirty);
        self.unended.union_with(&drained.incomplete);
    }

    /// The disk works on `in_flight` requests, as was counted after the last drain.
    ///
    /// What was drained before one idle moment is forgotten at the next: a request is marked a
    /// little before it is counted.
    pub(super) fn observe(&mut self, in_flight: u64) {
        if in_flight > 0 && self.since.elapsed() < LONG {
            return;
        }
        // On a large disk that rests, the sets are not made anew each time.
        if !(self.now.is_empty() && self.before.is_empty()) {
            self.before = self.now.take();
        }
        if in_flight == 0 && !self.unended.is_empty() {
            self.unended = GranuleSet::empty(self.now.capacity());
        }
        self.since = Instant::now();
    }

    /// All of it.
    pub(super) fn all(&self) -> GranuleSet {
        let mut all = self.now.clone();
        all.union_with(&self.before);
        all.union_with(&self.unended);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::set_of;

    fn drained(dirty: &[u64], incomplete: &[u64]) -> Drained {
        Drained { dirty: set_of(100, dirty), incomplete: set_of(100, incomplete) }
    }

    fn all(under_way: &UnderWay) -> Vec<u64> {
        under_way.all().iter().collect()
    }

    #[test]
    fn what_is_written_may_be_under_way_until_the_disk_was_idle_twice() {
        let mut under_way = UnderWay::new(100);
        under_way.add(&drained(&[1, 2], &[2]));
        for _drain in 0..3 {
            under_way.observe(1);
            assert_eq!(all(&under_way), [1, 2]);
            under_way.add(&drained(&[], &[]));
        }
        under_way.observe(0);
        assert_eq!(all(&under_way), [1, 2]);
        under_way.observe(0);
        assert!(all(&under_way).is_empty());
    }

    #[test]
    fn on_a_disk_that_is_never_idle_time_ends_it_where_an_end_was_seen() {
        let mut under_way = UnderWay::new(100);
        under_way.add(&drained(&[1, 2, 3], &[2, 3]));
        for minute in 0..3 {
            under_way.since = Instant::now().checked_sub(LONG).expect("a clock that runs for long");
            under_way.observe(1);
            under_way.add(&drained(if minute == 0 { &[3] } else { &[] }, &[]));
        }
        assert_eq!(all(&under_way), [2]);
    }
}
