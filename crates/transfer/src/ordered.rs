//! The bytes of a source in order, fetched, decoded and worked on in parallel.

use crate::item::Item;
use crate::{Engine, Lease, Phase, Walker, Work};
use async_trait::async_trait;
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

/// Takes the pieces of a source in the order of the disk. Its calls are never dropped before
/// their end unless the whole scan is.
#[async_trait]
pub trait Consumer<T>: Send {
    /// Takes zeros.
    ///
    /// # Errors
    /// Whatever ends the scan.
    async fn zero(&mut self, range: ByteRange) -> Result<()>;

    /// Takes the bytes of an item and what the work on them gave. Memory is scarce: a lease that
    /// is kept must come free without another item.
    ///
    /// # Errors
    /// Whatever ends the scan.
    async fn data(&mut self, range: ByteRange, value: T, bytes: Lease) -> Result<()>;
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
    map_ordered(engine, source, range, |_, _| Ok(()), &mut Plain(consume)).await
}

/// Fetches, decodes and `work`s on the items of `range` of `source` in parallel, and hands them
/// to `consumer` in order. `work` gets the guest byte that an item starts at and its bytes, on a
/// worker thread.
///
/// As cancel safe as `consumer` is.
///
/// # Errors
/// What reading, decoding, `work` and `consumer` meet; `Cancelled` or `Timeout` when the engine
/// was stopped.
pub async fn map_ordered<T, W>(
    engine: &Engine,
    source: Arc<dyn Source>,
    range: ByteRange,
    work: W,
    consumer: &mut dyn Consumer<T>,
) -> Result<()>
where
    T: Send + 'static,
    W: Fn(u64, &[u8]) -> Result<T> + Clone + Send + 'static,
{
    let mut walker = Walker::new(Arc::clone(&source), range);
    let mut scan = Scan { engine, queue: VecDeque::new(), consumer };
    let mut parallel = engine.cores + 1;
    while let Some(step) = engine.stop.race(walker.next()).await? {
        match step {
            Work::Zero(zero) => scan.queue.push_back(Pending::Zero(zero)),
            Work::Data(part, extents) => {
                let item = scan.consume_until(engine.plan(&source, part, &extents)).await?;
                parallel = engine.parallel(source.as_ref(), item.is_local());
                scan.queue.push_back(Pending::Data(part, start(engine, item, work.clone())));
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

fn start<T, W>(engine: &Engine, item: Item, work: W) -> Fetch<T>
where
    T: Send + 'static,
    W: Fn(u64, &[u8]) -> Result<T> + Send + 'static,
{
    let (engine, start) = (engine.clone(), item.range().start());
    Fetch(tokio::spawn(async move { item.then(&engine, move |bytes| work(start, bytes)).await }))
}

struct Plain<F>(F);

#[async_trait]
impl<F: FnMut(Piece<'_>) -> Result<()> + Send> Consumer<()> for Plain<F> {
    async fn zero(&mut self, range: ByteRange) -> Result<()> {
        (self.0)(Piece::Zero(range.len()))
    }

    async fn data(&mut self, _range: ByteRange, (): (), bytes: Lease) -> Result<()> {
        (self.0)(Piece::Data(bytes.bytes()))
    }
}

enum Pending<T> {
    Zero(ByteRange),
    Data(ByteRange, Fetch<T>),
    Fetched(ByteRange, T, Lease),
}

/// A fetch under way, which ends when nobody waits for it any more.
struct Fetch<T>(JoinHandle<Result<(T, Lease)>>);

impl<T> Drop for Fetch<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Scan<'e, T> {
    engine: &'e Engine,
    /// In the order of the disk.
    queue: VecDeque<Pending<T>>,
    consumer: &'e mut dyn Consumer<T>,
}

impl<T: Send> Scan<'_, T> {
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
                fetched = self.fetch_first() => fetched?,
            }
            self.consume_first().await?;
        }
    }

    /// Waits until the first item is there. Cancel safe: it stays the first.
    async fn fetch_first(&mut self) -> Result<()> {
        let Some(Pending::Data(range, task)) = self.queue.front_mut() else {
            return Ok(());
        };
        let range = *range;
        let (value, lease) = (&mut task.0).await.map_err(|failure| {
            Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(failure)
        })??;
        self.queue[0] = Pending::Fetched(range, value, lease);
        Ok(())
    }

    async fn consume_first(&mut self) -> Result<()> {
        self.fetch_first().await?;
        match self.queue.pop_front() {
            Some(Pending::Zero(range)) => {
                self.consumer.zero(range).await?;
                self.engine.advanced(Phase::Copy, range, 0);
            }
            Some(Pending::Fetched(range, value, lease)) => {
                self.consumer.data(range, value, lease).await?;
                self.engine.advanced(Phase::Copy, range, range.len());
            }
            _ => {}
        }
        Ok(())
    }
}
