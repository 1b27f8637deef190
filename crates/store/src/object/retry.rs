//! Trying again: the only loop in Carreto that does so for a store.

use super::clock;
use super::event::{StoreEvent, StoreObserver};
use super::failure::{Again, Failure};
use super::keys::Keys;
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

/// How often a request is made with other keys, because those before have expired, without a byte
/// in between: once for its own, and once for those that expired while it waited for its turn.
const RENEWALS: u32 = 2;

/// What the requests to one store share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) observer: &'a dyn StoreObserver,
    /// Held when the store asks for fewer requests.
    pub(super) throttle: &'a Throttle,
    /// The keys, if they can be renewed.
    pub(super) keys: Option<&'a Keys>,
}

/// The failures of one request since it last made progress.
#[derive(Debug)]
pub(super) struct Retry<'a> {
    object: &'a str,
    shared: Shared<'a>,
    budget: Duration,
    since: Option<Instant>,
    failures: u32,
    senseless: u32,
    renewals: u32,
    /// The generation of the keys that the request is made with.
    generation: u64,
}

impl<'a> Retry<'a> {
    /// Starts for a request to `object` that may fail for `budget`.
    pub(super) fn new(object: &'a str, shared: Shared<'a>, budget: Duration) -> Self {
        Self {
            object,
            shared,
            budget,
            since: None,
            failures: 0,
            senseless: 0,
            renewals: 0,
            generation: shared.keys.map_or(0, Keys::generation),
        }
    }

    /// Forgets the failures so far, because bytes arrived.
    pub(super) fn progressed(&mut self) {
        self.since = None;
        self.failures = 0;
        self.senseless = 0;
        self.renewals = 0;
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
            Again::Expired => return self.renew(failure).await,
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
            self.shared.throttle.hold(delay);
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Gets new keys in place of expired ones.
    async fn renew(&mut self, failure: Failure) -> Result<()> {
        let Some(keys) = self.shared.keys.filter(|_| self.renewals < RENEWALS) else {
            return Err(failure.error);
        };
        match keys.renew(self.generation).await {
            Ok(true) => {}
            Ok(false) => return Err(failure.error),
            Err(error) => return Err(error.wrap("the keys have expired, and there are no others")),
        }
        self.renewals += 1;
        self.failures += 1;
        self.generation = keys.generation();
        self.tell(&failure, Duration::ZERO);
        Ok(())
    }

    fn delay(&self, again: Again) -> Duration {
        let doublings = (self.failures.saturating_sub(1)).min(16);
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
        self.shared.observer.observe(match failure.again {
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
