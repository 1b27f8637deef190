//! Advisory locks: one run per target.

use super::calls::target_error;
use carreto_error::{Error, Kind, Result};
use rustix::fd::OwnedFd;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Locks the open file until its last descriptor closes.
///
/// A file system without locks grants it: there is nobody who could hold it.
///
/// # Errors
/// `Locked` when somebody else has it.
pub(super) fn exclusive(fd: &OwnedFd, name: &str) -> Result<()> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(Error::new(Kind::Locked, "another run has it")
            .during("lock")
            .path(name)),
        Err(errno) => Err(target_error("lock", name, errno)),
    }
}

/// Whether somebody holds [`exclusive`] on the open file. Readers of a device, such as the device
/// manager while it probes, share their lock and are not meant.
pub(super) fn is_held(fd: &OwnedFd) -> bool {
    let shared = rustix::fs::flock(fd, FlockOperation::NonBlockingLockShared);
    shared == Err(Errno::WOULDBLOCK)
}
