//! Holes of files, by `SEEK_DATA` and `SEEK_HOLE`.

use super::calls::source_error;
use carreto_block::{ByteRange, Extent, Placement, merge_extents};
use carreto_error::{Error, Kind, Result};
use rustix::fd::BorrowedFd;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Maps `range` of a regular file: holes are [`Placement::Zero`], the rest is
/// [`Placement::Opaque`]. Stops after `limit` extents.
///
/// The calls move the file's position, which nothing else uses, and do not depend on it, so any
/// number of threads may map one file.
pub(super) fn map_file(
    fd: BorrowedFd<'_>,
    name: &str,
    range: ByteRange,
    limit: usize,
) -> Result<Vec<Extent>> {
    let mut list = Vec::new();
    let mut todo = range;
    while !todo.is_empty() && list.len() < limit.max(1) {
        let data = match rustix::fs::seek(fd, SeekFrom::Data(todo.start())) {
            Ok(data) => data,
            Err(Errno::NXIO) => {
                require_size(fd, name, range)?;
                range.end()
            }
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                merge_extents(&mut list, Extent::new(todo, Placement::Opaque));
                break;
            }
            Err(errno) => return Err(source_error("find data", name, errno)),
        };
        let (hole, rest) = todo.split_at(data);
        merge_extents(&mut list, Extent::new(hole, Placement::Zero));
        let end = if rest.is_empty() { rest.end() } else { end_of_data(fd, name, rest)? };
        let (data, rest) = rest.split_at(end);
        merge_extents(&mut list, Extent::new(data, Placement::Opaque));
        todo = rest;
    }
    Ok(list)
}

/// Where the data that starts `range` ends. Data that ends where it starts was punched out
/// meanwhile; it then counts as data, which is always safe.
fn end_of_data(fd: BorrowedFd<'_>, name: &str, range: ByteRange) -> Result<u64> {
    match rustix::fs::seek(fd, SeekFrom::Hole(range.start())) {
        Ok(end) if end > range.start() => Ok(end),
        Ok(_) => Ok(range.end()),
        Err(Errno::NXIO) => {
            require_size(fd, name, range)?;
            Ok(range.end())
        }
        Err(errno) => Err(source_error("find a hole", name, errno)),
    }
}

/// "No data from here on" is also what a file answers that was cut off, and those bytes must not
/// become zeros.
fn require_size(fd: BorrowedFd<'_>, name: &str, range: ByteRange) -> Result<()> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| source_error("find the size", name, errno))?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size >= range.end() {
        return Ok(());
    }
    let text = format!("the file has {size} bytes now, expected at least {}", range.end());
    Err(Error::new(Kind::Truncated, text).path(name).offset(size))
}
