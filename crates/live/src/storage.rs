//! The small files of both ends: configurations, locks, and what has to survive as a whole.

use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The text of a configuration, or of a file that it names.
///
/// # Errors
/// `NotFound`, `Denied`, `Io`.
pub(crate) fn read_config(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| fail("read the configuration", path, error))
}

/// Takes the lock at `path` for as long as the file stays open.
///
/// # Errors
/// `Locked` with the text `held` when another process has it; what opening it meets.
pub(crate) fn lock(path: &Path, held: &'static str) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|error| fail("open the lock", path, error))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::new(Kind::Locked, held).path(path.display().to_string()))?;
    Ok(file)
}

/// Writes a file that has either all of `bytes` or what it had before, also after a power cut.
///
/// # Errors
/// What writing, flushing and renaming meet.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let attempt = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    attempt().map_err(|error| fail("write", path, error))
}

fn fail(what: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::io(IoSide::State, what, path.display().to_string(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let held = lock(&path, "somebody has it").expect("free");
        let error = lock(&path, "somebody has it").expect_err("held");
        assert_eq!(error.kind(), Kind::Locked);
        assert!(error.to_string().contains("somebody has it"), "{error}");
        drop(held);
        lock(&path, "somebody has it").expect("free again");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.json");
        for text in ["a long text", "short"] {
            write_whole(&path, text.as_bytes()).expect("written");
            assert_eq!(read_config(&path).expect("read"), text);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
        assert!(write_whole(&folder.path().join("no/where"), b"").is_err());
    }
}
