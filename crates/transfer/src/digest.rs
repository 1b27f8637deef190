//! The sparse content digest: proportional to the data, independent of format and sparseness.
//!
//! Definition, version 1, all with BLAKE3 and offsets as little-endian 64-bit guest bytes:
//! - a *leaf* is a 64 KiB-aligned block of the disk (the last may be short); all-zero leaves do
//!   not exist;
//! - the digest of a 1 MiB-aligned *chunk* is the hash of, for each of its leaves in order, the
//!   leaf's offset and the hash of the leaf's bytes; a chunk without leaves does not exist;
//! - the content digest is the hash of the text `carreto-sparse-v1`, the size of the disk, and
//!   for each chunk in order its offset and its digest.

use crate::is_zero;
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of a leaf.
pub const LEAF: usize = 64 << 10;
/// Bytes of a chunk: what verification compares and names.
pub const CHUNK: u64 = CHUNK_LEN as u64;

const CHUNK_LEN: usize = 1 << 20;

/// The digest of one chunk.
pub type ChunkDigest = [u8; 32];

/// The digest of the chunk (or leaf-aligned part of one) that starts at guest byte `offset`, or
/// `None` when it is all zero.
pub(crate) fn chunk_digest(offset: u64, bytes: &[u8]) -> Option<ChunkDigest> {
    let mut hasher = None;
    for (index, leaf) in bytes.chunks(LEAF).enumerate() {
        if is_zero(leaf) {
            continue;
        }
        let hasher = hasher.get_or_insert_with(blake3::Hasher::new);
        hasher.update(&(offset + (index * LEAF) as u64).to_le_bytes());
        hasher.update(blake3::hash(leaf).as_bytes());
    }
    hasher.map(|hasher| *hasher.finalize().as_bytes())
}

/// The digests of the chunks with data in `bytes`, which start at the chunk-aligned guest byte
/// `offset` and end at the end of a chunk or of the disk.
pub fn chunk_digests(offset: u64, bytes: &[u8]) -> Vec<(u64, ChunkDigest)> {
    let at = |index: usize| offset + (index * CHUNK_LEN) as u64;
    let chunks = bytes.chunks(CHUNK_LEN).enumerate();
    chunks.filter_map(|(i, chunk)| Some((at(i), chunk_digest(at(i), chunk)?))).collect()
}

/// The digests of a disk's chunks, and their root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentDigest {
    chunks: BTreeMap<u64, ChunkDigest>,
}

impl ContentDigest {
    /// Adds (or replaces) the digest of the chunk at guest byte `offset`.
    pub fn insert(&mut self, offset: u64, digest: ChunkDigest) {
        self.chunks.insert(offset, digest);
    }

    /// The digest of the chunk at `offset`; `None` when the chunk is all zero.
    pub fn get(&self, offset: u64) -> Option<&ChunkDigest> {
        self.chunks.get(&offset)
    }

    /// The offsets of the chunks with data that start in `range`, in order.
    pub fn offsets_in(&self, range: carreto_block::ByteRange) -> impl Iterator<Item = u64> {
        self.chunks.range(range.start()..range.end()).map(|(offset, _)| *offset)
    }

    /// The offsets and digests of the chunks with data, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, ChunkDigest)> {
        self.chunks.iter().map(|(offset, digest)| (*offset, *digest))
    }

    /// The number of chunks with data.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether the disk is all zero.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The digest of the disk of `size` bytes whose chunks these are.
    pub fn root(&self, size: u64) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"carreto-sparse-v1");
        hasher.update(&size.to_le_bytes());
        for (offset, digest) in &self.chunks {
            hasher.update(&offset.to_le_bytes());
            hasher.update(digest);
        }
        hasher.finalize()
    }
}

impl Extend<(u64, ChunkDigest)> for ContentDigest {
    fn extend<I: IntoIterator<Item = (u64, ChunkDigest)>>(&mut self, chunks: I) {
        self.chunks.extend(chunks);
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} chunks with data", self.chunks.len())
    }
}
