//! Internal snapshots: finding the one that the user names.
//!
//! Facts: qcow2 specification, "Snapshots". A snapshot has an L1 table of its own and, since
//! version 3, a disk size of its own. Its VM state lies past the end of the disk and is not read.

use super::header::{Header, MAX_OFFSET, TableRef, check_virtual_size};
use super::tables::index_of;
use crate::{Limits, field};
use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result};

/// QEMU's bounds.
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_EXTRA: u32 = 1024;
const FIXED_LEN: u64 = 40;
const WINDOW: u64 = 64 << 10;

/// An entry of the snapshot table.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) l1: TableRef,
    /// The size of its disk, where the entry says it.
    disk_size: Option<u64>,
}

impl Snapshot {
    /// The size of its disk in bytes, in an image whose header says `now`.
    pub(super) fn disk_size(&self, now: u64) -> u64 {
        self.disk_size.unwrap_or(now)
    }
}

/// Reads the table entry by entry and hands each to `visit`, until that says `false`. Returns
/// the end of the last entry read.
///
/// # Errors
/// `Corrupt`, `Truncated` or `Limit`, naming the entry; what reading meets.
pub(super) async fn walk(
    file: &dyn Source,
    header: &Header,
    limits: &Limits,
    mut visit: impl FnMut(Snapshot) -> bool + Send,
) -> Result<u64> {
    let TableRef { offset, entries } = header.snapshots;
    check_place(header, file.size())?;
    let mut at = offset;
    let mut window = Window::default();
    for index in 0..entries {
        let place = |error: Error| {
            error
                .wrap(format!("snapshot {index} of {entries} cannot be read"))
                .during("read the snapshot table")
                .offset(at)
        };
        let (snapshot, end) = entry(file, &mut window, at).await.map_err(place)?;
        if end - offset > limits.max_table {
            let text = "the snapshot table is larger than is accepted";
            return Err(place(Error::new(Kind::Limit, text)));
        }
        at = end;
        if !visit(snapshot) {
            break;
        }
    }
    Ok(at)
}

fn check_place(header: &Header, file_size: u64) -> Result<()> {
    let TableRef { offset, entries } = header.snapshots;
    let broken = |kind, at, text| Err(super::header::broken(kind, at, text));
    if entries > MAX_SNAPSHOTS {
        let text = format!("there are {entries} snapshots, at most {MAX_SNAPSHOTS} are possible");
        return broken(Kind::Limit, 60, text);
    }
    let fits = offset.is_multiple_of(header.cluster_size()) && offset < MAX_OFFSET;
    if entries > 0 && (!fits || offset < header.cluster_size()) {
        let text = format!("the snapshot table lies at {offset}, expected a cluster boundary");
        return broken(Kind::Corrupt, 64, text);
    }
    if entries > 0 && offset >= file_size {
        let text = format!("the snapshot table lies at {offset}, the file ends at {file_size}");
        return broken(Kind::Truncated, 64, text);
    }
    Ok(())
}

/// Finds the snapshot with the id, or else with the name, that the user gave, and checks its L1
/// table.
///
/// # Errors
/// `NotFound` when there is none; what is wrong with the table or the snapshot.
pub(super) async fn find(
    file: &dyn Source,
    header: &Header,
    limits: &Limits,
    wanted: &str,
) -> Result<Snapshot> {
    let (mut by_id, mut by_name) = (None, None);
    walk(file, header, limits, |snapshot| {
        if snapshot.id == wanted {
            by_id = Some(snapshot);
        } else if snapshot.name == wanted && by_name.is_none() {
            by_name = Some(snapshot);
        }
        by_id.is_none()
    })
    .await?;
    let Some(found) = by_id.or(by_name) else {
        let count = header.snapshots.entries;
        let text = format!("none of its {count} snapshots has the id or name {wanted:?}");
        return Err(Error::new(Kind::NotFound, text));
    };
    let size = found.disk_size(header.virtual_size);
    check_virtual_size(size, limits)
        .and_then(|()| header.check_l1_of(found.l1, size, file.size(), limits))
        .map_err(|error| error.wrap(format!("snapshot {wanted:?} cannot be read")))?;
    Ok(found)
}

/// Reads the entry at `at` and says where the next one is.
async fn entry(file: &dyn Source, window: &mut Window, at: u64) -> Result<(Snapshot, u64)> {
    let fixed = window.bytes(file, at, FIXED_LEN).await?;
    let (id_len, name_len) = (field::be16(fixed, 12)?, field::be16(fixed, 14)?);
    let extra_len = field::be32(fixed, 36)?;
    let l1 = TableRef { offset: field::be64(fixed, 0)?, entries: field::be32(fixed, 8)? };
    if extra_len > MAX_EXTRA {
        let text =
            format!("the extra data has {extra_len} bytes, at most {MAX_EXTRA} are possible");
        return Err(Error::new(Kind::Corrupt, text));
    }
    let (id_len, name_len) = (usize::from(id_len), usize::from(name_len));
    let tail = u64::from(extra_len) + (id_len + name_len) as u64;
    let bytes = window.bytes(file, at + FIXED_LEN, tail).await?;
    let (extra, names) = bytes
        .split_at_checked(extra_len as usize)
        .ok_or_else(|| Error::new(Kind::Internal, "a snapshot entry lies outside its window"))?;
    let disk_size = (extra.len() >= 16).then(|| field::be64(extra, 8)).transpose()?;
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(&[])).into_owned();
    let snapshot = Snapshot {
        id: text(names.get(..id_len)),
        name: text(names.get(id_len..id_len + name_len)),
        l1,
        disk_size,
    };
    Ok((snapshot, at + (FIXED_LEN + tail).next_multiple_of(8)))
}

/// The last bytes read, so that neighbouring entries cost one request.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// `len` bytes (less than 256 KiB) from `at`.
    async fn bytes(&mut self, file: &dyn Source, at: u64, len: u64) -> Result<&[u8]> {
        let end = at + len;
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            if end > file.size() {
                let size = file.size();
                let text = format!("{len} bytes from {at} reach past the end at {size}");
                return Err(Error::new(Kind::Truncated, text));
            }
            let wanted = len.max(WINDOW).min(file.size() - at);
            self.bytes = file.read_vec(at, index_of(wanted)).await?;
            self.start = at;
        }
        let start = index_of(at - self.start);
        Ok(&self.bytes[start..start + index_of(len)])
    }
}
