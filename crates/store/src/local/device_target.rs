//! A block device as a target.

use super::calls::{blocking, read_up_to, target_error, write_all};
use super::lock;
use super::node::{self, Node};
use super::source::LocalFile;
use super::sync::Syncer;
use super::sysfs::{BlockDevice, Sysfs};
use super::turns::{self, Call, InTurn, Turns};
use super::zero::{self, Zeroer};
use async_trait::async_trait;
use carreto_block::{
    ALIGNMENT, AlignedBuf, ByteRange, LocalWrite, Source, Target, TargetCaps, TargetExt as _,
};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{Advice, OFlags, Stat};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Bytes that one system call zeroes or discards at most: between two, a dropped call ends.
const ZERO_STEP: u64 = 1 << 30;
/// Bytes that an unaligned buffer is copied and written at a time.
const BOUNCE: usize = 1 << 20;

/// A block device, held exclusively for as long as a handle or a call on it lives.
///
/// A clone is another handle on the same open device. Writes bypass the page cache. Whole blocks
/// are written as they are; a part of a block is read, changed and written back, one such change
/// at a time and never beside another write, so that concurrent writes of different bytes of one
/// block all take effect.
///
/// Changes of the same bytes happen in the order of the calls, also after one was dropped: its
/// work ends with the system call that is under way, at most 1 MiB of data or 1 GiB of zeros, and
/// a later call waits for that.
#[derive(Debug, Clone)]
pub struct DeviceTarget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    fd: OwnedFd,
    stat: Stat,
    size: u64,
    /// The logical block size.
    block: u32,
    caps: TargetCaps,
    zeroer: Zeroer,
    syncer: Syncer,
    /// Shared by writes of whole blocks, exclusive for changes of a part of one.
    blocks: RwLock<()>,
    turns: Turns,
}

