//! Reading past the page cache: what a device holds is not always what the cache of this machine
//! holds of it, and what a target stored is not what it was told to store.

use super::calls::read_up_to;
use super::node;
use carreto_block::{ALIGNMENT, AlignedBuf};
use carreto_error::{IoSide, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Advice, OFlags, Stat};
use rustix::io::Errno;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Bytes that one bounce buffer holds.
const BOUNCE: usize = 1 << 20;
/// Bounce buffers that are kept for the next read.
const KEPT: usize = 4;

/// A file or device opened with `O_DIRECT`. Reads are made in place when the caller's buffer,
/// offset and length are aligned, and through a bounce buffer otherwise.
#[derive(Debug)]
pub(super) struct Direct {
    fd: OwnedFd,
    /// What offsets and lengths must be multiples of.
    unit: usize,
    bounces: Mutex<Vec<AlignedBuf>>,
}

impl Direct {
    /// Opens `path`, which must still be what `plain` is open on; `first` is its state. `unit` is
    /// the logical block size of a device; for a file the page size fits every file system.
    ///
    /// `None` where the file system takes no direct reads (some in-memory, network and user-space
    /// ones); what is cached is then written out and dropped this once.
    pub(super) fn open(
        path: &Path,
        plain: &OwnedFd,
        first: &Stat,
        unit: usize,
        side: IoSide,
    ) -> Result<Option<Self>> {
        // What is refused here changes the speed alone, not what is read.
        if side == IoSide::Source {
            // What others wrote shall not count as a change when it reaches the device later.
            let _ = rustix::fs::fdatasync(plain);
        }
        let _ = rustix::fs::fadvise(plain, 0, None, Advice::DontNeed);
        // A second open and not a changed flag: the flag would be shared with `plain`.
        let Ok(fd) = node::open_checked(path, OFlags::RDONLY | OFlags::DIRECT) else {
            let _ = rustix::fs::fadvise(plain, 0, None, Advice::Sequential);
            return Ok(None);
        };
        node::require_same(first, &fd, path, side)?;
        Ok(Some(Self { fd, unit: unit.max(1), bounces: Mutex::default() }))
    }

    /// Fills `buf` from `offset`; `Ok(n)` with `n < buf.len()` means that the file ends there.
    pub(super) fn read(
        &self,
        plain: BorrowedFd<'_>,
        offset: u64,
        buf: &mut [u8],
    ) -> std::result::Result<usize, Errno> {
        match self.read_direct(offset, buf) {
            // Taken at open, refused at read: the file system has other ideas of alignment.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => read_up_to(plain, offset, buf),
            other => other,
        }
    }

    /// Fills `buf` with direct reads; returns how much was there.
    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> std::result::Result<usize, Errno> {
        let unit = self.unit;
        let mut done = 0;
        let in_place = offset.is_multiple_of(unit as u64)
            && buf.as_ptr().addr().is_multiple_of(unit.min(ALIGNMENT));
        if in_place {
            let whole = buf.len() - buf.len() % unit;
            done = read_aligned(&self.fd, offset, &mut buf[..whole], unit)?;
            // An odd count is the end of the file; the bounce buffer finds it again.
            done -= done % unit;
        }
        while done < buf.len() {
            let rest = &mut buf[done..];
            let count = self.read_bounced(offset + done as u64, rest)?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    /// Reads some bytes from any offset through an aligned buffer; zero at the end of the file.
    fn read_bounced(&self, offset: u64, buf: &mut [u8]) -> std::result::Result<usize, Errno> {
        let unit = self.unit;
        let lead = usize::try_from(offset % unit as u64).unwrap_or(0);
        let mut bounce = self.take_bounce()?;
        let len = (lead + buf.len()).next_multiple_of(unit).min(bounce.len());
        let there = read_aligned(&self.fd, offset - lead as u64, &mut bounce[..len], unit)?;
        let count = there.saturating_sub(lead).min(buf.len());
        buf[..count].copy_from_slice(&bounce[lead..lead + count]);
        let mut kept = self.bounces.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(bounce);
        }
        Ok(count)
    }

    fn take_bounce(&self) -> std::result::Result<AlignedBuf, Errno> {
        let kept = self.bounces.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match kept {
            Some(buffer) => Ok(buffer),
            None => AlignedBuf::zeroed(BOUNCE.max(self.unit)).map_err(|_| Errno::NOMEM),
        }
    }
}

/// As [`read_up_to`], but never continues from an offset that direct reads refuse: a count that
/// is no multiple of `unit` is the end of the file.
fn read_aligned(
    fd: &OwnedFd,
    offset: u64,
    buf: &mut [u8],
    unit: usize,
) -> std::result::Result<usize, Errno> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset.saturating_add(done as u64);
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut buf[done..], at))?;
        done += count;
        if count == 0 || !count.is_multiple_of(unit) {
            break;
        }
    }
    Ok(done)
}
