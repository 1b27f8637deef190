//! Looking at a target before a run, without opening it for writing and without changing it.

use super::mounts::{Mount, device_at, mounts, shown, swaps};
use super::node::{self, Node};
use super::obstacle::Obstacle;
use super::sysfs::{BlockDevice, Sysfs};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fs::{Access, AtFlags, CWD, Stat, StatVfs, StatVfsMountFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a target path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// Nothing yet, or an empty file, as a run leaves it that is killed while it creates one.
    Missing,
    /// A regular file.
    File,
    /// A block device.
    Device,
    /// Something that cannot be a target: see [`Obstacle::NotADisk`].
    Other,
}

/// What there is to know about a target before the first write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFacts {
    /// What the path names.
    pub kind: TargetKind,
    /// The size in bytes; 0 when missing.
    pub size: u64,
    /// The logical block size of a device in bytes; 1 for a file.
    pub sector: u32,
    /// The bytes that an existing file takes on its file system already.
    pub allocated: u64,
    /// The bytes that the file system of a file, or of a missing file's directory, can still
    /// take. `None` for devices.
    pub free: Option<u64>,
    /// Everything that speaks against writing, the gravest first.
    pub obstacles: Vec<Obstacle>,
}

/// Where the facts come from, which tests replace.
#[derive(Debug)]
struct System {
    sysfs: Sysfs,
    proc: PathBuf,
}

/// Looks at `path`, following links, as somebody who wants to write a disk there.
///
/// The facts are of this moment; opening the target exclusively is what makes sure.
///
/// # Errors
/// `Denied` or `Io` when not even looking is possible. Everything else, also a path that names no
/// disk, is an obstacle in the facts.
pub fn inspect_target(path: impl AsRef<Path>) -> Result<TargetFacts> {
    System::own().inspect(path.as_ref())
}

/// What writes, or may at any moment write, to the device `path` while it is read as an image:
/// file systems mounted for writing and swap, on it, its partitions, what is built on them, and
/// the disk that it is a part of. Nothing for a file.
///
/// What other processes or machines do with the device by themselves is not seen; the stamp of
/// the source tells when they wrote.
///
/// # Errors
/// `NotFound`, `Denied` or `Io` when looking is not possible.
pub fn inspect_source(path: impl AsRef<Path>) -> Result<Vec<Obstacle>> {
    let path = path.as_ref();
    let stat = rustix::fs::stat(path).map_err(|errno| {
        Error::io(IoSide::Source, "look at", path.to_string_lossy(), errno.into())
    })?;
    Ok(System::own().writers(&stat))
}

/// Refuses a device that [`inspect_source`] finds something about.
pub(super) fn require_still(stat: &Stat, name: &str) -> Result<()> {
    let Some(writer) = System::own().writers(stat).into_iter().next() else {
        return Ok(());
    };
    let (what, remedy) = match &writer {
        Obstacle::Mounted { mount_point, .. } => (
            " for writing",
            format!("unmount {mount_point}, or make it read-only (mount -o remount,ro), and retry"),
        ),
        _ => ("", writer.remedy()),
    };
    let text = format!("{writer}{what}, so that its content changes while it is read");
    Err(Error::new(Kind::SourceChanged, text).during("open").path(name).remedied_by(remedy))
}

impl System {
    fn own() -> Self {
        Self { sysfs: Sysfs::system(), proc: PathBuf::from("/proc") }
    }

    fn writers(&self, stat: &Stat) -> Vec<Obstacle> {
        if Node::of(stat) != Ok(Node::Device) {
            return Vec::new();
        }
        let Some(device) = self.sysfs.device(stat.st_rdev) else {
            return Vec::new();
        };
        let mounts: Vec<_> =
            mounts(&self.proc).into_iter().filter(|mount| mount.writable).collect();
        let mut used = device.and_above();
        used.extend(device.disk());
        for (over, _) in self.loops_on(stat, Node::Device) {
            used.extend(over.and_above());
        }
        let mut found = Vec::new();
        for device in &used {
            found.extend(mounted(device, &mounts));
            found.extend(self.swapped(device));
        }
        sorted(found)
    }

