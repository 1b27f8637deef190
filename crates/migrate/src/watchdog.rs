//! Deadline and stall limit: what ends a run as *task timeout*.

use crate::{Observer, RunEvent};
use carreto_transfer::{Stop, StopReason};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Watches a run until it is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog(JoinHandle<()>);

/// Counts what moves, and passes events on.
pub(crate) struct Pulse {
    inner: Arc<dyn Observer>,
    beats: AtomicU64,
    retries: AtomicU64,
}

impl Pulse {
    pub(crate) fn new(inner: Arc<dyn Observer>) -> Self {
        Self { inner, beats: AtomicU64::new(0), retries: AtomicU64::new(0) }
    }

    /// Requests to a store that were made again so far.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

impl Observer for Pulse {
    fn event(&self, event: &RunEvent) {
        match event {
            RunEvent::Engine(_) | RunEvent::Planned { .. } => {
                self.beats.fetch_add(1, Ordering::Relaxed);
            }
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
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let mut seen = pulse.beats.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(limit).await;
        let now = pulse.beats.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Quiet;

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
        stop.requested().await;
        assert_eq!(stop.error().kind(), carreto_error::Kind::Timeout);
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
