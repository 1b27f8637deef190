//! Programs that write to a device without a file system: nothing can freeze them.

use super::disk::Disk;
use super::file_systems::all_mounts;
use super::machine::{BlockDevice, Machine, Number};
use super::mounts::{Mount, mounts};
use super::stack::Stack;
use super::swaps::swap_devices;
use rustix::fs::{FileType, Mode, OFlags, major, minor};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::path::Path;

/// Who writes to a device without a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawUser {
    /// What it has open, as it opened it.
    pub device: String,
    /// The names of the disks below.
    pub disks: Vec<String>,
    /// The process; none when it is the kernel.
    pub process: Option<u32>,
    /// What the process calls itself.
    pub command: String,
}

impl RawUser {
    /// In words. A process calls itself what it likes.
    pub fn who(&self) -> String {
        match self.process {
            Some(process) => format!("process {process} ({})", self.command.escape_debug()),
            None => "the kernel".to_owned(),
        }
    }
}

/// Who has a disk of `disks`, or a device that lies on one, open for writing: programs, and the
/// kernel itself where no file system, swap, volume or RAID explains it (DRBD, an iSCSI target,
/// a pool of ZFS).
///
/// Best effort: without privileges only own processes are seen, and of the kernel nothing. To find
/// out about the kernel, devices that seem unused are opened exclusively for a moment.
pub fn raw_users(disks: &[Disk]) -> Vec<RawUser> {
    on(&Machine::here(), disks)
}

fn on(machine: &Machine, disks: &[Disk]) -> Vec<RawUser> {
    let mounts = mounts(machine);
    let stack = Stack { machine, mounts: &mounts };
    let mut list = programs(&stack, disks);
    let claimed = unexplained(&stack, &all_mounts(machine), disks).into_iter().filter(|user| {
        let known = |program: &RawUser| program.device == user.device;
        !list.iter().any(known) && is_claimed(&machine.path(&user.device))
    });
    let claimed: Vec<_> = claimed.collect();
    list.extend(claimed);
    list
}

