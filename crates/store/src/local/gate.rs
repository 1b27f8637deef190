//! Opening the local files that images name, and nothing else.
//!
//! [`carreto_block::OpenGate`] decides by the text of a name; what is on the disk under that name
//! is decided here, by the kernel at the moment of opening: below the granted directory, without
//! any symbolic link on the way, and a regular file.

use super::calls::blocking;
use super::node::{self, Node};
use super::source::LocalFile;
use async_trait::async_trait;
use carreto_block::{Grant, OpenBeneath, OpenedFile};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How often a lookup that a rename disturbed is tried.
const TRIES: usize = 16;

/// Opens regular files below granted directories (openat2(2): `RESOLVE_BENEATH`,
/// `RESOLVE_NO_SYMLINKS`, `RESOLVE_NO_MAGICLINKS`).
///
/// Kernels before 5.6, and sandboxes that hide the call, get the same by opening one component
/// after the other without following links.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectoryGate;

/// Makes the grant for a directory that the user named: absolute and free of links.
///
/// # Errors
/// `NotFound`, `Denied`; `Usage` when it is no directory or its name is not UTF-8.
pub fn grant(directory: impl AsRef<Path>) -> Result<Grant> {
    canonical_directory(directory.as_ref()).map(Grant)
}

/// The directory that the names inside the image at `path` are relative to, in the form of a
/// [`Grant`]. Where `path` is a symbolic link, that is the directory of the link.
///
/// # Errors
/// As [`grant`].
pub fn directory_of(path: impl AsRef<Path>) -> Result<String> {
    let absolute = node::absolute(path.as_ref());
    let parent = absolute.parent().unwrap_or(Path::new("/"));
    canonical_directory(parent)
}

fn canonical_directory(path: &Path) -> Result<String> {
    let name = path.to_string_lossy();
    let fail = |error| Error::io(IoSide::Source, "look at the directory", &*name, error);
    let resolved = std::fs::canonicalize(path).map_err(fail)?;
    if !std::fs::metadata(&resolved).map_err(fail)?.is_dir() {
        return Err(Error::new(Kind::Usage, "it is not a directory").path(&*name));
    }
    resolved.into_os_string().into_string().map_err(|_| {
        let text = "the name of the directory is not UTF-8";
        Error::new(Kind::Usage, text).path(&*name)
    })
}

#[async_trait]
impl OpenBeneath for DirectoryGate {
    async fn open_beneath(&self, directory: &str, relative: &str) -> Result<OpenedFile> {
        let (directory, relative) = (directory.to_owned(), relative.to_owned());
        blocking(move || open_by(open_below, &directory, &relative)).await
    }
}

/// Opens a path below a directory: [`open_below`], or [`open_steps`] in its place.
type Opener = fn(&OwnedFd, &str, OFlags) -> std::result::Result<OwnedFd, Errno>;

fn open_by(open: Opener, directory: &str, relative: &str) -> Result<OpenedFile> {
    let path = PathBuf::from(directory).join(relative);
    let name = path.to_string_lossy().into_owned();
    let fail = |errno| refusal(&name, errno);
    if !directory.starts_with('/') {
        let text = format!("the granted directory is {directory:?}, expected an absolute path");
        return Err(Error::new(Kind::Usage, text));
    }
    let root = open_root(open, directory).map_err(fail)?;
    // A handle on the name first: it tells what is there and does not act on a device or a pipe.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let there = open(&root, relative, flags).map_err(fail)?;
    let first = regular(&there, &name)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = open(&root, relative, flags).map_err(fail)?;
    let stat = regular(&fd, &name)?;
    if node::identity_of(&first, Node::File) != node::identity_of(&stat, Node::File) {
        return Err(unsafe_file("it was replaced while it was opened", &name));
    }
    let file = LocalFile::from_parts(fd, &stat, Node::File, name)?;
    let identity = file.identity().to_owned();
    let source = Arc::new(file);
    Ok(OpenedFile { source, identity })
}

/// Opens the granted directory. It was free of links when it was granted, so a link in it now
/// was put there since.
fn open_root(open: Opener, directory: &str) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, "/", flags, Mode::empty())?;
    let below = directory.trim_start_matches('/');
    if below.is_empty() {
        return Ok(top);
    }
    open(&top, below, flags)
}

/// Lets the kernel walk in one call, and walks here where it cannot.
fn open_below(
    directory: &OwnedFd,
    relative: &str,
    flags: OFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut last = Errno::AGAIN;
    for _ in 0..TRIES {
        match rustix::fs::openat2(directory, relative, flags, Mode::empty(), resolve) {
            Err(errno @ (Errno::AGAIN | Errno::INTR)) => last = errno,
            // Sandboxes answer EPERM to calls that they do not know.
            Err(Errno::NOSYS | Errno::PERM) => return open_steps(directory, relative, flags),
            other => return other,
        }
    }
    Err(last)
}

/// Opens one component after the other, none of them a link, none of them upwards.
fn open_steps(
    directory: &OwnedFd,
    relative: &str,
    flags: OFlags,
) -> std::result::Result<OwnedFd, Errno> {
    if relative.starts_with('/') {
        return Err(Errno::XDEV);
    }
    let mut parts = relative.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
    let mut here = None;
    while let Some(part) = parts.next() {
        if part == ".." {
            return Err(Errno::XDEV);
        }
        let flags = match parts.peek() {
            Some(_) => OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            None => flags,
        };
        let from = here.as_ref().unwrap_or(directory);
        let next = rustix::fs::openat(from, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
        here = Some(next);
    }
    here.ok_or(Errno::NOENT)
}

fn regular(fd: impl AsFd, name: &str) -> Result<Stat> {
    let stat = rustix::fs::fstat(fd)
        .map_err(|errno| Error::io(IoSide::Source, "look at", name, errno.into()))?;
    match Node::of(&stat) {
        Ok(Node::File) => Ok(stat),
        Ok(Node::Device) => Err(unsafe_file("it is a block device", name)),
        Err(what) => Err(unsafe_file(&format!("it is {what}"), name)),
    }
}

fn unsafe_file(problem: &str, name: &str) -> Error {
    let text = format!("{problem}, expected a regular file without symbolic links on its path");
    Error::new(Kind::Unsafe, text)
        .path(name)
        .remedied_by("if you trust the image, put the file itself into an allowed directory")
}

fn refusal(name: &str, errno: Errno) -> Error {
    match errno {
        Errno::LOOP => unsafe_file("a part of its path is a symbolic link", name),
        Errno::NOTDIR => unsafe_file("a part of its path is no directory", name),
        Errno::XDEV => unsafe_file("its path leaves the allowed directory", name),
        Errno::INVAL | Errno::NXIO => unsafe_file("its path cannot be opened", name),
        errno => Error::io(IoSide::Source, "open", name, errno.into()),
    }
}

#[cfg(test)]
mod tests;
