//! The header of a hosted sparse extent (`KDMV`): K, "Hosted Sparse Extent Header".

use super::layout::{Codec, Entries, Layout};
use super::{SECTOR, corrupt, inside, sectors_to_bytes};
use crate::field::{bytes, le16, le32, le64};
use crate::{Limits, Warning};
use carreto_error::{Error, Kind, Result};

/// The first bytes of a hosted sparse extent: the number 0x564d444b.
pub(super) const MAGIC: &[u8; 4] = b"KDMV";
/// `gdOffset` of a stream whose directory is named by the footer.
const AT_END: u64 = u64::MAX;
/// The longest embedded or separate descriptor that is read, in bytes.
pub(super) const MAX_DESCRIPTOR: u64 = 1 << 20;

/// Entries in a grain table.
const PER_TABLE: u32 = 512;

const NEWLINE_TEST: u32 = 1;
const REDUNDANT: u32 = 1 << 1;
const ZERO_ENTRIES: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
const KNOWN: u32 = NEWLINE_TEST | REDUNDANT | ZERO_ENTRIES | COMPRESSED | MARKERS;

/// The fields of the header, in the units of the file (sectors).
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) version: u32,
    flags: u32,
    capacity: u64,
    grain: u64,
    descriptor: u64,
    descriptor_len: u64,
    per_table: u32,
    redundant: u64,
    directory: u64,
    overhead: u64,
    unclean: bool,
    newlines: [u8; 4],
    compression: u16,
}

impl Header {
    /// Takes the fields out of the first sector, or out of a footer; checks none of them.
    pub(super) fn parse(sector: &[u8]) -> Result<Self> {
        if bytes::<4>(sector, 0)? != *MAGIC {
            return Err(corrupt("the magic number is not KDMV").offset(0));
        }
        Ok(Self {
            version: le32(sector, 4)?,
            flags: le32(sector, 8)?,
            capacity: le64(sector, 12)?,
            grain: le64(sector, 20)?,
            descriptor: le64(sector, 28)?,
            descriptor_len: le64(sector, 36)?,
            per_table: le32(sector, 44)?,
            redundant: le64(sector, 48)?,
            directory: le64(sector, 56)?,
            overhead: le64(sector, 64)?,
            unclean: bytes::<1>(sector, 72)? != [0],
            newlines: bytes(sector, 73)?,
            compression: le16(sector, 77)?,
        })
    }

    /// Checks every field that does not depend on where the directory is.
    pub(super) fn check(&self, file_size: u64, limits: &Limits) -> Result<()> {
        self.check_version()?;
        self.check_geometry(limits)?;
        if self.compression > 1 {
            let text = format!("compressAlgorithm is {}, expected 0 or 1", self.compression);
            return Err(Error::new(Kind::Unsupported, text).offset(77));
        }
        if self.flags & COMPRESSED != 0 && self.compression == 0 {
            let text = "the flags say that grains are compressed, compressAlgorithm says not";
            return Err(corrupt(text).offset(77));
        }
        let overhead = sectors_to_bytes(self.overhead)
            .ok_or_else(|| corrupt(format!("overHead is {} sectors", self.overhead)).offset(64))?;
        inside("the metadata that overHead announces", 0, overhead, file_size)
    }

    fn check_version(&self) -> Result<()> {
        if !(1..=3).contains(&self.version) {
            let text = format!("version is {}, expected 1 to 3", self.version);
            return Err(Error::new(Kind::Unsupported, text).offset(4));
        }
        if self.flags & NEWLINE_TEST != 0 && self.newlines != *b"\n \r\n" {
            let text = format!(
                "the newline test bytes are {:02x?}, expected 0a 20 0d 0a: \
                 the file went through a text-mode transfer",
                self.newlines
            );
            return Err(corrupt(text).offset(73));
        }
        Ok(())
    }

    fn check_geometry(&self, limits: &Limits) -> Result<()> {
        if !self.grain.is_power_of_two() || !(8..=1 << 21).contains(&self.grain) {
            let text = format!(
                "grainSize is {} sectors, expected a power of two from 8 to 2097152",
                self.grain
            );
            return Err(corrupt(text).offset(20));
        }
        if !self.per_table.is_power_of_two() || self.per_table > 512 {
            let text =
                format!("numGTEsPerGT is {}, expected a power of two up to 512", self.per_table);
            return Err(corrupt(text).offset(44));
        }
        if self.capacity == 0 {
            return Err(corrupt("capacity is 0 sectors").offset(12));
        }
        let size = sectors_to_bytes(self.capacity).unwrap_or(u64::MAX);
        if size > limits.max_virtual_size {
            let text = format!(
                "capacity is {} sectors, more than {} bytes",
                self.capacity, limits.max_virtual_size
            );
            return Err(Error::new(Kind::Limit, text).offset(12));
        }
        let table = self.tables().saturating_mul(4);
        if table > limits.max_table {
            let text =
                format!("the grain directory takes {table} bytes, more than {}", limits.max_table);
            return Err(Error::new(Kind::Limit, text).offset(12));
        }
        if self.compression == 1 && self.grain > Codec::MAX_GRAIN / SECTOR {
            let text = format!(
                "compressed grains have {} sectors, more than {}",
                self.grain,
                Codec::MAX_GRAIN / SECTOR
            );
            return Err(Error::new(Kind::Limit, text).offset(20));
        }
        // K has no other number, and no writer is known to use one. Tiny tables would make a
        // directory of millions out of nothing.
        if self.per_table != PER_TABLE {
            let text = format!("numGTEsPerGT is {}, only {PER_TABLE} is read", self.per_table);
            return Err(Error::new(Kind::Unsupported, text).offset(44));
        }
        Ok(())
    }

