//! What the line to the receiver carries.

use super::super::link::Link;
use super::document::BandwidthFacts;
use crate::wire::kind;
use carreto_error::{Error, Kind, Result};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tokio::time::Instant;

/// How long new frames are sent.
const SENDING: Duration = Duration::from_secs(3);
/// How long answers are waited for.
const WAITING: Duration = Duration::from_secs(20);
/// Bytes of a frame on a fast line, and of the first.
const PIECE: usize = 1 << 20;
const FIRST: usize = 64 << 10;
/// A first frame that takes longer is a sign of a slow line.
const FAST: Duration = Duration::from_millis(100);
/// Frames under way on each data connection.
const DEPTH: usize = 3;

/// Sends what cannot be compressed over all data connections of `link`.
///
/// # Errors
/// `Unavailable` when the link breaks; `Timeout` when nothing arrives.
pub(super) async fn measure(link: &Link, streams: u16) -> Result<BandwidthFacts> {
    let mut noise = vec![0; PIECE];
    aws_lc_rs::rand::fill(&mut noise)
        .map_err(|_| Error::new(Kind::Io, "the system gave no random bytes"))?;
    let first = Instant::now();
    let send = |size: usize| {
        let payload = noise[..size].to_vec();
        async move { link.send(kind::PROBE, 0, Vec::new(), payload).await.map(|_| size as u64) }
    };
    let silent = |_| Error::new(Kind::Timeout, "nothing arrived at the receiver for 20 s");
    tokio::time::timeout(WAITING, send(FIRST)).await.map_err(silent)??;
    let size = if first.elapsed() < FAST { PIECE } else { FIRST };
    let begun = Instant::now();
    let mut flying = FuturesUnordered::new();
    (0..DEPTH * usize::from(streams)).for_each(|_| flying.push(send(size)));
    let (mut bytes, mut took) = (0, Duration::ZERO);
    while let Ok(Some(arrived)) = tokio::time::timeout_at(begun + WAITING, flying.next()).await {
        bytes += arrived?;
        took = begun.elapsed();
        if took < SENDING {
            flying.push(send(size));
        }
    }
    if bytes == 0 {
        return Err(Error::new(Kind::Timeout, "nothing arrived at the receiver for 20 s"));
    }
    let seconds = took.as_secs_f64().max(1e-6);
    let bytes_per_second = bytes as f64 / seconds;
    Ok(BandwidthFacts { streams, bytes, seconds, bytes_per_second, configured: None })
}
