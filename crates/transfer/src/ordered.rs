//! The bytes of a source in order, fetched and decoded in parallel.

use crate::item::Item;
use crate::{Engine, Lease, Phase, Walker, Work};
use carreto_block::{ByteRange, Source};
use carreto_error::{Error, Kind, Result};
use std::collections::VecDeque;
use std::pin::pin;
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
    Data(ByteRange, Fetch),
}

/// A fetch under way, which ends when nobody waits for it any more.
struct Fetch(JoinHandle<Result<((), Lease)>>);

impl Drop for Fetch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Hands every byte of `range` of `source` to `consume`, in order. Zeros come as lengths.
///
/// `consume` runs on the calling task. Cancel safe: dropping the future ends reads under way;
/// only work that has begun on a thread runs to its end.
///
/// # Errors
/// What reading, decoding and `consume` meet; `Cancelled` or `Timeout` when the engine was
/// stopped.
pub async fn scan_ordered(
    engine: &Engine,
    source: Arc<dyn Source>,
    range: ByteRange,
    consume: impl FnMut(Piece<'_>) -> Result<()> + Send,
) -> Result<()> {
    let mut walker = Walker::new(Arc::clone(&source), range);
    let mut scan = Scan { engine, queue: VecDeque::new(), consume };
    let mut parallel = engine.cores + 1;
    while let Some(work) = engine.stop.race(walker.next()).await? {
        match work {
            Work::Zero(zero) => scan.queue.push_back(Pending::Zero(zero)),
            Work::Data(part, extents) => {
                let item = scan.consume_until(engine.plan(&source, part, &extents)).await?;
                parallel = engine.parallel(source.as_ref(), item.is_local());
                let engine = engine.clone();
                let task = tokio::spawn(async move { item.then(&engine, |_| Ok(())).await });
                scan.queue.push_back(Pending::Data(part, Fetch(task)));
            }
        }
        while scan.queue.len() >= parallel {
            scan.consume_first().await?;
        }
    }
    while !scan.queue.is_empty() {
        scan.consume_first().await?;
    }
    Ok(())
}

struct Scan<'e, F> {
    engine: &'e Engine,
    /// In the order of the disk.
    queue: VecDeque<Pending>,
    consume: F,
}

impl<F: FnMut(Piece<'_>) -> Result<()> + Send> Scan<'_, F> {
    /// Waits for the memory of the next item and meanwhile consumes the items before it: what
    /// they hold may be what it waits for.
    async fn consume_until(
        &mut self,
        planning: impl Future<Output = Result<Item>>,
    ) -> Result<Item> {
        let mut planning = pin!(planning);
        loop {
            if self.queue.is_empty() {
                return planning.await;
            }
            tokio::select! {
                biased;
                item = &mut planning => return item,
                consumed = self.consume_first() => consumed?,
            }
        }
    }

    /// Consumes the first item once it is there. Cancel safe: it stays the first until then.
    async fn consume_first(&mut self) -> Result<()> {
        let (range, lease) = match self.queue.front_mut() {
            None => return Ok(()),
            Some(Pending::Zero(range)) => (*range, None),
            Some(Pending::Data(range, task)) => {
                let fetched = (&mut task.0).await.map_err(|failure| {
                    Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(failure)
                });
                (*range, Some(fetched??.1))
            }
        };
        self.queue.pop_front();
        let (piece, data) = match &lease {
            None => (Piece::Zero(range.len()), 0),
            Some(lease) => (Piece::Data(lease.bytes()), range.len()),
        };
        (self.consume)(piece)?;
        self.engine.advanced(Phase::Copy, range, data);
        Ok(())
    }
}
