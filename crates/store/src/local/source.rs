//! A local file or block device as a source.

use super::calls::{blocking, read_hopping, read_up_to, source_error};
use super::direct::Direct;
use super::extents::map_file;
use super::inspect;
use super::node::{self, Node};
use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, LocalRead, Placement, ReadHint, Source, SourceExt as _, Stamp,
};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{Advice, OFlags, Stat};
use std::path::Path;
use std::sync::Arc;

/// A regular file or a block device, opened read-only.
///
/// A clone is another handle on the same open file. The bytes of a file are read through the page
/// cache. A device is read past it (`O_DIRECT`), because a device can be written by others than
/// this machine; where its driver does not take that, what is cached is dropped when it is opened.
/// Dropped calls may go on reading for a moment on a blocking thread, without effect.
///
/// ```
/// use carreto_block::{ByteRange, Placement, Source as _, SourceExt as _};
/// use carreto_store::LocalFile;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("disk.raw");
/// std::fs::write(&path, b"boot")?;
/// let disk = LocalFile::open(&path)?;
/// assert_eq!(disk.size(), 4);
/// assert_eq!(disk.read_vec(0, 4).await?, b"boot");
/// let map = disk.extents(ByteRange::whole(4), 100).await?;
/// assert!(matches!(map[0].placement, Placement::Opaque));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LocalFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    /// The descriptor without `O_DIRECT`, for mapping, and for reading where there is no other.
    fd: OwnedFd,
    direct: Option<Direct>,
    node: Node,
    size: u64,
    identity: String,
    side: IoSide,
}

/// What a source may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LocalOptions {
    /// Opens a device also while a file system on it is mounted for writing, or the system swaps
    /// to it. What is read then is of no one moment.
    pub allow_in_use: bool,
}

impl LocalFile {
    /// Opens `path`, following symbolic links, with the default options.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, LocalOptions::default())
    }

    /// Opens `path`, following symbolic links. What others wrote to a device and is still cached
    /// is written out.
    ///
    /// # Errors
    /// `NotFound`, `Denied`; `Usage` for a directory; `Unsupported` for a pipe, a socket or a
    /// character device, without opening it; `SourceChanged` for a device that is in use for
    /// writing, see [`crate::inspect_source`]; else `Io`.
    pub fn open_with(path: impl AsRef<Path>, options: LocalOptions) -> Result<Self> {
        let path = path.as_ref();
        let (fd, stat, node) = node::open(path, OFlags::RDONLY, IoSide::Source)?;
        let name = path.to_string_lossy().into_owned();
        if node == Node::File {
            return Self::from_parts(fd, &stat, node, name);
        }
        if !options.allow_in_use {
            inspect::require_still(&stat, &name)?;
        }
        let unit = rustix::fs::ioctl_blksszget(&fd)
            .map_err(|errno| source_error("find the block size", &name, errno))?;
        let direct = Direct::open(path, &fd, &stat, unit as usize, IoSide::Source)?;
        let size = node::size_of(&fd, &stat, node, &name)?;
        let identity = node::identity_of(&stat, node);
        let side = IoSide::Source;
        Ok(Self(Arc::new(Inner { name, fd, direct, node, size, identity, side })))
    }

    /// Opens a target's own file or device again, to read back what it stored. It must still be
    /// the one that `first` is the state of.
    pub(super) fn read_back(path: &Path, first: &Stat, size: u64, unit: usize) -> Result<Self> {
        let side = IoSide::Target;
        let (fd, _, node) = node::open(path, OFlags::RDONLY, side)?;
        node::require_same(first, &fd, path, side)?;
        let direct = Direct::open(path, &fd, first, unit, side)?;
        let identity = node::identity_of(first, node);
        let name = path.to_string_lossy().into_owned();
        Ok(Self(Arc::new(Inner { name, fd, direct, node, size, identity, side })))
    }

    /// Takes over an open file that was found to be a `node`.
    pub(super) fn from_parts(fd: OwnedFd, stat: &Stat, node: Node, name: String) -> Result<Self> {
        let size = node::size_of(&fd, stat, node, &name)?;
        // Advice only: what does not take it reads as fast as it does.
        let _ = rustix::fs::fadvise(&fd, 0, None, Advice::Sequential);
        let identity = node::identity_of(stat, node);
        let side = IoSide::Source;
        Ok(Self(Arc::new(Inner { name, fd, direct: None, node, size, identity, side })))
    }

    /// The same text for the same file or device whatever its name, as
    /// [`carreto_block::OpenGate::new`] wants it.
    pub fn identity(&self) -> &str {
        &self.0.identity
    }

    /// Whether it is a block device.
    pub fn is_device(&self) -> bool {
        self.0.node == Node::Device
    }

    /// Whether reads go past the page cache. Where they do not, what is read back from a target
    /// may be what the cache holds and not what the disk holds.
    pub fn bypasses_cache(&self) -> bool {
        self.0.direct.is_some()
    }

    fn ended(&self, at: u64) -> Error {
        let size = self.0.size;
        let (kind, what) = match (self.0.side, self.0.node) {
            (IoSide::Source, Node::File) => (Kind::Truncated, "file"),
            (IoSide::Source, Node::Device) => (Kind::Io, "device"),
            _ => (Kind::Io, "target"),
        };
        let text = format!("the {what} ends here, it had {size} bytes when it was opened");
        Error::new(kind, text).path(&*self.0.name).offset(at)
    }
}

#[async_trait]
impl Source for LocalFile {
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
        blocking(move || map_file(inner.fd.as_fd(), &inner.name, range, limit)).await
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

    /// For a file its number, size, modification and change time: any write, and any change of
    /// the owner or of the links too, makes another stamp. The file system's number is left out,
    /// because many get another one with every mount.
    ///
    /// For a device its size, what the kernel counted as written to it (`iostats`, which an
    /// administrator can turn off), the kernel's number of this attachment and this run of the
    /// kernel; for a loop device also the times of the file behind it. After a reboot, or once
    /// the device was detached, nobody counted what was written meanwhile, so the stamp is
    /// another one although the bytes may be the same. Writes that reach a partition through the
    /// whole disk, or a shared disk from another machine, are not counted.
    async fn stamp(&self) -> Result<Stamp> {
        let inner = Arc::clone(&self.0);
        blocking(move || node::stamp_of(&inner.fd, inner.node, &inner.name)).await
    }
}

impl LocalRead for LocalFile {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        let fd = self.0.fd.as_fd();
        let count = match &self.0.direct {
            None => read_up_to(fd, offset, buf),
            Some(direct) => direct.read(fd, offset, buf),
        };
        match count {
            Ok(count) if count == buf.len() => Ok(()),
            Ok(count) => Err(self.ended(offset + count as u64)),
            Err(errno) => {
                let operation = match self.0.side {
                    IoSide::Source => "read",
                    _ => "read back",
                };
                Err(source_error(operation, &self.0.name, errno).offset(offset))
            }
        }
    }
}
