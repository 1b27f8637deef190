//! The header of an ESX copy-on-write extent (`vmfsSparse`): LY, "COWD sparse data file".

use super::layout::{Entries, Layout};
use super::{SECTOR, corrupt, inside, sectors_to_bytes};
use crate::field::{bytes, le32};
use crate::{Limits, Warning};
use carreto_error::{Error, Kind, Result};

/// The first bytes of the extent.
pub(super) const MAGIC: &[u8; 4] = b"COWD";
/// The length of the header.
pub(super) const LEN: u64 = 4 * SECTOR;
/// Entries in a grain table; the format has no field for it.
const PER_TABLE: u64 = 4096;

const ROOT: u32 = 1;
const INCONSISTENT: u32 = 1 << 2;

/// The fields of the header that a reader needs, in sectors.
#[derive(Debug)]
pub(super) struct Cowd {
    flags: u32,
    capacity: u32,
    grain: u32,
    directory: u32,
    directory_len: u32,
    unclean: bool,
}

impl Cowd {
    /// Reads and checks the header.
    pub(super) fn parse(header: &[u8]) -> Result<Self> {
        let version = le32(header, 4)?;
        if bytes::<4>(header, 0)? != *MAGIC || version != 1 {
            let text = format!("version is {version}, expected 1");
            return Err(Error::new(Kind::Unsupported, text).offset(4));
        }
        let it = Self {
            flags: le32(header, 8)?,
            capacity: le32(header, 12)?,
            grain: le32(header, 16)?,
            directory: le32(header, 20)?,
            directory_len: le32(header, 24)?,
            unclean: le32(header, 1648)? != 0,
        };
        if !it.grain.is_power_of_two() || it.grain > 1 << 21 {
            let text = format!(
                "the grain size is {} sectors, expected a power of two up to 2097152",
                it.grain
            );
            return Err(corrupt(text).offset(16));
        }
        if it.capacity == 0 {
            return Err(corrupt("the capacity is 0 sectors").offset(12));
        }
        Ok(it)
    }

    /// Whether the extent has no parent of its own.
    pub(super) fn is_root(&self) -> bool {
        self.flags & ROOT != 0
    }

    /// Where everything is.
    pub(super) fn layout(&self, file_size: u64, limits: &Limits) -> Result<Layout> {
        let span = u64::from(self.grain) * PER_TABLE;
        let tables = u64::from(self.capacity).div_ceil(span);
        if tables > u64::from(self.directory_len) {
            let text = format!(
                "the grain directory has {} entries, {tables} are needed",
                self.directory_len
            );
            return Err(corrupt(text).offset(24));
        }
        let capacity = sectors_to_bytes(u64::from(self.capacity)).unwrap_or(u64::MAX);
        if capacity > limits.max_virtual_size || tables * 4 > limits.max_table {
            let text = format!("the disk of {} sectors is too large", self.capacity);
            return Err(Error::new(Kind::Limit, text).offset(12));
        }
        let directory = u64::from(self.directory) * SECTOR;
        if directory < LEN {
            let text =
                format!("the grain directory at sector {} overlaps the header", self.directory);
            return Err(corrupt(text).offset(20));
        }
        inside("the grain directory", directory, tables * 4, file_size)?;
        Ok(Layout {
            entries: Entries::Cowd,
            capacity,
            grain: u64::from(self.grain) * SECTOR,
            per_table: PER_TABLE,
            tables,
            directory,
            redundant: None,
            descriptor: None,
            codec: None,
            header_len: LEN,
        })
    }

    /// What is odd about the flags.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let mut list = Vec::new();
        if self.unclean {
            let text = "the image was not closed cleanly, its last writes may be missing";
            list.push(Warning::new("unclean_shutdown", text).offset(1648));
        }
        if self.flags & INCONSISTENT != 0 {
            let text = "the image says of itself that it is inconsistent";
            list.push(Warning::new("inconsistent", text).offset(8));
        }
        list
    }
}
