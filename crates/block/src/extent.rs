//! Extents: where the bytes of a range are.

use crate::ByteRange;
use carreto_error::Result;
use std::fmt;

/// The position of a file in [`crate::Source::files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u16);

impl FileId {
    /// The same file in a list that has `before` other files in front.
    #[must_use]
    pub fn shifted(self, before: usize) -> Self {
        Self(self.0.saturating_add(u16::try_from(before).unwrap_or(u16::MAX)))
    }
}

/// Decodes one compressed unit: a qcow2 cluster, a VMDK grain.
///
/// Implementations are stateless values (`&'static dyn Decode` travels in extents); scratch
/// memory lives in thread locals. The input is untrusted.
pub trait Decode: Send + Sync + fmt::Debug {
    /// The codec's name for people: `zlib`, `zstd`.
    fn name(&self) -> &'static str;

    /// Fills the whole of `output` from `input`.
    ///
    /// `input` may be longer than the compressed data, because formats often know only an upper
    /// bound. `tag` is [`Packed::tag`] as the format set it.
    ///
    /// # Errors
    /// `Corrupt` when the input does not decode to exactly the output's length; the content of
    /// `output` is then unspecified. Must not panic, and must not take time or memory out of
    /// proportion to the two buffers.
    fn decode(&self, input: &[u8], tag: u64, output: &mut [u8]) -> Result<()>;
}

/// A compressed unit in a file.
#[derive(Debug, Clone, Copy)]
pub struct Packed {
    /// The file that holds the compressed bytes.
    pub file: FileId,
    /// Where the compressed bytes start, in bytes of that file.
    pub offset: u64,
    /// How many bytes the compressed form takes at most.
    pub len: u32,
    /// How many bytes the unit decodes to.
    pub unit: u32,
    /// How many decoded bytes precede the extent: an extent can be a part of its unit.
    pub skip: u32,
    /// A number the format hands to its own codec, such as the address the data must claim.
    pub tag: u64,
    /// What decodes it.
    pub codec: &'static dyn Decode,
}

/// Where the bytes of an extent are.
#[derive(Debug, Clone, Copy)]
pub enum Placement {
    /// Nowhere: they read as zeros.
    Zero,
    /// Nowhere in this layer: the parent decides, or zeros where there is none.
    Absent,
    /// In a file, uncompressed, in one piece.
    Plain {
        /// The file that holds them.
        file: FileId,
        /// The first byte, in bytes of that file.
        offset: u64,
    },
    /// In a file, compressed.
    Packed(Packed),
    /// Only the source itself can read them, through [`crate::Source::read_at`].
    Opaque,
}

impl Placement {
    /// The placement of the bytes that follow `by` bytes later in the same extent.
    #[must_use]
    pub fn advanced(self, by: u64) -> Self {
        match self {
            Self::Plain { file, offset } => Self::Plain { file, offset: offset.saturating_add(by) },
            Self::Packed(packed) => Self::Packed(Packed {
                skip: packed.skip.saturating_add(u32::try_from(by).unwrap_or(u32::MAX)),
                ..packed
            }),
            other => other,
        }
    }

    /// Whether `next`, which starts `len` bytes after `self` in the guest, simply continues it.
    fn continues(self, len: u64, next: Self) -> bool {
        match (self, next) {
            (Self::Zero, Self::Zero)
            | (Self::Absent, Self::Absent)
            | (Self::Opaque, Self::Opaque) => true,
            (Self::Plain { file, offset }, Self::Plain { file: f, offset: o }) => {
                file == f && offset.checked_add(len) == Some(o)
            }
            _ => false,
        }
    }

    /// The placement in a list of files that has `before` other files in front.
    #[must_use]
    pub fn shifted(self, before: usize) -> Self {
        match self {
            Self::Plain { file, offset } => Self::Plain { file: file.shifted(before), offset },
            Self::Packed(packed) => {
                Self::Packed(Packed { file: packed.file.shifted(before), ..packed })
            }
            other => other,
        }
    }
}

/// A range and where its bytes are.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// The bytes, in the address space of the source that was asked.
    pub range: ByteRange,
    /// Where they are.
    pub placement: Placement,
}

impl Extent {
    /// Pairs a range with a placement.
    pub const fn new(range: ByteRange, placement: Placement) -> Self {
        Self { range, placement }
    }

    /// The part of the extent inside `window`, or `None` when there is none.
    pub fn clip(self, window: ByteRange) -> Option<Self> {
        let range = self.range.intersect(window);
        (!range.is_empty()).then(|| {
            let by = range.start() - self.range.start();
            Self { range, placement: self.placement.advanced(by) }
        })
    }
}

/// Appends `extent`, joining it to the last one where it merely continues it.
pub fn merge_extents(list: &mut Vec<Extent>, extent: Extent) {
    if extent.range.is_empty() {
        return;
    }
    if let Some(last) = list.last_mut()
        && last.range.end() == extent.range.start()
        && last.placement.continues(last.range.len(), extent.placement)
        && let Some(joined) = ByteRange::new(last.range.start(), extent.range.end())
    {
        last.range = joined;
        return;
    }
    list.push(extent);
}
