//! One bucket for all streams.

use super::{Schedule, SystemClock, WallClock};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Time whose worth of bytes may leave at once after a rest. Also the longest sleep, so that a
/// change of the rate, of the schedule or of the clock is seen as soon.
const BURST: Duration = Duration::from_millis(250);
const NANOS: u128 = 1_000_000_000;

/// Holds data back so that no more leaves than a [`Schedule`] allows. A clone is the same throttle.
#[derive(Debug, Clone)]
pub struct Throttle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    schedule: StdMutex<Schedule>,
    clock: Arc<dyn WallClock>,
    /// Its waiters are served in the order in which they came.
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// What may leave now, in bytes times nanoseconds.
    credit: u128,
    /// Until when credit was given.
    since: Instant,
}

impl Throttle {
    /// Follows `schedule` by `clock`.
    pub fn new(schedule: Schedule, clock: Arc<dyn WallClock>) -> Self {
        let bucket = Mutex::new(Bucket { credit: 0, since: Instant::now() });
        Self(Arc::new(Inner { schedule: StdMutex::new(schedule), clock, bucket }))
    }

    /// Follows `schedule` by the clock of the system.
    pub fn by_system_clock(schedule: Schedule) -> Self {
        Self::new(schedule, Arc::new(SystemClock))
    }

    /// Another schedule from now on, also for those who wait.
    pub fn set_schedule(&self, schedule: Schedule) {
        *self.0.schedule.lock().unwrap_or_else(PoisonError::into_inner) = schedule;
    }

    /// Bytes per second that are allowed now, `None` for no limit.
    pub fn rate(&self) -> Option<u64> {
        let schedule = self.0.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        schedule.rate_at(self.0.clock.now())
    }

    /// Waits until `bytes` may leave. Who takes much takes turns with the others, a burst each.
    ///
    /// Cancel safe: what a dropped call was given before counts as sent, nothing else is lost.
    pub async fn take(&self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            left = left.saturating_sub(self.take_some(left).await);
        }
    }

    /// Waits for a turn and then for up to `wish` bytes, at least one.
    async fn take_some(&self, wish: u64) -> u64 {
        let mut bucket = self.0.bucket.lock().await;
        loop {
            let Some(rate) = self.rate() else {
                bucket.rest();
                return wish;
            };
            bucket.fill(rate);
            let goal = wish.min(burst(rate));
            match bucket.wait_for(goal, rate) {
                None => {
                    bucket.credit -= u128::from(goal) * NANOS;
                    return goal;
                }
                Some(wait) => tokio::time::sleep(wait.min(BURST)).await,
            }
        }
    }
}

/// Bytes that may leave at once at `rate`.
fn burst(rate: u64) -> u64 {
    let bytes = u128::from(rate) * BURST.as_nanos() / NANOS;
    u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
}

impl Bucket {
    /// Gives what the time since the last call is worth at `rate`.
    fn fill(&mut self, rate: u64) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.since).as_nanos();
        let most = u128::from(burst(rate)) * NANOS;
        self.credit = passed
            .checked_mul(u128::from(rate))
            .map_or(most, |gain| self.credit.saturating_add(gain).min(most));
        self.since = now;
    }

    /// How long until `goal` bytes are there, `None` when they are.
    fn wait_for(&self, goal: u64, rate: u64) -> Option<Duration> {
        let missing = (u128::from(goal) * NANOS).checked_sub(self.credit).filter(|m| *m > 0)?;
        let nanos = missing.div_ceil(u128::from(rate.max(1)));
        // The timer counts milliseconds, and one that is early costs a turn of the loop.
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Time without a limit earns nothing.
    fn rest(&mut self) {
        self.credit = 0;
        self.since = Instant::now();
    }
}
