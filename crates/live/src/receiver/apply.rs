//! Batches become disk content.

use super::disk::Disk;
use super::session::Disks;
use super::violation;
use crate::granule::granules_in;
use crate::ledger::{Leaf, leaf_of};
use crate::wire::{Answer, Batch, Entry, Ranges};
use bytes::Bytes;
use carreto_block::ByteRange;
use carreto_error::Result;
use std::sync::Arc;

/// A granule of a batch and where its bytes are in [`Unpacked::bytes`].
struct Placed {
    entry: Entry,
    start: usize,
    len: usize,
}

/// A batch whose granules have the digests they were sent with.
struct Unpacked {
    sequence: u64,
    disk: Arc<Disk>,
    bytes: Bytes,
    placed: Vec<Placed>,
    references: Vec<Entry>,
}

/// Checks a batch, writes it and says which references did not hold.
///
/// Every granule's leaf is compared before anything is written. Not cancel safe: granules whose
/// write was dropped are unknown.
///
/// # Errors
/// `Unavailable` when the batch breaks a rule; what writing meets.
pub(super) async fn batch(disks: &Disks, payload: Bytes) -> Result<Answer> {
    let owned = Arc::clone(disks);
    let unpacked = super::session::blocking(move || unpack(&owned, &payload)).await??;
    let disk = &unpacked.disk;
    write(disk, &unpacked).await?;
    let mut refused = Vec::new();
    for entry in &unpacked.references {
        if !copy(disks, disk, entry).await? {
            refused.push(entry.granule);
        }
    }
    Ok(Answer { sequence: unpacked.sequence, refused })
}

fn find(disks: &[Arc<Disk>], number: u16) -> Result<&Arc<Disk>> {
    let disk = disks.get(usize::from(number));
    disk.ok_or_else(|| violation(format!("there is no disk {number}")))
}

fn unpack(disks: &[Arc<Disk>], payload: &Bytes) -> Result<Unpacked> {
    let batch = Batch::decode(payload)?;
    let disk = Arc::clone(find(disks, batch.disk)?);
    for entry in &batch.entries {
        disk.range(entry.granule)?;
    }
    let bytes = plain_bytes(&batch, payload, disk.size())?;
    let (references, with_bytes) =
        batch.entries.into_iter().partition::<Vec<_>, _>(|entry| entry.same_as.is_some());
    let placed = place(with_bytes, &bytes, disk.size())?;
    Ok(Unpacked { sequence: batch.sequence, disk, bytes, placed, references })
}

/// The bytes of all granules of `batch`, which is a view of `payload`.
fn plain_bytes(batch: &Batch<'_>, payload: &Bytes, size: u64) -> Result<Bytes> {
    let wanted = usize::try_from(batch.plain_len(size)).unwrap_or(usize::MAX);
    let bytes = if batch.packed {
        zstd::bulk::decompress(batch.payload, wanted)
            .map_err(|error| violation(format!("a batch does not decompress: {error}")))?
            .into()
    } else {
        payload.slice_ref(batch.payload)
    };
    if bytes.len() != wanted {
        let text = format!("a batch has {} bytes, its granules have {wanted}", bytes.len());
        return Err(violation(text));
    }
    Ok(bytes)
}

/// Finds and checks the bytes of each entry; they follow one another in `bytes`.
fn place(entries: Vec<Entry>, bytes: &[u8], size: u64) -> Result<Vec<Placed>> {
    let mut placed = Vec::with_capacity(entries.len());
    let mut start = 0;
    for entry in entries {
        let range = crate::granule::bytes_of(entry.granule, size);
        let len = usize::try_from(range.len()).unwrap_or(0);
        if leaf_of(entry.granule, &bytes[start..start + len]) != entry.leaf {
            let text =
                format!("granule {} does not have the digest it was sent with", entry.granule);
            return Err(violation(text));
        }
        placed.push(Placed { entry, start, len });
        start += len;
    }
    Ok(placed)
}

/// Writes neighbours together.
async fn write(disk: &Disk, unpacked: &Unpacked) -> Result<()> {
    let follows = |one: &Placed, next: &Placed| one.entry.granule + 1 == next.entry.granule;
    for run in unpacked.placed.chunk_by(follows) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        disk.forget(first.entry.granule, last.entry.granule + 1)?;
        let offset = disk.range(first.entry.granule)?.start();
        disk.write(offset, &unpacked.bytes[first.start..last.start + last.len]).await?;
        let leaves: Vec<Leaf> = run.iter().map(|placed| placed.entry.leaf).collect();
        disk.remember(first.entry.granule, &leaves)?;
    }
    Ok(())
}

/// Copies the granule that `entry` names; `false` when it cannot be read now, or its content is not
/// what it has to be.
async fn copy(disks: &[Arc<Disk>], disk: &Disk, entry: &Entry) -> Result<bool> {
    let Some((from, granule)) = entry.same_as else { return Ok(true) };
    let from = find(disks, from)?;
    let (source, range) = (from.range(granule)?, disk.range(entry.granule)?);
    if from.is_exclusive() || source.len() != range.len() {
        return Ok(false);
    }
    let mut bytes = vec![0; usize::try_from(range.len()).unwrap_or(0)];
    from.read(source.start(), &mut bytes).await?;
    if leaf_of(entry.granule, &bytes) != entry.leaf {
        return Ok(false);
    }
    disk.forget(entry.granule, entry.granule + 1)?;
    disk.write(range.start(), &bytes).await?;
    disk.remember(entry.granule, &[entry.leaf])?;
    Ok(true)
}

/// Zeroes ranges. Not cancel safe, as [`batch`].
///
/// # Errors
/// As [`batch`].
pub(super) async fn zeros(disks: &[Arc<Disk>], payload: Bytes) -> Result<Answer> {
    let Ranges { sequence, disk, ranges } = Ranges::decode(&payload)?;
    let disk = find(disks, disk)?;
    for (start, end) in ranges {
        if end > granules_in(disk.size()) {
            return Err(violation(format!("granule {end} is past the end of the disk")));
        }
        let (first, last) = (disk.range(start)?, disk.range(end - 1)?);
        let range = ByteRange::new(first.start(), last.end());
        let range = range.ok_or_else(|| violation("a range of zeros ends before its start"))?;
        disk.forget(start, end)?;
        disk.zero(range).await?;
        disk.remember_zeros(start, end)?;
    }
    Ok(Answer { sequence, refused: Vec::new() })
}
