//! Reading back what a target stored, past the page cache.

use super::calls::{blocking, read_hopping, read_up_to, source_error};
use super::extents::map_file;
use super::node::{self, Node};
use async_trait::async_trait;
use carreto_block::{
    ALIGNMENT, AlignedBuf, ByteRange, Extent, LocalRead, Placement, ReadHint, Source,
    SourceExt as _, Stamp,
};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{Advice, OFlags, Stat};
use rustix::io::Errno;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that one bounce buffer holds.
const BOUNCE: usize = 1 << 20;
/// Bounce buffers that are kept for the next read.
const KEPT: usize = 4;

/// A target's own file or device, opened again for reading.
///
/// Reads go past the page cache (`O_DIRECT`) where the file system takes that, in place when the
/// caller's buffer, offset and length are aligned and through a bounce buffer otherwise. Where it
/// does not (some in-memory, network and user-space file systems), cached pages are dropped once
/// when the reader is opened.
#[derive(Debug, Clone)]
pub(super) struct DirectFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    /// The descriptor without `O_DIRECT`, for mapping, and for reading where `direct` is refused.
    plain: OwnedFd,
    direct: Option<OwnedFd>,
    node: Node,
    size: u64,
    /// What offsets and lengths of direct reads must be multiples of.
    unit: usize,
    bounces: Mutex<Vec<AlignedBuf>>,
}

impl DirectFile {
    /// Opens `path`, which must still be the file that `stat` is of. `unit` is the logical block
    /// size of a device; for a file the page size fits every file system.
    pub(super) fn open(path: &Path, stat: &Stat, size: u64, unit: usize) -> Result<Self> {
        let name = path.to_string_lossy().into_owned();
        let (plain, now, node) = node::open(path, OFlags::RDONLY, IoSide::Target)?;
        node::require_same(stat, &now, node, &name)?;
        // A second open and not a changed flag: the flag would be shared with `plain`.
        let direct = node::open_checked(path, OFlags::RDONLY | OFlags::DIRECT).ok();
        if let Some(direct) = &direct {
            let now = rustix::fs::fstat(direct)
                .map_err(|errno| source_error("open for reading back", &name, errno))?;
            node::require_same(stat, &now, node, &name)?;
        }
        // Both advices may be refused; the content read is the same.
        let _ = rustix::fs::fadvise(&plain, 0, None, Advice::DontNeed);
        let _ = rustix::fs::fadvise(&plain, 0, None, Advice::Sequential);
        Ok(Self(Arc::new(Inner {
            name,
            plain,
            direct,
            node,
            size,
            unit: unit.max(1),
            bounces: Mutex::default(),
        })))
    }

    /// Fills `buf` with direct reads; returns how much was there.
    fn read_direct(
        &self,
        fd: &OwnedFd,
        offset: u64,
        buf: &mut [u8],
    ) -> std::result::Result<usize, Errno> {
        let unit = self.0.unit;
        let mut done = 0;
        let in_place = offset.is_multiple_of(unit as u64)
            && buf.as_ptr().addr().is_multiple_of(unit.min(ALIGNMENT));
        if in_place {
            let whole = buf.len() - buf.len() % unit;
            done = read_aligned(fd, offset, &mut buf[..whole], unit)?;
            // An odd count is the end of the file; the bounce buffer finds it again.
            done -= done % unit;
        }
        while done < buf.len() {
            let rest = &mut buf[done..];
            let count = self.read_bounced(fd, offset + done as u64, rest)?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    /// Reads some bytes from any offset through an aligned buffer; zero at the end of the file.
    fn read_bounced(
        &self,
        fd: &OwnedFd,
        offset: u64,
        buf: &mut [u8],
    ) -> std::result::Result<usize, Errno> {
        let unit = self.0.unit;
        let lead = usize::try_from(offset % unit as u64).unwrap_or(0);
        let mut bounce = self.take_bounce()?;
        let len = (lead + buf.len()).next_multiple_of(unit).min(bounce.len());
        let there = read_aligned(fd, offset - lead as u64, &mut bounce[..len], unit)?;
        let count = there.saturating_sub(lead).min(buf.len());
        buf[..count].copy_from_slice(&bounce[lead..lead + count]);
        let mut kept = self.0.bounces.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(bounce);
        }
        Ok(count)
    }

    fn take_bounce(&self) -> std::result::Result<AlignedBuf, Errno> {
        let kept = self.0.bounces.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match kept {
            Some(buffer) => Ok(buffer),
            None => AlignedBuf::zeroed(BOUNCE.max(self.0.unit)).map_err(|_| Errno::NOMEM),
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

#[async_trait]
impl Source for DirectFile {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn size(&self) -> u64 {
        self.0.size
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        let range = self.check_range(range.start(), range.len())?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if self.0.node == Node::Device {
            return Ok(vec![Extent::new(range, Placement::Opaque)]);
        }
        let inner = Arc::clone(&self.0);
        blocking(move || map_file(inner.plain.as_fd(), &inner.name, range, limit)).await
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        read_hopping(self, offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &[]
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        Some(self)
    }

    fn hint(&self) -> ReadHint {
        ReadHint::LOCAL
    }

    async fn stamp(&self) -> Result<Stamp> {
        let inner = Arc::clone(&self.0);
        blocking(move || node::stamp_of(&inner.plain, inner.node, &inner.name)).await
    }
}

impl LocalRead for DirectFile {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        let plain = self.0.plain.as_fd();
        let count = match &self.0.direct {
            None => read_up_to(plain, offset, buf),
            Some(direct) => match self.read_direct(direct, offset, buf) {
                // Taken at open, refused at read: the file system has other ideas of alignment.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => read_up_to(plain, offset, buf),
                other => other,
            },
        };
        match count {
            Ok(count) if count == buf.len() => Ok(()),
            Ok(count) => {
                let text = format!("the target ends here, expected {} bytes", self.0.size);
                let error = Error::new(Kind::Io, text).path(&*self.0.name);
                Err(error.offset(offset + count as u64))
            }
            Err(errno) => Err(source_error("read back", &self.0.name, errno).offset(offset)),
        }
    }
}
