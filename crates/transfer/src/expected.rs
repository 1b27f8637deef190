//! What the content of a disk is known to be, before it is read.

use crate::{ChunkDigest, ContentDigest};
use carreto_block::ByteRange;
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

/// Digests that somebody else made of the same disk. A copy that is given them ends at the first
/// chunk that reads differently, before it is written.
#[derive(Debug, Clone)]
pub struct Expected {
    /// All chunks with data.
    pub chunks: Arc<ContentDigest>,
    /// Chunks are compared that start before this guest byte.
    pub until: u64,
}

impl Expected {
    /// Compares `found`, the chunks with data in `range`, which starts on a chunk.
    ///
    /// # Errors
    /// `Mismatch`, at the first chunk that differs.
    pub fn check(&self, range: ByteRange, found: &[(u64, ChunkDigest)]) -> Result<()> {
        let counts = |offset: &u64| *offset < self.until;
        let known = |offset| Some((offset, *self.chunks.get(offset)?));
        let wanted: Vec<_> =
            self.chunks.offsets_in(range).filter(counts).map_while(known).collect();
        let found: Vec<_> = found.iter().copied().filter(|(offset, _)| counts(offset)).collect();
        if wanted == found {
            return Ok(());
        }
        let differs = |list: &[(u64, ChunkDigest)], other: &[(u64, ChunkDigest)]| {
            list.iter().find(|entry| !other.contains(entry)).map(|(offset, _)| *offset)
        };
        let first = differs(&wanted, &found).into_iter().chain(differs(&found, &wanted)).min();
        let text = "the image reads differently than the digests say that were made of it";
        Err(Error::new(Kind::Mismatch, text)
            .during("compare with the known digests")
            .offset(first.unwrap_or(range.start())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_and_the_tail_left_out() {
        let mib = 1 << 20;
        let digests = [(0, [1; 32]), (3 * mib, [2; 32]), (5 * mib, [3; 32])];
        let mut chunks = ContentDigest::default();
        chunks.extend(digests);
        let expected = Expected { chunks: Arc::new(chunks), until: 5 * mib };
        let range = |from, to| ByteRange::new(from * mib, to * mib).unwrap();
        let offset = |outcome: Result<()>| outcome.unwrap_err().nearest_offset();

        assert!(expected.check(range(0, 6), &digests[..2]).is_ok());
        assert!(expected.check(range(1, 3), &[]).is_ok());
        assert_eq!(offset(expected.check(range(1, 4), &[])), Some(3 * mib), "zeros, not data");
        let more = [(2 * mib, [9; 32]), (3 * mib, [2; 32])];
        assert_eq!(offset(expected.check(range(1, 4), &more)), Some(2 * mib), "data, not zeros");
        let other = [(0, [1; 32]), (3 * mib, [7; 32])];
        assert_eq!(offset(expected.check(range(0, 4), &other)), Some(3 * mib));
        assert!(expected.check(range(5, 6), &[]).is_ok(), "behind the end of what is compared");
    }
}
