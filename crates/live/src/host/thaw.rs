//! Thawing without getting stuck: each thaw has a thread and a time limit, so that a disk that
//! does not answer keeps no other file system frozen.

use super::file_systems::FileSystem;
use super::opened;
use carreto_error::{Error, IoSide, Result};
use carreto_kernel::freeze;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long one thaw is waited for before the next is begun.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// As much as a thread needs that makes one call; it is locked into memory in the watchdog.
const STACK: usize = 128 << 10;

/// What can be thawed.
pub(super) trait Thaw: Send + Sync + 'static {
    /// As [`freeze::thaw`].
    fn thaw(&self) -> Result<(), Errno>;
}

impl Thaw for OwnedFd {
    fn thaw(&self) -> Result<(), Errno> {
        freeze::thaw(self)
    }
}

/// What became of a thaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thawing {
    /// It was frozen, and is not any more.
    Done,
    /// It was not frozen.
    NotFrozen,
    /// It may still be frozen.
    Failed(Errno),
    /// The kernel is still at it after the time limit; its thread goes on.
    Stuck,
}

/// Thaws one file system, and waits for it no longer than `limit`.
pub(super) fn thaw_within<T: Thaw>(file: &Arc<T>, limit: Duration) -> Thawing {
    let (sender, receiver) = mpsc::sync_channel(1);
    let theirs = Arc::clone(file);
    let work = move || {
        // Nobody listens any more when the limit has passed.
        let _ = sender.send(theirs.thaw());
    };
    let result = match std::thread::Builder::new().stack_size(STACK).spawn(work) {
        Ok(_) => receiver.recv_timeout(limit),
        // No thread to be had: getting stuck is less likely than staying frozen.
        Err(_) => Ok(file.thaw()),
    };
    match result {
        Ok(Ok(())) => Thawing::Done,
        Ok(Err(Errno::INVAL)) => Thawing::NotFrozen,
        Ok(Err(errno)) => Thawing::Failed(errno),
        Err(_) => Thawing::Stuck,
    }
}

/// Thaws those of `systems` that are frozen, whoever froze them, and returns where. The order is
/// that of freezing, as [`super::file_systems`] gives it; the last frozen is thawed first.
///
/// # Errors
/// The first failure, after all have been tried: `Io` or `Denied` of a thaw, `SourceChanged` for a
/// file system that is not mounted any more.
pub fn thaw_all(systems: &[FileSystem]) -> Result<Vec<PathBuf>> {
    let mut thawed = Vec::new();
    let mut first = None;
    for system in systems.iter().rev() {
        match thaw_one(system) {
            Ok(true) => thawed.push(system.mount_point.clone()),
            Ok(false) => {}
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(thawed), Err)
}

/// Whether it was frozen.
fn thaw_one(system: &FileSystem) -> Result<bool> {
    let file = Arc::new(opened::open(system)?);
    match thaw_within(&file, 10 * PATIENCE) {
        Thawing::Done => Ok(true),
        // What cannot be frozen cannot be thawed either.
        Thawing::NotFrozen | Thawing::Failed(Errno::OPNOTSUPP | Errno::NOTTY) => Ok(false),
        Thawing::Failed(errno) => Err(failure(system, errno)),
        Thawing::Stuck => Err(failure(system, Errno::TIMEDOUT)),
    }
}

fn failure(system: &FileSystem, errno: Errno) -> Error {
    let name = system.mount_point.to_string_lossy().into_owned();
    let remedy = format!("look at the disk below, and thaw by hand: fsfreeze --unfreeze {name}");
    Error::io(IoSide::Source, "thaw", name, errno.into()).remedied_by(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slow(Duration, Result<(), Errno>);

    impl Thaw for Slow {
        fn thaw(&self) -> Result<(), Errno> {
            std::thread::sleep(self.0);
            self.1
        }
    }

    #[test]
    fn each_outcome_is_told_in_time() {
        let at_once = |result| thaw_within(&Arc::new(Slow(Duration::ZERO, result)), PATIENCE);
        assert_eq!(at_once(Ok(())), Thawing::Done);
        assert_eq!(at_once(Err(Errno::INVAL)), Thawing::NotFrozen);
        assert_eq!(at_once(Err(Errno::IO)), Thawing::Failed(Errno::IO));
        let slow = Arc::new(Slow(Duration::from_secs(2), Ok(())));
        assert_eq!(thaw_within(&slow, Duration::from_millis(20)), Thawing::Stuck);
    }
}
