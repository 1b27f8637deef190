//! The file that holds a private key: made whole or not at all, and refused when others can see it.

use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::Path;
use zeroize::Zeroizing;

/// Bytes of a key file, at most; ours have about 120.
const LIMIT: u64 = 4096;
/// What the group and others may not have.
const OTHERS: u32 = 0o077;

/// The content of `path`, `None` when there is no such file.
///
/// # Errors
/// `Denied` when it is a link, no file, another user's, or open to others; `Limit` when it is no
/// key by its size.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let name = path.to_string_lossy();
    // Without NONBLOCK, a pipe in the place of the key would hold us up.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(refusal(&name, "it is a symbolic link".to_owned())),
        Err(errno) => return Err(state_error("open the key", &name, errno.into())),
    };
    let stat = rustix::fs::fstat(&fd);
    let stat = stat.map_err(|errno| state_error("look at the key", &name, errno.into()))?;
    check(&stat, &name)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(LIMIT).unwrap_or(0) + 1));
    File::from(fd)
        .take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| state_error("read the key", &name, error))?;
    if bytes.len() as u64 > LIMIT {
        let text = format!("the file has more than {LIMIT} bytes, which no key has");
        return Err(Error::new(Kind::Limit, text).during("read the key").path(name));
    }
    Ok(Some(bytes))
}

fn check(stat: &rustix::fs::Stat, name: &str) -> Result<()> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refusal(name, "it is no regular file".to_owned()));
    }
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user {
        return Err(refusal(name, format!("user {} owns it, expected {user}", stat.st_uid)));
    }
    if stat.st_mode & OTHERS != 0 {
        let mode = stat.st_mode & 0o7777;
        return Err(refusal(name, format!("its mode is {mode:04o}, expected 0600")));
    }
    Ok(())
}

/// Creates `path` with mode 0600 and `content`. `false` when somebody else created it first; then
/// nothing is changed.
///
/// # Errors
/// What the file system meets.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<bool> {
    let name = path.to_string_lossy();
    let fail = |error| state_error("create the key", &name, error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Created with O_EXCL and mode 0600, and removed unless it gets its name.
    let mut file = tempfile::Builder::new().prefix(".key-").tempfile_in(folder).map_err(fail)?;
    file.write_all(content).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(fail(error.error)),
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
    Ok(true)
}

fn state_error(operation: &'static str, name: &str, error: std::io::Error) -> Error {
    Error::io(IoSide::State, operation, name, error)
}

fn refusal(name: &str, why: String) -> Error {
    Error::new(Kind::Denied, why)
        .during("open the key")
        .path(name)
        .remedied_by("make it a plain file of this user with `chmod 600`, or, if others may have read it, remove it and join again")
}
