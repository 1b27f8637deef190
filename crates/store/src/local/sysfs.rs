//! What Linux says about block devices in `/sys` (see `Documentation/ABI/stable/sysfs-block` of
//! the kernel): partitions, holders, slaves, loop files, sizes.

use rustix::fs::{major, makedev, minor};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Another text for every start of the kernel (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A `/sys`, which tests replace.
#[derive(Debug, Clone)]
pub(super) struct Sysfs(PathBuf);

impl Sysfs {
    /// The machine's own.
    pub(super) fn system() -> Self {
        Self(PathBuf::from("/sys"))
    }

    /// The one at `root`.
    #[cfg(test)]
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The block device with the number `dev`.
    pub(super) fn device(&self, dev: u64) -> Option<BlockDevice> {
        let link = format!("dev/block/{}:{}", major(dev), minor(dev));
        BlockDevice::at(self.0.join(link))
    }

    /// What tells the state of the device `dev` from another one within one run of the kernel:
    /// the run, the attachment, and what was written since.
    pub(super) fn history(&self, dev: u64) -> String {
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        let device = self.device(dev);
        let attachment = device.as_ref().and_then(BlockDevice::attachment).unwrap_or_default();
        let written = device.as_ref().and_then(BlockDevice::written).unwrap_or_default();
        let file = device.as_ref().and_then(BlockDevice::backing_file);
        let file = file.and_then(|path| rustix::fs::stat(&path).ok());
        let file = file.as_ref().map(super::node::times).unwrap_or_default();
        format!("{dev}:{}:{attachment}:{written}:{file}", boot.trim())
    }

    /// The loop devices that have a file, each with the path of the file.
    pub(super) fn loops(&self) -> Vec<(BlockDevice, PathBuf)> {
        children(&self.0.join("block"))
            .into_iter()
            .filter_map(BlockDevice::at)
            .filter_map(|device| Some((device.clone(), device.backing_file()?)))
            .collect()
    }
}

/// A disk or partition: its directory in `/sys`, resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockDevice(PathBuf);

impl BlockDevice {
    fn at(directory: PathBuf) -> Option<Self> {
        let resolved = std::fs::canonicalize(directory).ok()?;
        resolved.join("dev").is_file().then_some(Self(resolved))
    }

    /// The kernel's name, as in `/dev`.
    pub(super) fn name(&self) -> String {
        let leaf = self.0.file_name().unwrap_or_default().to_string_lossy();
        format!("/dev/{}", leaf.replace('!', "/"))
    }

    /// The name with what a device mapper volume is called, for messages.
    pub(super) fn title(&self) -> String {
        match self.text("dm/name") {
            Some(mapped) => format!("{} ({mapped})", self.name()),
            None => self.name(),
        }
    }

    /// The device number.
    pub(super) fn dev(&self) -> Option<u64> {
        parse_dev(&self.text("dev")?)
    }

    /// The size in bytes; `size` counts sectors of 512 bytes whatever the device's own are.
    pub(super) fn size(&self) -> Option<u64> {
        self.number("size")?.checked_mul(512)
    }

    /// The logical block size.
    pub(super) fn block_size(&self) -> Option<u32> {
        u32::try_from(self.queue("logical_block_size")?).ok()
    }

    /// Whether it, or the disk that it is a partition of, cannot be written.
    pub(super) fn read_only(&self) -> bool {
        let own = |device: &Self| device.number("ro") == Some(1);
        own(self) || self.disk().as_ref().is_some_and(own)
    }

    /// Whether the device zeroes a range without being sent the zeros.
    pub(super) fn zeroes_by_command(&self) -> bool {
        self.queue("write_zeroes_max_bytes").is_some_and(|bytes| bytes > 0)
    }

    /// The kernel's number of this attachment of the disk (`diskseq`, Linux 5.15).
    pub(super) fn attachment(&self) -> Option<String> {
        self.text("diskseq").or_else(|| self.disk()?.text("diskseq"))
    }

    /// How many writes and discards, and of how many sectors, the device has completed
    /// (`Documentation/block/stat.rst` of the kernel).
    pub(super) fn written(&self) -> Option<String> {
        let text = self.text("stat")?;
        let fields: Vec<_> = text.split_whitespace().collect();
        let counters = [4, 6, 11, 13].map(|at| fields.get(at).copied().unwrap_or_default());
        Some(counters.join("/"))
    }

    /// The disk that this is a partition of.
    pub(super) fn disk(&self) -> Option<Self> {
        self.0.join("partition").exists().then_some(())?;
        Self::at(self.0.parent()?.to_owned())
    }

    /// The partitions of this disk.
    pub(super) fn partitions(&self) -> Vec<Self> {
        children(&self.0)
            .into_iter()
            .filter(|path| path.join("partition").exists())
            .filter_map(Self::at)
            .collect()
    }

    /// The devices that are built on this one: device mapper, RAID.
    pub(super) fn holders(&self) -> Vec<Self> {
        self.listed("holders")
    }

    /// The devices that this one is built on.
    pub(super) fn slaves(&self) -> Vec<Self> {
        self.listed("slaves")
    }

    /// The file behind a loop device.
    pub(super) fn backing_file(&self) -> Option<PathBuf> {
        let text = self.text("loop/backing_file")?;
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    /// This device, its partitions, and everything built on any of them.
    pub(super) fn and_above(&self) -> Vec<Self> {
        closure(self, |device| {
            let mut next = device.partitions();
            next.extend(device.holders());
            next
        })
    }

    /// This device and everything that it is built on, down to whole disks and to the numbers of
    /// the file systems that hold the files of loop devices.
    pub(super) fn and_below(&self, sysfs: &Sysfs) -> Vec<Self> {
        closure(self, |device| {
            let mut next = device.slaves();
            next.extend(device.disk());
            let file = device.backing_file().and_then(|path| rustix::fs::stat(&path).ok());
            next.extend(file.and_then(|stat| sysfs.device(stat.st_dev)));
            next
        })
    }

    fn listed(&self, directory: &str) -> Vec<Self> {
        children(&self.0.join(directory)).into_iter().filter_map(Self::at).collect()
    }

    fn text(&self, attribute: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0.join(attribute)).ok()?;
        Some(text.trim_end_matches('\n').to_owned())
    }

    fn number(&self, attribute: &str) -> Option<u64> {
        self.text(attribute)?.trim().parse().ok()
    }

    /// A partition has the queue of its disk.
    fn queue(&self, attribute: &str) -> Option<u64> {
        let attribute = format!("queue/{attribute}");
        self.number(&attribute).or_else(|| self.disk()?.number(&attribute))
    }
}

/// `MAJOR:MINOR`.
pub(super) fn parse_dev(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The entries of a directory in the order of their names; none where there is no directory.
fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut list: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    list.sort();
    list
}

fn closure(
    start: &BlockDevice,
    next: impl Fn(&BlockDevice) -> Vec<BlockDevice>,
) -> Vec<BlockDevice> {
    let (mut list, mut seen) = (Vec::new(), BTreeSet::new());
    let mut todo = vec![start.clone()];
    while let Some(device) = todo.pop() {
        if seen.insert(device.clone()) {
            todo.extend(next(&device));
            list.push(device);
        }
    }
    list
}
