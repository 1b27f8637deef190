//! The bytes of a source in order, fetched and decoded in parallel.

use crate::{Engine, Lease, Phase, Walker, Work};
use carreto_block::{ByteRange, Source};
use carreto_error::{Error, Kind, Result};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A piece of a source, in order.
#[derive(Debug)]
pub enum Piece<'a> {
    /// This many zero bytes.
    Zero(u64),
    /// These bytes.
    Data(&'a [u8]),
}

enum Pending {
    Zero(ByteRange),
    Data(ByteRange, JoinHandle<Result<((), Lease)>>),
}

/// Hands every byte of `range` of `source` to `consume`, in order. Zeros come as lengths.
///
/// `consume` runs on the calling task. Cancel safe.
///
/// # Errors
/// What reading, decoding and `consume` meet; `Cancelled` or `Timeout` when the engine was
/// stopped.
pub async fn scan_ordered(
    engine: &Engine,
    source: Arc<dyn Source>,
    range: ByteRange,
    mut consume: impl FnMut(Piece<'_>) -> Result<()> + Send,
) -> Result<()> {
    let mut walker = Walker::new(Arc::clone(&source), range);
    let mut queue: VecDeque<Pending> = VecDeque::new();
    let mut parallel = engine.cores + 1;
    while let Some(work) = walker.next().await? {
        engine.stop.check()?;
        match work {
            Work::Zero(zero) => queue.push_back(Pending::Zero(zero)),
            Work::Data(part, extents) => {
                let item = engine.plan(&source, part, &extents).await?;
                parallel = engine.parallel(source.as_ref(), item.is_local());
                let engine = engine.clone();
                let task = tokio::spawn(async move { item.then(&engine, |_| Ok(())).await });
                queue.push_back(Pending::Data(part, task));
            }
        }
        while queue.len() >= parallel {
            take_first(engine, &mut queue, &mut consume).await?;
        }
    }
    while !queue.is_empty() {
        take_first(engine, &mut queue, &mut consume).await?;
    }
    Ok(())
}

async fn take_first(
    engine: &Engine,
    queue: &mut VecDeque<Pending>,
    consume: &mut (impl FnMut(Piece<'_>) -> Result<()> + Send),
) -> Result<()> {
    match queue.pop_front() {
        Some(Pending::Zero(range)) => {
            consume(Piece::Zero(range.len()))?;
            engine.advanced(Phase::Copy, range, 0);
        }
        Some(Pending::Data(range, task)) => {
            let ((), lease) = task.await.map_err(|failure| {
                Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(failure)
            })??;
            consume(Piece::Data(lease.bytes()))?;
            engine.advanced(Phase::Copy, range, range.len());
        }
        None => {}
    }
    Ok(())
}
