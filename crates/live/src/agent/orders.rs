//! What the operator orders while the agent runs, through a socket in the run folder.

use super::board::Board;
use super::files::RunFolder;
use crate::state::{Report, State};
use crate::wire::Failed;
use carreto_error::{Error, IoSide, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Longest order and longest answer.
const MOST_BYTES: u64 = 4 << 20;
/// How long somebody who asks may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Say where the migration stands.
    Status,
    /// Send nothing more until [`Order::Resume`]; changes are still tracked.
    Pause,
    /// Go on.
    Resume,
    /// Cut over as soon as everything was sent once.
    Cutover {
        /// Hash every granule while the source stands still.
        strict: bool,
    },
    /// Give a cutover up and thaw; without one, end the migration.
    Abort,
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OrderReply {
    /// It was taken; this is where the migration stands.
    Taken {
        /// The report.
        report: Box<Report>,
    },
    /// It cannot be taken now.
    Refused {
        /// Why.
        error: Failed,
    },
}

/// What the operator wants at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) paused: bool,
    /// Whether to hash everything while frozen.
    pub(super) cutover: Option<bool>,
    pub(super) abort: bool,
    /// The process was asked to end; everything stays as it is.
    pub(super) stop: bool,
}

/// The operator's wishes. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    wishes: Mutex<Wishes>,
    changed: Notify,
    /// Ends what is under way at its next safe point.
    interrupt: Mutex<CancellationToken>,
}

impl Orders {
    pub(super) fn wishes(&self) -> Wishes {
        *lock(&self.0.wishes)
    }

    /// A token that is cancelled by the next order that cannot wait.
    pub(super) fn interrupt(&self) -> CancellationToken {
        let token = CancellationToken::new();
        let wishes = self.wishes();
        *lock(&self.0.interrupt) = token.clone();
        if wishes.paused || wishes.abort || wishes.stop || wishes != self.wishes() {
            token.cancel();
        }
        token
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Wishes)) {
        let urgent = {
            let mut wishes = lock(&self.0.wishes);
            change(&mut wishes);
            wishes.paused || wishes.abort || wishes.stop
        };
        if urgent {
            lock(&self.0.interrupt).cancel();
        }
        self.0.changed.notify_waiters();
        self.0.changed.notify_one();
    }

    /// Waits for the next order, at most `limit`. Cancel safe.
    pub(super) async fn wait(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.0.changed.notified()).await;
    }

    fn take(&self, order: Order, board: &Board) -> Result<()> {
        let state = board.state();
        match order {
            Order::Status => {}
            Order::Pause if state.is_cutover() => {
                return Err(Error::new(Kind::Usage, "a cutover cannot be paused")
                    .remedied_by("`carreto agent abort` gives it up"));
            }
            Order::Pause => self.change(|wishes| wishes.paused = true),
            Order::Resume => self.change(|wishes| wishes.paused = false),
            Order::Cutover { strict: true }
                if state.is_cutover() && self.wishes().cutover != Some(true) =>
            {
                let text = "a cutover is under way that was not ordered to be strict";
                return Err(Error::new(Kind::Usage, text)
                    .remedied_by("`carreto agent abort` gives it up, then order a strict one"));
            }
            Order::Cutover { strict } => self.change(|wishes| {
                wishes.paused = false;
                // An order that asks for less takes nothing from one that asked for more.
                wishes.cutover = Some(strict || wishes.cutover == Some(true));
            }),
            Order::Abort => self.change(|wishes| wishes.abort = true),
        }
        Ok(())
    }

    /// Answers [`ask`] until `stop`.
    pub(super) async fn answer(
        self,
        folder: RunFolder,
        board: Board,
        stop: CancellationToken,
    ) -> Result<()> {
        let path = folder.socket();
        let fail = |error| Error::io(IoSide::State, "listen", path.display().to_string(), error);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(fail)?;
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            if let Ok((stream, _)) = accepted {
                let _ = tokio::time::timeout(PATIENCE, self.answer_one(stream, &board)).await;
            }
        }
        let _ = std::fs::remove_file(&path);
        Ok(())
    }

    async fn answer_one(&self, stream: UnixStream, board: &Board) -> std::io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        BufReader::new(reader.take(MOST_BYTES)).read_line(&mut line).await?;
        let outcome = serde_json::from_str(&line)
            .map_err(|error| Error::new(Kind::Usage, format!("the order: {error}")))
            .and_then(|order| self.take(order, board));
        let reply = match outcome {
            Ok(()) => OrderReply::Taken { report: Box::new(board.report()) },
            Err(error) => OrderReply::Refused { error: Failed::of(&error) },
        };
        writer.write_all(&serde_json::to_vec(&reply)?).await?;
        writer.shutdown().await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last report of an agent that does not answer, because it is gone or just starts or ends.
fn left_behind(mut report: Report, is_running: bool) -> Report {
    report.agent_running = Some(is_running);
    if !is_running && !report.state.is_end() {
        "no agent runs: start it with `carreto agent run`, it goes on where it was"
            .clone_into(&mut report.next_action);
    } else if matches!(report.state, State::Continuous | State::Ready) {
        // The agent that was so is gone, and nobody may take it for the one that starts.
        report.state = State::Registered;
        "the agent starts or ends: ask again".clone_into(&mut report.next_action);
    }
    report
}

/// Gives the agent whose run folder is `folder` an order. When none runs and only the status is
/// asked for, it is what the last one left behind; [`Report::agent_running`] tells which.
///
/// # Errors
/// `Unavailable` when no agent runs there; what it refuses.
pub async fn ask(folder: &Path, order: Order) -> Result<Report> {
    let folder = RunFolder::at(folder.to_owned());
    let path = folder.socket();
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) => {
            let last = folder.load().and_then(|state| state.report);
            let last = last.filter(|_| order == Order::Status);
            return last.map(|report| left_behind(report, folder.is_taken())).ok_or_else(|| {
                Error::new(Kind::Unavailable, "no agent runs with this configuration")
                    .path(path.display().to_string())
                    .caused_by(error)
                    .remedied_by("start it with `carreto agent run`")
            });
        }
    };
    let fail = |error| Error::io(IoSide::State, "ask the agent", path.display().to_string(), error);
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(&order).unwrap_or_default();
    line.push(b'\n');
    writer.write_all(&line).await.map_err(fail)?;
    let mut text = Vec::new();
    reader.take(MOST_BYTES).read_to_end(&mut text).await.map_err(fail)?;
    let reply: OrderReply = serde_json::from_slice(&text)
        .map_err(|error| Error::new(Kind::Unavailable, format!("the agent's answer: {error}")))?;
    match reply {
        OrderReply::Taken { report } => Ok(Report { agent_running: Some(true), ..*report }),
        OrderReply::Refused { error } => Err(error.into_error()),
    }
}
