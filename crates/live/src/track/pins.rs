//! Names in a BPF file system, under which maps and links outlive the process.

use super::TrackedDisk;
use super::program::Event;
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_kernel::bpf;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `BPF_FS_MAGIC`.
const BPF_FS: u32 = 0xcafe_4a11;

/// What of one disk is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pin {
    Marks,
    Pending,
    Link(Event),
}

impl Pin {
    pub(super) const ALL: [Self; 5] = [
        Self::Link(Event::Issue),
        Self::Link(Event::Complete),
        Self::Link(Event::Requeue),
        Self::Marks,
        Self::Pending,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Marks => "marks",
            Self::Pending => "pending",
            Self::Link(Event::Issue) => "issue",
            Self::Link(Event::Complete) => "complete",
            Self::Link(Event::Requeue) => "requeue",
        }
    }
}

/// The pins of one disk in the folder of a migration.
#[derive(Debug)]
pub(super) struct Pins {
    folder: PathBuf,
    disk: String,
}

impl Pins {
    /// The place for pins of `disk` in `folder`, which is made if missing.
    pub(super) fn at(folder: &Path, disk: &TrackedDisk) -> Result<Self> {
        if !folder.ancestors().find(|folder| folder.exists()).is_some_and(is_bpf) {
            let text = "it is not in a BPF file system";
            let remedy = "mount one: mount -t bpf bpf /sys/fs/bpf";
            let error = Error::new(Kind::Unsupported, text).remedied_by(remedy);
            return Err(error.path(folder.display().to_string()));
        }
        fs::create_dir_all(folder).map_err(|error| failed("make the folder", folder, error))?;
        // Names with dots are refused by the kernel.
        let plain = |name: char| if name.is_ascii_alphanumeric() { name } else { '_' };
        let disk = disk.name.chars().map(plain).collect();
        Ok(Self { folder: folder.to_owned(), disk })
    }

    fn path(&self, pin: Pin) -> PathBuf {
        self.folder.join(format!("{}-{}", self.disk, pin.name()))
    }

    pub(super) fn set(&self, pin: Pin, object: BorrowedFd<'_>) -> Result<()> {
        let path = self.path(pin);
        bpf::pin(object, &path).map_err(|error| failed("pin", &path, error))
    }

    /// What is pinned; `None` if nothing is.
    pub(super) fn open(&self, pin: Pin) -> Result<Option<OwnedFd>> {
        let path = self.path(pin);
        match bpf::open_pin(&path) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open the pin", &path, error)),
        }
    }

    /// Removes the pins of this disk, and the folder if nothing else is in it.
    pub(super) fn remove(&self) -> Result<()> {
        self.clear()?;
        remove_folders(&self.folder);
        Ok(())
    }

    /// Removes the pins of this disk; links first, so that nothing counts into removed maps.
    pub(super) fn clear(&self) -> Result<()> {
        for pin in Pin::ALL {
            let path = self.path(pin);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove the pin", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The pins in the folder of a migration, sorted. None if the folder does not exist.
///
/// # Errors
/// If the folder cannot be read.
pub fn list_pins(pins: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(pins) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list the pins", pins, error)),
    };
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(|error| failed("list the pins", pins, error))?;
    paths.sort();
    Ok(paths)
}

/// Removes the pins of a migration and its folder, and returns what it removed. With the last pin
/// and the last process that has it open, programs and maps leave the kernel.
///
/// # Errors
/// What cannot be removed; `Unsafe` if the folder exists and is not in a BPF file system.
pub fn remove_pins(pins: &Path) -> Result<Vec<PathBuf>> {
    let paths = list_pins(pins)?;
    if !paths.is_empty() && !is_bpf(pins) {
        let error = Error::new(Kind::Unsafe, "it is not in a BPF file system");
        return Err(error.during("remove the pins").path(pins.display().to_string()));
    }
    for path in &paths {
        fs::remove_file(path).map_err(|error| failed("remove the pin", path, error))?;
    }
    if pins.is_dir() {
        remove_folders(pins);
    }
    Ok(paths)
}

fn is_bpf(folder: &Path) -> bool {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a 32-bit magic")]
    rustix::fs::statfs(folder).is_ok_and(|found| found.f_type as u32 == BPF_FS)
}

/// Removes `folder` and the one above it, as far as they are empty. The root of a file system
/// cannot be removed, so this never goes further than what was made.
fn remove_folders(folder: &Path) {
    if fs::remove_dir(folder).is_ok() {
        drop(folder.parent().map(fs::remove_dir));
    }
}

fn failed(what: &'static str, path: &Path, error: io::Error) -> Error {
    Error::io(IoSide::State, what, path.display().to_string(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_file_systems_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("precious"), "x").unwrap();
        let error = remove_pins(folder.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsafe);
        assert_eq!(list_pins(folder.path()).unwrap().len(), 1);
        assert!(list_pins(&folder.path().join("missing")).unwrap().is_empty());
        let disk = TrackedDisk::named("sda", 1);
        let error = Pins::at(&folder.path().join("a/b"), &disk).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(!folder.path().join("a").exists(), "nothing is left behind");
    }
}