impl DeviceTarget {
    /// Opens the device `path`, following links, for this run alone.
    ///
    /// # Errors
    /// `NotFound`, `Denied`; `Usage` for anything but a block device; `Locked` when another run
    /// has it; `TargetUnusable` when it is mounted or otherwise in use, read-only, or empty like
    /// a drive without a medium.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.to_string_lossy().into_owned();
        if node::check(path, IoSide::Target)? != Node::Device {
            let text = "it is a regular file, expected a block device";
            return Err(Error::new(Kind::Usage, text).path(name));
        }
        let fd = open_exclusive(path).map_err(|errno| refusal(path, &name, errno))?;
        let fail = |errno| target_error("look at", &name, errno);
        let stat = rustix::fs::fstat(&fd).map_err(fail)?;
        let sysfs = Sysfs::system().device(stat.st_rdev);
        if Node::of(&stat) != Ok(Node::Device) {
            return Err(unusable("the path was given to another file just now", &name));
        }
        // Linux opens a read-only device for writing and refuses the writes.
        if sysfs.as_ref().is_some_and(BlockDevice::read_only) {
            return Err(read_only_error(&name));
        }
        lock::require_free(&fd, &name)?;
        // Keeps the device manager from probing half-written content, and lets another run tell
        // this one from a mount. Ownership rests on the exclusive open, so a refusal is no error.
        let _ = lock::exclusive(&fd, &name);
        let size = node::size_of(&fd, &stat, Node::Device, &name)?;
        if size == 0 {
            return Err(unusable("the device has no medium: its size is 0", &name));
        }
        let block = rustix::fs::ioctl_blksszget(&fd).map_err(fail)?.max(1);
        let caps = TargetCaps {
            alignment: block,
            known_zero: false,
            fast_zero: sysfs.is_some_and(|device| device.zeroes_by_command()),
            device: true,
        };
        Ok(Self(Arc::new(Inner {
            path: node::absolute(path),
            name,
            fd,
            stat,
            size,
            block,
            caps,
            zeroer: Zeroer::default(),
            syncer: Syncer::default(),
            blocks: RwLock::default(),
            turns: Turns::default(),
        })))
    }

    /// Whether reading back goes past the page cache. Where it does not, verification may see what
    /// the cache holds and not what the disk holds; say so to the user.
    pub fn verifies_past_cache(&self) -> bool {
        node::takes_direct(&self.0.path)
    }

    fn fail(&self, operation: &'static str, offset: u64) -> impl Fn(Errno) -> Error {
        move |errno| target_error(operation, &self.0.name, errno).offset(offset)
    }

    /// Writes whole blocks.
    fn write_blocks(&self, offset: u64, data: &[u8]) -> Result<()> {
        let _shared = self.0.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let fd = self.0.fd.as_fd();
        let unit = (self.0.block as usize).min(ALIGNMENT);
        if data.as_ptr().addr().is_multiple_of(unit) {
            return write_all(fd, offset, data).map_err(self.fail("write", offset));
        }
        let step = BOUNCE.next_multiple_of(self.0.block as usize);
        let mut bounce = AlignedBuf::zeroed(step.min(data.len()))?;
        let mut at = offset;
        for piece in data.chunks(step) {
            let copy = &mut bounce[..piece.len()];
            copy.copy_from_slice(piece);
            write_all(fd, at, copy).map_err(self.fail("write", at))?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Changes `part`, which lies within one block and is less than it, by `change`.
    fn change_block(&self, part: ByteRange, change: impl FnOnce(&mut [u8])) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let _alone = self.0.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let fd = self.0.fd.as_fd();
        let lead = part.start() % u64::from(self.0.block);
        let start = part.start() - lead;
        let mut whole = AlignedBuf::zeroed(self.0.block as usize)?;
        let count = read_up_to(fd, start, &mut whole).map_err(self.fail("read a block", start))?;
        if count < whole.len() {
            let text = format!("the device ends here, it had {} bytes", self.0.size);
            return Err(Error::new(Kind::TargetUnusable, text).path(&*self.0.name).offset(start));
        }
        let lead = usize::try_from(lead).unwrap_or(usize::MAX);
        let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
        let changed = whole
            .get_mut(lead..lead.saturating_add(len))
            .ok_or_else(|| Error::new(Kind::Internal, format!("{part} reach past their block")))?;
        change(changed);
        write_all(fd, start, &whole).map_err(self.fail("write", start))
    }

    /// The part before the first block boundary, the whole blocks, and the part after the last.
    fn split(&self, range: ByteRange) -> (ByteRange, ByteRange, ByteRange) {
        let block = u64::from(self.0.block);
        let first = range.start().next_multiple_of(block);
        let (head, rest) = range.split_at(first);
        let (body, tail) = rest.split_at(rest.end() - rest.end() % block);
        (head, body, tail)
    }

    fn zero_blocks(&self, range: ByteRange, call: &Call) -> Result<()> {
        call.check()?;
        let done = {
            let _shared = self.0.blocks.read().unwrap_or_else(PoisonError::into_inner);
            let done = self.0.zeroer.allocate(self.0.fd.as_fd(), range);
            done.map_err(self.fail("zero", range.start()))?
        };
        if done {
            return Ok(());
        }
        zero::write_zeros(range, call, |at, zeros| self.write_blocks(at, zeros))
    }

    fn flush_local(&self) -> Result<()> {
        self.0.syncer.sync(&self.0.fd, &self.0.name)?;
        // What others cached of the device before is stale; direct writes drop it piece by piece,
        // and this drops what they could not. Advice only.
        let _ = rustix::fs::fadvise(&self.0.fd, 0, None, Advice::DontNeed);
        Ok(())
    }
}

fn open_exclusive(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::EXCL;
    match node::open_checked(path, flags | OFlags::DIRECT) {
        // A driver without direct I/O.
        Err(Errno::INVAL) => node::open_checked(path, flags),
        other => other,
    }
}

