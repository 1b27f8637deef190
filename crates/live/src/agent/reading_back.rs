//! When the receiver reads back what it wrote, ahead of a cutover.
//!
//! What a busy source writes again and again would be read back again and again, for nothing: only
//! what was written last counts. So much is read back at once, and then a rest is taken.

use std::time::Instant;

/// A rest is so many times as long as reading back would take after it.
const REST: f64 = 4.0;

/// Whether it is being done, and when it was done last. Times are in seconds.
#[derive(Debug)]
pub(super) struct ReadingBack {
    is_active: bool,
    ended: Option<Instant>,
}

impl ReadingBack {
    pub(super) const fn new() -> Self {
        Self { is_active: false, ended: None }
    }

    pub(super) const fn is_active(&self) -> bool {
        self.is_active
    }

    /// Begins where reading back what is left `takes` a good part of the pause that is allowed,
    /// `limit`. Gives whether this is the first time.
    pub(super) fn begin_if_due(&mut self, takes: f64, limit: f64) -> bool {
        let rested = self.ended.is_none_or(|at| at.elapsed().as_secs_f64() > takes * REST);
        let is_due = takes > limit / 2.0 || (takes > limit / 4.0 && rested);
        let is_first = !self.is_active && self.ended.is_none() && is_due;
        self.is_active |= is_due;
        is_first
    }

    /// Ends where hardly anything is left, which `takes` so long.
    pub(super) fn did_some(&mut self, takes: f64, limit: f64) {
        if self.is_active && takes <= limit / 16.0 {
            *self = Self { is_active: false, ended: Some(Instant::now()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMIT: f64 = 16.0;

    fn rested(seconds: u64) -> ReadingBack {
        let ended = Instant::now().checked_sub(Duration::from_secs(seconds));
        ReadingBack { is_active: false, ended }
    }

    #[test]
    fn it_goes_on_until_hardly_anything_is_left() {
        let mut reading = ReadingBack::new();
        assert!(!reading.begin_if_due(3.9, LIMIT) && !reading.is_active());
        assert!(reading.begin_if_due(4.1, LIMIT) && reading.is_active());
        for takes in [3.0, 1.1] {
            reading.did_some(takes, LIMIT);
            assert!(!reading.begin_if_due(takes, LIMIT) && reading.is_active());
        }
        reading.did_some(1.0, LIMIT);
        assert!(!reading.is_active() && !reading.begin_if_due(4.1, LIMIT) && !reading.is_active());
    }

    #[test]
    fn what_is_written_all_the_time_is_read_back_at_times() {
        let mut reading = rested(19);
        assert!(!reading.begin_if_due(5.0, LIMIT) && !reading.is_active());
        let mut reading = rested(21);
        assert!(!reading.begin_if_due(5.0, LIMIT) && reading.is_active(), "not told again");
    }

    #[test]
    fn a_cutover_that_would_have_to_wait_for_it_ends_the_rest() {
        let mut reading = rested(1);
        assert!(!reading.begin_if_due(8.1, LIMIT) && reading.is_active());
    }
}
