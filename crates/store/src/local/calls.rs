//! System calls in loops: short counts, interruptions and the hop to a blocking thread.

use carreto_block::{AlignedBuf, LocalRead, LocalWrite};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::BorrowedFd;
use rustix::io::{Errno, retry_on_intr};

/// Bytes that an async read or write copies to or from its blocking thread at a time, which
/// bounds what a call holds beside the caller's buffer.
const HOP: usize = 4 << 20;

/// Runs `work` on a thread that may block: the one door through which this module spawns.
///
/// Dropping the future does not stop work that has started.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => {
            Err(Error::new(Kind::Cancelled, "the runtime is shutting down"))
        }
        Err(error) => Err(Error::new(Kind::Internal, "a blocking call panicked").caused_by(error)),
    }
}

/// An async read made of blocking ones; `reader` is a cheap handle.
pub(super) async fn read_hopping<R>(reader: &R, offset: u64, buf: &mut [u8]) -> Result<()>
where
    R: LocalRead + Clone + 'static,
{
    let mut at = offset;
    for chunk in buf.chunks_mut(HOP) {
        let (reader, len) = (reader.clone(), chunk.len());
        let bytes = blocking(move || {
            let mut bytes = AlignedBuf::zeroed(len)?;
            reader.read_local(at, &mut bytes)?;
            Ok(bytes)
        });
        chunk.copy_from_slice(&bytes.await?);
        at = at.saturating_add(len as u64);
    }
    Ok(())
}

/// An async write made of blocking ones; `writer` is a cheap handle.
pub(super) async fn write_hopping<W>(writer: &W, offset: u64, data: &[u8]) -> Result<()>
where
    W: LocalWrite + Clone + 'static,
{
    let mut at = offset;
    for chunk in data.chunks(HOP) {
        let mut bytes = AlignedBuf::zeroed(chunk.len())?;
        bytes.copy_from_slice(chunk);
        let writer = writer.clone();
        blocking(move || writer.write_local(at, &bytes)).await?;
        at = at.saturating_add(chunk.len() as u64);
    }
    Ok(())
}

/// Fills `buf` from `offset`. `Ok(n)` with `n < buf.len()` means that the file ends there.
pub(super) fn read_up_to(
    fd: BorrowedFd<'_>,
    offset: u64,
    buf: &mut [u8],
) -> std::result::Result<usize, Errno> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset.saturating_add(done as u64);
        match retry_on_intr(|| rustix::io::pread(fd, &mut buf[done..], at))? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// Writes all of `data` at `offset`.
pub(super) fn write_all(
    fd: BorrowedFd<'_>,
    offset: u64,
    data: &[u8],
) -> std::result::Result<(), Errno> {
    let mut done = 0;
    while done < data.len() {
        let at = offset.saturating_add(done as u64);
        match retry_on_intr(|| rustix::io::pwrite(fd, &data[done..], at))? {
            // A device that takes nothing and gives no reason: its end moved.
            0 => return Err(Errno::NOSPC),
            count => done += count,
        }
    }
    Ok(())
}

/// The error of a system call on a file that is read.
pub(super) fn source_error(operation: &'static str, name: &str, errno: Errno) -> Error {
    Error::io(IoSide::Source, operation, name, errno.into())
}

/// The error of a system call on a file that is written.
pub(super) fn target_error(operation: &'static str, name: &str, errno: Errno) -> Error {
    Error::io(IoSide::Target, operation, name, errno.into())
}
