//! Space for what is kept beside the targets: the journal and the first MiB of each disk.

use super::head::HEAD;
use super::journal;
use super::registry::{KnownDisk, Registry};
use carreto_error::{Error, Kind, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes that are kept beside the target of a disk of `size` bytes, at most: of one that is zero
/// in many places it is less.
pub(crate) fn needed(size: u64) -> u64 {
    journal::len(size).saturating_add(HEAD.min(size))
}

/// Bytes that the state can hold for a server with `disks` disks, with what it holds for it
/// already; `None` when the file system does not say.
pub(super) fn of(registry: &Registry, disks: usize) -> Option<u64> {
    let free = free(registry)?;
    let taken = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.blocks() * 512);
    let files = (0..disks).flat_map(|number| files(registry, number));
    files.map(|file| taken(&file)).try_fold(free, u64::checked_add)
}

/// Refuses what would fill the state's file system hours later. Journals that are there already
/// go on with what they have.
///
/// # Errors
/// `TargetUnusable` when the journals of `disks` do not fit.
pub(super) fn expect(registry: &Registry, disks: &[KnownDisk]) -> Result<()> {
    let is_new = |number: usize| files(registry, number).iter().any(|file| !file.exists());
    let new = disks.iter().enumerate().filter(|(number, _)| is_new(*number));
    let needed = new.map(|(_, disk)| needed(disk.size)).fold(0, u64::saturating_add);
    match free(registry) {
        Some(free) if free < needed => {
            let folder = registry.folder().display().to_string();
            let text = format!("the journals need up to {needed} bytes, and {free} are free");
            Err(Error::new(Kind::TargetUnusable, text)
                .during("check the receiver's state folder")
                .path(folder)
                .needed(needed)
                .remedied_by("free space in the receiver's state folder"))
        }
        _ => Ok(()),
    }
}

fn free(registry: &Registry) -> Option<u64> {
    let found = rustix::fs::statvfs(registry.folder()).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

fn files(registry: &Registry, number: usize) -> [std::path::PathBuf; 2] {
    ["ledger", "head"].map(|kind| registry.file(&format!("{number}.{kind}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(size: u64) -> KnownDisk {
        KnownDisk { identity: "i".to_owned(), size, target: "t".to_owned() }
    }

    #[test]
    fn journals_that_cannot_be_kept_are_refused_before_they_are_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(folder.path(), "web1").expect("made");
        assert_eq!(needed(1 << 40), 4096 + 33 * (1 << 24) + (1 << 20));
        expect(&registry, &[disk(1 << 30), disk(3)]).expect("there is room");
        let error = expect(&registry, &[disk(3), disk(u64::MAX)]).expect_err("too large");
        assert_eq!(error.kind(), Kind::TargetUnusable);
        assert!(error.needed_bytes() > Some(1 << 50), "{error}");
        assert!(of(&registry, 2).is_some_and(|room| room < 1 << 50));
        for kind in ["ledger", "head"] {
            std::fs::write(registry.file(&format!("1.{kind}")), "kept").expect("written");
        }
        expect(&registry, &[disk(3), disk(u64::MAX)]).expect("it goes on");
    }
}
