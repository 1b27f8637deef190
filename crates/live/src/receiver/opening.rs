//! A server's disks become open targets whose content is known.

use super::check;
use super::config::ServerConfig;
use super::disk::{Disk, HEAD_GRANULES, Parts, Targets};
use super::head::Head;
use super::journal::{Journal, JournalHeader};
use super::registry::{KnownDisk, Memory, Registry};
use super::room;
use super::shelf::Open;
use crate::ledger::Ledger;
use crate::remedy;
use crate::wire::{Knowledge, SourceDisk};
use carreto_block::ByteRange;
use carreto_error::{Error, Kind, Result, ResultExt as _};
use std::sync::{Arc, PoisonError};
use tokio_util::sync::CancellationToken;

/// Bytes of a disk, at most, as for trackers: what is kept in memory grows with it, whatever an
/// agent says, and one receiver serves many.
const MOST_BYTES: u64 = 64 << 40;

/// The targets of the disks `planned`, in their order.
///
/// Not cancel safe: a target that is dropped may stay open for a while. `stop` ends the reading of
/// targets.
///
/// # Errors
/// `Unavailable` when it was stopped; what opening meets.
pub(super) async fn open(
    targets: &dyn Targets,
    registry: &Registry,
    migration: &str,
    planned: &[KnownDisk],
    stop: &CancellationToken,
) -> Result<Open> {
    room::expect(registry, planned)?;
    let mut open = Vec::with_capacity(planned.len());
    for (number, known) in (0u16..).zip(planned) {
        let disk = open_one(targets, registry, migration, number, known, stop).await;
        open.push(disk.map_err(|error| error.or_path(&known.target))?);
    }
    Ok(open)
}

/// Whether nothing written to the disks was lost.
pub(super) fn is_usable(open: &[Arc<Disk>]) -> bool {
    !open.iter().any(|disk| disk.is_lost())
}

/// The same disks again, for a new session of the same process.
///
/// # Errors
/// What writing meets.
pub(super) async fn reuse(open: &[Arc<Disk>]) -> Result<()> {
    for disk in open {
        hide(disk).await?;
        *disk.knowledge.lock().unwrap_or_else(PoisonError::into_inner) = Knowledge::Kept;
    }
    Ok(())
}

/// Which target each of `disks` has. What was opened before must fit what is opened now.
///
/// # Errors
/// `Usage` for a disk that no target is configured for; `SourceChanged` when a disk is not the one
/// that was opened before.
pub(super) fn plan(
    memory: &Memory,
    config: &ServerConfig,
    disks: &[SourceDisk],
) -> Result<Vec<KnownDisk>> {
    let planned = assign(config, disks)?;
    agree(&memory.disks, &planned)?;
    Ok(planned)
}

/// Whether `planned` are the disks that were opened `before`, if some were.
///
/// # Errors
/// `SourceChanged` when they are not.
pub(super) fn agree(before: &[KnownDisk], planned: &[KnownDisk]) -> Result<()> {
    if before.is_empty() || before == planned {
        return Ok(());
    }
    Err(changed(before, planned))
}

fn assign(config: &ServerConfig, disks: &[SourceDisk]) -> Result<Vec<KnownDisk>> {
    let mut left: Vec<_> = config.disks.iter().collect();
    let mut planned = Vec::with_capacity(disks.len());
    for disk in disks {
        if disk.size > MOST_BYTES {
            let text =
                format!("the disk {} has {} bytes, at most {MOST_BYTES}", disk.name, disk.size);
            return Err(Error::new(Kind::Limit, text));
        }
        let names = |source: &str| {
            source == disk.name
                || source == disk.identity
                || source == format!("/dev/{}", disk.name)
        };
        let Some(at) = left.iter().position(|target| names(&target.source)) else {
            let text =
                format!("no target is configured for the disk {} ({})", disk.name, disk.identity);
            return Err(Error::new(Kind::Usage, text)
                .remedied_by("add a [[server.disk]] to the receiver's configuration"));
        };
        let target = left.remove(at).target.clone();
        planned.push(KnownDisk { identity: disk.identity.clone(), size: disk.size, target });
    }
    match left.first() {
        None => Ok(planned),
        Some(unused) => {
            let text = format!("the source has no disk {}, which has a target", unused.source);
            Err(Error::new(Kind::Usage, text)
                .remedied_by("name the disks in the agent's configuration, or drop the target"))
        }
    }
}

fn changed(before: &[KnownDisk], now: &[KnownDisk]) -> Error {
    let differs = before.iter().zip(now).find(|(before, now)| before != now);
    let text = match differs {
        Some((before, now)) => format!(
            "the disk for {} was {} with {} bytes and is {} with {} bytes now",
            now.target, before.identity, before.size, now.identity, now.size
        ),
        None => format!("the source had {} disks and has {} now", before.len(), now.len()),
    };
    let remedy = format!("if the new disks are meant, {}", remedy::BEGIN_ANEW);
    Error::new(Kind::SourceChanged, text).remedied_by(remedy)
}

