//! Reading a disk past the page cache: what a buffered read of the device sees may be older than
//! what a file system has written.

use super::disk::Disk;
use super::machine::Machine;
use carreto_block::LocalRead;
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_kernel::freeze;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, major, minor};
use rustix::io::{Errno, retry_on_intr};

/// An open disk. Reads go past the page cache and may come from several threads at once.
#[derive(Debug)]
pub struct DiskReader {
    fd: OwnedFd,
    name: String,
    disk: Disk,
}

impl LocalRead for DiskReader {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read_at(offset, buf)
    }
}

impl DiskReader {
    /// Opens the disk and makes sure that it is still the one that was looked at.
    ///
    /// # Errors
    /// `SourceChanged` when number, attachment or size differ; `NotFound`, `Denied`, `Io`.
    pub fn open(disk: &Disk) -> Result<Self> {
        let name = disk.path.to_string_lossy().into_owned();
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = rustix::fs::open(&disk.path, flags, Mode::empty())
            .map_err(|errno| Error::io(IoSide::Source, "open", &name, errno.into()))?;
        let reader = Self { fd, name, disk: disk.clone() };
        reader.check_unchanged()?;
        Ok(reader)
    }

    /// Makes sure that the open disk is the one that was looked at, and has its size.
    ///
    /// # Errors
    /// `SourceChanged` when number, attachment or size differ; `Io`.
    pub fn check_unchanged(&self) -> Result<()> {
        let fail = |errno: Errno| Error::io(IoSide::Source, "look at", &self.name, errno.into());
        let then = &self.disk;
        let number = rustix::fs::fstat(&self.fd).map_err(fail)?.st_rdev;
        let number = (major(number), minor(number));
        if number != then.devno {
            return Err(self.changed(
                "number",
                &format!("{number:?}"),
                &format!("{:?}", then.devno),
            ));
        }
        let sequence = freeze::disk_sequence(&self.fd).ok();
        let sequence = sequence.or_else(|| Machine::here().device(number)?.integer("diskseq"));
        if let (Some(now), Some(then)) = (sequence, then.diskseq)
            && now != then
        {
            return Err(self.changed("attachment", &now.to_string(), &then.to_string()));
        }
        let size = freeze::device_size(&self.fd).map_err(fail)?;
        if size != then.size {
            return Err(self.changed("size", &size.to_string(), &then.size.to_string()));
        }
        Ok(())
    }

    fn changed(&self, what: &str, now: &str, then: &str) -> Error {
        let text = format!("the {what} is {now}, it was {then}: this is another disk now");
        Error::new(Kind::SourceChanged, text)
            .path(&self.name)
            .remedied_by("look at the disks again, and plan the migration anew")
    }

    /// Fills `buf` from `offset`. Address, length and offset are multiples of the disk's sector;
    /// a [`carreto_block::AlignedBuf`] is aligned for every disk.
    ///
    /// # Errors
    /// `Io` with the offset; `SourceChanged` when the disk ends before; `Internal` for what is
    /// not aligned or past the end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(offset, buf)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset.saturating_add(done as u64);
            let fail = |errno: Errno| {
                Error::io(IoSide::Source, "read", &self.name, errno.into()).offset(at)
            };
            let count = retry_on_intr(|| rustix::io::pread(&self.fd, &mut buf[done..], at));
            // What is left after a count that is no sector cannot be read directly.
            match count.map_err(fail)? {
                count if count == 0 || !count.is_multiple_of(self.disk.sector as usize) => {
                    let text = format!("the disk ends here, it had {} bytes", self.disk.size);
                    return Err(Error::new(Kind::SourceChanged, text).path(&self.name).offset(at));
                }
                count => done += count,
            }
        }
        Ok(())
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.disk.size
    }

    fn check(&self, offset: u64, buf: &[u8]) -> Result<()> {
        let sector = self.disk.sector as usize;
        let aligned = buf.len().is_multiple_of(sector)
            && buf.as_ptr().addr().is_multiple_of(sector)
            && offset.is_multiple_of(u64::from(self.disk.sector));
        let end = offset.checked_add(buf.len() as u64);
        if aligned && end.is_some_and(|end| end <= self.disk.size) {
            return Ok(());
        }
        let len = buf.len();
        let text = format!("a read of {len} bytes is not in sectors of {sector}, or past the end");
        Err(Error::new(Kind::Internal, text).path(&self.name).offset(offset))
    }
}
