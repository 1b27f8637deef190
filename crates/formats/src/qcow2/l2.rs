//! L2 tables: where they are, and a bounded cache of what was read of them.
//!
//! Tables are read in slices of at most 64 KiB, so that an image with clusters of 2 MiB (whose
//! tables describe 512 GiB each) does not cost 2 MiB of metadata for a boot sector.

use super::entry::Layout;
use super::header::TableRef;
use super::tables::{self, BATCH_BYTES, Piece, Words, index_of, read_pieces};
use carreto_block::{ByteRange, Source};
use carreto_error::Result;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The bytes of L2 tables that are kept.
const CACHE_BYTES: u64 = 8 << 20;
const MAX_SLICE: u64 = 64 << 10;
/// Slices that one lookup reads ahead at most.
const READ_AHEAD: usize = 16;

/// A slice of an L2 table and the guest bytes it describes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    pub(super) piece: Piece,
    /// The guest bytes, up to the end of the disk.
    pub(super) guest: ByteRange,
}

/// The two levels of tables of one disk in an image.
pub(super) struct Tables {
    layout: Layout,
    l1_ref: TableRef,
    l1: OnceLock<Vec<u64>>,
    cache: Mutex<LruCache<u64, Words>>,
}

impl Tables {
    /// The tables below `l1_ref`; nothing is read yet.
    pub(super) fn new(layout: Layout, l1_ref: TableRef) -> Self {
        let slices = index_of(CACHE_BYTES / slice_bytes(&layout));
        let capacity = NonZeroUsize::new(slices).unwrap_or(NonZeroUsize::MIN);
        Self { layout, l1_ref, l1: OnceLock::new(), cache: Mutex::new(LruCache::sparse(capacity)) }
    }

    /// The L1 entries that the disk needs, read at the first call. Calls that race read it twice.
    pub(super) async fn l1(&self, file: &dyn Source) -> Result<&[u64]> {
        if let Some(table) = self.l1.get() {
            return Ok(table);
        }
        let needed = super::header::l1_entries(self.layout.virtual_size, self.layout.span_bits);
        let table = tables::read_table(file, self.l1_ref.offset, needed)
            .await
            .map_err(|error| error.wrap("the L1 table cannot be read"))?;
        Ok(self.l1.get_or_init(|| table))
    }

    /// The byte of the file where the L1 entry for guest byte `guest` is.
    pub(super) fn l1_entry_offset(&self, guest: u64) -> u64 {
        self.l1_ref.offset + (guest >> self.layout.span_bits) * 8
    }

    /// The slice that describes guest byte `guest`, or the end of the hole that starts there.
    ///
    /// # Errors
    /// `Corrupt` or `Truncated`, naming the L1 entry.
    pub(super) fn locate(&self, l1: &[u64], guest: u64) -> Result<Result<Slice, u64>> {
        let index = index_of(guest >> self.layout.span_bits);
        let entry = l1.get(index).copied().unwrap_or(0);
        let table = self.layout.l2_table(entry).map_err(|error| {
            let at = self.l1_entry_offset(guest);
            error.during("read the L1 table").offset(at)
        })?;
        Ok(match table {
            Some(table) => Ok(self.slice(table, guest)),
            None => Err(self.hole_end(l1, index)),
        })
    }

    fn hole_end(&self, l1: &[u64], index: usize) -> u64 {
        let rest = l1.get(index + 1..).unwrap_or(&[]);
        // Damaged entries end the hole too: they are reported when they are asked for.
        match rest.iter().position(|entry| *entry != 0) {
            Some(run) => ((index + 1 + run) as u64) << self.layout.span_bits,
            None => self.layout.virtual_size,
        }
    }

    fn slice(&self, table: u64, guest: u64) -> Slice {
        let layout = &self.layout;
        let len = slice_bytes(layout);
        let clusters = len / (8 * layout.entry_words() as u64);
        let span = clusters << layout.cluster_bits;
        let start = guest & !(span - 1);
        let before = (start & ((1 << layout.span_bits) - 1)) / span;
        let end = start.saturating_add(span).min(layout.virtual_size);
        Slice {
            piece: Piece { offset: table + before * len, len },
            guest: ByteRange::new(start, end).unwrap_or(ByteRange::whole(0)),
        }
    }

    /// The words of `slice`, which may be in the cache. On a miss the slices that follow it up to
    /// guest byte `end` are read with it.
    pub(super) async fn words(
        &self,
        file: &dyn Source,
        l1: &[u64],
        slice: Slice,
        end: u64,
    ) -> Result<Words> {
        if let Some(words) = self.cached(slice.piece.offset) {
            return Ok(words);
        }
        let batch = self.missing(l1, slice, end);
        let read = read_pieces(file, &batch)
            .await
            .map_err(|error| error.wrap("an L2 table cannot be read"))?;
        let mut cache = self.lock();
        for (piece, words) in batch.iter().zip(&read) {
            cache.put(piece.offset, words.clone());
        }
        drop(cache);
        read.into_iter().next().ok_or_else(|| {
            let text = "no L2 table was read";
            carreto_error::Error::new(carreto_error::Kind::Internal, text)
        })
    }

    /// `slice` and those after it that are not in the cache.
    fn missing(&self, l1: &[u64], slice: Slice, end: u64) -> Vec<Piece> {
        let mut batch = vec![slice.piece];
        let mut bytes = slice.piece.len;
        let mut at = slice.guest.end();
        while at < end && batch.len() < READ_AHEAD && bytes < BATCH_BYTES / 2 {
            match self.locate(l1, at) {
                Ok(Ok(next)) => {
                    let known = self.lock().contains(&next.piece.offset);
                    if !known && !batch.contains(&next.piece) {
                        batch.push(next.piece);
                        bytes += next.piece.len;
                    }
                    at = next.guest.end();
                }
                Ok(Err(hole_end)) => at = hole_end,
                Err(_) => break,
            }
        }
        batch
    }

    fn cached(&self, offset: u64) -> Option<Words> {
        self.lock().get(&offset).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<u64, Words>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables")
            .field("layout", &self.layout)
            .field("l1", &self.l1_ref)
            .finish_non_exhaustive()
    }
}

fn slice_bytes(layout: &Layout) -> u64 {
    layout.cluster_size().min(MAX_SLICE)
}
