//! The footer: what kind of disk a VHD is, how large, and who wrote it.
//!
//! All facts are from Microsoft's "Virtual Hard Disk Image Format Specification" 1.0, "Hard Disk
//! Footer Format", unless said otherwise.

use crate::field::{be16, be32, be64, bytes};
use carreto_error::{Error, Kind, Result};
use std::fmt;

/// Bytes of a footer. Writers before Virtual PC 2004 left the last, reserved byte out.
pub(super) const FOOTER_LEN: usize = 512;
/// The signature at the start of a footer.
pub(super) const COOKIE: &[u8; 8] = b"conectix";
/// The geometry that stands for "too large for a geometry".
const MAX_GEOMETRY: Geometry = Geometry { cylinders: 65535, heads: 16, sectors: 255 };

/// The identity that a child records of its parent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct UniqueId(pub [u8; 16]);

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UniqueId({self})")
    }
}

/// The kinds of disk that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskType {
    Fixed,
    Dynamic,
    Differencing,
}

impl DiskType {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }

    fn parse(value: u32) -> Result<Self> {
        match value {
            2 => Ok(Self::Fixed),
            3 => Ok(Self::Dynamic),
            4 => Ok(Self::Differencing),
            _ => {
                let text = format!(
                    "disk type {value} is not read, only 2 (fixed), 3 (dynamic) and 4 \
                     (differencing) are"
                );
                Err(Error::new(Kind::Unsupported, text))
            }
        }
    }
}

/// Cylinders, heads and sectors per track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    cylinders: u16,
    heads: u8,
    sectors: u8,
}

impl Geometry {
    /// The bytes that the geometry addresses; never overflows.
    pub(super) fn size(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors) * 512
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cylinders, heads, sectors } = self;
        write!(f, "{cylinders}/{heads}/{sectors}")
    }
}

/// What a stored checksum says about its structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// It is right.
    Good,
    /// It was right before the identity of the disk was written into the structure; some tools
    /// do not compute it again then.
    Stale,
    /// It is wrong.
    Bad { stored: u32, computed: u32 },
}

/// The ones' complement of the sum of all bytes, `skip` bytes at `at` and the ranges in `zeroed`
/// taken as zero.
pub(super) fn checksum(table: &[u8], at: usize, zeroed: &[std::ops::Range<usize>]) -> u32 {
    let skipped = |index: usize| {
        (at..at + 4).contains(&index) || zeroed.iter().any(|range| range.contains(&index))
    };
    let sum = table
        .iter()
        .enumerate()
        .filter(|(index, _)| !skipped(*index))
        .fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    !sum
}

/// A footer whose signature is right.
#[derive(Debug, Clone)]
pub(super) struct Footer {
    pub(super) data_offset: u64,
    pub(super) time_stamp: u32,
    creator: [u8; 4],
    pub(super) original_size: u64,
    pub(super) current_size: u64,
    pub(super) geometry: Geometry,
    pub(super) disk_type: u32,
    pub(super) unique_id: UniqueId,
    pub(super) saved_state: bool,
    version: u32,
    pub(super) checksum: Checksum,
}

/// How the virtual size follows from the footer, and what is odd about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskSize {
    pub(super) bytes: u64,
    /// What it was taken from.
    pub(super) rule: &'static str,
}

impl Footer {
    /// Reads the fields; `None` when the signature is not there.
    pub(super) fn parse(table: &[u8; FOOTER_LEN]) -> Result<Option<Self>> {
        if !table.starts_with(COOKIE) {
            return Ok(None);
        }
        let disk_type = be32(table, 60)?;
        Ok(Some(Self {
            version: be32(table, 12)?,
            data_offset: be64(table, 16)?,
            time_stamp: be32(table, 24)?,
            creator: bytes(table, 28)?,
            original_size: be64(table, 40)?,
            current_size: be64(table, 48)?,
            geometry: Geometry {
                cylinders: be16(table, 56)?,
                heads: table[58],
                sectors: table[59],
            },
            disk_type,
            unique_id: UniqueId(bytes(table, 68)?),
            saved_state: table[84] != 0,
            checksum: verify(table, be32(table, 64)?, disk_type),
        }))
    }

