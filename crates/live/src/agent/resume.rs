//! Meeting the receiver: who both are, and what it has already.

use super::cutover::blocking;
use super::disk::DiskSync;
use super::link::{Heard, Link, unexpected};
use crate::ledger::PAGE;
use crate::wire::{Control, Knowledge, PageValues, TargetDisk};
use carreto_error::Result;
use std::sync::Arc;

/// Pages that are asked for at a time.
const ASKED: usize = 64;

/// Opens the disks at the receiver and learns what it has. Afterwards what is dirty in `disks` is
/// everything that may differ.
///
/// # Errors
/// What the receiver refuses; `Unavailable` when the link breaks.
pub(super) async fn disks(link: &Link, disks: &mut [DiskSync], first_time: bool) -> Result<()> {
    let described = disks.iter().map(DiskSync::described).collect();
    link.say(&Control::Open { disks: described }).await?;
    let targets = match control(link).await? {
        Control::Opened { disks: targets } if targets.len() == disks.len() => targets,
        other => return Err(unexpected(other.name())),
    };
    // The receiver tells the values of all disks before it hears the next question.
    let mut theirs = Vec::with_capacity(disks.len());
    for disk in disks.iter() {
        theirs.push(values(link, disk).await?);
    }
    for ((disk, target), values) in disks.iter_mut().zip(targets).zip(theirs) {
        learn(link, disk, &target, values, first_time).await?;
        disk.target = target.target;
    }
    Ok(())
}

/// The next message that is no sign of life.
pub(super) async fn control(link: &Link) -> Result<Control> {
    loop {
        match link.hear().await? {
            Heard::Control(Control::Ping | Control::Checking { .. }) => {}
            Heard::Control(message) => return Ok(message),
            other => return Err(unexpected(other.name())),
        }
    }
}

async fn learn(
    link: &Link,
    disk: &mut DiskSync,
    target: &TargetDisk,
    values: Vec<Option<[u8; 32]>>,
    first_time: bool,
) -> Result<()> {
    if target.known == Knowledge::Nothing {
        if !first_time {
            disk.receiver_knows_nothing();
        }
        disk.want_unknown();
        return Ok(());
    }
    let (shared, known) = (Arc::clone(&disk.shared), target.known);
    let pages = blocking(move || Ok(shared.differing_pages(known, &values))).await?;
    for pages in pages.chunks(ASKED) {
        let want = Control::Want { disk: disk.shared.number, pages: pages.to_vec() };
        link.say(&want).await?;
        for page in pages {
            match link.hear().await? {
                Heard::Page(found) if found.page == *page && found.disk == disk.shared.number => {
                    disk.take_over(&found, first_time)?;
                }
                other => return Err(unexpected(other.name())),
            }
        }
    }
    disk.want_unknown();
    Ok(())
}

async fn values(link: &Link, disk: &DiskSync) -> Result<Vec<Option<[u8; 32]>>> {
    let pages = usize::try_from(disk.granules().div_ceil(PAGE)).unwrap_or(usize::MAX);
    let mut all: Vec<Option<[u8; 32]>> = Vec::new();
    while all.len() < pages {
        match link.hear().await? {
            Heard::Values(PageValues { disk: number, first, values })
                if number == disk.shared.number
                    && first == all.len() as u64
                    && !values.is_empty()
                    && values.len() <= pages - all.len() =>
            {
                all.extend(values);
            }
            Heard::Control(Control::Ping) => {}
            other => return Err(unexpected(other.name())),
        }
    }
    Ok(all)
}
