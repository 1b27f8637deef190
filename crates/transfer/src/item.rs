//! One work item: from extents to decoded bytes on a worker thread.

use crate::door::blocking;
use crate::{Engine, Lease};
use carreto_block::{AlignedBuf, ByteRange, Extent, FetchPlan, FetchTuning, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

/// A planned item that owns the memory it needs.
#[derive(Debug)]
pub(crate) struct Item {
    source: Arc<dyn Source>,
    plan: FetchPlan,
    output: Lease,
    scratch: AlignedBuf,
}

impl Engine {
    /// Plans `range` and waits for its memory and for the pace.
    ///
    /// Items are planned one after another, so memory is granted in the order of the disk and a
    /// consumer that needs them in order cannot starve. Cancel safe.
    pub(crate) async fn plan(
        &self,
        source: &Arc<dyn Source>,
        range: ByteRange,
        extents: &[Extent],
    ) -> Result<Item> {
        let plan = FetchPlan::new(range, extents, FetchTuning::new(source.hint()))?;
        let len = usize::try_from(range.len())
            .map_err(|_| Error::new(Kind::Internal, "a work item does not fit in memory"))?;
        let prepare = async {
            self.pacer.grant(plan.read_len()).await;
            self.budget.lend(len, plan.scratch_len()).await
        };
        let (output, scratch) = tokio::select! {
            () = self.stop.requested() => return Err(self.stop.error()),
            memory = prepare => memory?,
        };
        Ok(Item { source: Arc::clone(source), plan, output, scratch })
    }

    /// How many items of `source` to have under way.
    pub(crate) fn parallel(&self, source: &dyn Source, local: bool) -> usize {
        let wanted = if local { 1 } else { usize::from(source.hint().parallel) };
        wanted.max(self.cores + 1)
    }
}

impl Item {
    /// The range of the source.
    pub(crate) fn range(&self) -> ByteRange {
        self.plan.range()
    }

    /// Guest bytes that are not known to be zero.
    pub(crate) fn data_len(&self) -> u64 {
        self.plan.data_len()
    }

    /// Bytes that reading moves, gaps included.
    pub(crate) fn read_len(&self) -> u64 {
        self.plan.read_len()
    }

    /// Whether reading needs no network.
    pub(crate) fn is_local(&self) -> bool {
        self.plan.is_local(self.source.as_ref())
    }

    /// Fetches and decodes, and runs `work` on the bytes on the same worker thread. Gives the
    /// bytes back with what `work` returned.
    ///
    /// A request to stop ends network reads; work on a thread runs to its end. Dropping the
    /// future does not stop work on a thread either.
    pub(crate) async fn then<T, F>(mut self, engine: &Engine, work: F) -> Result<(T, Lease)>
    where
        T: Send + 'static,
        F: FnOnce(&[u8]) -> Result<T> + Send + 'static,
    {
        let local = self.is_local();
        if !local {
            self.read_remote(engine).await?;
        }
        blocking(move || {
            let Self { source, plan, mut output, mut scratch } = self;
            if local {
                plan.read_local(source.as_ref(), output.bytes_mut(), &mut scratch)?;
            }
            plan.decode(source.as_ref(), output.bytes_mut(), &scratch)?;
            output.recycle(scratch);
            let value = work(output.bytes())?;
            Ok((value, output))
        })
        .await
    }

    async fn read_remote(&mut self, engine: &Engine) -> Result<()> {
        let Self { source, plan, output, scratch } = self;
        tokio::select! {
            () = engine.stop.requested() => Err(engine.stop.error()),
            read = plan.read(source.as_ref(), output.bytes_mut(), scratch) => read,
        }
    }
}
