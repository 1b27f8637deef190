//! Reading targets back.

use super::disk::Disk;
use crate::granule::{GranuleSet, bytes_of, granules_in};
use crate::ledger::{Known, Leaf, leaf_of};
use carreto_error::{Error, Kind, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Granules of one read.
const READ: u64 = 16;
/// Reads at a time.
const PARALLEL: usize = 4;

/// How far a reading back is.
#[derive(Debug, Default)]
pub(super) struct CheckProgress {
    pub(super) done: AtomicU64,
    pub(super) of: AtomicU64,
}

/// Reads back what was written since it was last read back, or everything, and compares it with
/// the ledger. Flushes first.
///
/// Cancel safe: what was read back stays noted.
///
/// # Errors
/// `Mismatch` naming the offset; what flushing and reading meet.
pub(super) async fn disk(
    disk: &Arc<Disk>,
    everything: bool,
    progress: &CheckProgress,
) -> Result<()> {
    disk.flush_for_reading().await?;
    some(disk, everything, u64::MAX, progress).await.map(|_| ())
}

/// As [`disk`] after the flush, of at most `most` granules, and gives how many it were.
pub(super) async fn some(
    disk: &Arc<Disk>,
    everything: bool,
    most: u64,
    progress: &CheckProgress,
) -> Result<u64> {
    let set = if everything {
        GranuleSet::full(granules_in(disk.size()))
    } else {
        disk.book().written.clone()
    };
    let count = set.len().min(most);
    progress.of.fetch_add(count, Ordering::Relaxed);
    let runs = std::iter::successors(set.run_from(0, READ), |(_, end)| set.run_from(*end, READ));
    let mut room = count;
    let runs = runs.map_while(|(start, end)| {
        let end = end.min(start + room);
        room -= end - start;
        (start < end).then_some((start, end))
    });
    stream::iter(runs.map(Ok))
        .try_for_each_concurrent(PARALLEL, |(start, end)| async move {
            run(disk, start, end).await?;
            progress.done.fetch_add(end - start, Ordering::Relaxed);
            Ok(())
        })
        .await?;
    Ok(count)
}

async fn run(disk: &Arc<Disk>, start: u64, end: u64) -> Result<()> {
    let (first, last) = (disk.range(start)?, disk.range(end - 1)?);
    let mut bytes = vec![0; usize::try_from(last.end() - first.start()).unwrap_or(0)];
    disk.read(first.start(), &mut bytes).await?;
    let disk = Arc::clone(disk);
    let compare = move || {
        for granule in start..end {
            granule_is_right(&disk, granule, first.start(), &bytes)?;
        }
        Ok(())
    };
    super::session::blocking(compare).await?
}

fn granule_is_right(disk: &Disk, granule: u64, base: u64, bytes: &[u8]) -> Result<()> {
    let found = granule_in(disk, granule, base, bytes);
    let known = disk.book().ledger.get(granule);
    let is_right = match known {
        Some(Known::Zero) => carreto_transfer::is_zero(found),
        Some(Known::Leaf(leaf)) => leaf_of(granule, found) == leaf,
        None => true,
    };
    if is_right {
        disk.book().written.remove(granule);
        return Ok(());
    }
    disk.forget(granule, granule + 1)?;
    let text = "what was read back is not what was written";
    Err(Error::new(Kind::Mismatch, text)
        .path(disk.target().name())
        .offset(bytes_of(granule, disk.size()).start())
        .remedied_by("test the target disk; the next run sends these bytes again"))
}

/// Reads the whole target and enters what it holds into the ledger and the journal.
///
/// Cancel safe: what was read stays entered.
///
/// # Errors
/// What flushing and reading meet.
pub(super) async fn learn(disk: &Arc<Disk>) -> Result<()> {
    disk.flush_for_reading().await?;
    let all = granules_in(disk.size());
    let starts = (0..all).step_by(usize::try_from(READ).unwrap_or(1));
    stream::iter(starts)
        .map(|start| learn_run(disk, start, (start + READ).min(all)))
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await
        .map(|_| ())
}

async fn learn_run(disk: &Arc<Disk>, start: u64, end: u64) -> Result<()> {
    let (first, last) = (disk.range(start)?, disk.range(end - 1)?);
    let mut bytes = vec![0; usize::try_from(last.end() - first.start()).unwrap_or(0)];
    disk.read(first.start(), &mut bytes).await?;
    let hashed = Arc::clone(disk);
    // `None` for zeros.
    let hash = move || -> Vec<Option<Leaf>> {
        let leaf = |granule| {
            let found = granule_in(&hashed, granule, first.start(), &bytes);
            (!carreto_transfer::is_zero(found)).then(|| leaf_of(granule, found))
        };
        (start..end).map(leaf).collect()
    };
    let leaves = super::session::blocking(hash).await?;
    let mut granule = start;
    for run in leaves.chunk_by(|one, next| one.is_some() == next.is_some()) {
        let next = granule + run.len() as u64;
        let leaves: Vec<Leaf> = run.iter().flatten().copied().collect();
        if leaves.is_empty() {
            disk.remember_zeros(granule, next)?;
        } else {
            disk.remember(granule, &leaves)?;
        }
        granule = next;
    }
    let mut book = disk.book();
    for granule in start..end {
        book.written.remove(granule);
    }
    Ok(())
}

/// The bytes of `granule` in `bytes`, which begin at the offset `base`.
fn granule_in<'a>(disk: &Disk, granule: u64, base: u64, bytes: &'a [u8]) -> &'a [u8] {
    let range = bytes_of(granule, disk.size());
    let at = |offset: u64| usize::try_from(offset - base).unwrap_or(usize::MAX);
    &bytes[at(range.start())..at(range.end())]
}
