//! Copying a range of a source onto a target.

use crate::digest::chunk_digests;
use crate::item::Item;
use crate::zero::data_runs;
use crate::{
    ChunkDigest, ContentDigest, Counters, Engine, Event, Expected, Journal, Phase, RangeSet,
    Walker, Work,
};
use carreto_block::{ByteRange, LocalWrite, Source, Target};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use std::ops::Range;
use std::sync::Arc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// What to copy where.
#[derive(Debug, Clone)]
pub struct Body {
    /// Where the bytes come from.
    pub source: Arc<dyn Source>,
    /// Where they go, at the same offsets.
    pub target: Arc<dyn Target>,
    /// Which bytes; starts on a multiple of [`crate::CHUNK`].
    pub range: ByteRange,
    /// Which of them are on the target already.
    pub done: RangeSet,
    /// What was never written on the target reads as zero.
    pub known_zero: bool,
    /// For events.
    pub phase: Phase,
    /// What the content has to be, where that is known; needs the options to ask for digests.
    pub expected: Option<Expected>,
}

impl Body {
    /// All bytes of `source`.
    pub fn whole(source: Arc<dyn Source>, target: Arc<dyn Target>) -> Self {
        let range = ByteRange::whole(source.size());
        let known_zero = target.caps().known_zero;
        let (done, phase, expected) = (RangeSet::default(), Phase::Copy, None);
        Self { source, target, range, done, known_zero, phase, expected }
    }
}

/// What a copy did.
#[derive(Debug, Clone, Default)]
pub struct Copied {
    /// Guest bytes that the source had data for.
    pub data_bytes: u64,
    /// The digests of the chunks with data, when the options ask for them.
    pub digest: ContentDigest,
}

/// Zero gaps of this many bytes inside an item are zeroed rather than written where the old
/// content of the target is not known.
const ZERO_GAP: usize = 64 << 10;

/// The largest range that is zeroed in one step, so that a stop is heard and progress is told.
const ZERO_STEP: u64 = 1 << 30;
/// The same where zeroing costs as much as writing.
const SLOW_ZERO_STEP: u64 = 32 << 20;

/// Copies `body`, writing down in `journal` what is done, and flushes the target at the end.
///
/// Whatever ends the copy early, all writes have ended when it returns, and what was done is in
/// the journal. After a flush that failed only what was flushed before counts as done. Not
/// cancel safe: dropping the future leaves a few blocking writes of right bytes running for a moment;
/// copying again repairs whatever is missing.
///
/// # Errors
/// What reading, decoding and writing meet; `Mismatch` when the source is not what is expected;
/// `Cancelled` or `Timeout` when the engine was stopped.
pub async fn copy(engine: &Engine, body: &Body, journal: Option<Arc<Journal>>) -> Result<Copied> {
    let mut run = Run {
        engine: engine.clone(),
        body: body.clone(),
        journal,
        flight: JoinSet::new(),
        flush: None,
        last_flush: Instant::now(),
        doubted: false,
        copied: Copied::default(),
    };
    let outcome = run.pump().await;
    let landed = run.land().await;
    let flushed = if landed.is_ok() && !run.doubted { run.flush_now().await } else { Ok(()) };
    outcome.and(landed).and(flushed)?;
    Ok(run.copied)
}

struct Run {
    engine: Engine,
    body: Body,
    journal: Option<Arc<Journal>>,
    flight: JoinSet<Result<Landed>>,
    flush: Option<JoinHandle<Result<u64>>>,
    last_flush: Instant,
    /// A flush failed.
    doubted: bool,
    copied: Copied,
}

/// An item that is on the target.
#[derive(Debug)]
struct Landed {
    range: ByteRange,
    data: u64,
    digests: Vec<(u64, ChunkDigest)>,
}

