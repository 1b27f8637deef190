//! The machine as `/sys`, `/proc` and `/dev` describe it, over a folder that tests replace.
//!
//! Block devices: `Documentation/ABI/stable/sysfs-block` of the kernel.

use rustix::fs::{FileType, major, minor};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Major and minor number of a device or file system.
pub(super) type Number = (u32, u32);

/// Bytes of a file of the kernel that are read at most.
const MAX_TEXT: u64 = 16 << 20;

/// A root folder with `sys`, `proc` and `dev`.
#[derive(Debug, Clone)]
pub(super) struct Machine(PathBuf);

impl Machine {
    /// This machine.
    pub(super) fn here() -> Self {
        Self(PathBuf::from("/"))
    }

    /// The one whose files lie below `root`.
    #[cfg(test)]
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// Where the absolute `path` lies.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The content of a file of the kernel, whatever bytes it has.
    pub(super) fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        read_bounded(&self.path(path))
    }

    /// The content of a file of the kernel without white space at its ends; none if it is empty.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        as_text(self.bytes(path)?)
    }

    /// The names in a folder, sorted; none where there is no folder.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        children(&self.path(path)).iter().map(|child| leaf(child)).collect()
    }

    /// The block device with a number.
    pub(super) fn device(&self, number: Number) -> Option<BlockDevice> {
        let (major, minor) = number;
        BlockDevice::at(&self.path(format!("/sys/dev/block/{major}:{minor}")))
    }

    /// The block device with a name of the kernel, like `sda1`.
    pub(super) fn device_named(&self, name: &str) -> Option<BlockDevice> {
        let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        plain.then(|| BlockDevice::at(&self.path(format!("/sys/class/block/{name}"))))?
    }

    /// The block devices that a folder links to.
    pub(super) fn devices_in(&self, folder: impl AsRef<Path>) -> Vec<BlockDevice> {
        devices_in(&self.path(folder))
    }

    /// The number of the block device at the absolute `path`, links followed.
    pub(super) fn number_at(&self, path: &Path) -> Option<Number> {
        path.is_absolute().then_some(())?;
        let found = self.path(path);
        if let Ok(stat) = rustix::fs::stat(&found)
            && FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice
        {
            return Some((major(stat.st_rdev), minor(stat.st_rdev)));
        }
        let found = std::fs::canonicalize(found).ok()?;
        let within = found.strip_prefix(std::fs::canonicalize(self.path("/dev")).ok()?).ok()?;
        self.device_named(&within.to_str()?.replace('/', "!"))?.number()
    }
}

/// A disk, partition or device built on others: its folder in `/sys`, resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockDevice(PathBuf);

impl BlockDevice {
    fn at(folder: &Path) -> Option<Self> {
        let resolved = std::fs::canonicalize(folder).ok()?;
        resolved.join("dev").is_file().then_some(Self(resolved))
    }

    /// The name of the kernel, with `!` for a slash.
    pub(super) fn name(&self) -> String {
        leaf(&self.0)
    }

    /// The node in `/dev`.
    pub(super) fn node(&self) -> PathBuf {
        Path::new("/dev").join(self.name().replace('!', "/"))
    }

    /// Its number.
    pub(super) fn number(&self) -> Option<Number> {
        parse_number(&self.text("dev")?)
    }

    /// The size in bytes; `size` counts 512 bytes whatever the sectors are.
    pub(super) fn size(&self) -> Option<u64> {
        self.integer("size")?.checked_mul(512)
    }

    /// The first byte of a partition on its disk.
    pub(super) fn start(&self) -> Option<u64> {
        self.integer("start")?.checked_mul(512)
    }

    /// Whether it is a part of a disk.
    pub(super) fn is_partition(&self) -> bool {
        self.0.join("partition").exists()
    }

    /// The disk that this is a partition of.
    pub(super) fn disk(&self) -> Option<Self> {
        self.is_partition().then(|| Self::at(self.0.parent()?))?
    }

    /// The devices that are built on this one.
    pub(super) fn holders(&self) -> Vec<Self> {
        devices_in(&self.0.join("holders"))
    }

    /// The devices that this one is built on.
    pub(super) fn slaves(&self) -> Vec<Self> {
        devices_in(&self.0.join("slaves"))
    }

    /// The file or device behind a loop device.
    pub(super) fn backing_file(&self) -> Option<PathBuf> {
        self.text("loop/backing_file").map(PathBuf::from)
    }

    /// Whether there is an attribute file or folder `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    /// An attribute as text; none if it is missing or empty.
    pub(super) fn text(&self, attribute: &str) -> Option<String> {
        as_text(self.bytes(attribute)?)
    }

    /// An attribute's bytes.
    pub(super) fn bytes(&self, attribute: &str) -> Option<Vec<u8>> {
        read_bounded(&self.0.join(attribute))
    }

    /// An attribute as a number.
    pub(super) fn integer(&self, attribute: &str) -> Option<u64> {
        self.text(attribute)?.parse().ok()
    }
}

/// `MAJOR:MINOR`.
pub(super) fn parse_number(text: &str) -> Option<Number> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn as_text(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn devices_in(folder: &Path) -> Vec<BlockDevice> {
    children(folder).iter().filter_map(|path| BlockDevice::at(path)).collect()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut list: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    list.sort();
    list
}

fn leaf(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
