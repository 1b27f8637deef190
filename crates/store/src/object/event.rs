//! What a store tells while it works, since a library prints nothing.

use std::fmt::Debug;
use std::time::Duration;

/// Something that happened to a request and that the request survived.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreEvent {
    /// A request failed and will be made again.
    Retry {
        /// The object, free of secrets.
        object: String,
        /// What failed, free of secrets.
        reason: String,
        /// How many times it has failed since bytes last arrived; 1 at first.
        attempt: u32,
        /// How long the request waits now.
        delay: Duration,
    },
    /// The store asked for fewer requests; the request will be made again.
    Throttled {
        /// The object, free of secrets.
        object: String,
        /// What the store answered.
        reason: String,
        /// How many times it has failed since bytes last arrived; 1 at first.
        attempt: u32,
        /// How long the request waits now.
        delay: Duration,
    },
}

/// Who is told. Called from the tasks that read, so it must not block.
pub trait StoreObserver: Send + Sync + Debug {
    /// Takes note of `event`.
    fn observe(&self, event: StoreEvent);
}

/// Takes note of nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentObserver;

impl StoreObserver for SilentObserver {
    fn observe(&self, _event: StoreEvent) {}
}
