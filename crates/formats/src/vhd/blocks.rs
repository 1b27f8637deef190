//! Where the blocks of a sparse disk are: the block allocation table and the sector bitmaps.
//!
//! Facts from the VHD specification 1.0, "Block Allocation Table and Data Blocks": an entry is
//! the sector of a block's bitmap, all ones when there is no block; the data follows the bitmap,
//! which is padded to whole sectors and has the first sector in its highest bit.

use super::bitmap::Bitmap;
use super::header::Header;
use carreto_block::{ByteRange, Extent, FileId, Placement, Source, SourceExt as _, merge_extents};
use carreto_error::{Error, Kind, Result};
use futures_util::future::{join, join_all, try_join_all};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// The entry of a block that is not there.
pub(super) const ABSENT: u32 = u32::MAX;
/// Entries of the table that are read at a time: 256 KiB.
pub(super) const PIECE: u64 = 64 << 10;
/// Pieces of the table that are kept: 8 MiB.
const PIECES: usize = 32;
/// Bytes of bitmaps that are kept.
const BITMAPS: usize = 4 << 20;
/// Blocks whose bitmaps are looked at together.
const BATCH: usize = 32;

/// A stretch of the disk as the table has it.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    range: ByteRange,
    /// The block, where there is one; else this is a hole of any length.
    block: Option<Block>,
}

/// A block that is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) index: u64,
    /// The byte of the file at which its bitmap starts.
    pub(super) at: u64,
}

/// The blocks of one sparse disk.
#[derive(Debug)]
pub(super) struct Blocks {
    table_offset: u64,
    block_size: u64,
    bitmap_len: u32,
    /// The bytes of the disk.
    size: u64,
    /// Where data must end.
    data_end: u64,
    /// What a sector that is not in the image reads as.
    hole: Placement,
    table: Mutex<LruCache<u64, Arc<[u32]>>>,
    bitmaps: Mutex<LruCache<u64, Arc<Bitmap>>>,
}

impl Blocks {
    /// `header` was validated against `size` and `data_end`.
    pub(super) fn new(header: &Header, size: u64, data_end: u64, hole: Placement) -> Self {
        let bitmap_len = header.bitmap_len();
        let kept = (BITMAPS / bitmap_len as usize).max(BATCH);
        let cache = |capacity| NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self {
            table_offset: header.table_offset,
            block_size: u64::from(header.block_size),
            bitmap_len,
            size,
            data_end,
            hole,
            table: Mutex::new(LruCache::new(cache(PIECES))),
            bitmaps: Mutex::new(LruCache::new(cache(kept))),
        }
    }

    /// The number of blocks that the disk has.
    pub(super) fn count(&self) -> u64 {
        self.size.div_ceil(self.block_size)
    }

    /// The guest's bytes of a block; the last one may be short.
    pub(super) fn range_of(&self, index: u64) -> ByteRange {
        let start = index.saturating_mul(self.block_size).min(self.size);
        let end = start.saturating_add(self.block_size).min(self.size);
        ByteRange::new(start, end).unwrap_or(ByteRange::whole(0))
    }

    pub(super) fn bitmap_len(&self) -> u64 {
        u64::from(self.bitmap_len)
    }

    /// The bytes of the file that reading a block may touch.
    pub(super) fn place_of(&self, block: Block) -> ByteRange {
        let len = self.bitmap_len() + self.range_of(block.index).len();
        ByteRange::from_len(block.at, len).unwrap_or(ByteRange::whole(0))
    }

    /// The given piece of the table, from the cache or from the file.
    pub(super) async fn piece(&self, file: &dyn Source, number: u64) -> Result<Arc<[u32]>> {
        if let Some(piece) = lock(&self.table).get(&number) {
            return Ok(Arc::clone(piece));
        }
        let first = number * PIECE;
        let entries = (self.count() - first).min(PIECE);
        let len = usize::try_from(entries * 4).unwrap_or(0);
        let bytes = file.read_vec(self.table_offset + first * 4, len).await?;
        let (words, _) = bytes.as_chunks::<4>();
        let piece: Arc<[u32]> = words.iter().map(|word| u32::from_be_bytes(*word)).collect();
        lock(&self.table).put(number, Arc::clone(&piece));
        Ok(piece)
    }

    /// As [`Source::extents`]; `range` lies within the disk.
    pub(super) async fn extents(
        &self,
        file: &dyn Source,
        range: ByteRange,
        limit: usize,
    ) -> Result<Vec<Extent>> {
        let limit = limit.max(1);
        let mut list = Vec::new();
        let mut todo = range;
        while !todo.is_empty() && list.len() < limit {
            let stretches = self.stretches(file, todo, limit - list.len()).await?;
            let bitmaps = self.bitmaps(file, &stretches).await?;
            for (stretch, bitmap) in stretches.into_iter().zip(bitmaps) {
                todo = todo.split_at(stretch.range.end()).1;
                match (stretch.block, bitmap) {
                    (None, _) => merge_extents(&mut list, Extent::new(stretch.range, self.hole)),
                    (Some(block), Some(bitmap)) => {
                        let whole = self.expand(block, stretch.range, &bitmap, limit, &mut list);
                        if !whole || list.len() >= limit {
                            return Ok(list);
                        }
                    }
                    (Some(_), None) => {
                        return Err(Error::new(Kind::Internal, "a bitmap was not looked at"));
                    }
                }
            }
        }
        Ok(list)
    }

