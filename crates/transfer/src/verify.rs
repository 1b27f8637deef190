//! Reading a target back and comparing digests.

use crate::digest::chunk_digests;
use crate::item::Item;
use crate::{CHUNK, ChunkDigest, ContentDigest, Counters, Engine, Phase, Walker, Work};
use carreto_block::{ByteRange, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Chunks that differ are listed up to this many.
const LISTED: usize = 256;

/// Reads `range` of `reader` (see [`carreto_block::Target::reader`]) and returns the chunks whose
/// digest is not the `wanted` one, at most 256 of them. Holes are not read: they are zero.
///
/// Cancel safe. `range` starts on a multiple of [`CHUNK`].
///
/// # Errors
/// What reading meets; `Cancelled` or `Timeout` when the engine was stopped.
pub async fn verify(
    engine: &Engine,
    reader: Arc<dyn Source>,
    range: ByteRange,
    wanted: Arc<ContentDigest>,
) -> Result<Vec<ByteRange>> {
    let mut run = Run { engine, wanted, flight: JoinSet::new(), differing: Vec::new(), range };
    let mut walker = Walker::new(Arc::clone(&reader), range);
    while let Some(work) = walker.next().await? {
        engine.stop.check()?;
        match work {
            Work::Zero(zero) => run.expect_no_data(zero),
            Work::Data(part, extents) => {
                let item = engine.plan(&reader, part, &extents).await?;
                let parallel = engine.parallel(reader.as_ref(), item.is_local());
                run.wait_for_room(parallel).await?;
                let wanted = Arc::clone(&run.wanted);
                run.flight.spawn(check(engine.clone(), item, wanted));
            }
        }
        if run.differing.len() >= LISTED {
            break;
        }
    }
    run.wait_for_room(1).await?;
    run.differing.sort_unstable();
    run.differing.truncate(LISTED);
    Ok(run.differing)
}

struct Run<'e> {
    engine: &'e Engine,
    wanted: Arc<ContentDigest>,
    flight: JoinSet<Result<(ByteRange, Vec<ByteRange>)>>,
    differing: Vec<ByteRange>,
    range: ByteRange,
}

impl Run<'_> {
    /// A hole where the source had data differs.
    fn expect_no_data(&mut self, zero: ByteRange) {
        let lost = self.wanted.offsets_in(zero).filter_map(|at| ByteRange::from_len(at, CHUNK));
        self.differing.extend(lost.map(|chunk| chunk.intersect(self.range)).take(LISTED));
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
            self.differing.extend(differing);
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
    let range = item.range();
    let work =
        move |bytes: &[u8]| Ok(differing(range, &chunk_digests(range.start(), bytes), &wanted));
    let (differing, _) = item.then(&engine, work).await?;
    Counters::add(&engine.counters.verified, range.len());
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
