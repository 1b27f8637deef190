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
    exit_code: Arc<OnceLock<u8>>,
}

impl Stop {
    /// Asks for the end; the first reason counts.
    pub fn request(&self, reason: StopReason) {
        let _first_wins = self.reason.set(reason);
        self.token.cancel();
    }

    /// Asks for the end as a user's signal does. The report tells `exit_code`, which the process
    /// will end with.
    pub fn cancel_with(&self, exit_code: u8) {
        if !self.is_requested() {
            let _first_wins = self.exit_code.set(exit_code);
        }
        self.request(StopReason::Cancelled);
    }

    /// What [`Self::cancel_with`] was told.
    pub fn exit_code(&self) -> Option<u8> {
        self.exit_code.get().copied()
    }

    /// The outcome of `work`, or [`Self::error`] as soon as the end is asked for; `work` is
    /// dropped then.
    ///
    /// # Errors
    /// What `work` returns; `Cancelled` or `Timeout`.
    pub async fn race<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            () = self.requested() => Err(self.error()),
            outcome = work => outcome,
        }
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
