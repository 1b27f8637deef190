//! Reading: the trait to implement and the trait to use.

use crate::{ByteRange, Extent};
use async_trait::async_trait;
use carreto_error::{Error, Kind, Result};
use std::fmt::Debug;
use std::sync::Arc;

/// An opaque text that changes whenever the bytes of a source may have changed: an object's
/// `ETag` and size, a file's inode, size and modification time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stamp(pub String);

impl Stamp {
    /// The stamp of a source that consists of `files`.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// What the files meet.
    pub async fn of_files(files: &[Arc<dyn Source>]) -> Result<Self> {
        let mut texts = Vec::with_capacity(files.len());
        for file in files {
            texts.push(file.stamp().await?.0);
        }
        Ok(Self(texts.join("|")))
    }
}

/// How a source likes to be read. Advice, never a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadHint {
    /// Bytes between two compressed units that are cheaper to read and throw away than to skip.
    pub packed_gap: u32,
    /// The same between pieces of which one is uncompressed; `None` when such pieces are better
    /// read one by one, each straight to its destination.
    pub plain_gap: Option<u32>,
    /// Requests that are worth having under way at once.
    pub parallel: u16,
}

impl ReadHint {
    /// Local files: a skip costs one system call, a copy costs more.
    pub const LOCAL: Self = Self { packed_gap: 16 << 10, plain_gap: None, parallel: 4 };
    /// Remote objects: a skip costs one round trip.
    pub const REMOTE: Self =
        Self { packed_gap: 512 << 10, plain_gap: Some(512 << 10), parallel: 16 };
}

/// Blocking reads without a thread hop, offered by sources whose reads are plain system calls.
///
/// The copy engine calls this from its own threads; everybody else uses [`Source::read_at`].
pub trait LocalRead: Send + Sync {
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// As [`Source::read_at`].
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

/// Anything of a known size whose bytes can be read by range. Never writes.
///
/// Wrappers must forward every method, also those with a default.
#[async_trait]
pub trait Source: Send + Sync + Debug {
    /// The path or URL for messages, free of secrets.
    fn name(&self) -> &str;

    /// The number of bytes. Fixed for the life of the source.
    fn size(&self) -> u64;

    /// Says where the bytes of `range` are, reading metadata only.
    ///
    /// The answer is ascending, without gaps or overlaps, starts at `range.start()` and has at
    /// least one extent unless `range` is empty. It covers a prefix of `range`: an implementation
    /// stops after about `limit` extents, so a caller asks again from the end of the last one. An
    /// empty region of any size is a single extent and costs no more than its metadata.
    ///
    /// Cancel safe: a dropped call has no effect.
    ///
    /// # Errors
    /// `Usage` when `range` reaches past [`Self::size`]; else what reading the metadata meets.
    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>>;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// Cancel safe: a dropped call leaves `buf` unspecified and has no other effect.
    ///
    /// # Errors
    /// `Usage` when the range reaches past [`Self::size`]. Never a short or a zero-filled read:
    /// bytes that cannot be had are an error.
    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The files that [`crate::FileId`]s in this source's extents count into.
    fn files(&self) -> &[Arc<dyn Source>] {
        &[]
    }

    /// The blocking fast path, where there is one.
    fn as_local(&self) -> Option<&dyn LocalRead> {
        None
    }

    /// How this source likes to be read.
    fn hint(&self) -> ReadHint {
        ReadHint::LOCAL
    }

    /// Looks at the source now and describes its state; two equal stamps mean the same bytes.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// What looking meets: gone, denied, unavailable.
    async fn stamp(&self) -> Result<Stamp>;
}

/// Conveniences over any [`Source`].
#[async_trait]
pub trait SourceExt: Source {
    /// Reads `len` bytes into a new vector.
    ///
    /// Cancel safe. The caller bounds `len`; it is allocated before anything is read.
    ///
    /// # Errors
    /// As [`Source::read_at`]; `Limit` when there is not enough memory.
    async fn read_vec(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(len)
            .map_err(|_| Error::new(Kind::Limit, format!("{len} bytes do not fit in memory")))?;
        bytes.resize(len, 0);
        self.read_at(offset, &mut bytes).await?;
        Ok(bytes)
    }

    /// Reads an array.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Source::read_at`].
    async fn read_array<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_at(offset, &mut bytes).await?;
        Ok(bytes)
    }

    /// Checks that `len` bytes from `offset` lie within the source.
    ///
    /// # Errors
    /// `Usage`, naming the range and the size.
    fn check_range(&self, offset: u64, len: u64) -> Result<ByteRange> {
        match ByteRange::from_len(offset, len) {
            Some(range) if range.end() <= self.size() => Ok(range),
            _ => Err(Error::new(
                Kind::Usage,
                format!("{len} bytes from {offset} reach past the end at {}", self.size()),
            )
            .path(self.name())),
        }
    }
}

impl<S: Source + ?Sized> SourceExt for S {}