    pub(super) fn is_sound(&self) -> bool {
        !matches!(self.checksum, Checksum::Bad { .. })
    }

    pub(super) fn disk_type(&self) -> Result<DiskType> {
        let major = self.version >> 16;
        if major != 1 {
            let text = format!("file format version {major} is not read, only 1 is");
            return Err(Error::new(Kind::Unsupported, text));
        }
        DiskType::parse(self.disk_type)
    }

    /// Whether a file that has this footer behind `data_end` bytes is what the footer says: the
    /// checksum is right, and a fixed disk is as long as the file.
    pub(super) fn fits(&self, data_end: u64) -> bool {
        let sizes = [self.disk_size().bytes, self.current_size, self.original_size];
        let as_long = || sizes.contains(&data_end) || self.geometry.size() == data_end;
        match self.disk_type() {
            Ok(DiskType::Fixed) => self.is_sound() && as_long(),
            Ok(_) => self.is_sound(),
            Err(_) => false,
        }
    }

    /// Whether both footers are of one disk, whatever they say about it.
    pub(super) fn is_same_disk(&self, other: &Self) -> bool {
        self.disk_type == other.disk_type && self.unique_id == other.unique_id
    }

    /// Whether both footers describe the same disk.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.unique_id == other.unique_id
            && self.disk_type == other.disk_type
            && self.current_size == other.current_size
            && self.geometry == other.geometry
            && self.data_offset == other.data_offset
    }

    /// The name of the program that wrote the image.
    pub(super) fn creator(&self) -> String {
        self.creator.escape_ascii().to_string()
    }

    /// The size of the guest's disk.
    ///
    /// Virtual PC and QEMU (as `qemu`) mean the geometry, all other programs the current size;
    /// the largest geometry always means the current size (QEMU's `block/vpc.c` has the list).
    /// A geometry of nothing says nothing.
    pub(super) fn disk_size(&self) -> DiskSize {
        let by_geometry = matches!(&self.creator, b"vpc " | b"qemu");
        let useless = self.geometry == MAX_GEOMETRY || self.geometry.size() == 0;
        if by_geometry && !useless {
            return DiskSize { bytes: self.geometry.size(), rule: "geometry" };
        }
        DiskSize { bytes: self.current_size, rule: "current_size" }
    }

    /// Whether geometry and current size disagree by more than the rounding of a geometry, or
    /// the one that decides is the geometry.
    pub(super) fn size_is_doubtful(&self) -> bool {
        let (geometry, current) = (self.geometry.size(), self.current_size);
        if self.geometry == MAX_GEOMETRY {
            return false;
        }
        if self.disk_size().rule == "geometry" {
            return geometry != current;
        }
        // A geometry is rounded down to whole cylinders of at most 16 * 255 sectors, and some
        // writers lose up to a tenth by their own rounding.
        geometry > current || current - geometry > (current / 8).max(4 << 20)
    }
}

/// Compares the stored checksum. A tool that stamps the identity (and makes a dynamic disk a
/// differencing one) after the checksum was computed leaves it as it was.
fn verify(table: &[u8; FOOTER_LEN], stored: u32, disk_type: u32) -> Checksum {
    let computed = checksum(table, 64, &[]);
    if stored == computed {
        return Checksum::Good;
    }
    let unstamped = checksum(table, 64, std::slice::from_ref(&(68..84)));
    // One more in the sum is one less in its complement.
    let was_dynamic = disk_type == 4 && stored == unstamped.wrapping_add(1);
    if stored == unstamped || was_dynamic {
        return Checksum::Stale;
    }
    Checksum::Bad { stored, computed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_complement_of_the_sum_without_itself() {
        let mut table = [0_u8; 16];
        table[0] = 3;
        table[4..8].copy_from_slice(&[9; 4]);
        table[9] = 255;
        assert_eq!(checksum(&table, 4, &[]), !258);
        assert_eq!(checksum(&table, 4, std::slice::from_ref(&(9..10))), !3);
    }

    #[test]
    fn the_largest_geometry_is_no_size() {
        assert_eq!(MAX_GEOMETRY.size(), 136_899_993_600);
    }
}
