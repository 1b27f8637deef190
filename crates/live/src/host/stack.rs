//! What lies on what: file systems and devices, down through partitions, device mapper, RAID,
//! caches and loop files to whole disks.

use super::disk::Disk;
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
            todo.extend(numbers(&device.slaves()));
            todo.extend(device.disk().and_then(|disk| disk.number()));
            let Some(file) = device.backing_file() else { continue };
            if let Some(number) = self.machine.number_at(&file) {
                todo.push(number);
                continue;
            }
            // The path is as seen where the device was set up, perhaps in a container. The number
            // leads further, except to btrfs.
            let number = self.host_of(&device);
            let known = |mount: &&Mount| Some(mount.number) == number;
            let mount = self.mounts.iter().find(known).or_else(|| holding(self.mounts, &file));
            below.file_systems.extend(number.into_iter().chain(mount.map(|mount| mount.number)));
            todo.extend(number.filter(|(major, _)| *major != 0));
            todo.extend(mount.into_iter().flat_map(|mount| self.devices_of(mount)));
        }
        below
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
        // The log and the real-time section of XFS may have devices of their own.
        let extra = ["logdev", "rtdev"].into_iter().filter_map(|name| mount.option(name));
        list.extend(extra.filter_map(|path| self.machine.number_at(Path::new(path))));
        list
    }

    /// `/sys/fs/btrfs/<id>/devices` links to the members. When the source cannot be told, the file
    /// system may be any.
    fn members_of_btrfs(&self, mount: &Mount) -> Vec<Number> {
        let source = self.machine.number_at(&mount.source);
        let mut any = Vec::new();
        for id in self.machine.names("/sys/fs/btrfs") {
            let folder = format!("/sys/fs/btrfs/{id}/devices");
            let members = numbers(&self.machine.devices_in(folder));
            if source.is_some_and(|source| members.contains(&source)) {
                return members;
            }
            any.extend(members);
        }
        source.map_or(any, |source| vec![source])
    }

    /// The source names all members: `/dev/sda:/dev/sdb`.
    fn members_of_bcachefs(&self, mount: &Mount) -> Vec<Number> {
        let source = mount.source.to_string_lossy();
        source.split(':').filter_map(|path| self.machine.number_at(Path::new(path))).collect()
    }
}

fn numbers(devices: &[BlockDevice]) -> Vec<Number> {
    devices.iter().filter_map(BlockDevice::number).collect()
}
