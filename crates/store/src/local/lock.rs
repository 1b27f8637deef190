//! Advisory locks: one run per target, and one per whatever else a caller names by a file.

use super::calls::target_error;
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;

/// A lock that is held until it is dropped or the process ends, however that happens.
#[derive(Debug)]
pub struct FileLock {
    /// Closing it releases the lock.
    _fd: OwnedFd,
}

/// Takes the lock that the file `path` stands for, creating the file (for its owner only) when
/// it is not there. The file stays; removing it would let two owners lock two files of one name.
///
/// # Errors
/// `Locked` when another process, or another call in this one, has it; what opening meets.
pub fn lock_file(path: impl AsRef<Path>) -> Result<FileLock> {
    let path = path.as_ref();
    let name = path.to_string_lossy();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(CWD, path, flags | OFlags::NONBLOCK, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| Error::io(IoSide::State, "open the lock", &*name, errno.into()))?;
    exclusive(&fd, &name)?;
    Ok(FileLock { _fd: fd })
}

/// Locks the open file until its last descriptor closes.
///
/// A file system without locks grants it: there is nobody who could hold it.
///
/// # Errors
/// `Locked` when somebody else has it.
pub(super) fn exclusive(fd: &OwnedFd, name: &str) -> Result<()> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            Err(Error::new(Kind::Locked, "another run has it").during("lock").path(name))
        }
        Err(errno) => Err(target_error("lock", name, errno)),
    }
}

/// Whether somebody holds [`exclusive`] on the open file. Readers of a device, such as the device
/// manager while it probes, share their lock and are not meant.
pub(super) fn is_held(fd: &OwnedFd) -> bool {
    let shared = rustix::fs::flock(fd, FlockOperation::NonBlockingLockShared);
    shared == Err(Errno::WOULDBLOCK)
}
