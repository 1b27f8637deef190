//! When a disk that is followed is read as a whole once more, ahead of a cutover.
//!
//! What was written since the last whole pass is read again while everything stands still. A new
//! pass makes that less, unless the same places are written all the time: then it would read the
//! disk for nothing.

/// How often a whole pass may be made ahead: once in so many times what it takes.
const SPARE: f64 = 4.0;
/// After so many times what a pass takes, what the last one left says nothing any more.
const STALE: f64 = 32.0;
/// A pass that leaves more than this part of what there is helps too little.
const HELPS: f64 = 0.75;

/// What is known of a disk. Sizes are in bytes, times in seconds, rates in bytes per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassFacts {
    pub(super) size: f64,
    /// Written since the last whole pass began.
    pub(super) touched: f64,
    /// Everything counts as written, as where there was no pass.
    pub(super) is_everywhere: bool,
    /// How long ago that pass began.
    pub(super) since: f64,
    /// Written during the last pass that was made ahead.
    pub(super) left: Option<f64>,
    /// What changes on all disks.
    pub(super) change_rate: f64,
    pub(super) read_rate: f64,
    /// What reading again may take of the pause.
    pub(super) share: f64,
}

impl PassFacts {
    fn takes(&self) -> f64 {
        self.size / self.read_rate
    }

    /// Whether reading again what was written would take too much of the pause.
    fn is_much(&self) -> bool {
        self.touched / self.read_rate > self.share
    }

    /// Bytes that will have been written when a whole pass that begins now is over.
    pub(super) fn after_a_pass(&self) -> f64 {
        let most = self.size.min(self.change_rate * self.takes());
        if let Some(left) = self.left.filter(|_| self.since <= self.takes() * STALE) {
            return most.min(left);
        }
        if self.is_everywhere {
            return most;
        }
        // What is written again and again counts once, which the rate does not know.
        most.min(self.touched * (self.takes() / self.since.max(1.0)).min(1.0))
    }

    /// Whether a cutover that is ordered now begins with a whole pass.
    pub(super) fn needs_pass(&self) -> bool {
        self.is_everywhere || self.is_helped()
    }

    /// Whether much was written, of which a pass would leave little.
    pub(super) fn is_helped(&self) -> bool {
        self.is_much() && (self.is_everywhere || self.after_a_pass() < self.touched * HELPS)
    }

    /// Whether such a pass should be made ahead, now.
    pub(super) fn wants_sweep(&self) -> bool {
        self.is_helped() && (self.is_everywhere || self.since > self.takes() * SPARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: f64 = 1e9;

    /// 100 GB that take 500 s, of which 15 s may be read again in the pause.
    fn facts(touched: f64, since: f64) -> PassFacts {
        PassFacts {
            size: 100.0 * GB,
            touched: touched * GB,
            is_everywhere: false,
            since,
            left: None,
            change_rate: 0.05 * GB,
            read_rate: 0.2 * GB,
            share: 15.0,
        }
    }

    #[test]
    fn what_was_written_over_a_long_time_is_made_less_by_a_pass() {
        assert!(!facts(2.9, 9000.0).wants_sweep(), "it takes less than 15 s");
        assert!(facts(20.0, 9000.0).wants_sweep() && facts(20.0, 9000.0).needs_pass());
        assert!(!facts(20.0, 1900.0).wants_sweep(), "the last pass was made just now");
        let first = PassFacts { is_everywhere: true, ..facts(100.0, 0.0) };
        assert!(first.wants_sweep() && first.needs_pass());
    }

    #[test]
    fn what_is_written_again_and_again_is_swept_once() {
        // Nobody knows yet that it is always the same.
        assert!(facts(4.0, 2100.0).wants_sweep());
        let swept = PassFacts { left: Some(4.0 * GB), ..facts(4.0, 2100.0) };
        assert!(swept.is_much() && !swept.wants_sweep() && !swept.needs_pass());
        assert!((swept.after_a_pass() - 4.0 * GB).abs() < 1.0, "no pass makes the pause shorter");
        // It ended.
        assert!(PassFacts { change_rate: 0.0, ..swept }.wants_sweep());
        // It may be another load by now.
        assert!(PassFacts { since: 16_100.0, ..swept }.wants_sweep());
        // More was written since, at other places.
        assert!(PassFacts { touched: 6.0 * GB, ..swept }.wants_sweep());
    }

    #[test]
    fn a_small_disk_is_read_in_the_pause_or_before_the_freeze() {
        let small = PassFacts { size: GB, is_everywhere: true, ..facts(1.0, 0.0) };
        assert!(!small.wants_sweep() && small.needs_pass());
    }
}
