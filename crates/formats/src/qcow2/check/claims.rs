//! Who uses which host cluster, in three bits a cluster.

use crate::Limits;
use crate::bits::Bitmap;
use crate::qcow2::entry::Layout;
use crate::qcow2::tables::index_of;

/// The clusters of the image file (and of the data file) that are in use.
#[derive(Debug)]
pub(super) struct Claims {
    cluster_bits: u32,
    clusters: u64,
    metadata: Bitmap,
    /// Uncompressed guest clusters; numbers count in the data file if there is one.
    plain: Bitmap,
    /// Clusters that hold compressed data.
    packed: Bitmap,
    data_file: bool,
}

impl Claims {
    /// No cluster is in use yet. `None` when that takes more memory than the limits allow.
    pub(super) fn new(layout: &Layout, limits: &Limits) -> Option<Self> {
        let clusters = layout.file_size.div_ceil(layout.cluster_size());
        let data = layout.data_size.div_ceil(layout.cluster_size());
        let bytes = (clusters * 2 + data).div_ceil(8);
        (bytes <= limits.max_check_memory).then(|| Self {
            cluster_bits: layout.cluster_bits,
            clusters,
            metadata: Bitmap::new(clusters),
            plain: Bitmap::new(data),
            packed: Bitmap::new(clusters),
            data_file: layout.data_file,
        })
    }

    fn numbers(&self, offset: u64, len: u64) -> std::ops::RangeInclusive<u64> {
        let last = offset.saturating_add(len.saturating_sub(1));
        offset >> self.cluster_bits..=(last >> self.cluster_bits).min(self.clusters)
    }

    /// Whether none of the bytes belongs to metadata.
    pub(super) fn is_free(&self, offset: u64, len: u64) -> bool {
        !self.numbers(offset, len).any(|number| self.metadata.contains(number))
    }

    /// Takes the bytes for metadata; says whether they were free.
    pub(super) fn metadata(&mut self, offset: u64, len: u64) -> bool {
        let mut free = true;
        for number in self.numbers(offset, len) {
            free &= !self.metadata.insert(number);
        }
        free
    }

    /// Takes a cluster for guest data and says what else uses it.
    pub(super) fn plain(&mut self, offset: u64) -> Use {
        let number = offset >> self.cluster_bits;
        if !self.data_file && self.metadata.contains(number) {
            return Use::Metadata;
        }
        let packed = !self.data_file && self.packed.contains(number);
        if self.plain.insert(number) || packed {
            return Use::Data;
        }
        Use::Free
    }

    /// Takes the clusters that compressed bytes touch. Sharing a cluster with other compressed
    /// bytes is how the format works and counts as free.
    pub(super) fn packed(&mut self, offset: u64, len: u64) -> Use {
        let mut found = Use::Free;
        for number in self.numbers(offset, len) {
            if self.metadata.contains(number) {
                return Use::Metadata;
            }
            if self.plain.contains(number) {
                found = Use::Data;
            }
            self.packed.insert(number);
        }
        found
    }

    /// Calls `visit` with every cluster of the image file that is in use, in ascending order.
    pub(super) fn for_each(&self, visit: impl FnMut(u64)) {
        self.for_each_in(0..self.clusters, visit);
    }

    /// The same for the clusters whose numbers lie in `range`.
    pub(super) fn for_each_in(&self, range: std::ops::Range<u64>, mut visit: impl FnMut(u64)) {
        let range = range.start..range.end.min(self.clusters);
        for index in index_of(range.start / 64)..index_of(range.end.div_ceil(64)) {
            let plain = if self.data_file { 0 } else { self.plain.word(index) };
            let mut word = self.metadata.word(index) | self.packed.word(index) | plain;
            while word != 0 {
                let number = index as u64 * 64 + u64::from(word.trailing_zeros());
                if range.contains(&number) {
                    visit(number);
                }
                word &= word - 1;
            }
        }
    }
}

/// What uses a cluster already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Free,
    Data,
    Metadata,
}
