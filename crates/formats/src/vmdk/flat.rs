//! Mapping a flat extent: the bytes of the disk in a file, from an offset on.

use carreto_block::{ByteRange, FileId, Placement, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

use super::sparse::Answer;

/// A flat extent of an image.
#[derive(Debug)]
pub(super) struct Flat {
    pub(super) source: Arc<dyn Source>,
    /// The extent's file in the image's list.
    pub(super) file: FileId,
    /// Where it starts in that file, in bytes.
    pub(super) offset: u64,
}

impl Flat {
    /// Appends where the bytes of `range` (of this extent) are, or of a prefix of it. Holes of
    /// the file are zeros.
    pub(super) async fn map(&self, range: ByteRange, answer: &mut Answer<'_>) -> Result<()> {
        let lost = || Error::new(Kind::Internal, "an extent lies beyond 64 bits");
        let start = self.offset.checked_add(range.start()).ok_or_else(lost)?;
        let inner = ByteRange::from_len(start, range.len()).ok_or_else(lost)?;
        for extent in self.source.extents(inner, answer.room()).await? {
            let placement = match extent.placement {
                Placement::Zero | Placement::Absent => Placement::Zero,
                _ => Placement::Plain { file: self.file, offset: extent.range.start() },
            };
            let start = extent.range.start().checked_sub(self.offset).ok_or_else(lost)?;
            let own = ByteRange::from_len(start, extent.range.len()).ok_or_else(lost)?;
            answer.push(own.intersect(range), placement)?;
        }
        Ok(())
    }
}
