//! How often each host cluster of a qcow2 image is referred to.
//!
//! A refcount block is written as soon as no cluster that it covers can be referred to again, so
//! memory does not grow with the image. Facts: qcow2 specification, "Host cluster management".

/// Bytes of a refcount: order 4.
const WIDTH: u64 = 2;

/// Refcounts of the clusters whose block has not been written, and where the written ones are.
#[derive(Debug)]
pub(super) struct Refcounts {
    cluster: u64,
    /// The number of the cluster that the first of `counts` is for; a multiple of `per_block`.
    base: u64,
    counts: Vec<u16>,
    /// Host offsets of the blocks, in the order of what they cover.
    pub(super) blocks: Vec<u64>,
}

impl Refcounts {
    pub(super) fn new(cluster: u64) -> Self {
        Self { cluster, base: 0, counts: Vec::new(), blocks: Vec::new() }
    }

    /// How many clusters a block covers.
    const fn per_block(&self) -> u64 {
        self.cluster / WIDTH
    }

    /// Counts one reference to every cluster that `len` bytes at `at` touch.
    pub(super) fn refer(&mut self, at: u64, len: u64) {
        let (first, end) = (at / self.cluster, (at + len).div_ceil(self.cluster));
        let index =
            |number: u64| usize::try_from(number.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let (first, end) = (index(first), index(end));
        if self.counts.len() < end {
            self.counts.resize(end, 0);
        }
        for count in &mut self.counts[first..end] {
            // A compressed cluster takes 9 bits at least, so a host cluster of 2 MiB is far from
            // holding 65535 of them.
            *count = count.saturating_add(1);
        }
    }

    /// The block that is complete when the file goes on at `at`, if there is one.
    pub(super) fn complete(&mut self, at: u64) -> Option<Vec<u8>> {
        (at / self.cluster >= self.base + self.per_block()).then(|| self.take())
    }

    /// The next block, complete or not.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let per_block = usize::try_from(self.per_block()).unwrap_or(usize::MAX);
        let take = per_block.min(self.counts.len());
        let mut block: Vec<u8> = self.counts.drain(..take).flat_map(u16::to_be_bytes).collect();
        block.resize(per_block * 2, 0);
        self.base += self.per_block();
        block
    }

    /// How many blocks and table clusters have to follow a file that ends at cluster `end`, when
    /// they count themselves.
    pub(super) fn rest(&self, end: u64) -> (u64, u64) {
        let written = self.blocks.len() as u64;
        let (mut blocks, mut table) = (0, 0);
        loop {
            let total = (end + blocks + table).div_ceil(self.per_block()).max(written);
            let needed = (total - written, (total * 8).div_ceil(self.cluster));
            if needed == (blocks, table) {
                return needed;
            }
            (blocks, table) = needed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_covers_itself_exactly() {
        for end in [1_u64, 254, 255, 256, 257, 511, 65_535, 1 << 20, (1 << 22) + 3] {
            let counts = Refcounts::new(512);
            let (blocks, table) = counts.rest(end);
            let total = end + blocks + table;
            assert!(blocks * 256 >= total && (blocks - 1) * 256 < total, "{end}: {blocks}");
            assert!(table * 64 >= blocks && (table - 1) * 64 < blocks, "{end}: {table}");
        }
    }

    #[test]
    fn partial_overlaps_count_at_both_ends() {
        let mut counts = Refcounts::new(512);
        counts.refer(0, 512);
        counts.refer(500, 20);
        counts.refer(511, 1);
        assert_eq!(counts.complete(512 * 255 + 511), None);
        let block = counts.complete(512 * 256).unwrap();
        assert_eq!(block[..6], [0, 3, 0, 1, 0, 0]);
        assert_eq!(block.len(), 512);
    }
}
