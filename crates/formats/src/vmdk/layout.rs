//! What the three sparse layouts have in common: a directory of tables of grains.

use super::{SECTOR, corrupt, inside};
use carreto_error::{Error, Kind, Result};

/// How compressed grains are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Codec {
    /// Whether a marker with address and length stands before the data.
    pub(super) markers: bool,
}

impl Codec {
    /// The largest compressed grain in bytes: it is decoded in one piece, in memory.
    pub(super) const MAX_GRAIN: u64 = 4 << 20;

    /// The most bytes that a grain of `grain` bytes takes when it does not compress at all, with
    /// its marker: generous against wasteful encoders, small against a claim without bounds.
    pub(super) const fn max_packed(grain: u64) -> u64 {
        grain + grain / 8 + 4096
    }
}

/// How the entries of directory and tables are encoded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entries {
    /// 32-bit sector numbers; 0 is nothing. K, "Grain Directory" and "Grain Table".
    Hosted {
        /// Whether the table entry 1 stands for zeros.
        zeros: bool,
    },
    /// 32-bit sector numbers; 0 is nothing. LY, "COWD".
    Cowd,
    /// 64-bit entries with a type in the top nibble and an index into two areas. SE.
    SeSparse {
        /// Where the grain tables start, in bytes.
        tables: u64,
        /// How many tables there is room for.
        table_count: u64,
        /// Where the grains start, in bytes.
        grains: u64,
        /// How many grains there is room for.
        grain_count: u64,
    },
}

/// Where a grain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// In the parent, or nowhere.
    Absent,
    /// It reads as zeros.
    Zero,
    /// At this byte of the file.
    At(u64),
}

/// The shape of a sparse extent. All numbers are in bytes and were checked against the file.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) entries: Entries,
    /// The size of the disk or of its part.
    pub(super) capacity: u64,
    pub(super) grain: u64,
    /// Entries in a grain table.
    pub(super) per_table: u64,
    /// Entries in the directory that the capacity needs.
    pub(super) tables: u64,
    /// Where the directory is.
    pub(super) directory: u64,
    /// Where its second copy is.
    pub(super) redundant: Option<u64>,
    /// Where the text of the embedded descriptor is, and how long.
    pub(super) descriptor: Option<(u64, u64)>,
    /// How grains are compressed, if they are.
    pub(super) codec: Option<Codec>,
    /// The bytes at the start that belong to the header.
    pub(super) header_len: u64,
}

impl Layout {
    /// The size of an entry.
    pub(super) fn width(&self) -> u64 {
        match self.entries {
            Entries::Hosted { .. } | Entries::Cowd => 4,
            Entries::SeSparse { .. } => 8,
        }
    }

    /// The size of a grain table.
    pub(super) fn table_len(&self) -> u64 {
        self.per_table * self.width()
    }

    /// The guest bytes that a grain table covers.
    pub(super) fn span(&self) -> u64 {
        self.grain * self.per_table
    }

    /// Entries of table `index` that lie within the capacity.
    pub(super) fn used_entries(&self, index: u64) -> u64 {
        let start = index.saturating_mul(self.span());
        let rest = self.capacity.saturating_sub(start);
        rest.div_ceil(self.grain).min(self.per_table)
    }

    /// The guest bytes of the grain at guest byte `start`: less than a grain at the very end.
    pub(super) fn needed(&self, start: u64) -> u64 {
        self.capacity.saturating_sub(start).min(self.grain)
    }

    /// Reads entry `at` of a directory or table.
    pub(super) fn raw(&self, table: &[u8], at: usize) -> Result<u64> {
        match self.width() {
            4 => crate::field::le32(table, at.saturating_mul(4)).map(u64::from),
            _ => crate::field::le64(table, at.saturating_mul(8)),
        }
    }

    /// Where the grain table of a directory entry is; `None` when there is none.
    pub(super) fn table_at(&self, raw: u64, file_size: u64) -> Result<Option<u64>> {
        if raw == 0 {
            return Ok(None);
        }
        let offset = match self.entries {
            Entries::Hosted { .. } | Entries::Cowd => raw * SECTOR,
            Entries::SeSparse { tables, table_count, .. } => {
                let index = raw & 0xffff_ffff;
                if raw >> 32 != 0x1000_0000 || index >= table_count {
                    let text = format!(
                        "a directory entry is {raw:#x}, expected 0 or 0x10000000 above one of \
                         {table_count} tables"
                    );
                    return Err(corrupt(text));
                }
                tables + index * self.table_len()
            }
        };
        if offset < self.header_len {
            let text = format!("a grain table at sector {raw} overlaps the header");
            return Err(corrupt(text));
        }
        inside("a grain table", offset, self.table_len(), file_size)?;
        Ok(Some(offset))
    }

    /// Where the grain of a table entry is. `needed` of its bytes are wanted.
    pub(super) fn grain_at(&self, raw: u64, needed: u64, file_size: u64) -> Result<Grain> {
        let offset = match self.entries {
            _ if raw == 0 => return Ok(Grain::Absent),
            Entries::Hosted { zeros: true } if raw == 1 => return Ok(Grain::Zero),
            Entries::Hosted { .. } | Entries::Cowd => raw * SECTOR,
            Entries::SeSparse { grains, grain_count, .. } => match se_sparse_index(raw)? {
                None => return Ok(Grain::Zero),
                Some(index) if index < grain_count => grains + index * self.grain,
                Some(index) => {
                    let text = format!("a table entry names grain {index} of {grain_count}");
                    return Err(Error::new(Kind::Corrupt, text));
                }
            },
        };
        if offset < self.header_len || (raw == 1 && self.width() == 4) {
            return Err(corrupt(format!("a grain at sector {raw} overlaps the header")));
        }
        let len = if self.codec.is_some() { 16 } else { needed };
        inside("a grain", offset, len, file_size)?;
        Ok(Grain::At(offset))
    }
}

/// The grain index of an seSparse table entry, whose type is its top nibble: 0 nothing (and then
/// the whole entry is 0), 1 unmapped, 2 zeros, 3 allocated. The index is split: its high 48 bits
/// are the low 48 of the entry, its low 12 bits follow the type. SE.
fn se_sparse_index(raw: u64) -> Result<Option<u64>> {
    match raw >> 60 {
        1 | 2 => Ok(None),
        3 => Ok(Some(((raw >> 48) & 0xfff) | ((raw & 0xffff_ffff_ffff) << 12))),
        other => {
            let text = format!("a table entry is {raw:#x}: its type is {other}, expected 0 to 3");
            Err(corrupt(text))
        }
    }
}
