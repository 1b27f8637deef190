//! A regular file that stands for a disk.

use super::calls::{blocking, target_error, write_all};
use super::lock;
use super::node::{self, Node};
use super::source::LocalFile;
use super::sync::Syncer;
use super::turns::{self, Call, InTurn, Turns};
use super::zero::{self, Zeroer};
use async_trait::async_trait;
use carreto_block::{ALIGNMENT, ByteRange, LocalWrite, Source, Target, TargetCaps, TargetExt as _};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that one system call zeroes at most: between two, a dropped call ends.
const ZERO_STEP: u64 = 64 << 30;

/// A regular file of a fixed size, locked against other runs for as long as a handle or a call on
/// it lives.
///
/// A clone is another handle on the same open file. Writes go through the page cache and allocate
/// as they go; nothing is allocated beforehand.
///
/// Changes of the same bytes happen in the order of the calls, also after one was dropped: its
/// work ends with the system call that is under way, and a later call waits for that.
#[derive(Debug, Clone)]
pub struct FileTarget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    fd: OwnedFd,
    stat: Stat,
    size: u64,
    caps: TargetCaps,
    zeroer: Zeroer,
    syncer: Syncer,
    /// Held while writing. The kernel lets one writer at a time into a file and lets the others
    /// spin for their turn; here they sleep and leave the core to who reads and decodes.
    writing: Mutex<()>,
    turns: Turns,
}

impl FileTarget {
    /// Creates `path` as a file of `size` bytes that all read as zero. The first flush makes its
    /// name durable too. Should this fail after the file was created, the file is removed.
    ///
    /// An empty regular file counts as missing: it holds nothing, and is what a run leaves that
    /// is killed between creating its file and giving it its size.
    ///
    /// # Errors
    /// `Usage` when `path` exists (also as a dangling link) or names no file; `NotFound` for its
    /// directory; `Locked` when another run has it; `TargetUnusable` when the file system takes no
    /// file of that size.
    pub fn create_new(path: impl AsRef<Path>, size: u64) -> Result<Self> {
        let path = path.as_ref();
        let name = path.to_string_lossy().into_owned();
        let leaf = path
            .file_name()
            .ok_or_else(|| Error::new(Kind::Usage, "the path does not name a file").path(&*name))?;
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty())
            .map_err(|errno| target_error("open the directory", &name, errno))?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let (fd, own) = match rustix::fs::openat(&directory, leaf, flags, mode) {
            Ok(fd) => (fd, true),
            Err(Errno::EXIST) => (open_empty(path, &name)?, false),
            Err(errno) => return Err(target_error("create", &name, errno)),
        };
        match prepare(&fd, size, &name) {
            Ok(stat) => {
                let syncer = Syncer::with_directory(directory);
                Ok(Self::from_parts(path, fd, stat, size, true, syncer))
            }
            Err(error) => {
                if own {
                    // The file is this call's own and holds nothing; failing to remove it changes
                    // nothing about the error.
                    let _ = rustix::fs::unlinkat(&directory, leaf, AtFlags::empty());
                }
                Err(error)
            }
        }
    }

    /// Opens the existing file `path`, following links, as a disk of the size that it has.
    ///
    /// # Errors
    /// `NotFound`, `Denied`; `Usage` for anything but a regular file; `Locked` when another run
    /// has it; `TargetUnusable` when it is read-only or QEMU has it.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.to_string_lossy().into_owned();
        let (fd, _, node) = node::open(path, OFlags::RDWR, IoSide::Target)?;
        if node == Node::Device {
            let text = "it is a block device, expected a regular file";
            return Err(Error::new(Kind::Usage, text).path(name));
        }
        lock::require_free(&fd, &name)?;
        lock::exclusive(&fd, &name)?;
        // The size of before the lock may be that of another run's half-made file.
        let stat = rustix::fs::fstat(&fd).map_err(|errno| target_error("look at", &name, errno))?;
        let size = node::size_of(&fd, &stat, node, &name)?;
        Ok(Self::from_parts(path, fd, stat, size, false, Syncer::default()))
    }

    fn from_parts(
        path: &Path,
        fd: OwnedFd,
        stat: Stat,
        size: u64,
        known_zero: bool,
        syncer: Syncer,
    ) -> Self {
        let caps = TargetCaps {
            alignment: 1,
            known_zero,
            fast_zero: zero::can_punch(fd.as_fd(), size),
            device: false,
        };
        Self(Arc::new(Inner {
            name: path.to_string_lossy().into_owned(),
            path: node::absolute(path),
            fd,
            stat,
            size,
            caps,
            zeroer: Zeroer::default(),
            syncer,
            writing: Mutex::default(),
            turns: Turns::default(),
        }))
    }

    /// Whether reading back goes past the page cache. Where it does not, verification may see what
    /// the cache holds and not what the disk holds; say so to the user.
    pub fn verifies_past_cache(&self) -> bool {
        node::takes_direct(&self.0.path)
    }

    fn write_bytes(&self, offset: u64, data: &[u8]) -> Result<()> {
        let _one = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write_all(self.0.fd.as_fd(), offset, data)
            .map_err(|errno| self.fail("write", errno).offset(offset))
    }

    fn fail(&self, operation: &'static str, errno: Errno) -> Error {
        target_error(operation, &self.0.name, errno)
    }
}

