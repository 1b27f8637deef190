//! Making a range read as zeros by the cheapest way that the system guarantees.

use super::turns::Call;
use carreto_block::{AlignedBuf, ByteRange};
use rustix::fd::BorrowedFd;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of zeros written at a time where the system has no other way.
const ZEROS: u64 = 1 << 20;

/// Which ways the file or device was found to lack.
#[derive(Debug, Default)]
pub(super) struct Zeroer {
    no_punch: AtomicBool,
    no_zero_range: AtomicBool,
}

impl Zeroer {
    /// Zeroes `range` without transferring data; `Ok(false)` when the system cannot.
    ///
    /// A hole comes first, because it frees the space. On a device the kernel then zeroes by
    /// command and unmaps where the device promises that unmapped blocks read as zeros. A zero
    /// range comes second; on a device without such a command the kernel writes the zeros.
    pub(super) fn allocate(
        &self,
        fd: BorrowedFd<'_>,
        range: ByteRange,
    ) -> std::result::Result<bool, Errno> {
        let keep = FallocateFlags::KEEP_SIZE;
        let ways = [
            (&self.no_punch, FallocateFlags::PUNCH_HOLE | keep),
            (&self.no_zero_range, FallocateFlags::ZERO_RANGE | keep),
        ];
        for (refused, mode) in ways {
            if refused.load(Ordering::Relaxed) {
                continue;
            }
            if allocate(fd, mode, range)? {
                return Ok(true);
            }
            refused.store(true, Ordering::Relaxed);
        }
        Ok(false)
    }

    /// Gives the space of `range` back where that is possible.
    pub(super) fn discard(
        &self,
        fd: BorrowedFd<'_>,
        range: ByteRange,
    ) -> std::result::Result<(), Errno> {
        if !self.no_punch.load(Ordering::Relaxed) {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if !allocate(fd, mode, range)? {
                self.no_punch.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn allocate(
    fd: BorrowedFd<'_>,
    mode: FallocateFlags,
    range: ByteRange,
) -> std::result::Result<bool, Errno> {
    if range.is_empty() {
        return Ok(true);
    }
    match retry_on_intr(|| rustix::fs::fallocate(fd, mode, range.start(), range.len())) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether holes can be punched into the regular file `fd` of `size` bytes, asked beyond its end
/// where there is nothing to lose.
pub(super) fn can_punch(fd: BorrowedFd<'_>, size: u64) -> bool {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let beyond = size.checked_next_multiple_of(ZEROS);
    beyond
        .and_then(|start| ByteRange::from_len(start, ZEROS))
        .is_some_and(|range| allocate(fd, mode, range) == Ok(true))
}

/// Hands pieces of `range`, each with as many zero bytes, to `write`, until the call is dropped.
pub(super) fn write_zeros(
    range: ByteRange,
    call: &Call,
    mut write: impl FnMut(u64, &[u8]) -> carreto_error::Result<()>,
) -> carreto_error::Result<()> {
    let len = usize::try_from(range.len().min(ZEROS)).unwrap_or(0);
    let zeros = AlignedBuf::zeroed(len)?;
    range.chunks(ZEROS).try_for_each(|piece| {
        call.check()?;
        let len = usize::try_from(piece.len()).unwrap_or(0);
        write(piece.start(), &zeros[..len])
    })
}
