//! Mapping a sparse extent: from guest bytes to grains.

use super::SECTOR;
use super::cache::Table;
use super::codec::{Bare, Marked, Tag};
use super::layout::Grain;
use super::tables::Tables;
use carreto_block::{ByteRange, Extent, FileId, Packed, Placement, merge_extents};
use carreto_error::{Error, Kind, Result};

/// A sparse extent of an image.
#[derive(Debug)]
pub(super) struct Sparse {
    pub(super) tables: Tables,
    /// The extent's file in the image's list.
    pub(super) file: FileId,
}

/// Where the pieces of an answer go.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) list: &'a mut Vec<Extent>,
    /// Extents that are enough.
    pub(super) limit: usize,
    /// What is added to a byte of the extent to make a byte of the disk.
    pub(super) base: u64,
    /// What a grain that is not there means.
    pub(super) absent: Placement,
}

impl Answer<'_> {
    pub(super) fn push(&mut self, range: ByteRange, placement: Placement) -> Result<()> {
        let start = self.base.checked_add(range.start());
        let moved = start.and_then(|start| ByteRange::from_len(start, range.len()));
        let range =
            moved.ok_or_else(|| Error::new(Kind::Internal, "an extent lies beyond 64 bits"))?;
        merge_extents(self.list, Extent::new(range, placement));
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.list.len() >= self.limit
    }

    /// Extents that still fit, at least one.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.list.len()).max(1)
    }
}

impl Sparse {
    /// Appends where the bytes of `range` (of this extent) are, or of a prefix of it.
    pub(super) async fn map(&self, range: ByteRange, answer: &mut Answer<'_>) -> Result<()> {
        let span = self.tables.layout.span();
        let mut todo = range;
        while !todo.is_empty() && !answer.is_full() {
            let index = todo.start() / span;
            let end = todo.end().div_ceil(span);
            let used = self.tables.next_used(index, end).await?;
            let (empty, rest) = todo.split_at(used.saturating_mul(span));
            answer.push(empty, answer.absent)?;
            if rest.is_empty() {
                return Ok(());
            }
            let (here, after) = rest.split_at((used + 1).saturating_mul(span));
            match self.tables.table(used).await? {
                Some(table) => self.map_table(used, &table, here, answer)?,
                None => answer.push(here, answer.absent)?,
            }
            todo = after;
        }
        Ok(())
    }

    fn map_table(
        &self,
        index: u64,
        table: &Table,
        range: ByteRange,
        answer: &mut Answer<'_>,
    ) -> Result<()> {
        let grain = self.tables.layout.grain;
        for piece in range.chunks(grain) {
            if answer.is_full() {
                break;
            }
            let slot = (piece.start() - index * self.tables.layout.span()) / grain;
            let skip = piece.start() % grain;
            let placement = match self.tables.grain(index, &table.bytes, slot)? {
                Grain::Absent => answer.absent,
                Grain::Zero => Placement::Zero,
                Grain::At(offset) => {
                    self.placement(table, slot, offset, piece.start() - skip)?.advanced(skip)
                }
            };
            answer.push(piece, placement)?;
        }
        Ok(())
    }

    /// The placement of the grain at `offset` of the file and guest byte `start` of the extent.
    fn placement(&self, table: &Table, slot: u64, offset: u64, start: u64) -> Result<Placement> {
        let layout = &self.tables.layout;
        let Some(codec) = layout.codec else {
            return Ok(Placement::Plain { file: self.file, offset });
        };
        let len = Tables::bound(table, slot)?;
        let tag = Tag {
            lba: start / SECTOR,
            needed: layout.needed(start).div_ceil(SECTOR),
            at_end: offset.saturating_add(u64::from(len)) >= self.tables.file.size(),
        };
        Ok(Placement::Packed(Packed {
            file: self.file,
            offset,
            len,
            unit: u32::try_from(layout.grain).unwrap_or(u32::MAX),
            skip: 0,
            tag: tag.pack(),
            codec: if codec.markers { &Marked } else { &Bare },
        }))
    }
}
