//! Opening a file system by one of its mounts, and nothing that covers it.

use super::file_systems::FileSystem;
use super::machine::{Machine, Number};
use super::mounts::{Mount, mounts, parse};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};

/// Opens the mount point of a file system, or another place where it is mounted if something
/// covers that one.
///
/// # Errors
/// `SourceChanged` when no path leads there; `Denied`, `Io`.
pub(super) fn open(system: &FileSystem) -> Result<OwnedFd> {
    let machine = Machine::here();
    let namespace = namespace_of(&system.mount_point);
    let mounts = match &namespace {
        Some(process) => machine.bytes(format!("/proc/{process}/mountinfo")),
        None => machine.bytes("/proc/self/mountinfo"),
    };
    let mounts = parse(&mounts.unwrap_or_default());
    let mut last = None;
    for path in places(system, namespace.as_deref(), &mounts) {
        match open_at(&path) {
            Ok(file) if leads_to(&machine, &file, system, &mounts) => return Ok(file),
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| unreachable_error(system)))
}

fn unreachable_error(system: &FileSystem) -> Error {
    let text = format!("the {} of {} is not mounted here any more", system.kind, system.source);
    Error::new(Kind::SourceChanged, text)
        .path(system.mount_point.to_string_lossy())
        .remedied_by("mount it, or unmount what covers it, and run again")
}

/// The process of `/proc/<process>/root/…`.
fn namespace_of(path: &Path) -> Option<String> {
    let mut parts = path.strip_prefix("/proc").ok()?.iter();
    let process = parts.next()?.to_str()?;
    (parts.next()? == "root" && process.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| process.to_owned())
}

/// Its mount point first, then the others.
fn places(system: &FileSystem, namespace: Option<&str>, mounts: &[Mount]) -> Vec<PathBuf> {
    let root = namespace.map_or(PathBuf::from("/"), |id| PathBuf::from(format!("/proc/{id}/root")));
    let others = mounts.iter().filter(|mount| mount.number == system.devno);
    let others =
        others.map(|mount| root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point)));
    let mut list = vec![system.mount_point.clone()];
    list.extend(others.filter(|path| *path != system.mount_point));
    list
}

fn open_at(path: &Path) -> Result<OwnedFd> {
    // What is mounted on may be a file, a pipe or a device of a driver that acts when opened.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| Error::io(IoSide::Source, "open", path.to_string_lossy(), errno.into()))
}

fn leads_to(machine: &Machine, file: &OwnedFd, system: &FileSystem, mounts: &[Mount]) -> bool {
    number_of(machine, file, mounts) == Some(system.devno)
}

/// The kernel says by which mount a file was opened, and mountinfo of which file system that is.
/// `st_dev` would not do: subvolumes of btrfs have numbers of their own.
fn number_of(machine: &Machine, file: &OwnedFd, mounts: &[Mount]) -> Option<Number> {
    let info = machine.text(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    let id: u64 = id.trim().parse().ok()?;
    mounts.iter().find(|mount| mount.id == id).map(|mount| mount.number)
}

/// Which of `systems` holds the folder `path`, if one does.
pub fn file_system_of<'a>(path: &Path, systems: &'a [FileSystem]) -> Option<&'a FileSystem> {
    let machine = Machine::here();
    let number = number_of(&machine, &open_at(path).ok()?, &mounts(&machine))?;
    systems.iter().find(|system| system.devno == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Freezable;
    use crate::host::mounts::holding;

    fn system(mount: &Mount) -> FileSystem {
        FileSystem {
            mount_point: mount.point.clone(),
            kind: mount.kind.clone(),
            source: String::new(),
            devno: mount.number,
            disks: Vec::new(),
            missing: Vec::new(),
            copies: Vec::new(),
            freezable: Freezable::Yes,
            read_only: false,
        }
    }

    #[test]
    fn a_mount_is_found_and_a_wrong_one_is_refused() {
        let mounts = mounts(&Machine::here());
        let place = std::fs::canonicalize(std::env::temp_dir()).unwrap();
        let mut system = system(holding(&mounts, &place).unwrap());
        assert!(open(&system).is_ok());
        system.mount_point = PathBuf::from("/proc");
        assert!(open(&system).is_ok(), "another place");
        system.devno = (4000, 1);
        assert_eq!(open(&system).unwrap_err().kind(), Kind::SourceChanged);
    }

    #[test]
    fn processes_are_told_from_folders() {
        let of = |path: &str| namespace_of(Path::new(path));
        assert_eq!(of("/proc/12/root/mnt").as_deref(), Some("12"));
        assert_eq!(of("/proc/12/root").as_deref(), Some("12"));
        for path in ["/proc/self/root/x", "/proc/12", "/mnt/proc/1/root", "/proc/1/fd"] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
