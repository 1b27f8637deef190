//! Trying again: the only loop in Carreto that does so for a store.

use super::clock;
use super::event::{StoreEvent, StoreObserver};
use super::failure::{Again, Failure};
use super::throttle::Throttle;
use carreto_error::Result;
use std::time::Duration;
use tokio::time::Instant;

/// The first delay; each further one is twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// The longest delay that is not asked for by the server.
const LONGEST_DELAY: Duration = Duration::from_secs(20);
/// How often an answer that makes no sense is asked for again.
const FEW: u32 = 4;
/// The budget for connections to a server that has never answered: its name may be misspelt.
const FIRST_CONTACT: Duration = Duration::from_mins(1);

/// The failures of one request since it last made progress.
#[derive(Debug)]
pub(super) struct Retry<'a> {
    object: &'a str,
    observer: &'a dyn StoreObserver,
    throttle: &'a Throttle,
    budget: Duration,
    since: Option<Instant>,
    failures: u32,
    senseless: u32,
}

impl<'a> Retry<'a> {
    /// Starts for a request to `object` that may fail for `budget`. A store that asks for fewer
    /// requests holds `throttle`.
    pub(super) fn new(
        object: &'a str,
        observer: &'a dyn StoreObserver,
        throttle: &'a Throttle,
        budget: Duration,
    ) -> Self {
        Self { object, observer, throttle, budget, since: None, failures: 0, senseless: 0 }
    }

    /// Forgets the failures so far, because bytes arrived.
    pub(super) fn progressed(&mut self) {
        self.since = None;
        self.failures = 0;
        self.senseless = 0;
    }

    /// Waits until the request should be made again. `contact` says whether the server has ever
    /// answered.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The failure, when trying again cannot help or the budget is used up.
    pub(super) async fn pause(&mut self, failure: Failure, contact: bool) -> Result<()> {
        let budget = match failure.again {
            Again::Never => return Err(failure.error),
            Again::Connect if !contact => self.budget.min(FIRST_CONTACT),
            _ => self.budget,
        };
        let now = Instant::now();
        let spent = now - *self.since.get_or_insert(now);
        self.failures += 1;
        if failure.again == Again::Few {
            self.senseless += 1;
        }
        let left = budget.saturating_sub(spent);
        if left.is_zero() || self.senseless > FEW {
            return Err(self.given_up(failure, spent));
        }
        let delay = self.delay(failure.again).min(left);
        self.tell(&failure, delay);
        if matches!(failure.again, Again::Throttled(_)) {
            self.throttle.hold(delay);
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn delay(&self, again: Again) -> Duration {
        let doublings = (self.failures - 1).min(16);
        let own = clock::jittered((FIRST_DELAY * (1 << doublings)).min(LONGEST_DELAY));
        match again {
            Again::Throttled(Some(asked)) => own.max(asked),
            _ => own,
        }
    }

    fn tell(&self, failure: &Failure, delay: Duration) {
        let object = self.object.to_owned();
        let reason = carreto_error::chain_text(&failure.error);
        let attempt = self.failures;
        self.observer.observe(match failure.again {
            Again::Throttled(_) => StoreEvent::Throttled { object, reason, attempt, delay },
            _ => StoreEvent::Retry { object, reason, attempt, delay },
        });
    }

    fn given_up(&self, failure: Failure, spent: Duration) -> carreto_error::Error {
        let text = format!(
            "the request was made {} times in {} s without success",
            self.failures,
            spent.as_secs()
        );
        failure.error.wrap(text).path(self.object)
    }
}

#[cfg(test)]
mod tests;
