//! System calls in loops: short counts, interruptions and the hop to a blocking thread.

use carreto_block::{AlignedBuf, LocalRead};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::BorrowedFd;
use rustix::io::{Errno, retry_on_intr};

/// Bytes that an async read or write copies to or from its blocking thread at a time, which
/// bounds what a call holds beside the caller's buffer.
pub(super) const HOP: usize = 1 << 20;

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

/// Fills `buf` from `offset`. `Ok(n)` with `n < buf.len()` means that the file ends there.
pub(super) fn read_up_to(
    fd: BorrowedFd<'_>,
    offset: u64,
    buf: &mut [u8],
) -> std::result::Result<usize, Errno> {
    read_with(buf, offset, |rest, at| rustix::io::pread(fd, rest, at))
}

/// [`read_up_to`] over any `pread`.
fn read_with(
    buf: &mut [u8],
    offset: u64,
    mut pread: impl FnMut(&mut [u8], u64) -> std::result::Result<usize, Errno>,
) -> std::result::Result<usize, Errno> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset.saturating_add(done as u64);
        match retry_on_intr(|| pread(&mut buf[done..], at))? {
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
    write_with(data, offset, |rest, at| rustix::io::pwrite(fd, rest, at))
}

/// [`write_all`] over any `pwrite`.
fn write_with(
    data: &[u8],
    offset: u64,
    mut pwrite: impl FnMut(&[u8], u64) -> std::result::Result<usize, Errno>,
) -> std::result::Result<(), Errno> {
    let mut done = 0;
    while done < data.len() {
        let at = offset.saturating_add(done as u64);
        match retry_on_intr(|| pwrite(&data[done..], at))? {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of 1 to 7 bytes, and an interruption before every third.
    fn stutter(turn: &mut u64, wish: usize) -> std::result::Result<usize, Errno> {
        *turn += 1;
        if turn.is_multiple_of(3) {
            return Err(Errno::INTR);
        }
        let count = usize::try_from(*turn % 7 + 1).unwrap();
        Ok(count.min(wish))
    }

    #[test]
    fn short_and_interrupted_reads_go_on() {
        let file: Vec<u8> = (0..200).collect();
        for (offset, len, wanted) in [(0, 200, 200), (13, 100, 100), (150, 80, 50), (200, 1, 0)] {
            let (mut buf, mut turn) = (vec![0xEE; len], 0);
            let read = read_with(&mut buf, offset, |rest, at| {
                let at = usize::try_from(at).unwrap();
                let count = stutter(&mut turn, rest.len().min(file.len() - at))?;
                rest[..count].copy_from_slice(&file[at..at + count]);
                Ok(count)
            });
            assert_eq!(read, Ok(wanted));
            let start = usize::try_from(offset).unwrap();
            assert_eq!(buf[..wanted], file[start..start + wanted]);
        }
    }

    #[test]
    fn short_and_interrupted_writes_go_on() {
        let data: Vec<u8> = (0..100).collect();
        let (mut file, mut turn) = (vec![0xEE; 120], 0);
        write_with(&data, 11, |rest, at| {
            let count = stutter(&mut turn, rest.len())?;
            let at = usize::try_from(at).unwrap();
            file[at..at + count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
        .unwrap();
        assert_eq!(file[11..111], data);
        assert!(file[..11].iter().chain(&file[111..]).all(|byte| *byte == 0xEE));
    }

    #[test]
    fn errors_and_full_devices_end_the_loop() {
        assert_eq!(read_with(&mut [0; 4], 0, |_, _| Err(Errno::IO)), Err(Errno::IO));
        assert_eq!(write_with(&[0; 4], 0, |_, _| Err(Errno::IO)), Err(Errno::IO));
        assert_eq!(write_with(&[0; 4], 0, |_, _| Ok(0)), Err(Errno::NOSPC));
    }
}
