//! The dynamic disk header: where the block allocation table is, how large blocks are, and what
//! a differencing disk says about its parent.
//!
//! Facts from the VHD specification 1.0, "Dynamic Disk Header Format".

use super::footer::{Checksum, UniqueId, checksum};
use crate::Limits;
use crate::field::{be32, be64, bytes};
use carreto_block::ByteRange;
use carreto_error::{Error, Kind, Result};

/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 1024;
/// The signature at the start of a header.
pub(super) const COOKIE: &[u8; 8] = b"cxsparse";
const CHECKSUM_AT: usize = 36;
/// The fields that are written when a parent is chosen: its identity, name and locators.
const PARENT_FIELDS: std::ops::Range<usize> = 40..768;
const LOCATORS_AT: usize = 576;
const LOCATOR_LEN: usize = 24;
/// No writer uses blocks above 2 MiB; the bound keeps a block's bitmap below 64 KiB.
const MAX_BLOCK: u32 = 256 << 20;

/// One of the eight places that say where the parent is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locator {
    pub(super) platform: [u8; 4],
    /// Where the name is in the file.
    pub(super) data: ByteRange,
}

/// A header whose signature is right.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) table_offset: u64,
    pub(super) max_entries: u32,
    pub(super) block_size: u32,
    pub(super) checksum: Checksum,
    pub(super) parent_id: UniqueId,
    pub(super) parent_time: u32,
    pub(super) parent_name: String,
    pub(super) locators: Vec<Locator>,
}

impl Header {
    /// Reads the fields; the places of the parent only where there is one.
    pub(super) fn parse(table: &[u8; HEADER_LEN], has_parent: bool) -> Result<Self> {
        if !table.starts_with(COOKIE) {
            let found = table[..8].escape_ascii();
            let text =
                format!("the dynamic disk header starts with \"{found}\" instead of \"cxsparse\"");
            return Err(corrupt(text));
        }
        let major = be32(table, 24)? >> 16;
        if major != 1 {
            let text = format!("dynamic disk header version {major} is not read, only 1 is");
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(Self {
            table_offset: be64(table, 16)?,
            max_entries: be32(table, 28)?,
            block_size: be32(table, 32)?,
            checksum: verify(table, be32(table, CHECKSUM_AT)?),
            parent_id: UniqueId(bytes(table, 40)?),
            parent_time: be32(table, 56)?,
            parent_name: utf16(&table[64..576], u16::from_be_bytes),
            locators: if has_parent { locators(table)? } else { Vec::new() },
        })
    }

    /// Checks block size and table against the disk and the file; `data_end` is where the
    /// trailing footer starts.
    pub(super) fn validate(&self, size: u64, data_end: u64, limits: &Limits) -> Result<()> {
        let block = self.block_size;
        if !block.is_power_of_two() || block < 512 {
            let text =
                format!("block size {block} is not a power of two of at least 512, as it must be");
            return Err(corrupt(text));
        }
        if block > MAX_BLOCK {
            let text = format!("block size {block} is above the bound of {MAX_BLOCK}");
            return Err(Error::new(Kind::Limit, text));
        }
        let table = u64::from(self.max_entries) * 4;
        if table > limits.max_table {
            let text = format!(
                "a block allocation table of {} entries takes {table} bytes, above the bound of {}",
                self.max_entries, limits.max_table
            );
            return Err(Error::new(Kind::Limit, text));
        }
        let needed = size.div_ceil(u64::from(block));
        if needed > u64::from(self.max_entries) {
            let text = format!(
                "the block allocation table has {} entries, a disk of {size} bytes in blocks of \
                 {block} needs {needed}",
                self.max_entries
            );
            return Err(corrupt(text));
        }
        self.validate_place(table, data_end)
    }

    fn validate_place(&self, table: u64, data_end: u64) -> Result<()> {
        let at = self.table_offset;
        let Some(end) = at.checked_add(table) else {
            let text = format!("block allocation table offset {at:#x} plus {table} overflows");
            return Err(corrupt(text));
        };
        if !at.is_multiple_of(512) {
            let text = format!("block allocation table offset {at:#x} is not a multiple of 512");
            return Err(corrupt(text));
        }
        if end > data_end {
            let text = format!(
                "the block allocation table at {at:#x} ends at {end}, past the end of the data at \
                 {data_end}"
            );
            return Err(Error::new(Kind::Truncated, text));
        }
        Ok(())
    }

    /// The bytes of the table.
    pub(super) fn table(&self) -> ByteRange {
        ByteRange::from_len(self.table_offset, u64::from(self.max_entries) * 4)
            .unwrap_or(ByteRange::whole(0))
    }

    /// The bytes of the bitmap in front of a block: a bit a sector, padded to whole sectors.
    pub(super) fn bitmap_len(&self) -> u32 {
        self.block_size.div_ceil(512).div_ceil(8).next_multiple_of(512)
    }
}

fn verify(table: &[u8; HEADER_LEN], stored: u32) -> Checksum {
    let computed = checksum(table, CHECKSUM_AT, &[]);
    if stored == computed {
        Checksum::Good
    } else if stored == checksum(table, CHECKSUM_AT, std::slice::from_ref(&PARENT_FIELDS)) {
        Checksum::Stale
    } else {
        Checksum::Bad { stored, computed }
    }
}

/// The locators that are in use; their data length is in bytes, whatever unit the writer took for
/// the space (bytes or sectors).
fn locators(table: &[u8; HEADER_LEN]) -> Result<Vec<Locator>> {
    let mut list = Vec::new();
    for at in (LOCATORS_AT..PARENT_FIELDS.end).step_by(LOCATOR_LEN) {
        let platform: [u8; 4] = bytes(table, at)?;
        let (len, offset) = (be32(table, at + 8)?, be64(table, at + 16)?);
        if platform == [0; 4] || len == 0 {
            continue;
        }
        let data = ByteRange::from_len(offset, u64::from(len)).ok_or_else(|| {
            corrupt(format!("parent locator offset {offset:#x} plus length {len} overflows"))
        })?;
        list.push(Locator { platform, data });
    }
    Ok(list)
}

/// Text up to the first NUL, unpaired surrogates replaced.
pub(super) fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = bytes.as_chunks::<2>().0.iter().map(|pair| unit(*pair));
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|symbol| symbol.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

fn corrupt(text: String) -> Error {
    Error::new(Kind::Corrupt, text)
}
