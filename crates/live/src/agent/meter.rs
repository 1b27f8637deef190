//! Counting, and what follows from it.

use super::prepare::Prepared;
use crate::state::Totals;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a moment matters for a rate.
const MEMORY: Duration = Duration::from_secs(20);

/// Bytes per second that an ordinary disk reads, until it is known better.
pub(super) const USUAL_READ_RATE: f64 = 200e6;
/// Bytes per second that an ordinary line carries, until it is known better.
pub(super) const USUAL_SEND_RATE: f64 = 12.5e6;

/// Granules that say how fast a disk is read: with fewer, most of the time goes elsewhere.
pub(super) const TELLING: u64 = 256;

/// Running totals.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) read: AtomicU64,
    pub(super) data: AtomicU64,
    pub(super) zero: AtomicU64,
    pub(super) referenced: AtomicU64,
    pub(super) unchanged: AtomicU64,
    pub(super) resent: AtomicU64,
    /// Bytes of links that are gone.
    pub(super) wire_before: AtomicU64,
    /// What only the engine counts.
    counts: Mutex<Totals>,
}

impl Meter {
    /// A piece was read.
    pub(super) fn read(&self, piece: &Prepared) {
        self.read.fetch_add(piece.read, Ordering::Relaxed);
        let unchanged = piece.unchanged * crate::granule::GRANULE;
        self.unchanged.fetch_add(unchanged, Ordering::Relaxed);
        self.resent.fetch_add(piece.changed, Ordering::Relaxed);
    }

    /// What only the engine counts: epochs and the like.
    pub(super) fn counts(&self) -> MutexGuard<'_, Totals> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All totals; `wire` bytes went over the present link.
    pub(super) fn totals(&self, wire: u64) -> Totals {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            read_bytes: value(&self.read),
            data_bytes: value(&self.data),
            wire_bytes: value(&self.wire_before) + wire,
            zero_bytes: value(&self.zero),
            reference_bytes: value(&self.referenced),
            unchanged_bytes: value(&self.unchanged),
            resent_granules: value(&self.resent),
            ..*self.counts()
        }
    }

    /// Bytes of disk content that were read and are with the receiver.
    pub(super) fn confirmed(&self) -> u64 {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        value(&self.data) + value(&self.zero) + value(&self.referenced) + value(&self.unchanged)
    }
}

/// Bytes per second, of the last moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    value: f64,
    last: Option<(Instant, u64)>,
}

impl Rate {
    pub(super) const fn new() -> Self {
        Self { value: 0.0, last: None }
    }

    /// The counter stands at `total` now.
    pub(super) fn at(&mut self, now: Instant, total: u64) {
        let Some((before, was)) = self.last.replace((now, total)) else { return };
        let seconds = now.saturating_duration_since(before).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let present = total.saturating_sub(was) as f64 / seconds;
        let weight = (seconds / MEMORY.as_secs_f64()).clamp(0.05, 1.0);
        self.value =
            if self.value == 0.0 { present } else { self.value + (present - self.value) * weight };
    }

    pub(super) fn value(&self) -> f64 {
        self.value
    }
}

/// What a cutover would take now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forecast {
    /// Bytes that the receiver lacks.
    pub(super) backlog: f64,
    /// Bytes per second that change.
    pub(super) change_rate: f64,
    /// Bytes per second that are sent, when there is something to send.
    pub(super) send_rate: f64,
    /// Seconds of changes that are left for the freeze in any case.
    pub(super) epoch: f64,
    /// Bytes of the source to be read again while everything stands still.
    pub(super) to_read: f64,
    /// Bytes per second that are read and hashed there.
    pub(super) read_rate: f64,
    /// Bytes of the targets to be read back meanwhile.
    pub(super) to_check: f64,
    /// Bytes per second that the receiver reads back.
    pub(super) check_rate: f64,
}

impl Forecast {
    /// Seconds that the source would stand still.
    pub(super) fn pause(&self) -> Option<f64> {
        // Nothing was sent or read yet where an earlier process had done all of it.
        let nothing_to_send = self.backlog <= 0.0 && self.change_rate <= 0.0;
        let proof = self.to_read / self.read_rate + self.to_check / self.check_rate;
        if self.send_rate <= 0.0 {
            return nothing_to_send.then_some(0.3 + proof);
        }
        // One more epoch passes before the freeze, and its changes are left for it.
        let left = (self.backlog / self.send_rate).min(60.0).max(self.epoch) * self.change_rate;
        Some(0.3 + left / self.send_rate + proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_follows_the_last_moments() {
        let (mut rate, start) = (Rate::new(), Instant::now());
        for second in 0..60 {
            rate.at(start + Duration::from_secs(second), second * 100);
        }
        assert!((rate.value() - 100.0).abs() < 1.0, "{rate:?}");
        for second in 60..200 {
            rate.at(start + Duration::from_secs(second), 6000);
        }
        assert!(rate.value() < 1.0, "{rate:?}");
    }

    #[test]
    fn a_pause_is_what_is_left_and_what_is_read_on_both_sides() {
        let mut forecast = Forecast {
            backlog: 1000.0,
            change_rate: 50.0,
            send_rate: 100.0,
            epoch: 1.0,
            to_read: 200.0,
            read_rate: 100.0,
            to_check: 300.0,
            check_rate: 50.0,
        };
        let is = |forecast: &Forecast, seconds: f64| {
            (forecast.pause().expect("known") - seconds).abs() < 1e-9
        };
        assert!(is(&forecast, 0.3 + 5.0 + 2.0 + 6.0));
        (forecast.backlog, forecast.epoch) = (0.0, 2.0);
        assert!(is(&forecast, 0.3 + 1.0 + 2.0 + 6.0));
        forecast.send_rate = 0.0;
        assert_eq!(forecast.pause(), None);
        forecast.change_rate = 0.0;
        assert!(is(&forecast, 0.3 + 2.0 + 6.0));
    }
}
