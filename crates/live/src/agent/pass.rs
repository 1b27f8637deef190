//! One pass over granules of a disk: read, compare, send, wait until the receiver has them.

use super::blocks::Blocks;
use super::disk::Shared;
use super::level::Level;
use super::link::Link;
use super::meter::Meter;
use super::prepare::{self, PIECE, PackedBatch, Prepared};
use super::workshop::Workshops;
use crate::granule::GranuleSet;
use crate::ledger::Known;
use crate::pace::Throttle;
use crate::wire::{Batch, Ranges, kind};
use carreto_error::{Error, Kind, Result};
use futures_util::{StreamExt as _, stream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Pieces of 4 MiB that are in memory at a time, of all disks.
const PIECES: usize = 12;

/// What passes share.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) throttle: Throttle,
    pub(super) blocks: Arc<Blocks>,
    pub(super) meter: Arc<Meter>,
    threads: Arc<Semaphore>,
    pieces: Arc<Semaphore>,
    workshops: Arc<Workshops>,
    level: Arc<Level>,
}

/// What a pass did.
#[derive(Debug)]
pub(super) struct Passed {
    /// Granules that were read and are with the receiver.
    pub(super) done: GranuleSet,
    /// Granules whose content was sent.
    pub(super) sent: u64,
    /// Granules that the receiver had with another content.
    pub(super) changed: u64,
    /// It was stopped before its end.
    pub(super) stopped: bool,
}

impl Sender {
    pub(super) fn new(throttle: Throttle, threads: usize, meter: Arc<Meter>) -> Self {
        Self {
            throttle,
            blocks: Arc::default(),
            meter,
            threads: Arc::new(Semaphore::new(threads)),
            pieces: Arc::new(Semaphore::new(PIECES)),
            workshops: Arc::default(),
            level: Arc::default(),
        }
    }

    /// Sends what of `set` the receiver does not have. After `stop` nothing new is begun, and what
    /// was begun is finished.
    ///
    /// Not cancel safe: batches of a dropped pass may still arrive, so the link must not be used
    /// any more.
    ///
    /// # Errors
    /// `Unavailable` when the link broke; what reading the disk meets.
    pub(super) async fn pass(
        &self,
        link: &Link,
        disk: &Arc<Shared>,
        set: &GranuleSet,
        stop: &CancellationToken,
    ) -> Result<Passed> {
        let mut passed =
            Passed { done: GranuleSet::empty(set.capacity()), sent: 0, changed: 0, stopped: false };
        let runs =
            std::iter::successors(set.run_from(0, PIECE), |(_, end)| set.run_from(*end, PIECE));
        let running = runs.take_while(|_| !stop.is_cancelled());
        let mut pieces =
            stream::iter(running).map(|run| self.piece(link, disk, run)).buffer_unordered(PIECES);
        while let Some(outcome) = pieces.next().await {
            let piece = outcome?;
            passed.done.insert_range(piece.run.0, piece.run.1);
            passed.sent += piece.sent;
            passed.changed += piece.changed;
        }
        passed.stopped = stop.is_cancelled() && passed.done.len() < set.len();
        Ok(passed)
    }

    async fn piece(&self, link: &Link, disk: &Arc<Shared>, run: (u64, u64)) -> Result<PieceDone> {
        let _room = self.pieces.acquire().await;
        let mut piece = PieceDone { run, sent: 0, changed: 0 };
        let mut again = self.attempt(link, disk, run, true, &mut piece).await?;
        again.sort_unstable();
        for granule in again {
            let refused =
                self.attempt(link, disk, (granule, granule + 1), false, &mut piece).await?;
            if !refused.is_empty() {
                return Err(Error::new(
                    Kind::Unavailable,
                    "the receiver refused data as a reference",
                ));
            }
        }
        Ok(piece)
    }

    /// Gives the granules whose references did not hold.
    async fn attempt(
        &self,
        link: &Link,
        disk: &Arc<Shared>,
        run: (u64, u64),
        with_references: bool,
        piece: &mut PieceDone,
    ) -> Result<Vec<u64>> {
        let prepared = self.prepare(disk, run, with_references).await?;
        self.meter.read(&prepared);
        piece.changed += prepared.changed;
        let begun = Instant::now();
        let took = prepared.took;
        let busy = !(prepared.batches.is_empty() && prepared.zeros.is_empty());
        let mut refused = Vec::new();
        let zeros = prepared.zeros;
        piece.sent += zeros.iter().map(|(start, end)| end - start).sum::<u64>();
        self.zeros(link, disk, zeros).await?;
        let batches = prepared.batches.into_iter().map(|batch| self.batch(link, disk, batch));
        for outcome in futures_util::future::join_all(batches).await {
            let (sent, mut again) = outcome?;
            piece.sent += sent;
            refused.append(&mut again);
        }
        if busy {
            self.level.observe(took, begun.elapsed());
        }
        Ok(refused)
    }

