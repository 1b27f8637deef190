//! Decoding everything that is compressed, to see whether it can be.

use crate::{Engine, Phase, Walker, Work};
use carreto_block::{ByteRange, Extent, Placement, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Fetches and decodes every compressed unit of `source` and nothing else. Returns the number of
/// guest bytes decoded.
///
/// Cancel safe; an item that is being decoded on a thread runs to its end.
///
/// # Errors
/// The first unit that does not decode; what reading meets; `Cancelled` or `Timeout` when the
/// engine was stopped.
pub async fn decode_all(engine: &Engine, source: Arc<dyn Source>) -> Result<u64> {
    let mut walker = Walker::new(Arc::clone(&source), ByteRange::whole(source.size()));
    let mut flight: JoinSet<Result<u64>> = JoinSet::new();
    let mut decoded = 0;
    while let Some(work) = engine.stop.race(walker.next()).await? {
        let Work::Data(range, extents) = work else {
            continue;
        };
        let packed: Vec<Extent> = extents.into_iter().map(only_packed).collect();
        let item = engine.plan(&source, range, &packed).await?;
        let parallel = engine.parallel(source.as_ref(), item.is_local());
        while flight.len() >= parallel {
            decoded += next(&mut flight).await?;
        }
        if item.data_len() > 0 {
            let engine = engine.clone();
            flight.spawn(async move {
                let data = item.data_len();
                item.then(&engine, |_| Ok(())).await?;
                engine.advanced(Phase::Copy, range, data);
                Ok(data)
            });
        }
    }
    while !flight.is_empty() {
        decoded += next(&mut flight).await?;
    }
    Ok(decoded)
}

fn only_packed(extent: Extent) -> Extent {
    match extent.placement {
        Placement::Packed(_) => extent,
        _ => Extent::new(extent.range, Placement::Zero),
    }
}

async fn next(flight: &mut JoinSet<Result<u64>>) -> Result<u64> {
    match flight.join_next().await {
        None => Ok(0),
        Some(joined) => joined.map_err(|failure| {
            Error::new(Kind::Internal, "a task ended unexpectedly").caused_by(failure)
        })?,
    }
}
