//! What a path names, found out without side effects: opening a pipe can hang and opening a
//! device can act.

use super::calls::source_error;
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

/// Checks that the file or device opened a second time is the one opened first.
pub(super) fn require_same(first: &Stat, second: &Stat, node: Node, name: &str) -> Result<()> {
    if Node::of(second) == Ok(node) && identity_of(first, node) == identity_of(second, node) {
        return Ok(());
    }
    let text = "the path names another file than when it was opened";
    Err(Error::new(Kind::TargetUnusable, text).path(name))
}

/// Describes the state of an open file: any write makes another stamp, and so does a change of
/// the owner or of the links.
pub(super) fn stamp_of(fd: &OwnedFd, node: Node, name: &str) -> Result<Stamp> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| source_error("look at", name, errno))?;
    let (identity, size) = (identity_of(&stat, node), size_of(fd, &stat, node, name)?);
    Ok(Stamp(format!(
        "{identity}:{size}:{}.{:09}:{}.{:09}",
        stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
    )))
}

/// `path` in a form that a change of the working directory does not change.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
