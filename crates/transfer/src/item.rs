//! One work item: from extents to decoded bytes on a worker thread.

use crate::budget::Lent;
use crate::door::blocking;
use crate::event::Waiting;
use crate::{Engine, Lease, Wait};
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
    /// Items are planned one after another, so memory is granted in the order of the disk. It
    /// comes free only when earlier items let go of theirs: who keeps finished items has to go on
    /// consuming them while this waits. Cancel safe.
    pub(crate) async fn plan(
        &self,
        source: &Arc<dyn Source>,
        range: ByteRange,
        extents: &[Extent],
    ) -> Result<Item> {
        let draft = Draft::new(source, range, extents)?;
        self.keep_pace(draft.plan.read_len()).await?;
        self.lend_to(draft).await
    }

    /// [`Self::plan`] for reading what was written back, which no rate limits.
    pub(crate) async fn plan_unpaced(
        &self,
        source: &Arc<dyn Source>,
        range: ByteRange,
        extents: &[Extent],
    ) -> Result<Item> {
        self.lend_to(Draft::new(source, range, extents)?).await
    }

    async fn lend_to(&self, draft: Draft) -> Result<Item> {
        let (len, scratch) = draft.memory();
        Ok(draft.with(self.stop.race(self.budget.lend(len, scratch)).await?))
    }

    /// Plans the same `range` of two sources, whose memory is lent together: neither item waits
    /// while it holds the other's share. Cancel safe.
    pub(crate) async fn plan_pair(
        &self,
        range: ByteRange,
        one: (&Arc<dyn Source>, &[Extent]),
        two: (&Arc<dyn Source>, &[Extent]),
    ) -> Result<(Item, Item)> {
        let (one, two) = (Draft::new(one.0, range, one.1)?, Draft::new(two.0, range, two.1)?);
        self.keep_pace(one.plan.read_len() + two.plan.read_len()).await?;
        let lending = self.budget.lend_pair([one.memory(), two.memory()]);
        let [first, second] = self.stop.race(lending).await?;
        Ok((one.with(first), two.with(second)))
    }

    async fn keep_pace(&self, bytes: u64) -> Result<()> {
        let Some(time) = self.pacer.grant(bytes) else { return Ok(()) };
        let _waiting = Waiting::begin(self.observer.as_ref(), Wait::Pace);
        let sleep = async {
            tokio::time::sleep_until(time).await;
            Ok(())
        };
        self.stop.race(sleep).await
    }

    /// How many items of `source` to have under way.
    pub(crate) fn parallel(&self, source: &dyn Source, local: bool) -> usize {
        let wanted = if local { 1 } else { usize::from(source.hint().parallel) };
        wanted.max(self.cores + 1)
    }
}

/// A plan that has no memory yet.
struct Draft {
    source: Arc<dyn Source>,
    plan: FetchPlan,
    len: usize,
}

impl Draft {
    fn new(source: &Arc<dyn Source>, range: ByteRange, extents: &[Extent]) -> Result<Self> {
        let plan = FetchPlan::new(range, extents, FetchTuning::new(source.hint()))?;
        let len = usize::try_from(range.len())
            .map_err(|_| Error::new(Kind::Internal, "a work item does not fit in memory"))?;
        Ok(Self { source: Arc::clone(source), plan, len })
    }

    /// Bytes for the result and for what is read beside it.
    fn memory(&self) -> (usize, usize) {
        (self.len, self.plan.scratch_len())
    }

    fn with(self, (output, scratch): Lent) -> Item {
        Item { source: self.source, plan: self.plan, output, scratch }
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
        engine.stop.race(plan.read(source.as_ref(), output.bytes_mut(), scratch)).await
    }
}