    /// What the table says about `todo`, up to the block number `limit` that is there.
    async fn stretches(
        &self,
        file: &dyn Source,
        todo: ByteRange,
        limit: usize,
    ) -> Result<Vec<Stretch>> {
        let mut list: Vec<Stretch> = Vec::new();
        let mut room = limit.min(BATCH);
        let mut index = todo.start() / self.block_size;
        let end = todo.end().div_ceil(self.block_size);
        while index < end && room > 0 {
            let piece = self.piece(file, index / PIECE).await?;
            let first = usize::try_from(index % PIECE).unwrap_or(usize::MAX);
            for entry in piece.iter().skip(first) {
                if index >= end || room == 0 {
                    break;
                }
                let range = self.range_of(index).intersect(todo);
                if *entry == ABSENT {
                    append_hole(&mut list, range);
                } else {
                    let block = Some(self.block(index, *entry)?);
                    list.push(Stretch { range, block });
                    room -= 1;
                }
                index += 1;
            }
        }
        Ok(list)
    }

    /// The block of an entry, inside the file.
    pub(super) fn block(&self, index: u64, entry: u32) -> Result<Block> {
        let block = Block { index, at: u64::from(entry) * 512 };
        let end = self.place_of(block).end();
        if end > self.data_end {
            let text = format!(
                "block {index} is at sector {entry:#x} and ends at byte {end}, past the end of \
                 the data at {}",
                self.data_end
            );
            let entry_at = self.table_offset + index * 4;
            return Err(Error::new(Kind::Truncated, text).offset(entry_at));
        }
        Ok(block)
    }

    /// The bitmap of each stretch that has a block.
    async fn bitmaps(
        &self,
        file: &dyn Source,
        stretches: &[Stretch],
    ) -> Result<Vec<Option<Arc<Bitmap>>>> {
        let mut found = self.known(stretches);
        let missing: Vec<(usize, Block)> = stretches
            .iter()
            .enumerate()
            .filter(|(at, _)| found[*at].is_none())
            .filter_map(|(at, stretch)| Some((at, stretch.block?)))
            .collect();
        let Some((_, last)) = missing.last() else {
            return Ok(found);
        };
        // The caller most often goes on behind: one round of requests serves several calls.
        let room = usize::from(file.hint().parallel).saturating_sub(missing.len());
        let ahead = self.following(*last, room);
        let needed = try_join_all(missing.iter().map(|(_, block)| self.load(file, *block)));
        let extra = join_all(ahead.into_iter().map(|block| self.load(file, block)));
        let loaded = join(needed, extra).await.0?;
        for ((at, _), bitmap) in missing.iter().zip(loaded) {
            found[*at] = Some(bitmap);
        }
        Ok(found)
    }

    fn known(&self, stretches: &[Stretch]) -> Vec<Option<Arc<Bitmap>>> {
        let mut cache = lock(&self.bitmaps);
        stretches.iter().map(|stretch| cache.get(&stretch.block?.index).cloned()).collect()
    }

    fn missing(&self, blocks: impl Iterator<Item = Block>) -> Vec<Block> {
        let cache = lock(&self.bitmaps);
        blocks.filter(|block| !cache.contains(&block.index)).collect()
    }

    /// Up to `room` blocks behind `last` that the cached part of the table has.
    fn following(&self, last: Block, room: usize) -> Vec<Block> {
        let Some(piece) = lock(&self.table).peek(&(last.index / PIECE)).cloned() else {
            return Vec::new();
        };
        let next = last.index + 1;
        let base = last.index / PIECE * PIECE;
        let skip = usize::try_from(next - base).unwrap_or(usize::MAX);
        let there = piece
            .iter()
            .zip(base..)
            .skip(skip)
            .take(4 * BATCH)
            .filter(|(entry, _)| **entry != ABSENT)
            .filter_map(|(entry, index)| self.block(index, *entry).ok());
        self.missing(there.take(room))
    }

    async fn load(&self, file: &dyn Source, block: Block) -> Result<Arc<Bitmap>> {
        let bits = file.read_vec(block.at, self.bitmap_len as usize).await?;
        let sectors = usize::try_from(self.range_of(block.index).len().div_ceil(512)).unwrap_or(0);
        let bitmap = Arc::new(Bitmap::new(bits, sectors));
        lock(&self.bitmaps).put(block.index, Arc::clone(&bitmap));
        Ok(bitmap)
    }

    /// Appends the extents of a block's part; `false` when it stopped at `limit`.
    fn expand(
        &self,
        block: Block,
        part: ByteRange,
        bitmap: &Bitmap,
        limit: usize,
        list: &mut Vec<Extent>,
    ) -> bool {
        let start = block.index * self.block_size;
        let data = block.at + self.bitmap_len();
        let plain = |range: ByteRange| Placement::Plain {
            file: FileId(0),
            offset: data + (range.start() - start),
        };
        let mut rest = part;
        while !rest.is_empty() {
            if list.len() >= limit {
                return false;
            }
            let first = (rest.start() - start) / 512;
            let sectors = (rest.end() - start).div_ceil(512);
            let (own, end) = bitmap.run(first, sectors);
            let (run, tail) = rest.split_at(start + end * 512);
            let placement = if own { plain(run) } else { self.hole };
            merge_extents(list, Extent::new(run, placement));
            rest = tail;
        }
        true
    }
}

fn append_hole(list: &mut Vec<Stretch>, range: ByteRange) {
    if let Some(last) = list.last_mut()
        && last.block.is_none()
        && let Some(joined) = ByteRange::new(last.range.start(), range.end())
    {
        last.range = joined;
        return;
    }
    list.push(Stretch { range, block: None });
}

/// The caches are valid after a panic elsewhere: they are only ever put whole entries.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
