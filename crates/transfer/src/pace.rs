//! Keeping to a number of bytes per second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Spreads bytes evenly over time; a pause is not made up for by a burst of more than a second.
#[derive(Debug)]
pub(crate) struct Pacer {
    rate: Option<u64>,
    /// When the bytes granted so far will have been used up.
    busy_until: Mutex<Option<Instant>>,
}

impl Pacer {
    /// `rate` in bytes per second; `None` does not limit.
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.filter(|rate| *rate > 0), busy_until: Mutex::new(None) }
    }

    /// Reserves `bytes` and says when they may be moved; `None` for at once.
    ///
    /// A call whose time is not waited for has used up its bytes.
    pub(crate) fn grant(&self, bytes: u64) -> Option<Instant> {
        let rate = self.rate?;
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let now = Instant::now();
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let start = busy_until.unwrap_or(now).max(now);
        *busy_until = Some(start + cost);
        Some(start).filter(|start| *start > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds() {
        let pacer = Pacer::new(Some(1000));
        let start = Instant::now();
        for _ in 0..11 {
            if let Some(time) = pacer.grant(500) {
                tokio::time::sleep_until(time).await;
            }
        }
        assert_eq!(start.elapsed(), Duration::from_secs(5), "the eleventh waits for ten");
        assert_eq!(Pacer::new(None).grant(u64::MAX), None);
    }
}
