//! The headers of a space-efficient sparse extent: SE, there is no public specification.
//!
//! Two headers: a constant one at the start, and a volatile one that says whether the journal
//! has to be replayed first. As nothing more is known, every field that is not known to be
//! harmless must have the value that is known.

use super::layout::{Entries, Layout};
use super::{SECTOR, corrupt, inside, sectors_to_bytes};
use crate::Limits;
use crate::field::le64;
use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result};

/// The first bytes of the extent: the number 0xcafebabe.
pub(super) const MAGIC: [u8; 8] = 0xcafe_babe_u64.to_le_bytes();
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
const VERSION: u64 = 0x2_0000_0001;
const GRAIN: u64 = 8;
const TABLE: u64 = 64;

/// Reads the headers of the extent in `file`, whose first sector is `header`.
pub(super) async fn layout(file: &dyn Source, header: &[u8], limits: &Limits) -> Result<Layout> {
    let expected =
        [(8, "version", VERSION), (24, "grain size", GRAIN), (32, "grain table size", TABLE)]
            .into_iter()
            .chain([(40, "flags", 0), (48, "reserved", 0), (56, "reserved", 0)])
            .chain([(64, "reserved", 0), (72, "reserved", 0)]);
    for (offset, name, wanted) in expected {
        let found = le64(header, offset)?;
        if found != wanted {
            let text = format!("seSparse: {name} is {found:#x}, expected {wanted:#x}");
            return Err(Error::new(Kind::Unsupported, text).offset(offset as u64));
        }
    }
    check_volatile(file, region(header, 80, "volatile header", file.size())?).await?;
    shape(header, file.size(), limits)
}

async fn check_volatile(file: &dyn Source, (offset, _): (u64, u64)) -> Result<()> {
    inside("the volatile header", offset, SECTOR, file.size())?;
    let header = file.read_array::<512>(offset).await?;
    let magic = le64(&header, 0)?;
    if magic != VOLATILE_MAGIC {
        let text = format!("the volatile header has the magic number {magic:#x}");
        return Err(corrupt(text).offset(offset));
    }
    if le64(&header, 24)? != 0 {
        let text = "seSparse: the journal has to be replayed, which is not done";
        return Err(Error::new(Kind::Unsupported, text)
            .offset(offset)
            .remedied_by("start and stop the virtual machine once, or clone the disk"));
    }
    Ok(())
}

/// The offset and length, in bytes, of the region whose two fields are at `field`.
fn region(header: &[u8], field: usize, name: &str, file_size: u64) -> Result<(u64, u64)> {
    let (sector, sectors) = (le64(header, field)?, le64(header, field + 8)?);
    let region = sectors_to_bytes(sector).zip(sectors_to_bytes(sectors));
    let (offset, len) = region
        .filter(|(offset, len)| *offset >= SECTOR && offset.checked_add(*len).is_some())
        .ok_or_else(|| {
            let text = format!("seSparse: the {name} is {sectors} sectors at sector {sector}");
            corrupt(text).offset(field as u64)
        })?;
    if offset > file_size {
        let text = format!("the {name} starts at byte {offset}, the file ends at {file_size}");
        return Err(Error::new(Kind::Truncated, text).offset(field as u64));
    }
    Ok((offset, len))
}

fn shape(header: &[u8], file_size: u64, limits: &Limits) -> Result<Layout> {
    let sectors = le64(header, 16)?;
    let capacity = sectors_to_bytes(sectors).unwrap_or(u64::MAX);
    if sectors == 0 {
        return Err(corrupt("seSparse: the capacity is 0 sectors").offset(16));
    }
    let per_table = TABLE * SECTOR / 8;
    let tables = sectors.div_ceil(GRAIN * per_table);
    if capacity > limits.max_virtual_size || tables.saturating_mul(8) > limits.max_table {
        let text = format!("seSparse: the disk of {sectors} sectors is too large");
        return Err(Error::new(Kind::Limit, text).offset(16));
    }
    let (directory, directory_len) = region(header, 128, "grain directory", file_size)?;
    if directory_len < tables * 8 {
        let text =
            format!("seSparse: the grain directory has {directory_len} bytes for {tables} tables");
        return Err(corrupt(text).offset(136));
    }
    inside("the grain directory", directory, tables * 8, file_size)?;
    let (tables_at, tables_len) = region(header, 144, "grain tables", file_size)?;
    let (grains, grains_len) = region(header, 192, "grains", file_size)?;
    check_apart(header, (grains, grains_len))?;
    Ok(Layout {
        entries: Entries::SeSparse {
            tables: tables_at,
            table_count: tables_len / (TABLE * SECTOR),
            grains,
            grain_count: grains_len / (GRAIN * SECTOR),
        },
        capacity,
        grain: GRAIN * SECTOR,
        per_table,
        tables,
        directory,
        redundant: None,
        descriptor: None,
        codec: None,
        header_len: SECTOR,
    })
}

/// No grain may lie on metadata, whatever the tables say.
fn check_apart(header: &[u8], (grains, len): (u64, u64)) -> Result<()> {
    const REGIONS: [(usize, &str); 7] = [
        (80, "volatile header"),
        (96, "journal header"),
        (112, "journal"),
        (128, "grain directory"),
        (144, "grain tables"),
        (160, "free bitmap"),
        (176, "backmap"),
    ];
    for (field, name) in REGIONS {
        let (sector, sectors) = (le64(header, field)?, le64(header, field + 8)?);
        let start = sector.saturating_mul(SECTOR);
        let end = start.saturating_add(sectors.saturating_mul(SECTOR));
        if start < end && start < grains.saturating_add(len) && grains < end {
            let text = format!(
                "seSparse: the {name} at bytes {start} to {end} overlaps the grains, which are \
                 {len} bytes at byte {grains}"
            );
            return Err(corrupt(text).offset(field as u64));
        }
    }
    Ok(())
}
