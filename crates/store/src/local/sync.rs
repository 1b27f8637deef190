//! Flushing, where a failure is final.
//!
//! Linux reports a failed write-back once and then drops the pages, so a second `fdatasync` that
//! succeeds says nothing about what was written before the first.

use super::calls::target_error;
use carreto_error::{Error, Kind, Result};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, retry_on_intr};
use std::sync::{Mutex, PoisonError};

/// What flushing has come to.
#[derive(Debug, Default)]
struct State {
    failed: bool,
    /// The directory whose entry for the file is not durable yet.
    directory: Option<OwnedFd>,
}

/// Flushes one at a time and remembers a failure.
#[derive(Debug, Default)]
pub(super) struct Syncer(Mutex<State>);

impl Syncer {
    /// For a file just created in `directory`, whose name the first flush makes durable.
    pub(super) fn with_directory(directory: OwnedFd) -> Self {
        Self(Mutex::new(State { failed: false, directory: Some(directory) }))
    }

    /// Makes what was written to `fd` durable.
    ///
    /// One caller at a time: the system would tell only one of two about a failure.
    pub(super) fn sync(&self, fd: &OwnedFd, name: &str) -> Result<()> {
        self.sync_with(name, || retry_on_intr(|| rustix::fs::fdatasync(fd)))
    }

    fn sync_with(
        &self,
        name: &str,
        data: impl FnOnce() -> std::result::Result<(), Errno>,
    ) -> Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed {
            let text = "an earlier flush failed, so what was written before it may be lost";
            return Err(Error::new(Kind::Io, text).during("flush").path(name));
        }
        // A panic or an early return must not leave the target looking sound.
        state.failed = true;
        data().map_err(|errno| target_error("flush", name, errno))?;
        if let Some(directory) = state.directory.take() {
            match retry_on_intr(|| rustix::fs::fsync(&directory)) {
                // Some file systems have no flush for directories and need none.
                Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::BADF) => {}
                Err(errno) => return Err(target_error("flush the directory", name, errno)),
            }
        }
        state.failed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_final() {
        let syncer = Syncer::default();
        syncer.sync_with("disk", || Ok(())).unwrap();
        let error = syncer.sync_with("disk", || Err(Errno::IO)).unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        for _ in 0..2 {
            let error = syncer
                .sync_with("disk", || panic!("the system must not be asked again"))
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Io);
            assert!(error.detail().contains("an earlier flush failed"), "{error}");
        }
    }

    #[test]
    fn no_space_at_flush_is_the_targets_fault() {
        let syncer = Syncer::default();
        let error = syncer.sync_with("disk", || Err(Errno::NOSPC)).unwrap_err();
        assert_eq!(error.kind(), Kind::TargetUnusable);
    }
}