fn programs(stack: &Stack<'_>, disks: &[Disk]) -> Vec<RawUser> {
    let machine = stack.machine;
    let mut list = Vec::new();
    let processes = machine.names("/proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
    for process in processes.filter(|process| *process != std::process::id()) {
        let mut seen = BTreeSet::new();
        for file in machine.names(format!("/proc/{process}/fd")) {
            let Some((number, device)) = writes_to(machine, process, &file) else { continue };
            let disks = stack.below(vec![number]).names_of(disks);
            if disks.is_empty() || !seen.insert(number) {
                continue;
            }
            let command = machine.text(format!("/proc/{process}/comm")).unwrap_or_default();
            list.push(RawUser { device, disks, process: Some(process), command });
        }
    }
    list.sort_by_key(|user| user.process);
    list
}

/// The devices on the disks that nothing known uses, as if the kernel used them.
fn unexplained(stack: &Stack<'_>, all: &[Mount], disks: &[Disk]) -> Vec<RawUser> {
    let machine = stack.machine;
    let mut known: BTreeSet<_> = all.iter().flat_map(|mount| stack.devices_of(mount)).collect();
    known.extend(swap_devices(machine));
    let devices: Vec<_> =
        machine.names("/sys/class/block").iter().filter_map(|n| machine.device_named(n)).collect();
    // The parts of a disk claim the disk.
    let split: BTreeSet<_> = devices.iter().filter_map(BlockDevice::disk).collect();
    let free = devices.iter().filter(|device| {
        let known = device.number().is_none_or(|number| known.contains(&number));
        !known && !split.contains(device) && device.holders().is_empty()
    });
    let users = free.filter_map(|device| {
        let disks = stack.below(vec![device.number()?]).names_of(disks);
        let device = device.node().to_string_lossy().into_owned();
        let command = "the kernel".to_owned();
        (!disks.is_empty()).then_some(RawUser { device, disks, process: None, command })
    });
    users.collect()
}

/// An exclusive open for reading disturbs nobody who reads or writes, and is refused while
/// somebody has the device for himself.
fn is_claimed(node: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(node, flags, Mode::empty()).is_err_and(|errno| errno == Errno::BUSY)
}

/// The block device that an open file of a process writes to.
fn writes_to(machine: &Machine, process: u32, file: &str) -> Option<(Number, String)> {
    let link = machine.path(format!("/proc/{process}/fd/{file}"));
    let target = std::fs::read_link(&link).ok()?;
    // Only now is it safe to ask for more: a file on a dead server would not answer.
    target.starts_with("/dev").then_some(())?;
    let info = machine.text(format!("/proc/{process}/fdinfo/{file}"))?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let access = u64::from_str_radix(flags.trim(), 8).ok()? & 3;
    (access != 0).then_some(())?;
    let number = number_of(&link).or_else(|| machine.number_at(&target))?;
    Some((number, target.to_string_lossy().into_owned()))
}

/// The process may see another `/dev`.
fn number_of(link: &Path) -> Option<Number> {
    let stat = rustix::fs::stat(link).ok()?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    device.then(|| (major(stat.st_rdev), minor(stat.st_rdev)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::disk::disks_of;
    use crate::host::testing::Fake;

    #[test]
    fn writers_of_devices_on_the_disks() {
        let fake = Fake::new();
        fake.disk("sda", (8, 0), 1 << 30).partition("sda", "sda2", (8, 2), 2048, 4096);
        fake.disk("loop0", (7, 0), 1 << 20);
        let open = |process: u32, file: u32, target: &str, flags: &str| {
            fake.link(&format!("/proc/{process}/fd/{file}"), target);
            fake.file(
                &format!("/proc/{process}/fdinfo/{file}"),
                format!("pos:\t0\nflags:\t{flags}\n"),
            );
            fake.file(&format!("/proc/{process}/comm"), "oracle\n");
        };
        open(41, 3, "/dev/sda2", "0140002");
        open(41, 4, "/dev/sda2", "0100001");
        open(42, 3, "/dev/sda", "0100000");
        open(43, 3, "/dev/loop0", "0100002");
        open(44, 3, "/dev/null", "0100002");
        open(45, 3, "pipe:[1]", "01");
        open(46, 3, "/dev/sda", "rubbish");
        let list = on(&fake.machine(), &disks_of(&fake.machine()).unwrap());
        let wanted = RawUser {
            device: "/dev/sda2".to_owned(),
            disks: vec!["sda".to_owned()],
            process: Some(41),
            command: "oracle".to_owned(),
        };
        assert_eq!(list, [wanted]);
    }

    #[test]
    fn what_is_explained_is_not_asked_for() {
        let fake = Fake::new();
        fake.disk("sda", (8, 0), 1 << 30).disk("sdb", (8, 16), 1 << 30).disk(
            "sdc",
            (8, 32),
            9 << 9,
        );
        for number in 1..=5 {
            fake.partition("sda", &format!("sda{number}"), (8, number), 2048, 4096);
        }
        fake.disk("dm-0", (253, 0), 1 << 20).built_on("dm-0", "sda3");
        fake.disk("dm-1", (253, 1), 1 << 20).built_on("dm-1", "sda4");
        fake.file("/proc/swaps", "Filename\n/dev/sda2 partition 1 0 -2\n");
        fake.mounted("1 0 8:1 / / rw - ext4 a rw\n").link("/proc/self/ns/mnt", "mnt:[1]");
        fake.link("/proc/7/ns/mnt", "mnt:[2]");
        fake.file("/proc/7/mountinfo", "1 0 253:0 / /x rw - ext4 a rw\n");
        let machine = fake.machine();
        let (mounts, all) = (mounts(&machine), all_mounts(&machine));
        let disks: Vec<_> = disks_of(&machine).unwrap().into_iter().take(2).collect();
        let stack = Stack { machine: &machine, mounts: &mounts };
        let list = unexplained(&stack, &all, &disks);
        let devices: Vec<_> = list.iter().map(|user| user.device.as_str()).collect();
        assert_eq!(devices, ["/dev/dm-1", "/dev/sda5", "/dev/sdb"]);
    }
}