/// Why the device cannot be opened for writing.
fn refusal(path: &Path, name: &str, errno: Errno) -> Error {
    match errno {
        Errno::BUSY if locked_elsewhere(path) => {
            Error::new(Kind::Locked, "another run has it").during("open").path(name)
        }
        Errno::BUSY => unusable(
            "it is in use: it or a part of it is mounted, or another device or program holds it",
            name,
        ),
        Errno::ACCESS | Errno::PERM | Errno::ROFS if read_only(path) => read_only_error(name),
        errno => target_error("open", name, errno),
    }
}

fn unusable(problem: &'static str, name: &str) -> Error {
    Error::new(Kind::TargetUnusable, problem).during("open").path(name)
}

fn read_only_error(name: &str) -> Error {
    unusable("the device is read-only", name)
        .remedied_by(format!("make {name} writable (blockdev --setrw) and retry"))
}

/// Whether somebody holds the lock that a run takes on its device.
fn locked_elsewhere(path: &Path) -> bool {
    node::open_checked(path, OFlags::RDONLY).is_ok_and(|fd| lock::is_held(&fd))
}

fn read_only(path: &Path) -> bool {
    rustix::fs::stat(path)
        .ok()
        .and_then(|stat| Sysfs::system().device(stat.st_rdev))
        .is_some_and(|device| device.read_only())
}

#[async_trait]
impl Target for DeviceTarget {
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

    /// Only whole blocks inside `range` are given back, and only by devices that then read as
    /// zeros there.
    async fn discard(&self, range: ByteRange) -> Result<()> {
        turns::discard(self, range).await
    }

    async fn flush(&self) -> Result<()> {
        let target = self.clone();
        blocking(move || target.flush_local()).await
    }

    async fn reader(&self) -> Result<Arc<dyn Source>> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let unit = inner.block as usize;
            let file = LocalFile::read_back(&inner.path, &inner.stat, inner.size, unit)?;
            Ok(Arc::new(file) as Arc<dyn Source>)
        })
        .await
    }

    fn as_local(&self) -> Option<&dyn LocalWrite> {
        Some(self)
    }
}

impl LocalWrite for DeviceTarget {
    fn write_local(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_in_turn(offset, data, &Call::default())
    }

    fn zero_local(&self, range: ByteRange) -> Result<()> {
        self.zero_in_turn(range, &Call::default())
    }
}

impl InTurn for DeviceTarget {
    fn write_in_turn(&self, offset: u64, data: &[u8], call: &Call) -> Result<()> {
        let range = self.check_range(offset, data.len() as u64)?;
        let _turn = self.0.turns.enter(range, call)?;
        let (head, body, tail) = self.split(range);
        let (first, rest) = data.split_at(usize::try_from(head.len()).unwrap_or(usize::MAX));
        let (middle, last) = rest.split_at(usize::try_from(body.len()).unwrap_or(usize::MAX));
        self.change_block(head, |bytes| bytes.copy_from_slice(first))?;
        if !middle.is_empty() {
            self.write_blocks(body.start(), middle)?;
        }
        self.change_block(tail, |bytes| bytes.copy_from_slice(last))
    }

    fn zero_in_turn(&self, range: ByteRange, call: &Call) -> Result<()> {
        let range = self.check_range(range.start(), range.len())?;
        let _turn = self.0.turns.enter(range, call)?;
        let (head, body, tail) = self.split(range);
        self.change_block(head, |bytes| bytes.fill(0))?;
        body.chunks(ZERO_STEP).try_for_each(|piece| self.zero_blocks(piece, call))?;
        self.change_block(tail, |bytes| bytes.fill(0))
    }

    fn discard_in_turn(&self, range: ByteRange, call: &Call) -> Result<()> {
        let range = self.check_range(range.start(), range.len())?;
        let _turn = self.0.turns.enter(range, call)?;
        let _shared = self.0.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let (_, body, _) = self.split(range);
        body.chunks(ZERO_STEP).try_for_each(|piece| {
            call.check()?;
            let done = self.0.zeroer.discard(self.0.fd.as_fd(), piece);
            done.map_err(self.fail("discard", piece.start()))
        })
    }
}