    fn inspect(&self, path: &Path) -> Result<TargetFacts> {
        let stat = match rustix::fs::stat(path) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return missing(path),
            Err(errno) => {
                let name = path.to_string_lossy();
                return Err(Error::io(IoSide::Target, "look at", name, errno.into()));
            }
        };
        match Node::of(&stat) {
            Ok(Node::File) => self.file(path, &stat),
            Ok(Node::Device) => Ok(self.device(path, &stat)),
            Err(what) => {
                let mut facts = TargetFacts::new(TargetKind::Other);
                facts.obstacles.push(Obstacle::NotADisk { what });
                Ok(facts)
            }
        }
    }

    fn device(&self, path: &Path, stat: &Stat) -> TargetFacts {
        let mut facts = TargetFacts::new(TargetKind::Device);
        facts.sector = 512;
        let Some(device) = self.sysfs.device(stat.st_rdev) else {
            let device = shown(path);
            facts.obstacles.push(Obstacle::Gone { device });
            return facts;
        };
        facts.size = device.size().unwrap_or(0);
        facts.sector = device.block_size().unwrap_or(512);
        let mut found = self.uses_of_device(&device);
        found.extend(self.loops_over(stat, Node::Device));
        if device.read_only() {
            found.push(Obstacle::ReadOnlyDevice { device: device.name() });
        }
        if facts.size == 0 {
            found.push(Obstacle::NoMedium { device: device.name() });
        }
        found.extend(not_writable(path));
        facts.obstacles = sorted(found);
        facts
    }

    fn file(&self, path: &Path, stat: &Stat) -> Result<TargetFacts> {
        let name = path.to_string_lossy();
        let fail = |errno: Errno| Error::io(IoSide::Target, "look at", &*name, errno.into());
        let kind = if stat.st_size == 0 { TargetKind::Missing } else { TargetKind::File };
        let mut facts = TargetFacts::new(kind);
        facts.size = u64::try_from(stat.st_size).unwrap_or(0);
        facts.allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let file_system = rustix::fs::statvfs(path).map_err(fail)?;
        facts.free = Some(free(&file_system));
        let mut found = self.loops_over(stat, Node::File);
        let identity = node::identity_of(stat, Node::File);
        let is_swap = |path: &PathBuf| identity_at(path).as_ref() == Some(&identity);
        if swaps(&self.proc).iter().any(is_swap) {
            found.push(Obstacle::Swap { device: name.clone().into_owned() });
        }
        found.extend(read_only(path, &file_system));
        found.extend(not_writable(path));
        facts.obstacles = sorted(found);
        Ok(facts)
    }

    /// Who uses the device, its partitions, what is built on them, or the disk that it is a part
    /// of as a whole.
    fn uses_of_device(&self, device: &BlockDevice) -> Vec<Obstacle> {
        let mut found = Vec::new();
        let mounts = mounts(&self.proc);
        let above = device.and_above();
        let whole = device.disk();
        for used in above.iter().chain(&whole) {
            found.extend(
                used.holders()
                    .iter()
                    .map(|holder| Obstacle::Held { device: used.title(), holder: holder.title() }),
            );
            found.extend(mounted(used, &mounts));
            found.extend(self.swapped(used));
        }
        found.extend(self.system_disk(device, &mounts));
        found
    }

    fn swapped(&self, device: &BlockDevice) -> Option<Obstacle> {
        let dev = device.dev()?;
        let mut devices = swaps(&self.proc).into_iter().filter_map(|path| device_at(&path));
        devices.any(|swap| swap == dev).then(|| Obstacle::Swap { device: device.title() })
    }

    /// Whether the running system's root lies on the device, through whatever layers.
    fn system_disk(&self, device: &BlockDevice, mounts: &[Mount]) -> Option<Obstacle> {
        let root = mounts.iter().rfind(|mount| mount.point == Path::new("/"))?;
        let root = self.sysfs.device(root.device()?)?;
        let below = root.and_below(&self.sysfs);
        let parts = device.partitions();
        let carries = |part: &BlockDevice| below.contains(part);
        (carries(device) || parts.iter().any(carries))
            .then(|| Obstacle::SystemDisk { device: device.title() })
    }

    /// The loop devices over the target, and who uses those.
    fn loops_over(&self, stat: &Stat, node: Node) -> Vec<Obstacle> {
        let mut found = Vec::new();
        for (device, file) in self.loops_on(stat, node) {
            found.push(Obstacle::Held { device: shown(&file), holder: device.title() });
            found.extend(self.uses_of_device(&device));
        }
        found
    }

    /// The loop devices whose file is the one that `stat` is of.
    fn loops_on(&self, stat: &Stat, node: Node) -> Vec<(BlockDevice, PathBuf)> {
        let identity = Some(node::identity_of(stat, node));
        let mut loops = self.sysfs.loops();
        loops.retain(|(_, file)| identity_at(file) == identity);
        loops
    }
}

