//! Finding the first byte in which two sources differ.

use crate::{Engine, Lease, Phase, Walker, Work, is_zero};
use carreto_block::{ByteRange, Extent, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Where two sources differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The sizes in bytes differ; the content was not compared.
    Size(u64, u64),
    /// The first differing byte.
    Content(u64),
}

/// Compares the bytes of `a` and `b`; what is zero in both is not read.
///
/// Cancel safe; items that are being decoded on a thread run to their end.
///
/// # Errors
/// What reading and decoding meet; `Cancelled` or `Timeout` when the engine was stopped.
pub async fn compare(
    engine: &Engine,
    a: Arc<dyn Source>,
    b: Arc<dyn Source>,
) -> Result<Option<Difference>> {
    if a.size() != b.size() {
        return Ok(Some(Difference::Size(a.size(), b.size())));
    }
    let mut run = Run { engine: engine.clone(), a, b, flight: JoinSet::new(), first: None };
    run.walk().await?;
    Ok(run.first.map(Difference::Content))
}

struct Run {
    engine: Engine,
    a: Arc<dyn Source>,
    b: Arc<dyn Source>,
    flight: JoinSet<Result<Option<u64>>>,
    first: Option<u64>,
}

impl Run {
    async fn walk(&mut self) -> Result<()> {
        let mut walker = Walker::new(Arc::clone(&self.a), ByteRange::whole(self.a.size()));
        while self.first.is_none()
            && let Some(work) = self.engine.stop.race(walker.next()).await?
        {
            match work {
                Work::Zero(range) => self.expect_zero(range).await?,
                Work::Data(range, extents) => self.start_pair(range, &extents).await?,
            }
        }
        self.wait_for_room(1).await
    }

    /// `a` is zero here; so must be `b`.
    async fn expect_zero(&mut self, range: ByteRange) -> Result<()> {
        let mut walker = Walker::new(Arc::clone(&self.b), range);
        while let Some(work) = self.engine.stop.race(walker.next()).await? {
            let Work::Data(part, extents) = work else {
                continue;
            };
            let item = self.engine.plan(&self.b, part, &extents).await?;
            self.wait_for_room(self.engine.parallel(self.b.as_ref(), item.is_local())).await?;
            let engine = self.engine.clone();
            self.flight.spawn(async move {
                let work = move |bytes: &[u8]| Ok(first_data(part.start(), bytes));
                Ok(item.then(&engine, work).await?.0)
            });
        }
        self.engine.advanced(Phase::Copy, range, 0);
        Ok(())
    }

    async fn start_pair(&mut self, range: ByteRange, extents: &[Extent]) -> Result<()> {
        let mut theirs = Vec::new();
        let mut rest = range;
        while !rest.is_empty() {
            let answer = self.engine.stop.race(self.b.extents(rest, 512)).await?;
            rest = rest.split_at(answer.last().map_or(rest.end(), |e| e.range.end())).1;
            theirs.extend(answer);
        }
        let pair = self.engine.plan_pair(range, (&self.a, extents), (&self.b, &theirs));
        let (ours, theirs) = pair.await?;
        self.wait_for_room(self.engine.parallel(self.a.as_ref(), ours.is_local())).await?;
        let engine = self.engine.clone();
        self.flight.spawn(async move {
            let ((), a): ((), Lease) = ours.then(&engine, |_| Ok(())).await?;
            let work = move |b: &[u8]| Ok(first_difference(range.start(), a.bytes(), b));
            let (found, _) = theirs.then(&engine, work).await?;
            engine.advanced(Phase::Copy, range, range.len());
            Ok(found)
        });
        Ok(())
    }

    async fn wait_for_room(&mut self, parallel: usize) -> Result<()> {
        while self.flight.len() >= parallel {
            let Some(joined) = self.flight.join_next().await else {
                break;
            };
            let found = joined.map_err(|failure| {
                Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(failure)
            })??;
            self.first = self.first.into_iter().chain(found).min();
        }
        Ok(())
    }
}

fn first_data(start: u64, bytes: &[u8]) -> Option<u64> {
    if is_zero(bytes) {
        return None;
    }
    bytes.iter().position(|byte| *byte != 0).map(|at| start + at as u64)
}

fn first_difference(start: u64, a: &[u8], b: &[u8]) -> Option<u64> {
    if a == b {
        return None;
    }
    a.iter().zip(b).position(|(a, b)| a != b).map(|at| start + at as u64)
}
