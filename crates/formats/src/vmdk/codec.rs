//! Decoding compressed grains: K, "Stream-Optimized Compressed Sparse Extents".
//!
//! A grain is a marker of 12 bytes (its address as a sector number, its length) and zlib data.
//! The decoder runs without knowing the image, so what it must verify travels in the tag.

use super::SECTOR;
use super::corrupt;
use crate::codec::{Inflated, Wrapping, inflate};
use carreto_block::Decode;
use carreto_error::{Error, Kind, Result};

/// The bytes before the compressed data of a grain.
pub(super) const MARKER_LEN: usize = 12;

/// What the decoder must know about a grain, in one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    /// The sector that the marker must name: 48 bits.
    pub(super) lba: u64,
    /// Sectors of the grain inside the disk; the decoder accepts no fewer. 15 bits.
    pub(super) needed: u64,
    /// Whether the input ends where the file does: data beyond it is missing, not overlapped.
    pub(super) at_end: bool,
}

const LBA_BITS: u32 = 48;
const NEEDED_BITS: u32 = 15;

impl Tag {
    pub(super) fn pack(self) -> u64 {
        let lba = self.lba & ((1 << LBA_BITS) - 1);
        let needed = self.needed & ((1 << NEEDED_BITS) - 1);
        lba | needed << LBA_BITS | u64::from(self.at_end) << 63
    }

    fn unpack(tag: u64) -> Self {
        Self {
            lba: tag & ((1 << LBA_BITS) - 1),
            needed: tag >> LBA_BITS & ((1 << NEEDED_BITS) - 1),
            at_end: tag >> 63 == 1,
        }
    }
}

/// Grains with a marker.
#[derive(Debug)]
pub(super) struct Marked;

/// Grains without one: the data starts at once and says itself where it ends.
#[derive(Debug)]
pub(super) struct Bare;

impl Decode for Marked {
    fn name(&self) -> &'static str {
        "zlib"
    }

    fn decode(&self, input: &[u8], tag: u64, output: &mut [u8]) -> Result<()> {
        let tag = Tag::unpack(tag);
        let marker = input.get(..MARKER_LEN).ok_or_else(|| short(tag, MARKER_LEN, input.len()))?;
        let len = marker_len(marker, tag.lba, output.len())?;
        let data = input
            .get(MARKER_LEN..MARKER_LEN + len)
            .ok_or_else(|| short(tag, MARKER_LEN + len, input.len()))?;
        fill(data, tag, output)
    }
}

impl Decode for Bare {
    fn name(&self) -> &'static str {
        "zlib"
    }

    fn decode(&self, input: &[u8], tag: u64, output: &mut [u8]) -> Result<()> {
        fill(input, Tag::unpack(tag), output)
    }
}

/// The length that a grain marker announces for a grain of `grain` bytes at sector `lba`.
pub(super) fn marker_len(marker: &[u8], lba: u64, grain: usize) -> Result<usize> {
    let (found, size) = (crate::field::le64(marker, 0)?, crate::field::le32(marker, 8)?);
    if size == 0 {
        return Err(corrupt("the grain's marker announces no data"));
    }
    let most = super::layout::Codec::max_packed(grain as u64);
    if u64::from(size) > most {
        let text = format!("the grain's marker announces {size} bytes, more than {most}");
        return Err(corrupt(text));
    }
    if found != lba {
        let text = format!("the grain's marker names sector {found}, expected {lba}");
        return Err(corrupt(text));
    }
    Ok(size as usize)
}

fn short(tag: Tag, wanted: usize, found: usize) -> Error {
    if tag.at_end {
        let text = format!("the grain takes {wanted} bytes, the file ends after {found} of them");
        Error::new(Kind::Truncated, text)
    } else {
        let text = format!("the grain takes {wanted} bytes, the next one begins after {found}");
        corrupt(text)
    }
}

/// A grain decodes to its full size, except that the last one of a disk may end with the disk.
fn fill(data: &[u8], tag: Tag, output: &mut [u8]) -> Result<()> {
    let needed = usize::try_from(tag.needed * SECTOR).unwrap_or(usize::MAX);
    match inflate(Wrapping::Zlib, data, output)? {
        Inflated::Exactly => Ok(()),
        Inflated::Short(len) if len >= needed => {
            output[len..].fill(0);
            Ok(())
        }
        Inflated::Short(len) => {
            let text = format!("the grain decodes to {len} bytes, expected {}", output.len());
            Err(corrupt(text))
        }
        Inflated::Longer => {
            let text = format!("the grain decodes to more than {} bytes", output.len());
            Err(corrupt(text))
        }
    }
}