    async fn prepare(
        &self,
        disk: &Arc<Shared>,
        run: (u64, u64),
        references: bool,
    ) -> Result<Prepared> {
        let _thread = self.threads.acquire().await;
        let (disk, level) = (Arc::clone(disk), self.level.now());
        let blocks = references.then(|| Arc::clone(&self.blocks));
        let workshops = Arc::clone(&self.workshops);
        let work = move || {
            let mut workshop = workshops.take()?;
            let prepared = prepare::piece(&disk, blocks.as_deref(), run, level, &mut workshop)?;
            workshops.give_back(workshop);
            Ok(prepared)
        };
        let joined = tokio::task::spawn_blocking(work).await;
        joined.map_err(|error| {
            Error::new(Kind::Internal, format!("a reading thread died: {error}"))
        })?
    }

    async fn zeros(&self, link: &Link, disk: &Arc<Shared>, zeros: Vec<(u64, u64)>) -> Result<()> {
        if zeros.is_empty() {
            return Ok(());
        }
        forget(disk, zeros.iter().flat_map(|(start, end)| *start..*end));
        let sequence = link.next_sequence();
        let message = Ranges { sequence, disk: disk.number, ranges: zeros };
        let bytes = message.encode();
        self.throttle.take(bytes.len() as u64).await;
        link.send(kind::ZEROS, sequence, bytes, Vec::new()).await?;
        let mut ledger = disk.ledger();
        for (start, end) in &message.ranges {
            (*start..*end).for_each(|granule| ledger.set(granule, Known::Zero));
            let bytes = (end - start) * crate::granule::GRANULE;
            self.meter.zero.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn batch(
        &self,
        link: &Link,
        disk: &Arc<Shared>,
        packed: PackedBatch,
    ) -> Result<(u64, Vec<u64>)> {
        forget(disk, packed.entries.iter().map(|entry| entry.granule));
        let sequence = link.next_sequence();
        let PackedBatch { entries, contents, packed, payload, data, referenced } = packed;
        let batch = Batch { sequence, disk: disk.number, entries, packed, payload: &[] };
        let head = batch.encode_head();
        self.throttle.take((head.len() + payload.len()) as u64).await;
        let answer = link.send(kind::BATCH, sequence, head, payload).await?;
        expect_references(&batch, &answer.refused)?;
        self.meter.data.fetch_add(data, Ordering::Relaxed);
        self.meter.referenced.fetch_add(referenced, Ordering::Relaxed);
        let mut ledger = disk.ledger();
        let mut sent = 0;
        for (entry, content) in batch.entries.iter().zip(contents) {
            if answer.refused.contains(&entry.granule) {
                self.blocks.forget(content);
                continue;
            }
            ledger.set(entry.granule, Known::Leaf(entry.leaf));
            self.blocks.written(content, (disk.number, entry.granule));
            sent += 1;
        }
        Ok((sent, answer.refused))
    }
}

/// Only references can fail to hold.
///
/// # Errors
/// `Unavailable` naming what the receiver refused although it got the bytes.
fn expect_references(batch: &Batch<'_>, refused: &[u64]) -> Result<()> {
    let is_reference = |granule: &u64| {
        batch.entries.iter().any(|it| it.granule == *granule && it.same_as.is_some())
    };
    match refused.iter().find(|granule| !is_reference(granule)) {
        None => Ok(()),
        Some(granule) => {
            let text = format!("the receiver refused granule {granule}, which was no reference");
            Err(Error::new(Kind::Unavailable, text))
        }
    }
}

/// Until the receiver confirms it, nothing is known of what it has there.
fn forget(disk: &Shared, granules: impl Iterator<Item = u64>) {
    let mut ledger = disk.ledger();
    granules.for_each(|granule| ledger.forget(granule));
}

struct PieceDone {
    run: (u64, u64),
    sent: u64,
    changed: u64,
}
