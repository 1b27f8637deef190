//! What is swapped to: `/proc/swaps`. Its content is worth nothing after a restart.

use super::disk::Disk;
use super::machine::{Machine, Number};
use super::mounts::{mounts, unescape};
use super::stack::Stack;
use carreto_block::ByteRange;
use std::path::{Path, PathBuf};

/// Swap space on one of the disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// The device or file.
    pub path: PathBuf,
    /// The names of the disks that it lies on.
    pub disks: Vec<String>,
    /// The disk and the bytes of it that are swap, where it is a whole disk or a partition.
    pub range: Option<(String, ByteRange)>,
}

/// The swap spaces on `disks`.
pub fn swaps(disks: &[Disk]) -> Vec<Swap> {
    on(&Machine::here(), disks)
}

fn on(machine: &Machine, disks: &[Disk]) -> Vec<Swap> {
    let mounts = mounts(machine);
    let stack = Stack { machine, mounts: &mounts };
    let text = machine.bytes("/proc/swaps").unwrap_or_default();
    let found = paths(&text).into_iter().map(|path| match machine.number_at(&path) {
        Some(number) => {
            let names = stack.below(vec![number]).names_of(disks);
            Swap { range: range(machine, disks, &path), path, disks: names }
        }
        None => Swap { disks: stack.below_file(&path).names_of(disks), range: None, path },
    });
    found.filter(|swap| !swap.disks.is_empty()).collect()
}

/// The devices that are swapped to.
pub(super) fn swap_devices(machine: &Machine) -> Vec<Number> {
    let text = machine.bytes("/proc/swaps").unwrap_or_default();
    paths(&text).iter().filter_map(|path| machine.number_at(path)).collect()
}

/// The first field of every line after the heading.
fn paths(text: &[u8]) -> Vec<PathBuf> {
    text.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| line.split(u8::is_ascii_whitespace).next())
        .map(unescape)
        .filter(|path| path.is_absolute())
        .collect()
}

fn range(machine: &Machine, disks: &[Disk], path: &Path) -> Option<(String, ByteRange)> {
    let device = machine.device(machine.number_at(path)?)?;
    let (disk, start) = match device.disk() {
        Some(disk) => (disk, device.start()?),
        None => (device.clone(), 0),
    };
    let number = disk.number()?;
    let disk = disks.iter().find(|one| one.devno == number)?;
    let range = ByteRange::from_len(start, device.size()?)?;
    (range.end() <= disk.size).then(|| (disk.name.clone(), range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::disk::disks_of;
    use crate::host::testing::Fake;

    #[test]
    fn partitions_volumes_and_files() {
        let fake = Fake::new();
        fake.disk("sda", (8, 0), 1 << 30).partition("sda", "sda2", (8, 2), 2048, 4096);
        fake.partition("sda", "sda3", (8, 3), 1 << 21, 4096).disk("zram0", (252, 0), 1 << 20);
        fake.disk("sdb", (8, 16), 1 << 30).disk("dm-0", (253, 0), 1 << 20).built_on("dm-0", "sdb");
        fake.mounted("20 1 8:16 / / rw - ext4 /dev/sdb rw\n");
        let text = "Filename\t\t\t\tType\t\tSize\n/dev/sda2   partition\t8\t0\t-2\n\
            /swap\\040file file\t1\t0\t-3\n/dev/zram0 partition 1 0 1\n\n rubbish\n\
            /dev/dm-0\tpartition\t1\t0\t-4\n/dev/sda3 partition 1 0 -5\n";
        fake.file("/proc/swaps", text);
        let list = on(&fake.machine(), &disks_of(&fake.machine()).unwrap());
        let paths: Vec<_> = list.iter().map(|swap| swap.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/dev/sda2", "/swap file", "/dev/dm-0", "/dev/sda3"]);
        let range = ByteRange::from_len(1 << 20, 2 << 20).unwrap();
        assert_eq!(list[0].range, Some(("sda".to_owned(), range)));
        assert_eq!((&list[1].range, list[1].disks.as_slice()), (&None, &["sdb".to_owned()][..]));
        assert_eq!(list[2].range, None);
        // The partition reaches past the end of its disk: not believed.
        assert_eq!(list[3].range, None);
    }
}
