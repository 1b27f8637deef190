//! How hard to compress: as hard as the line is slow.

use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::time::Duration;

/// zstd levels, from fast to small.
const LEVELS: [i32; 5] = [1, 3, 5, 7, 9];
/// Pieces that have to agree before the level changes.
const AGREE: i64 = 8;

/// A level that follows what is scarce: time on the line, or time of the processor.
#[derive(Debug, Default)]
pub(super) struct Level {
    index: AtomicI32,
    /// Positive while the line is slower, negative while the processor is.
    votes: AtomicI64,
}

impl Level {
    /// The level to compress with.
    pub(super) fn now(&self) -> i32 {
        let index = usize::try_from(self.index.load(Ordering::Relaxed)).unwrap_or(0);
        LEVELS.get(index).copied().unwrap_or(LEVELS[0])
    }

    /// A piece took `prepare` on a thread and `line` until the receiver had it.
    pub(super) fn observe(&self, prepare: Duration, line: Duration) {
        let vote = if line > prepare * 4 {
            1
        } else if line < prepare {
            -1
        } else {
            return;
        };
        let votes = self.votes.fetch_add(vote, Ordering::Relaxed) + vote;
        if votes.abs() < AGREE {
            return;
        }
        self.votes.store(0, Ordering::Relaxed);
        let last = i32::try_from(LEVELS.len()).unwrap_or(1) - 1;
        let step = |index: i32| Some((index + i32::try_from(vote).unwrap_or(0)).clamp(0, last));
        let _ = self.index.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_line_is_worth_harder_work() {
        let (level, ms) = (Level::default(), Duration::from_millis);
        assert_eq!(level.now(), 1);
        (0..8).for_each(|_| level.observe(ms(10), ms(100)));
        assert_eq!(level.now(), 3);
        (0..100).for_each(|_| level.observe(ms(10), ms(100)));
        assert_eq!(level.now(), 9, "no higher");
        (0..100).for_each(|_| level.observe(ms(10), ms(20)));
        assert_eq!(level.now(), 9, "neither is scarce");
        (0..100).for_each(|_| level.observe(ms(100), ms(10)));
        assert_eq!(level.now(), 1);
    }
}