impl TargetFacts {
    fn new(kind: TargetKind) -> Self {
        Self { kind, size: 0, sector: 1, allocated: 0, free: None, obstacles: Vec::new() }
    }
}

fn missing(path: &Path) -> Result<TargetFacts> {
    let mut facts = TargetFacts::new(TargetKind::Missing);
    if rustix::fs::lstat(path).is_ok() {
        facts.kind = TargetKind::Other;
        let what = "a symbolic link to nothing";
        facts.obstacles.push(Obstacle::NotADisk { what });
        return Ok(facts);
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        let directory = shown(parent);
        facts.obstacles.push(Obstacle::NoDirectory { directory });
        return Ok(facts);
    }
    let file_system = rustix::fs::statvfs(parent).map_err(|errno| {
        let name = parent.to_string_lossy();
        Error::io(IoSide::Target, "look at", name, errno.into())
    })?;
    facts.free = Some(free(&file_system));
    let mut found: Vec<_> = read_only(parent, &file_system).into_iter().collect();
    found.extend(not_writable(parent));
    facts.obstacles = sorted(found);
    Ok(facts)
}

fn mounted(device: &BlockDevice, mounts: &[Mount]) -> Vec<Obstacle> {
    let Some(dev) = device.dev() else {
        return Vec::new();
    };
    let here = mounts.iter().filter(|mount| mount.device() == Some(dev));
    here.map(|mount| Obstacle::Mounted { device: device.title(), mount_point: shown(&mount.point) })
        .collect()
}

fn identity_at(path: &Path) -> Option<String> {
    let stat = rustix::fs::stat(path).ok()?;
    Some(node::identity_of(&stat, Node::of(&stat).ok()?))
}

fn free(file_system: &StatVfs) -> u64 {
    file_system.f_bavail.saturating_mul(file_system.f_frsize)
}

fn read_only(path: &Path, file_system: &StatVfs) -> Option<Obstacle> {
    let flag = file_system.f_flag.contains(StatVfsMountFlags::RDONLY);
    flag.then(|| Obstacle::ReadOnlyFileSystem { path: shown(path) })
}

/// Asks for the effective user. A read-only file system is found by its own flag.
fn not_writable(path: &Path) -> Option<Obstacle> {
    match rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS) {
        Err(Errno::ACCESS | Errno::PERM) => Some(Obstacle::NotWritable { path: shown(path) }),
        _ => None,
    }
}

fn sorted(found: Vec<Obstacle>) -> Vec<Obstacle> {
    let once: BTreeSet<_> = found.into_iter().collect();
    once.into_iter().collect()
}

#[cfg(test)]
mod tests;
