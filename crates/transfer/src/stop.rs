//! Stopping a run from outside, with the reason.

use carreto_error::{Error, Kind};
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// Why a run is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The user, or a signal.
    Cancelled,
    /// The deadline passed.
    Deadline,
    /// Nothing moved for the stall limit.
    Stalled,
}

impl StopReason {
    fn error(self) -> Error {
        match self {
            Self::Cancelled => Error::new(Kind::Cancelled, "the run was cancelled"),
            Self::Deadline => Error::new(Kind::Timeout, "the task exceeded its deadline"),
            Self::Stalled => {
                Error::new(Kind::Timeout, "the task made no progress for the stall limit")
            }
        }
    }
}

/// A switch that ends a run at the next safe point. Clones are the same switch.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    /// Asks for the end; the first reason counts.
    pub fn request(&self, reason: StopReason) {
        let _first_wins = self.reason.set(reason);
        self.token.cancel();
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the end is asked for. Cancel safe.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// The error that a stopped run ends with: `Cancelled` or `Timeout`.
    pub fn error(&self) -> Error {
        self.reason.get().copied().unwrap_or(StopReason::Cancelled).error()
    }

    /// `Err` when the end was asked for.
    ///
    /// # Errors
    /// [`Self::error`].
    pub fn check(&self) -> Result<(), Error> {
        if self.is_requested() { Err(self.error()) } else { Ok(()) }
    }
}
