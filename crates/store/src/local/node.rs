//! What a path names, found out without side effects: opening a pipe can hang and opening a
//! device can act.

use super::calls::source_error;
use super::sysfs::Sysfs;
use carreto_block::Stamp;
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// The two things that stand for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// A regular file.
    File,
    /// A block device.
    Device,
}

impl Node {
    /// Tells files and devices from everything else by their mode.
    pub(super) fn of(stat: &Stat) -> std::result::Result<Self, &'static str> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Self::File),
            FileType::BlockDevice => Ok(Self::Device),
            FileType::Directory => Err("a directory"),
            FileType::Fifo => Err("a pipe"),
            FileType::Socket => Err("a socket"),
            FileType::CharacterDevice => Err("a character device"),
            FileType::Symlink => Err("a symbolic link"),
            FileType::Unknown => Err("of an unknown type"),
        }
    }

    /// [`Self::of`], with an error for messages.
    pub(super) fn require(stat: &Stat, name: &str, side: IoSide) -> Result<Self> {
        Self::of(stat).map_err(|what| {
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let kind = match side {
                IoSide::Source if !directory => Kind::Unsupported,
                _ => Kind::Usage,
            };
            Error::new(kind, format!("it is {what}, expected a regular file or a block device"))
                .path(name)
                .remedied_by("name a regular file or a block device")
        })
    }
}

/// Opens the file or device at `path` (links are followed), never blocking on a pipe.
pub(super) fn open(path: &Path, flags: OFlags, side: IoSide) -> Result<(OwnedFd, Stat, Node)> {
    let name = path.to_string_lossy();
    let fail = |errno: Errno| Error::io(side, "open", &*name, errno.into());
    check(path, side)?;
    let fd = open_checked(path, flags).map_err(fail)?;
    let stat = rustix::fs::fstat(&fd).map_err(fail)?;
    let node = Node::require(&stat, &name, side)?;
    Ok((fd, stat, node))
}

/// Looks at what `path` names without opening it, so that devices which act when opened are left
/// alone. The caller looks again at what it opened, which makes the answer true.
pub(super) fn check(path: &Path, side: IoSide) -> Result<Node> {
    let name = path.to_string_lossy();
    let stat =
        rustix::fs::stat(path).map_err(|errno| Error::io(side, "open", &*name, errno.into()))?;
    Node::require(&stat, &name, side)
}

/// Opens what [`check`] accepted.
pub(super) fn open_checked(path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Whether the file or device at `path` can be read past the page cache.
pub(super) fn takes_direct(path: &Path) -> bool {
    open_checked(path, OFlags::RDONLY | OFlags::DIRECT).is_ok()
}

/// The number of bytes; a device has no size in its `stat`, but an end to seek to.
pub(super) fn size_of(fd: impl AsFd, stat: &Stat, node: Node, name: &str) -> Result<u64> {
    match node {
        Node::Device => rustix::fs::seek(fd, SeekFrom::End(0))
            .map_err(|errno| source_error("find the size", name, errno)),
        Node::File => u64::try_from(stat.st_size).map_err(|_| {
            let text = format!("the size is {}, expected at least 0", stat.st_size);
            Error::new(Kind::Io, text).path(name)
        }),
    }
}

/// The same text for the same file or device, whatever its name.
pub(super) fn identity_of(stat: &Stat, node: Node) -> String {
    match node {
        Node::File => format!("file:{}:{}", stat.st_dev, stat.st_ino),
        Node::Device => format!("device:{}", stat.st_rdev),
    }
}

/// Checks that `second`, opened by the same path, is the file or device that `first` is of.
pub(super) fn require_same(
    first: &Stat,
    second: &OwnedFd,
    path: &Path,
    side: IoSide,
) -> Result<()> {
    let name = path.to_string_lossy();
    let now = rustix::fs::fstat(second)
        .map_err(|errno| Error::io(side, "look at", &*name, errno.into()))?;
    let identity = |stat: &Stat| Node::of(stat).ok().map(|node| identity_of(stat, node));
    if identity(first).is_some() && identity(first) == identity(&now) {
        return Ok(());
    }
    let kind = match side {
        IoSide::Source => Kind::SourceChanged,
        _ => Kind::TargetUnusable,
    };
    Err(Error::new(kind, "the path names another file than when it was opened").path(&*name))
}

/// Describes the state of an open file or device; [`super::LocalFile`] says what makes another.
pub(super) fn stamp_of(fd: &OwnedFd, node: Node, name: &str) -> Result<Stamp> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| source_error("look at", name, errno))?;
    let size = size_of(fd, &stat, node, name)?;
    Ok(Stamp(match node {
        Node::File => format!("file:{}:{size}:{}", stat.st_ino, times(&stat)),
        Node::Device => format!("device:{size}:{}", Sysfs::system().history(stat.st_rdev)),
    }))
}

/// When the content and when anything about the file changed last.
pub(super) fn times(stat: &Stat) -> String {
    format!(
        "{}.{:09}:{}.{:09}",
        stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
    )
}

/// `path` in a form that a change of the working directory does not change.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
