//! One data connection.

use super::session::{self, Session};
use super::{apply, violation};
use crate::frame::{self, Frame, FrameReader, FrameWriter};
use crate::trust::TlsStream;
use crate::wire::{Answer, Control, Failed, kind};
use carreto_error::{Error, Kind, Result};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use std::sync::Arc;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

/// Batches of one connection that are worked on at a time.
const PIPELINE: usize = 4;

/// Writes what arrives until the connection or the session ends. What was begun is finished, before
/// another connection may have the seat.
pub(super) async fn run(
    session: &Arc<Session>,
    _seat: OwnedMutexGuard<()>,
    mut reader: FrameReader<ReadHalf<TlsStream>>,
    mut writer: FrameWriter<WriteHalf<TlsStream>>,
) -> Result<()> {
    // Taken before looking: whoever ends the session either waits for this or is seen here.
    let begins = session.tasks.token();
    let outcome = tokio::select! {
        biased;
        () = session.cancel.cancelled() => Ok(()),
        outcome = work(session, &mut reader, &mut writer) => outcome,
    };
    drop(begins);
    if let Err(error) = &outcome {
        session.fail(error);
    }
    if session.cancel.is_cancelled() {
        // The agent may hear of the end here first, and has to hear why.
        refuse(reader, writer, session.reason()).await;
    }
    outcome
}

/// Says `error`, gives it back, and has nothing more to do with the peer.
pub(super) async fn refuse(
    mut reader: FrameReader<ReadHalf<TlsStream>>,
    mut writer: FrameWriter<WriteHalf<TlsStream>>,
    error: Error,
) -> Error {
    let told = async {
        let failed = Control::Failed(Failed::of(&error));
        writer.send(kind::CONTROL, &[&frame::encode(&failed)?]).await?;
        writer.flush().await
    };
    if told.await.is_ok() {
        session::linger(&mut reader).await;
    }
    error
}

async fn work(
    session: &Arc<Session>,
    reader: &mut FrameReader<ReadHalf<TlsStream>>,
    writer: &mut FrameWriter<WriteHalf<TlsStream>>,
) -> Result<()> {
    writer.send(kind::CONTROL, &[&frame::encode(&Control::Attached)?]).await?;
    writer.flush().await?;
    let mut pending = FuturesOrdered::new();
    loop {
        tokio::select! {
            biased;
            Some(done) = pending.next() => {
                let answer = flatten(done)?;
                writer.send(kind::ANSWER, &[&answer.encode()]).await?;
                writer.flush().await?;
            }
            frame = reader.next(), if pending.len() < PIPELINE => match frame? {
                Some(frame) => pending.push_back(begin(session, frame)),
                None => break,
            },
        }
    }
    while pending.next().await.is_some() {}
    Ok(())
}

/// Starts to work on a frame; the work goes on if the connection ends.
fn begin(session: &Arc<Session>, frame: Frame) -> JoinHandle<Result<Answer>> {
    let payload = frame.payload;
    let owner = Arc::clone(session);
    let work = async move {
        match frame.kind {
            kind::BATCH => {
                let (disks, _writing) = owner.to_be_written()?;
                apply::batch(&disks, payload).await
            }
            kind::ZEROS => {
                let (disks, _writing) = owner.to_be_written()?;
                apply::zeros(&disks, payload).await
            }
            kind::PROBE => Ok(Answer { sequence: 0, refused: Vec::new() }),
            other => Err(violation(format!("a data connection has no frame {other}"))),
        }
    };
    session.tasks.spawn(work)
}

fn flatten(done: Result<Result<Answer>, tokio::task::JoinError>) -> Result<Answer> {
    done.map_err(|error| Error::new(Kind::Internal, format!("the work on a batch died: {error}")))?
}
