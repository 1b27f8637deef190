//! What lies on what: file systems and devices, down through partitions, device mapper, RAID,
//! caches and loop files to whole disks.

use super::disk::Disk;
use super::journal;
use super::machine::{BlockDevice, Machine, Number};
use super::mounts::{Mount, holding};
use carreto_kernel::loops::file_system_of_loop;
use std::collections::BTreeSet;
use std::path::Path;

/// Everything below a file system or device.
#[derive(Debug, Default)]
pub(super) struct Below {
    /// Devices, the start included.
    pub(super) devices: BTreeSet<Number>,
    /// File systems that hold files of loop devices.
    pub(super) file_systems: BTreeSet<Number>,
}

impl Below {
    /// The names of those of `disks` that are below.
    pub(super) fn names_of(&self, disks: &[Disk]) -> Vec<String> {
        let below = disks.iter().filter(|disk| self.devices.contains(&disk.devno));
        below.map(|disk| disk.name.clone()).collect()
    }
}

/// The machine with what is mounted on it.
pub(super) struct Stack<'a> {
    pub(super) machine: &'a Machine,
    pub(super) mounts: &'a [Mount],
}

impl Stack<'_> {
    /// Everything below a mounted file system.
    pub(super) fn below_mount(&self, mount: &Mount) -> Below {
        self.below(self.devices_of(mount))
    }

    /// Everything below devices.
    pub(super) fn below(&self, mut todo: Vec<Number>) -> Below {
        let mut below = Below::default();
        while let Some(number) = todo.pop() {
            if !below.devices.insert(number) {
                continue;
            }
            let Some(device) = self.machine.device(number) else { continue };
            let under = self.under(&device);
            below.file_systems.extend(under.file_systems);
            todo.extend(under.devices);
        }
        below
    }

    /// What a device lies on directly.
    pub(super) fn under(&self, device: &BlockDevice) -> Below {
        let mut under = Below::default();
        under.devices.extend(numbers(&device.slaves()));
        under.devices.extend(device.disk().and_then(|disk| disk.number()));
        let Some(file) = device.backing_file() else { return under };
        if let Some(number) = self.machine.number_at(&file) {
            under.devices.insert(number);
            return under;
        }
        // The path is as seen where the device was set up, perhaps in a container. The number
        // leads further, except to btrfs.
        let number = self.host_of(device);
        let known = |mount: &&Mount| Some(mount.number) == number;
        let mount = self.mounts.iter().find(known).or_else(|| holding(self.mounts, &file));
        under.file_systems.extend(number.into_iter().chain(mount.map(|mount| mount.number)));
        under.devices.extend(number.filter(|(major, _)| *major != 0));
        under.devices.extend(mount.into_iter().flat_map(|mount| self.devices_of(mount)));
        under
    }

    /// Everything below the file at a path.
    pub(super) fn below_file(&self, path: &Path) -> Below {
        holding(self.mounts, path).map(|mount| self.below_mount(mount)).unwrap_or_default()
    }

    /// The number of the file system that holds the file of a loop device.
    fn host_of(&self, device: &BlockDevice) -> Option<Number> {
        let open = std::fs::File::open(self.machine.path(device.node())).ok()?;
        file_system_of_loop(open).ok()
    }

    /// The devices that a file system is on.
    pub(super) fn devices_of(&self, mount: &Mount) -> Vec<Number> {
        let mut list = match (mount.number, mount.kind.as_str()) {
            (_, "btrfs") => self.members_of_btrfs(mount),
            (_, "bcachefs") => self.members_of_bcachefs(mount),
            ((0, _), _) => self.machine.number_at(&mount.source).into_iter().collect(),
            (number, _) => vec![number],
        };
        list.extend(sections_of(mount).filter_map(|path| self.machine.number_at(path)));
        list.extend(self.journal_of(mount));
        list
    }

    /// Devices that the options of a mount name, and that cannot be found by these names.
    pub(super) fn lost_names(&self, mount: &Mount) -> Vec<String> {
        let lost = sections_of(mount).filter(|path| self.machine.number_at(path).is_none());
        lost.map(|path| path.to_string_lossy().into_owned()).collect()
    }

    /// The device of the journal of an ext4 file system, where it has one of its own: its options
    /// do not tell.
    fn journal_of(&self, mount: &Mount) -> Option<Number> {
        matches!(mount.kind.as_str(), "ext3" | "ext4").then_some(())?;
        let node = self.machine.path(self.machine.device(mount.number)?.node());
        journal::device_of(&node)
    }

    /// `/sys/fs/btrfs/<id>/devices` links to the members. When the source cannot be told, it is
    /// one that no other mount accounts for; when there is none such, it may be any.
    fn members_of_btrfs(&self, mount: &Mount) -> Vec<Number> {
        let members = self.machine.names("/sys/fs/btrfs").into_iter();
        let members = members.map(|id| format!("/sys/fs/btrfs/{id}/devices"));
        let members = members.map(|folder| numbers(&self.machine.devices_in(folder)));
        let all: Vec<_> = members.filter(|members| !members.is_empty()).collect();
        if let Some(source) = self.machine.number_at(&mount.source) {
            let found = all.into_iter().find(|members| members.contains(&source));
            return found.unwrap_or_else(|| vec![source]);
        }
        let others = self.mounts.iter().filter(|other| other.number != mount.number);
        let others = others.filter(|other| other.kind == "btrfs");
        let taken: Vec<_> =
            others.filter_map(|other| self.machine.number_at(&other.source)).collect();
        let is_free = |members: &&Vec<Number>| !members.iter().any(|one| taken.contains(one));
        let free = all.iter().filter(is_free).flatten().copied().collect::<Vec<_>>();
        if free.is_empty() { all.concat() } else { free }
    }

    /// The source names all members: `/dev/sda:/dev/sdb`.
    fn members_of_bcachefs(&self, mount: &Mount) -> Vec<Number> {
        let source = mount.source.to_string_lossy();
        source.split(':').filter_map(|path| self.machine.number_at(Path::new(path))).collect()
    }
}

/// The log and the real-time section of XFS may have devices of their own.
fn sections_of(mount: &Mount) -> impl Iterator<Item = &Path> {
    ["logdev", "rtdev"].into_iter().filter_map(|name| mount.option(name)).map(Path::new)
}

fn numbers(devices: &[BlockDevice]) -> Vec<Number> {
    devices.iter().filter_map(BlockDevice::number).collect()
}
