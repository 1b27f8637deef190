//! What the shared maps hold, and where.
//!
//! The map of marks has elements of 64 KiB. Element 0 is the header; after it come the marks made
//! at issue, then those made at completion, each first one byte a granule, then one byte for each
//! 1024 granules, which long requests (discards of gigabytes) use instead. A program writes 1 with a
//! plain store, which needs no atomic operation and may be repeated. The map of what is pending is
//! used by processes alone and has one bit a granule.

use super::TrackedDisk;
use crate::granule::granules_in;
use carreto_error::{Error, Kind, Result};

/// Bytes of an element, and marks in it.
pub(super) const ELEMENT: u32 = 64 << 10;
/// How far to shift a mark's number to get its element.
pub(super) const ELEMENT_SHIFT: i32 = 16;
/// Granules of a coarse mark: 64 MiB.
pub(super) const COARSE: u64 = 1 << COARSE_SHIFT;
/// How far to shift a granule's number to get its coarse mark.
pub(super) const COARSE_SHIFT: i32 = 10;
/// A request over more granules than this, plus one, marks coarsely.
pub(super) const FINE_LIMIT: i32 = 64;

/// Changes with the meaning of anything in the maps or in the program, so that a newer agent does
/// not go on with what an older one left.
pub(super) const VERSION: u64 = 2;
/// `carreto` in ASCII, and the version of the idea.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"carreto1");

/// Words of the header.
pub(super) mod header {
    pub(in crate::track) const MAGIC: usize = 0;
    pub(in crate::track) const VERSION: usize = 1;
    pub(in crate::track) const MAJOR: usize = 2;
    pub(in crate::track) const MINOR: usize = 3;
    pub(in crate::track) const DISKSEQ: usize = 4;
    pub(in crate::track) const SIZE: usize = 5;
    /// Two words of the boot's number.
    pub(in crate::track) const BOOT: usize = 6;
    /// Two random words that tell this map from all others.
    pub(in crate::track) const NONCE: usize = 8;
    /// 1 once everything is attached and pinned.
    pub(in crate::track) const READY: usize = 10;
    /// How many requests changed the disk at places that are not known.
    pub(in crate::track) const UNKNOWN: usize = 16;
    /// Eleven words: the counters when everything was attached.
    pub(in crate::track) const ATTACHED: usize = 32;
    /// Where the counters of the first processor begin.
    pub(in crate::track) const COUNTERS: usize = 512;
}

/// Sets of counters; processors beyond share them.
pub(super) const SLOTS: usize = 256;
/// Words of a set of counters.
pub(super) const SLOT_WORDS: usize = 16;

/// Where the parts of the maps lie for one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Granules of the disk.
    pub(super) granules: u64,
    /// Elements with one byte a granule.
    fine: u32,
    /// Elements with one byte for 1024 granules.
    coarse: u32,
}

/// The two places where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Issued,
    Completed,
}

impl Layout {
    /// The layout for `disk`.
    ///
    /// # Errors
    /// `Limit` for a disk of more than 64 TiB, whose map would take gigabytes.
    pub(super) fn of(disk: &TrackedDisk) -> Result<Self> {
        let granules = granules_in(disk.size);
        let elements = |marks: u64| u32::try_from(marks.div_ceil(u64::from(ELEMENT)).max(1));
        let both = (elements(granules), elements(granules.div_ceil(COARSE)));
        match both {
            (Ok(fine), Ok(coarse)) if granules <= 1 << 30 => Ok(Self { granules, fine, coarse }),
            _ => Err(Error::new(Kind::Limit, "the disk is larger than 64 TiB")),
        }
    }

    /// Elements of the map of marks.
    pub(super) fn elements(self) -> u32 {
        1 + 2 * (self.fine + self.coarse)
    }

    /// Elements of the map of what is pending.
    pub(super) fn pending_elements(self) -> u32 {
        self.fine.div_ceil(8)
    }

    /// The first element with a byte a granule.
    pub(super) fn fine(self, side: Side) -> u32 {
        match side {
            Side::Issued => 1,
            Side::Completed => 1 + self.fine + self.coarse,
        }
    }

    /// The first element with a byte for 1024 granules.
    pub(super) fn coarse(self, side: Side) -> u32 {
        self.fine(side) + self.fine
    }

    /// Coarse marks of the disk.
    pub(super) fn coarse_marks(self) -> u64 {
        self.granules.div_ceil(COARSE)
    }
}

/// The first word of `element`.
pub(super) fn first_word(element: u32) -> usize {
    element as usize * (ELEMENT as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other() {
        let disk = TrackedDisk::named("vda", 1 << 40);
        let layout = Layout::of(&disk).unwrap();
        assert_eq!(layout.granules, 16 << 20);
        assert_eq!(layout.fine(Side::Issued), 1);
        assert_eq!(layout.coarse(Side::Issued), 257);
        assert_eq!(layout.fine(Side::Completed), 258);
        assert_eq!(layout.elements(), 515);
        assert_eq!(layout.pending_elements(), 32);
        assert!(header::COUNTERS + SLOTS * SLOT_WORDS <= first_word(1));
    }

    #[test]
    fn the_smallest_and_the_largest_disk() {
        let small = Layout::of(&TrackedDisk::named("vda", 1)).unwrap();
        assert_eq!((small.granules, small.elements(), small.pending_elements()), (1, 5, 1));
        let large = Layout::of(&TrackedDisk::named("vda", 65 << 40));
        assert_eq!(large.unwrap_err().kind(), Kind::Limit);
    }
}
