//! A local file or block device as a source.

use super::calls::{blocking, read_hopping, read_up_to, source_error};
use super::extents::map_file;
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
/// A clone is another handle on the same open file. The bytes are read through the page cache.
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
    fd: OwnedFd,
    node: Node,
    size: u64,
    identity: String,
}

impl LocalFile {
    /// Opens `path`, following symbolic links.
    ///
    /// # Errors
    /// `NotFound`, `Denied`; `Usage` for a directory; `Unsupported` for a pipe, a socket or a
    /// character device, without opening it; else `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (fd, stat, node) = node::open(path, OFlags::RDONLY, IoSide::Source)?;
        Self::from_parts(fd, &stat, node, path.to_string_lossy().into_owned())
    }

    /// Takes over an open file that was found to be a `node`.
    pub(super) fn from_parts(fd: OwnedFd, stat: &Stat, node: Node, name: String) -> Result<Self> {
        let size = node::size_of(&fd, stat, node, &name)?;
        // Advice only: what does not take it reads as fast as it does.
        let _ = rustix::fs::fadvise(&fd, 0, None, Advice::Sequential);
        let identity = node::identity_of(stat, node);
        Ok(Self(Arc::new(Inner { name, fd, node, size, identity })))
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

    fn ended(&self, at: u64) -> Error {
        let size = self.0.size;
        let (kind, text) = match self.0.node {
            Node::File => (
                Kind::Truncated,
                format!("the file ends here, it had {size} bytes when it was opened"),
            ),
            Node::Device => {
                (Kind::Io, format!("the device ends here, it had {size} bytes when it was opened"))
            }
        };
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

    /// Device, inode, size, modification and change time: any write, and any change of the
    /// owner or of the links too, makes another stamp.
    async fn stamp(&self) -> Result<Stamp> {
        let inner = Arc::clone(&self.0);
        blocking(move || node::stamp_of(&inner.fd, inner.node, &inner.name)).await
    }
}

impl LocalRead for LocalFile {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        match read_up_to(self.0.fd.as_fd(), offset, buf) {
            Ok(count) if count == buf.len() => Ok(()),
            Ok(count) => Err(self.ended(offset + count as u64)),
            Err(errno) => Err(source_error("read", &self.0.name, errno).offset(offset)),
        }
    }
}
