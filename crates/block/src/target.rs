//! Writing: the trait to implement and the trait to use.

use crate::{ByteRange, Source};
use async_trait::async_trait;
use carreto_error::{Error, Kind, Result};
use std::fmt::Debug;
use std::sync::Arc;

/// What a target can do by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetCaps {
    /// Offsets and lengths of writes should be multiples of this many bytes (1 when any will do);
    /// others are allowed and slower.
    pub alignment: u32,
    /// Every byte that was never written reads as zero: a file created for this run.
    pub known_zero: bool,
    /// [`Target::write_zeroes`] transfers no data.
    pub fast_zero: bool,
    /// The target is a whole disk or partition rather than a file.
    pub device: bool,
}

/// Blocking writes without a thread hop, offered by targets whose writes are plain system calls.
pub trait LocalWrite: Send + Sync {
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// As [`Target::write_at`].
    fn write_local(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes `range` read as zeros.
    ///
    /// # Errors
    /// As [`Target::write_zeroes`].
    fn zero_local(&self, range: ByteRange) -> Result<()>;
}

/// A disk, or a file that stands for one, of a fixed size.
///
/// Every operation is idempotent: doing it twice leaves the same bytes. Wrappers must forward
/// every method, also those with a default.
#[async_trait]
pub trait Target: Send + Sync + Debug {
    /// The path or URL for messages, free of secrets.
    fn name(&self) -> &str;

    /// The number of bytes.
    fn size(&self) -> u64;

    /// What the target can do by itself.
    fn caps(&self) -> TargetCaps;

    /// Writes all of `data` at `offset`. Not durable before [`Self::flush`].
    ///
    /// Not cancel safe: a dropped call may have written any part, and may go on writing the same
    /// bytes for a moment. Writing them again repairs it.
    ///
    /// # Errors
    /// `Usage` past the end, `TargetUnusable` when the target is full, gone or read-only, else
    /// `Io`.
    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes `range` read as zeros, by the cheapest way that guarantees it.
    ///
    /// Not cancel safe, as [`Self::write_at`].
    ///
    /// # Errors
    /// As [`Self::write_at`].
    async fn write_zeroes(&self, range: ByteRange) -> Result<()>;

    /// Tells the target that the content of `range` no longer matters. What it then reads as is
    /// not defined.
    ///
    /// Not cancel safe. Targets that cannot do it succeed and do nothing.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    async fn discard(&self, range: ByteRange) -> Result<()>;

    /// Makes everything written so far survive a loss of power.
    ///
    /// A failure is final for this target handle: what was written since the last success may be
    /// lost although a second flush succeeds. Cancel safe, but a dropped call promises nothing.
    ///
    /// # Errors
    /// `Io` or `TargetUnusable`.
    async fn flush(&self) -> Result<()>;

    /// A source over what is stored, bypassing caches where the system allows it, for
    /// verification. Valid after a [`Self::flush`].
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// What opening the target for reading meets.
    async fn reader(&self) -> Result<Arc<dyn Source>>;

    /// Whether a [`Self::reader`] that is open and everything else shut each other out, as with a
    /// server that takes one client at a time. Then a reader has to be dropped before the target is
    /// written or flushed again.
    fn is_exclusive(&self) -> bool {
        false
    }

    /// The blocking fast path, where there is one.
    fn as_local(&self) -> Option<&dyn LocalWrite> {
        None
    }
}

/// Conveniences over any [`Target`].
pub trait TargetExt: Target {
    /// Checks that `len` bytes from `offset` lie within the target.
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

impl<T: Target + ?Sized> TargetExt for T {}
