//! Reading, hashing and packing a piece of a disk, on a thread of its own.

use super::blocks::Blocks;
use super::disk::{Shared, is_same};
use super::workshop::{Press, Workshop};
use crate::granule::{bytes_of, granules_in};
use crate::ledger::{Known, leaf_of};
use crate::wire::{BATCH_GRANULES, Entry};
use carreto_error::Result;
use std::time::{Duration, Instant};

/// Granules of a piece: 4 MiB.
pub(super) const PIECE: u64 = 64;

/// What has to be sent of a piece.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// Granules that became zero, as runs.
    pub(super) zeros: Vec<(u64, u64)>,
    /// Granules with content.
    pub(super) batches: Vec<PackedBatch>,
    /// Bytes that were read.
    pub(super) read: u64,
    /// Granules that the receiver has already.
    pub(super) unchanged: u64,
    /// Granules that the receiver had with another content.
    pub(super) changed: u64,
    /// Time it took.
    pub(super) took: Duration,
}

/// Granules of one message.
#[derive(Debug)]
pub(super) struct PackedBatch {
    pub(super) entries: Vec<Entry>,
    /// The hash of the content alone, of each entry; for later references.
    pub(super) contents: Vec<u128>,
    pub(super) packed: bool,
    pub(super) payload: Vec<u8>,
    /// Bytes of content that travel as data, and as references.
    pub(super) data: u64,
    pub(super) referenced: u64,
}

/// Reads granules `start..end` of a disk and finds what the receiver does not have.
///
/// # Errors
/// What reading meets.
pub(super) fn piece(
    disk: &Shared,
    blocks: Option<&Blocks>,
    (start, end): (u64, u64),
    level: i32,
    workshop: &mut Workshop,
) -> Result<Prepared> {
    let begun = Instant::now();
    let end = end.min(granules_in(disk.size));
    let (first, last) = (bytes_of(start, disk.size), bytes_of(end.saturating_sub(1), disk.size));
    let len = usize::try_from(last.end().saturating_sub(first.start())).unwrap_or(0);
    let Workshop { buffer, press } = workshop;
    buffer.set_len(len)?;
    disk.reader.read_local(first.start(), buffer)?;
    let mut prepared = Prepared { read: len as u64, ..Prepared::default() };
    let mut changed: Vec<(Entry, &[u8])> = Vec::new();
    for granule in start..end {
        let range = bytes_of(granule, disk.size);
        let at = |offset: u64| usize::try_from(offset - first.start()).unwrap_or(usize::MAX);
        let bytes = &buffer[at(range.start())..at(range.end())];
        look(disk, granule, bytes, &mut prepared, &mut changed);
    }
    for entries in changed.chunks(BATCH_GRANULES) {
        prepared.batches.push(pack(disk, blocks, entries, level, press)?);
    }
    prepared.took = begun.elapsed();
    Ok(prepared)
}

fn look<'a>(
    disk: &Shared,
    granule: u64,
    bytes: &'a [u8],
    prepared: &mut Prepared,
    changed: &mut Vec<(Entry, &'a [u8])>,
) {
    let is_zero = carreto_transfer::is_zero(bytes);
    let leaf = if is_zero { [0; 32] } else { leaf_of(granule, bytes) };
    let known = if is_zero { Known::Zero } else { Known::Leaf(leaf) };
    let ledger = disk.ledger();
    if is_same(&ledger, granule, known) {
        prepared.unchanged += 1;
        return;
    }
    prepared.changed += u64::from(ledger.get(granule).is_some());
    drop(ledger);
    if !is_zero {
        changed.push((Entry { granule, leaf, same_as: None }, bytes));
        return;
    }
    match prepared.zeros.last_mut() {
        Some((_, end)) if *end == granule => *end += 1,
        _ => prepared.zeros.push((granule, granule + 1)),
    }
}

fn pack(
    disk: &Shared,
    blocks: Option<&Blocks>,
    changed: &[(Entry, &[u8])],
    level: i32,
    press: &mut Press,
) -> Result<PackedBatch> {
    let mut batch = PackedBatch {
        entries: Vec::with_capacity(changed.len()),
        contents: Vec::with_capacity(changed.len()),
        packed: false,
        payload: Vec::new(),
        data: 0,
        referenced: 0,
    };
    press.plain.clear();
    for (entry, bytes) in changed {
        let content = Blocks::content_of(bytes);
        let here = (disk.number, entry.granule);
        let same_as = blocks.and_then(|blocks| blocks.find(content)).filter(|found| *found != here);
        match same_as {
            Some(_) => batch.referenced += bytes.len() as u64,
            None => press.plain.extend_from_slice(bytes),
        }
        batch.entries.push(Entry { same_as, ..*entry });
        batch.contents.push(content);
    }
    batch.data = press.plain.len() as u64;
    (batch.payload, batch.packed) = press.payload(level)?;
    Ok(batch)
}
