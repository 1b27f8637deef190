//! Reading a target back and comparing digests.

use crate::digest::chunk_digests;
use crate::item::Item;
use crate::{CHUNK, ChunkDigest, ContentDigest, Counters, Engine, Phase, RangeSet, Walker, Work};
use carreto_block::{ByteRange, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Reads `range` of `reader` (see [`carreto_block::Target::reader`]) and returns the chunks whose
/// digest is not the `wanted` one, neighbours merged. Holes are not read: they are zero. No rate
/// limits it.
///
/// Cancel safe; an item that is being hashed on a thread runs to its end. `range` starts on a
/// multiple of [`CHUNK`].
///
/// # Errors
/// What reading meets; `Cancelled` or `Timeout` when the engine was stopped.
pub async fn verify(
    engine: &Engine,
    reader: Arc<dyn Source>,
    range: ByteRange,
    wanted: Arc<ContentDigest>,
) -> Result<RangeSet> {
    let differing = RangeSet::default();
    let mut run = Run { engine, wanted, flight: JoinSet::new(), differing, range };
    let mut walker = Walker::new(Arc::clone(&reader), range);
    while let Some(work) = engine.stop.race(walker.next()).await? {
        match work {
            Work::Zero(zero) => run.expect_no_data(zero),
            Work::Data(part, extents) => {
                let item = engine.plan_unpaced(&reader, part, &extents).await?;
                let parallel = engine.parallel(reader.as_ref(), item.is_local());
                run.wait_for_room(parallel).await?;
                let wanted = Arc::clone(&run.wanted);
                run.flight.spawn(check(engine.clone(), item, wanted));
            }
        }
    }
    run.wait_for_room(1).await?;
    Ok(run.differing)
}

struct Run<'e> {
    engine: &'e Engine,
    wanted: Arc<ContentDigest>,
    flight: JoinSet<Result<(ByteRange, Vec<ByteRange>)>>,
    differing: RangeSet,
    range: ByteRange,
}

impl Run<'_> {
    /// A hole where the source had data differs.
    fn expect_no_data(&mut self, zero: ByteRange) {
        let lost = self.wanted.offsets_in(zero).filter_map(|at| ByteRange::from_len(at, CHUNK));
        for chunk in lost {
            self.differing.insert(chunk.intersect(self.range));
        }
        self.engine.advanced(Phase::Verify, zero, 0);
    }

    async fn wait_for_room(&mut self, parallel: usize) -> Result<()> {
        while self.flight.len() >= parallel {
            let Some(joined) = self.flight.join_next().await else {
                break;
            };
            let (range, differing) = joined.map_err(|failure| {
                Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(failure)
            })??;
            for chunk in differing {
                self.differing.insert(chunk);
            }
            self.engine.advanced(Phase::Verify, range, range.len());
        }
        Ok(())
    }
}

async fn check(
    engine: Engine,
    item: Item,
    wanted: Arc<ContentDigest>,
) -> Result<(ByteRange, Vec<ByteRange>)> {
    let (range, read) = (item.range(), item.read_len());
    let work =
        move |bytes: &[u8]| Ok(differing(range, &chunk_digests(range.start(), bytes), &wanted));
    let (differing, _) = item.then(&engine, work).await?;
    Counters::add(&engine.counters.verified, read);
    Ok((range, differing))
}

fn differing(
    range: ByteRange,
    found: &[(u64, ChunkDigest)],
    wanted: &ContentDigest,
) -> Vec<ByteRange> {
    let found: std::collections::BTreeMap<u64, &ChunkDigest> =
        found.iter().map(|(at, digest)| (*at, digest)).collect();
    let differs =
        |chunk: &ByteRange| wanted.get(chunk.start()) != found.get(&chunk.start()).copied();
    range.chunks(CHUNK).filter(differs).collect()
}