/// Opens what exists in place of a file to create, if it is an empty file.
fn open_empty(path: &Path, name: &str) -> Result<OwnedFd> {
    let exists = || Error::new(Kind::Usage, "it exists already").during("create").path(name);
    let is_empty = |stat: &Stat| Node::of(stat) == Ok(Node::File) && stat.st_size == 0;
    if !rustix::fs::stat(path).is_ok_and(|stat| is_empty(&stat)) {
        return Err(exists());
    }
    let (fd, stat, _) = node::open(path, OFlags::RDWR, IoSide::Target)?;
    if is_empty(&stat) { Ok(fd) } else { Err(exists()) }
}

/// Locks an empty file and gives it its size.
fn prepare(fd: &OwnedFd, size: u64, name: &str) -> Result<Stat> {
    lock::require_free(fd, name)?;
    lock::exclusive(fd, name)?;
    let look = || rustix::fs::fstat(fd).map_err(|errno| target_error("look at", name, errno));
    if look()?.st_size != 0 {
        // The run that had the lock before has filled it.
        return Err(Error::new(Kind::Usage, "it exists already").during("create").path(name));
    }
    rustix::fs::ftruncate(fd, size).map_err(|errno| target_error("set the size", name, errno))?;
    look()
}

#[async_trait]
impl Target for FileTarget {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn size(&self) -> u64 {
        self.0.size
    }

    fn caps(&self) -> TargetCaps {
        self.0.caps
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check_range(offset, data.len() as u64)?;
        turns::write(self, offset, data).await
    }

    async fn write_zeroes(&self, range: ByteRange) -> Result<()> {
        turns::zero(self, range).await
    }

    async fn discard(&self, range: ByteRange) -> Result<()> {
        turns::discard(self, range).await
    }

    async fn flush(&self) -> Result<()> {
        let target = self.clone();
        blocking(move || target.0.syncer.sync(&target.0.fd, &target.0.name)).await
    }

    async fn reader(&self) -> Result<Arc<dyn Source>> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let file = LocalFile::read_back(&inner.path, &inner.stat, inner.size, ALIGNMENT)?;
            Ok(Arc::new(file) as Arc<dyn Source>)
        })
        .await
    }

    fn as_local(&self) -> Option<&dyn LocalWrite> {
        Some(self)
    }
}

impl LocalWrite for FileTarget {
    fn write_local(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_in_turn(offset, data, &Call::default())
    }

    fn zero_local(&self, range: ByteRange) -> Result<()> {
        self.zero_in_turn(range, &Call::default())
    }
}

impl InTurn for FileTarget {
    fn write_in_turn(&self, offset: u64, data: &[u8], call: &Call) -> Result<()> {
        let range = self.check_range(offset, data.len() as u64)?;
        let _turn = self.0.turns.enter(range, call)?;
        self.write_bytes(offset, data)
    }

    fn zero_in_turn(&self, range: ByteRange, call: &Call) -> Result<()> {
        let range = self.check_range(range.start(), range.len())?;
        let _turn = self.0.turns.enter(range, call)?;
        let fd = self.0.fd.as_fd();
        range.chunks(ZERO_STEP).try_for_each(|piece| {
            call.check()?;
            let done = self.0.zeroer.allocate(fd, piece);
            if done.map_err(|errno| self.fail("zero", errno).offset(piece.start()))? {
                return Ok(());
            }
            zero::write_zeros(piece, call, |at, zeros| self.write_bytes(at, zeros))
        })
    }

    fn discard_in_turn(&self, range: ByteRange, call: &Call) -> Result<()> {
        let range = self.check_range(range.start(), range.len())?;
        let _turn = self.0.turns.enter(range, call)?;
        let done = self.0.zeroer.discard(self.0.fd.as_fd(), range);
        done.map_err(|errno| self.fail("discard", errno).offset(range.start()))
    }
}