impl Run {
    /// Starts all work, keeping a bounded number of items in flight.
    async fn pump(&mut self) -> Result<()> {
        for gap in self.body.done.gaps(self.body.range) {
            let mut walker = Walker::new(Arc::clone(&self.body.source), gap);
            while let Some(work) = self.engine.stop.race(walker.next()).await? {
                self.start(work).await?;
                self.flush_sometimes().await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, work: Work) -> Result<()> {
        if let (Work::Zero(range), Some(expected)) = (&work, self.expected()) {
            expected.check(*range, &[])?;
        }
        match work {
            Work::Zero(range) if self.body.known_zero => {
                Counters::add(&self.engine.counters.zero, range.len());
                self.finish(&Landed { range, data: 0, digests: Vec::new() })
            }
            Work::Zero(range) => {
                let fast = self.body.target.caps().fast_zero;
                for step in range.chunks(if fast { ZERO_STEP } else { SLOW_ZERO_STEP }) {
                    self.wait_for_room(self.engine.cores).await?;
                    self.flight.spawn(zero(self.engine.clone(), self.body.clone(), step));
                }
                Ok(())
            }
            Work::Data(range, extents) => {
                let item = self.engine.plan(&self.body.source, range, &extents).await?;
                let parallel = self.engine.parallel(self.body.source.as_ref(), item.is_local());
                self.wait_for_room(parallel).await?;
                if let Some(journal) = &self.journal {
                    journal.begun(range, item.data_len())?;
                }
                self.flight.spawn(transfer(self.engine.clone(), self.body.clone(), item));
                Ok(())
            }
        }
    }

    fn expected(&self) -> Option<&Expected> {
        self.body.expected.as_ref().filter(|_| self.engine.options.digest)
    }

    async fn wait_for_room(&mut self, parallel: usize) -> Result<()> {
        while self.flight.len() >= parallel.max(1) {
            let Some(joined) = self.flight.join_next().await else {
                break;
            };
            self.finish(&landed(joined)?)?;
        }
        while let Some(joined) = self.flight.try_join_next() {
            self.finish(&landed(joined)?)?;
        }
        Ok(())
    }

    /// Waits for everything in flight; the first error is reported after the last item landed.
    async fn land(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        while let Some(joined) = self.flight.join_next().await {
            let one = landed(joined).and_then(|item| self.finish(&item));
            outcome = outcome.and(one);
        }
        outcome
    }

    fn finish(&mut self, item: &Landed) -> Result<()> {
        if let Some(journal) = &self.journal {
            journal.done(item.range, &item.digests)?;
        }
        self.copied.data_bytes += item.data;
        self.copied.digest.extend(item.digests.iter().copied());
        self.engine.advanced(self.body.phase, item.range, item.data);
        Ok(())
    }

    /// Starts a flush beside the copy when the last one is long ago, and ends one that is done.
    async fn flush_sometimes(&mut self) -> Result<()> {
        if self.flush.as_ref().is_some_and(JoinHandle::is_finished) {
            return self.end_flush().await;
        }
        let due = self.last_flush.elapsed() >= self.engine.options.flush_interval;
        if self.flush.is_none() && self.journal.is_some() && due {
            self.begin_flush();
        }
        Ok(())
    }

    fn begin_flush(&mut self) {
        let mark = self.journal.as_ref().map_or(0, |journal| journal.mark());
        let (engine, target) = (self.engine.clone(), Arc::clone(&self.body.target));
        let flush = async move { engine.flush(target.as_ref()).await.map(|()| mark) };
        self.flush = Some(tokio::spawn(flush));
    }

    async fn end_flush(&mut self) -> Result<()> {
        let Some(flush) = self.flush.take() else {
            return Ok(());
        };
        let flushed = flush.await.map_err(lost).flatten();
        if flushed.is_err() {
            self.doubted = true;
            self.journal.as_ref().map_or(Ok(()), |journal| journal.doubted())?;
        }
        let mark = flushed?;
        if let Some(journal) = &self.journal {
            journal.flushed(mark)?;
        }
        self.last_flush = Instant::now();
        self.engine.observer.event(&Event::Flushed);
        Ok(())
    }

    async fn flush_now(&mut self) -> Result<()> {
        self.end_flush().await?;
        self.begin_flush();
        self.end_flush().await
    }
}

fn landed(joined: std::result::Result<Result<Landed>, tokio::task::JoinError>) -> Result<Landed> {
    joined.map_err(lost)?
}

fn lost(failure: tokio::task::JoinError) -> Error {
    Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(failure)
}

/// Zeroes a range of a target whose content is not known.
async fn zero(engine: Engine, body: Body, range: ByteRange) -> Result<Landed> {
    engine.stop.check()?;
    body.target.write_zeroes(range).await.wrap_err(|| format!("zero {range}"))?;
    Counters::add(&engine.counters.zeroed, range.len());
    Counters::add(&engine.counters.zero, range.len());
    Ok(Landed { range, data: 0, digests: Vec::new() })
}

/// Fetches, decodes, hashes and writes one item.
async fn transfer(engine: Engine, body: Body, item: Item) -> Result<Landed> {
    let (range, data) = (item.range(), item.data_len());
    let (target, digest) = (Arc::clone(&body.target), engine.options.digest);
    let counters = Arc::clone(&engine.counters);
    let (known_zero, expected) = (body.known_zero, body.expected.clone());
    let work = move |bytes: &[u8]| {
        let digests = if digest { chunk_digests(range.start(), bytes) } else { Vec::new() };
        if let Some(expected) = expected.filter(|_| digest) {
            expected.check(range, &digests)?;
        }
        let layout = Layout::of(bytes, known_zero);
        counters_for(&counters, &layout, data, range.len());
        let written = target.as_local().map(|local| layout.write(local, range.start(), bytes));
        written.transpose()?;
        Ok((digests, layout))
    };
    Counters::add(&engine.counters.read, item.read_len());
    let ((digests, layout), lease) = item.then(&engine, work).await?;
    if body.target.as_local().is_none() {
        layout.write_remote(body.target.as_ref(), range.start(), lease.bytes()).await?;
    }
    Ok(Landed { range, data, digests })
}

fn counters_for(counters: &Counters, layout: &Layout, data: u64, len: u64) {
    let sum = |runs: &[Range<usize>]| runs.iter().map(|run| run.len() as u64).sum::<u64>();
    let written = sum(&layout.data);
    Counters::add(&counters.data, data);
    Counters::add(&counters.zero, len.saturating_sub(written));
    Counters::add(&counters.written, written);
    Counters::add(&counters.zeroed, sum(&layout.zero));
}

/// Which parts of an item are written and which are zeroed.
#[derive(Debug)]
struct Layout {
    data: Vec<Range<usize>>,
    zero: Vec<Range<usize>>,
}

impl Layout {
    fn of(bytes: &[u8], known_zero: bool) -> Self {
        if known_zero {
            return Self { data: data_runs(bytes, 0), zero: Vec::new() };
        }
        let mut layout = Self { data: data_runs(bytes, ZERO_GAP), zero: Vec::new() };
        let mut at = 0;
        for run in &mut layout.data {
            if run.start - at < ZERO_GAP {
                run.start = at;
            } else {
                layout.zero.push(at..run.start);
            }
            at = run.end;
        }
        match layout.data.last_mut() {
            Some(last) if bytes.len() - at < ZERO_GAP => last.end = bytes.len(),
            _ => layout.zero.push(at..bytes.len()),
        }
        layout
    }

    fn write(&self, target: &dyn LocalWrite, start: u64, bytes: &[u8]) -> Result<()> {
        for run in &self.data {
            target.write_local(start + run.start as u64, &bytes[run.clone()])?;
        }
        for gap in self.zero_ranges(start) {
            target.zero_local(gap)?;
        }
        Ok(())
    }

    async fn write_remote(&self, target: &dyn Target, start: u64, bytes: &[u8]) -> Result<()> {
        for run in &self.data {
            target.write_at(start + run.start as u64, &bytes[run.clone()]).await?;
        }
        for gap in self.zero_ranges(start) {
            target.write_zeroes(gap).await?;
        }
        Ok(())
    }

    fn zero_ranges(&self, start: u64) -> impl Iterator<Item = ByteRange> {
        let absolute = move |gap: &Range<usize>| {
            ByteRange::new(start + gap.start as u64, start + gap.end as u64)
        };
        self.zero.iter().filter_map(absolute).filter(|gap| !gap.is_empty())
    }
}
