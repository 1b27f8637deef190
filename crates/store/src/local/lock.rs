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

/// Checks that no other program holds a lock on a range of the open file, as QEMU does on the
/// images of its guests (`file.locking` of its block drivers: read locks on some bytes, of which
/// [`exclusive`] knows nothing).
///
/// Asked before [`exclusive`], because on network file systems both are locks of one kind. A file
/// system without such locks is free: there is nobody who could hold one.
///
/// # Errors
/// `TargetUnusable` when there is one.
pub(super) fn require_free(fd: &OwnedFd, name: &str) -> Result<()> {
    match rustix::fs::fcntl_lock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            // Others, such as a guest that is started later, find the lock of `exclusive` or
            // nothing; this one would go with the next descriptor of the file that closes.
            let _ = rustix::fs::fcntl_lock(fd, FlockOperation::NonBlockingUnlock);
            Ok(())
        }
        Err(Errno::ACCESS | Errno::AGAIN) => {
            let text = "another program holds a lock on it, as QEMU does while a guest uses it";
            Err(Error::new(Kind::TargetUnusable, text)
                .during("open")
                .path(name)
                .remedied_by("stop the virtual machine or program that uses it, and retry"))
        }
        Err(_) => Ok(()),
    }
}

/// Whether somebody holds [`exclusive`] on the open file. Readers of a device, such as the device
/// manager while it probes, share their lock and are not meant.
pub(super) fn is_held(fd: &OwnedFd) -> bool {
    let shared = rustix::fs::flock(fd, FlockOperation::NonBlockingLockShared);
    shared == Err(Errno::WOULDBLOCK)
}
