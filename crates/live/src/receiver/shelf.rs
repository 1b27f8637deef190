//! The open disks of one server, and the task that opens them.
//!
//! Opening may take hours, when a target is read again, and connections break meanwhile. So the
//! work belongs to the server: the next session takes it up where it is. It is never dropped
//! either, as a target may be held by a call that nobody can take back.

use super::disk::Disk;
use super::registry::KnownDisk;
use carreto_error::{Error, Kind, Result};
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Disks that are open.
pub(super) type Open = Vec<Arc<Disk>>;

/// Where the disks are while no session has them.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    disks: Option<Open>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    planned: Vec<KnownDisk>,
    stop: CancellationToken,
    task: JoinHandle<Result<Open>>,
}

impl Running {
    /// Cancel safe.
    async fn outcome(&mut self) -> Result<Open> {
        let died = |error| Error::new(Kind::Internal, format!("the opening died: {error}"));
        (&mut self.task).await.map_err(died)?
    }
}

impl Shelf {
    /// The disks `planned`, by the work that `begin` makes of those that were open before, or by
    /// the same work that an earlier call began.
    ///
    /// Cancel safe: the work goes on.
    ///
    /// # Errors
    /// Those of the work, except what nobody was there to hear: then it is tried again.
    pub(super) async fn open<W>(
        &self,
        planned: Vec<KnownDisk>,
        begin: impl FnOnce(Option<Open>, CancellationToken) -> W,
    ) -> Result<Open>
    where
        W: Future<Output = Result<Open>> + Send + 'static,
    {
        let mut state = self.state.lock().await;
        if let Some(running) = &mut state.running {
            let (is_new, is_same) = (!running.task.is_finished(), running.planned == planned);
            let outcome = running.outcome().await;
            state.running = None;
            state.disks = outcome.as_ref().ok().cloned();
            if is_same && (is_new || outcome.is_ok()) {
                return outcome;
            }
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(begin(state.disks.take(), stop.clone()));
        let outcome = state.running.insert(Running { planned, stop, task }).outcome().await;
        state.running = None;
        state.disks = outcome.as_ref().ok().cloned();
        outcome
    }

    /// Stops the work, if there is some, and waits for it.
    pub(super) async fn end(&self) {
        let running = self.state.lock().await.running.take();
        if let Some(mut running) = running {
            running.stop.cancel();
            let _nobody_asks = running.outcome().await;
        }
    }
}