    /// The number of grain tables.
    fn tables(&self) -> u64 {
        let span = self.grain.saturating_mul(u64::from(self.per_table));
        self.capacity.div_ceil(span.max(1))
    }

    /// The size of the disk in bytes, after [`Self::check`].
    pub(super) fn capacity(&self) -> u64 {
        self.capacity.saturating_mul(SECTOR)
    }

    /// The size of a grain in bytes, after [`Self::check`].
    pub(super) fn grain(&self) -> u64 {
        self.grain.saturating_mul(SECTOR)
    }

    /// Whether the directory is named by the footer.
    pub(super) fn directory_at_end(&self) -> bool {
        self.directory == AT_END
    }

    /// Whether grains are compressed.
    pub(super) fn compressed(&self) -> bool {
        self.compression == 1
    }

    /// Where the metadata ends and the first marker of a stream begins, in bytes.
    pub(super) fn overhead(&self) -> u64 {
        self.overhead.saturating_mul(SECTOR)
    }

    /// The same header with the directory at this sector.
    pub(super) fn with_directory(&self, sector: u64) -> Self {
        Self { directory: sector, ..self.clone() }
    }

    /// Whether `footer` describes the same disk: everything else could make one reader see
    /// another disk than the next.
    pub(super) fn agrees(&self, footer: &Self) -> bool {
        const MEANING: u32 = ZERO_ENTRIES | COMPRESSED | MARKERS;
        let shape = |h: &Self| {
            let flags = h.flags & MEANING;
            (h.capacity, h.grain, h.per_table, h.compression, flags)
        };
        shape(self) == shape(footer)
    }

    /// Whether both name the same grain directory.
    pub(super) fn same_directory(&self, other: &Self) -> bool {
        self.directory == other.directory
    }

    /// Where the embedded descriptor is, in bytes; `None` when there is none.
    pub(super) fn descriptor(&self, file_size: u64) -> Result<Option<(u64, u64)>> {
        if self.descriptor == 0 || self.descriptor_len == 0 {
            return Ok(None);
        }
        let len = sectors_to_bytes(self.descriptor_len).unwrap_or(u64::MAX);
        if len > MAX_DESCRIPTOR {
            let text = format!(
                "descriptorSize is {} sectors, more than {MAX_DESCRIPTOR} bytes",
                self.descriptor_len
            );
            return Err(Error::new(Kind::Limit, text).offset(36));
        }
        let offset = sectors_to_bytes(self.descriptor).ok_or_else(|| {
            corrupt(format!("descriptorOffset is sector {}", self.descriptor)).offset(28)
        })?;
        inside("the descriptor", offset, len, file_size)?;
        Ok(Some((offset, len)))
    }

    /// Where everything is, after [`Self::check`] and once the directory is known.
    pub(super) fn layout(&self, file_size: u64, warnings: &mut Vec<Warning>) -> Result<Layout> {
        let directory = self.directory_offset("gdOffset", self.directory, 56, file_size)?;
        Ok(Layout {
            entries: Entries::Hosted { zeros: self.flags & ZERO_ENTRIES != 0 },
            capacity: self.capacity(),
            grain: self.grain(),
            per_table: u64::from(self.per_table),
            tables: self.tables(),
            directory,
            redundant: self.redundant_offset(directory, file_size, warnings),
            descriptor: None,
            codec: self.compressed().then_some(Codec { markers: self.flags & MARKERS != 0 }),
            header_len: SECTOR,
        })
    }

    fn directory_offset(&self, name: &str, sector: u64, field: u64, size: u64) -> Result<u64> {
        let offset =
            sectors_to_bytes(sector).filter(|offset| *offset >= SECTOR).ok_or_else(|| {
                corrupt(format!("{name} is sector {sector}, no place for a table")).offset(field)
            })?;
        inside("the grain directory", offset, self.tables() * 4, size)?;
        Ok(offset)
    }

    /// The second directory is only a help, so one that cannot be used is a warning.
    fn redundant_offset(
        &self,
        directory: u64,
        file_size: u64,
        warnings: &mut Vec<Warning>,
    ) -> Option<u64> {
        if self.flags & REDUNDANT == 0 || self.redundant == 0 {
            return None;
        }
        match self.directory_offset("rgdOffset", self.redundant, 48, file_size) {
            Ok(offset) if offset == directory => None,
            Ok(offset) => Some(offset),
            Err(error) => {
                let text = format!("the redundant grain directory is not usable: {error}");
                warnings.push(Warning::new("redundant_directory", text).offset(48));
                None
            }
        }
    }

    /// What is odd about the flags.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let mut list = Vec::new();
        if self.unclean {
            let text = "the image was not closed cleanly, its last writes may be missing";
            list.push(Warning::new("unclean_shutdown", text).offset(72));
        }
        if self.flags & !KNOWN != 0 {
            let text = format!("unknown flags {:#x}", self.flags & !KNOWN);
            list.push(Warning::new("unknown_flags", text).offset(8));
        }
        if self.compressed() && self.flags & COMPRESSED == 0 {
            let text = "compressAlgorithm says that grains are compressed, the flags say not";
            list.push(Warning::new("compression_flag", text).offset(8));
        }
        list
    }
}
