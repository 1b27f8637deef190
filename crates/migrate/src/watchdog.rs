//! Deadline and stall limit: what ends a run as *task timeout*.

use crate::{Observer, RunEvent};
use carreto_transfer::{Event, Stop, StopReason};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Watches a run until it is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog(JoinHandle<()>);

/// Counts what moves, and passes events on.
pub(crate) struct Pulse {
    inner: Arc<dyn Observer>,
    clock: Mutex<Clock>,
    retries: AtomicU64,
}

/// When something moved last, and how many waits there are that are no standstill.
#[derive(Debug)]
struct Clock {
    moved: Instant,
    waits: u64,
}

impl Pulse {
    pub(crate) fn new(inner: Arc<dyn Observer>) -> Self {
        let clock = Mutex::new(Clock { moved: Instant::now(), waits: 0 });
        Self { inner, clock, retries: AtomicU64::new(0) }
    }

    fn beat(&self, change: impl FnOnce(u64) -> u64) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.waits = change(clock.waits);
        clock.moved = Instant::now();
    }

    /// When something moved last; now, while a wait is no standstill.
    fn moved(&self) -> Instant {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if clock.waits > 0 { Instant::now() } else { clock.moved }
    }

    /// Requests to a store that were made again so far.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

impl Observer for Pulse {
    fn event(&self, event: &RunEvent) {
        match event {
            RunEvent::Engine(Event::WaitBegan(_)) => self.beat(|waits| waits + 1),
            RunEvent::Engine(Event::WaitEnded(_)) => self.beat(|waits| waits.saturating_sub(1)),
            RunEvent::Engine(_) | RunEvent::Planned { .. } => self.beat(|waits| waits),
            RunEvent::Store(_) => {
                self.retries.fetch_add(1, Ordering::Relaxed);
            }
            RunEvent::Note(_) => {}
        }
        self.inner.event(event);
    }
}

impl Watchdog {
    /// Asks `stop` for the end when `deadline` passes, or when `pulse` does not beat for `stall`.
    pub(crate) fn start(
        stop: Stop,
        pulse: Arc<Pulse>,
        deadline: Option<Duration>,
        stall: Option<Duration>,
    ) -> Self {
        let begin = Instant::now();
        Self(tokio::spawn(async move {
            let deadline = async {
                match deadline.and_then(|limit| begin.checked_add(limit)) {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = deadline => stop.request(StopReason::Deadline),
                () = stalled(&pulse, stall) => stop.request(StopReason::Stalled),
            }
        }))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends once nothing has moved for `limit`; never when there is none.
async fn stalled(pulse: &Pulse, limit: Option<Duration>) {
    // A limit that the clock cannot reach is none.
    while let Some(end) = limit.and_then(|limit| pulse.moved().checked_add(limit)) {
        if end <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quiet;
    use carreto_transfer::Wait;

    #[tokio::test(start_paused = true)]
    async fn a_run_that_moves_is_left_alone_until_it_stands_still() {
        let (stop, pulse) = (Stop::default(), Arc::new(Pulse::new(Arc::new(Quiet))));
        let limit = Duration::from_secs(10);
        let _watchdog = Watchdog::start(stop.clone(), pulse.clone(), None, Some(limit));
        for _ in 0..20 {
            tokio::time::sleep(limit / 2).await;
            pulse.event(&RunEvent::Planned { virtual_size: 0, data_size: 0, resumed: 0 });
        }
        assert!(!stop.is_requested());
        let still = Instant::now();
        stop.requested().await;
        assert_eq!(still.elapsed(), limit, "neither early nor late");
        assert_eq!(stop.error().kind(), carreto_error::Kind::Timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_disk_or_the_pace_is_no_standstill() {
        let (stop, pulse) = (Stop::default(), Arc::new(Pulse::new(Arc::new(Quiet))));
        let limit = Duration::from_secs(10);
        let _watchdog = Watchdog::start(stop.clone(), pulse.clone(), None, Some(limit));
        for wait in [Wait::Flush, Wait::Pace] {
            pulse.event(&RunEvent::Engine(Event::WaitBegan(wait)));
            tokio::time::sleep(limit * 7).await;
            assert!(!stop.is_requested(), "{wait:?}");
            pulse.event(&RunEvent::Engine(Event::WaitEnded(wait)));
        }
        let still = Instant::now();
        stop.requested().await;
        assert!(still.elapsed() <= limit, "at once when the wait is over for so long");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_a_run_that_moves() {
        let (stop, pulse) = (Stop::default(), Arc::new(Pulse::new(Arc::new(Quiet))));
        let start = Instant::now();
        let limit = Some(Duration::from_secs(5));
        let _watchdog = Watchdog::start(stop.clone(), pulse, limit, None);
        stop.requested().await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(stop.error().to_string().contains("deadline"));
    }
}
