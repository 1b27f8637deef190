//! From guest ranges to extents.

use super::Qcow2;
use super::entry::Cluster;
use super::l2::Slice;
use super::tables::index_of;
use carreto_block::{ByteRange, Extent, FileId, Packed, Placement, merge_extents};
use carreto_error::{Kind, Result};

/// The image file in [`carreto_block::Source::files`].
const IMAGE: FileId = FileId(0);
/// The external data file there.
const DATA: FileId = FileId(1);

impl Qcow2 {
    /// What [`carreto_block::Source::extents`] promises, for a range inside the disk.
    pub(super) async fn map(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        let limit = limit.max(1);
        let mut list = Vec::new();
        if range.is_empty() {
            return Ok(list);
        }
        if self.raw_data {
            return self.map_raw(range, limit).await;
        }
        let file = self.file();
        let l1 = self.tables.l1(file).await?;
        let mut todo = range;
        // One more than asked for: the last one may still grow, the one before it may not.
        while !todo.is_empty() && list.len() <= limit {
            let (here, rest) = match self.tables.locate(l1, todo.start())? {
                Err(hole_end) => {
                    let (here, rest) = todo.split_at(hole_end);
                    merge_extents(&mut list, Extent::new(here, self.empty()));
                    (here, rest)
                }
                Ok(slice) => {
                    let words = self.tables.words(file, l1, slice, todo.end()).await?;
                    let (here, rest) = todo.split_at(slice.guest.end());
                    self.map_slice(slice, &words, here, limit, &mut list)?;
                    (here, rest)
                }
            };
            todo = rest;
            debug_assert!(!here.is_empty(), "mapping must make progress");
        }
        list.truncate(limit);
        Ok(list)
    }

    /// Maps a data file that is a raw image by itself: the guest's bytes are where they are in
    /// the guest, whatever the tables say (qcow2 specification, autoclear bit 1).
    async fn map_raw(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        let (inside, beyond) = range.split_at(self.layout.data_size);
        let mut list = Vec::new();
        if let Some(file) = self.files.last().filter(|_| !inside.is_empty()) {
            for extent in file.extents(inside, limit).await? {
                let placement = match extent.placement {
                    Placement::Zero => Placement::Zero,
                    _ => self.plain(extent.range.start()),
                };
                merge_extents(&mut list, Extent::new(extent.range, placement));
            }
        }
        let covered = list.last().map_or(range.start(), |extent| extent.range.end());
        if covered == inside.end() && !beyond.is_empty() {
            merge_extents(&mut list, Extent::new(beyond, Placement::Zero));
        }
        Ok(list)
    }

    /// What an L2 entry says (see [`super::entry::Layout::cluster`]).
    ///
    /// # Errors
    /// `Corrupt` or `Truncated`; what is cut is the file that the entry points into.
    pub(super) fn cluster(&self, guest: u64, entry: u64, bitmap: u64) -> Result<Cluster> {
        let found = self.layout.cluster(guest, entry, bitmap);
        found.map_err(|error| match self.files.get(1) {
            Some(data) if error.kind() == Kind::Truncated => error.path(data.name()),
            _ => error,
        })
    }

    /// What no table says anything about.
    fn empty(&self) -> Placement {
        if self.has_backing { Placement::Absent } else { Placement::Zero }
    }

    fn map_slice(
        &self,
        slice: Slice,
        words: &[u64],
        range: ByteRange,
        limit: usize,
        list: &mut Vec<Extent>,
    ) -> Result<()> {
        let width = self.layout.entry_words();
        let step = self.layout.cluster_size();
        let first = (range.start() - slice.guest.start()) >> self.layout.cluster_bits;
        let mut start = slice.guest.start() + (first << self.layout.cluster_bits);
        for (index, entry) in words.chunks_exact(width).enumerate().skip(index_of(first)) {
            if start >= range.end() || list.len() > limit {
                break;
            }
            let bitmap = if width == 2 { entry[1] } else { 0 };
            let cluster = self.cluster(start, entry[0], bitmap).map_err(|error| {
                let at = slice.piece.offset + (index * width * 8) as u64;
                error.during("read an L2 table").offset(at)
            })?;
            self.map_cluster(start, cluster, range, list);
            start += step;
        }
        Ok(())
    }

    /// Appends the part of a cluster that lies inside `window`.
    fn map_cluster(&self, start: u64, cluster: Cluster, window: ByteRange, list: &mut Vec<Extent>) {
        let end = (start + self.layout.cluster_size()).min(self.layout.virtual_size);
        let placement = match cluster {
            Cluster::Unallocated => self.empty(),
            Cluster::Zero { .. } => Placement::Zero,
            Cluster::Plain { offset } => self.plain(offset),
            Cluster::Compressed { offset, len } => self.packed(offset, len),
            Cluster::Sub { offset, data, zero } => {
                return self.map_subclusters(start, (offset, data, zero), window, list);
            }
        };
        push(list, start, end, placement, window);
    }

    fn map_subclusters(
        &self,
        start: u64,
        (offset, data, zero): (u64, u32, u32),
        window: ByteRange,
        list: &mut Vec<Extent>,
    ) {
        let size = self.layout.subcluster_size();
        for index in 0..32u32 {
            let inside = u64::from(index) * size;
            let placement = if data >> index & 1 == 1 {
                self.plain(offset + inside)
            } else if zero >> index & 1 == 1 {
                Placement::Zero
            } else {
                self.empty()
            };
            let at = start + inside;
            let end = (at + size).min(self.layout.virtual_size);
            push(list, at, end, placement, window);
        }
    }

    fn plain(&self, offset: u64) -> Placement {
        let file = if self.layout.data_file { DATA } else { IMAGE };
        Placement::Plain { file, offset }
    }

    fn packed(&self, offset: u64, len: u64) -> Placement {
        let inside = len.min(self.layout.file_size.saturating_sub(offset));
        Placement::Packed(Packed {
            file: IMAGE,
            offset,
            len: u32::try_from(inside).unwrap_or(u32::MAX),
            unit: u32::try_from(self.layout.cluster_size()).unwrap_or(u32::MAX),
            skip: 0,
            tag: 0,
            codec: self.compression.codec(),
        })
    }
}

fn push(list: &mut Vec<Extent>, start: u64, end: u64, placement: Placement, window: ByteRange) {
    let whole = ByteRange::new(start, end).map(|range| Extent::new(range, placement));
    if let Some(extent) = whole.and_then(|extent| extent.clip(window)) {
        merge_extents(list, extent);
    }
}
