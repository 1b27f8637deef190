//! VMDK: the format of `VMware` with all its subformats.
//!
//! A VMDK is a text descriptor and one or more extents. The descriptor is a file of its own, or
//! lies inside the only extent (`monolithicSparse`, `streamOptimized`). An extent is flat, all
//! zeros, or sparse in one of three layouts: hosted sparse (`KDMV`), ESX copy-on-write (`COWD`)
//! and `seSparse`. Whatever the layout, a grain directory points at grain tables, whose entries
//! point at grains; compressed grains carry a marker that names their address.
//!
//! Sources of format facts: `VMware`, "Virtual Disk Format 5.0" (called K here); the libyal
//! documentation of VMDK (LY) for COWD; the comments of QEMU's `block/vmdk.c` (SE) for `seSparse`,
//! which has no public specification.
//!
//! What is refused: raw devices (`fullDevice`, `partitionedDevice`, `custom`, RDM), encrypted
//! disks, `NOACCESS` extents with data, `seSparse` with a journal to replay, a part of a split disk
//! opened alone, and a stream without a grain directory, which cannot be told from a stream whose
//! transfer stopped.

mod cache;
mod check;
mod codec;
mod cowd;
mod descriptor;
mod disk;
mod flat;
mod header;
mod layout;
mod line;
mod markers;
mod names;
mod opening;
mod policy;
mod reading;
mod sesparse;
mod sparse;
mod stream;
mod tables;

use crate::{Format, Image, OpenOptions};
use carreto_block::{OpenGate, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

/// The unit of every address in a VMDK, in bytes.
const SECTOR: u64 = 512;

/// Opens the image in `file`: a sparse image with an embedded descriptor, or a text descriptor,
/// whose extents are opened through `gate`. So are parents.
///
/// Reads headers and descriptors; grain directories and tables are read when extents are asked
/// for. Cancel safe.
///
/// # Errors
/// As [`crate::open`]. A part of a split image opened alone is `Corrupt`: it has no descriptor.
pub async fn open(
    file: Arc<dyn Source>,
    options: &OpenOptions,
    gate: &OpenGate,
) -> Result<Arc<dyn Image>> {
    options.refuse_snapshot(file.as_ref(), Format::Vmdk)?;
    opening::open(file, options, gate).await.map(|opened| opened.image)
}

/// `sectors` in bytes, if that fits in 63 bits.
fn sectors_to_bytes(sectors: u64) -> Option<u64> {
    sectors.checked_mul(SECTOR).filter(|bytes| i64::try_from(*bytes).is_ok())
}

fn corrupt(text: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, text.into())
}

/// Checks that `len` bytes at `offset` lie inside a file of `size` bytes.
fn inside(what: &str, offset: u64, len: u64, size: u64) -> Result<()> {
    let end = offset
        .checked_add(len)
        .ok_or_else(|| corrupt(format!("{what} ends beyond 64 bits")).offset(offset))?;
    if end > size {
        let text = format!("{what} ends at byte {end}, the file at byte {size}");
        return Err(Error::new(Kind::Truncated, text).offset(offset));
    }
    Ok(())
}
