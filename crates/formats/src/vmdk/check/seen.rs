//! Which bytes of the file belong to grains.

use crate::bits::Bitmap;
use crate::vmdk::SECTOR;
use crate::vmdk::layout::Layout;
use carreto_block::ByteRange;

/// What a grain has in common with the grains before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Free,
    /// It is one of them.
    Shared,
    /// It is partly one of them.
    Overlap,
}

/// The grains met so far, in units of sectors. Where that takes too much memory the unit is a
/// grain, which serves as long as all grains lie at the same offset within it: then two of them
/// are the same or apart.
pub(super) struct Seen {
    bits: Option<Bits>,
    unit: u64,
    /// Bytes before the first unit.
    phase: u64,
    /// Whether there were grains that the unit does not fit.
    mixed: bool,
}

struct Bits {
    used: Bitmap,
    starts: Bitmap,
}

impl Seen {
    pub(super) fn new(layout: &Layout, file_size: u64, memory: u64) -> Self {
        let bits = |unit: u64| {
            let units = file_size / unit + 1;
            let fits = units.div_ceil(64).saturating_mul(16) <= memory;
            fits.then(|| Bits { used: Bitmap::new(units), starts: Bitmap::new(units) })
        };
        let (unit, bits) = match bits(SECTOR) {
            Some(bits) => (SECTOR, Some(bits)),
            None if layout.codec.is_none() => (layout.grain, bits(layout.grain)),
            None => (SECTOR, None),
        };
        Self { bits, unit, phase: u64::MAX, mixed: false }
    }

    /// Whether every grain was looked at.
    pub(super) fn is_complete(&self) -> bool {
        self.bits.is_some() && !self.mixed
    }

    /// Marks a grain of `len` bytes.
    pub(super) fn mark(&mut self, offset: u64, len: u64) -> Place {
        let Some(bits) = &mut self.bits else {
            return Place::Free;
        };
        if self.phase == u64::MAX {
            self.phase = offset % self.unit;
        }
        if offset % self.unit != self.phase {
            self.mixed = true;
            return Place::Free;
        }
        let first = offset / self.unit;
        if bits.starts.insert(first) {
            return Place::Shared;
        }
        let overlaps = (first..first + len.div_ceil(self.unit))
            .fold(false, |overlaps, unit| bits.used.insert(unit) | overlaps);
        if overlaps { Place::Overlap } else { Place::Free }
    }

    /// Whether a grain has bytes in `range`.
    pub(super) fn touches(&self, range: ByteRange) -> bool {
        let (Some(bits), false) = (&self.bits, self.mixed || self.phase == u64::MAX) else {
            return false;
        };
        let first = range.start().saturating_sub(self.phase) / self.unit;
        let end = range.end().saturating_sub(self.phase).div_ceil(self.unit);
        (first..end).any(|unit| bits.used.contains(unit))
    }
}