async fn open_one(
    targets: &dyn Targets,
    registry: &Registry,
    migration: &str,
    number: u16,
    known: &KnownDisk,
    stop: &CancellationToken,
) -> Result<Arc<Disk>> {
    let opened = targets.open(&known.target, known.size).await?;
    let found = opened.target.size();
    if found < known.size {
        let text = format!("it has {found} bytes, the disk of the source has {}", known.size);
        return Err(Error::new(Kind::TargetTooSmall, text).needed(known.size));
    }
    let path = registry.file(&format!("{number}.ledger"));
    let trust = &opened.trusted_while;
    let header =
        JournalHeader::new(migration, &known.identity, &opened.identity, known.size, trust);
    let before = Journal::peek(&path);
    let (journal, ledger, knowledge) = match &before {
        Some(before) if *before == header => {
            let (journal, ledger) = Journal::load(&path, &header)?;
            (journal, ledger, Knowledge::Kept)
        }
        before => {
            let again = before.as_ref().is_some_and(|before| before.is_about_the_same_as(&header));
            let knowledge = if again { Knowledge::Reread } else { Knowledge::Nothing };
            // Not trusted before it is complete: if this is broken off, the target is read again.
            let first = if again { header.untrusted() } else { header.clone() };
            (Journal::create(&path, &first)?, Ledger::unknown(known.size)?, knowledge)
        }
    };
    let disk = Arc::new(Disk::new(Parts {
        number,
        target_name: known.target.clone(),
        target: opened.target,
        head: Head::open(&registry.file(&format!("{number}.head")), known.size)?,
        ledger,
        journal,
        knowledge,
    }));
    let prepared = prepare(&disk, knowledge, &header, stop).await;
    prepared.wrap_err(|| "look at what the target holds".into())?;
    Ok(disk)
}

async fn prepare(
    disk: &Arc<Disk>,
    knowledge: Knowledge,
    header: &JournalHeader,
    stop: &CancellationToken,
) -> Result<()> {
    hide(disk).await?;
    if knowledge == Knowledge::Reread {
        let learned = stop.run_until_cancelled(check::learn(disk)).await;
        learned.ok_or_else(|| Error::new(Kind::Unavailable, "the receiver ends"))??;
        disk.forget(0, HEAD_GRANULES.min(crate::granule::granules_in(disk.size())))?;
        disk.book().journal.entitle(header)?;
    }
    Ok(())
}

/// Whatever the target held before: from now on it does not look like a disk.
pub(super) async fn hide(disk: &Arc<Disk>) -> Result<()> {
    disk.writable().await.write_zeroes(ByteRange::whole(disk.head().len())).await?;
    disk.flush().await
}

/// What was said about the content when the disk was opened.
pub(super) fn knowledge_of(disk: &Disk) -> Knowledge {
    *disk.knowledge.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::config::TargetConfig;
    use super::super::disk::{Look, OpenedTarget};
    use super::*;
    use async_trait::async_trait;

    #[derive(Debug)]
    struct Small;

    #[async_trait]
    impl Targets for Small {
        async fn look(&self, _target: &str) -> Look {
            Look::default()
        }

        async fn open(&self, target: &str, _size: u64) -> Result<OpenedTarget> {
            Ok(OpenedTarget {
                target: Arc::new(carreto_testkit::MemTarget::blank(4096)),
                identity: target.to_owned(),
                trusted_while: String::new(),
            })
        }
    }

    fn source(size: u64) -> SourceDisk {
        SourceDisk { name: "vda".to_owned(), identity: "serial:1".to_owned(), size }
    }

    #[test]
    fn a_disk_that_no_tracker_would_follow_is_refused() {
        let target = TargetConfig { source: "vda".to_owned(), target: "t".to_owned() };
        let config = ServerConfig { name: "web1".to_owned(), disks: vec![target] };
        assert!(assign(&config, &[source(64 << 40)]).is_ok());
        let error = assign(&config, &[source((64 << 40) + 1)]).expect_err("too large");
        assert_eq!(error.kind(), Kind::Limit);
    }

    #[tokio::test]
    async fn nothing_is_made_for_a_disk_whose_target_is_too_small() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(folder.path(), "web1").expect("made");
        let planned = [KnownDisk { identity: "i".to_owned(), size: 4097, target: "t".to_owned() }];
        let stop = CancellationToken::new();
        let error = open(&Small, &registry, "m", &planned, &stop).await.expect_err("too small");
        assert_eq!((error.kind(), error.needed_bytes()), (Kind::TargetTooSmall, Some(4097)));
        assert!(!registry.file("0.ledger").exists() && !registry.file("0.head").exists());
    }
}
