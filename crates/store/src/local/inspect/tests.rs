//! The walk through a made-up machine: `sda` (1: boot, 2: LVM with root and data), `sdb` (a
//! member of `md0`), `sdc` (free), `sdd` (1: swap), `sde` (mounted whole).

use super::*;
use rustix::fs::makedev;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

struct Machine {
    place: TempDir,
    system: System,
}

impl Machine {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(place.path()).unwrap();
        let system = System { sysfs: Sysfs::at(root.join("sys")), proc: root.join("proc") };
        let machine = Self { place, system };
        for (name, dev) in [
            ("sda", "8:0"),
            ("sda/sda1", "8:1"),
            ("sda/sda2", "8:2"),
            ("sdb", "8:16"),
            ("sdc", "8:32"),
            ("sdc/sdc1", "8:33"),
            ("sdd", "8:48"),
            ("sdd/sdd1", "8:49"),
            ("sde", "8:64"),
            ("dm-0", "253:0"),
            ("dm-1", "253:1"),
            ("md0", "9:0"),
        ] {
            machine.add(name, dev);
        }
        machine.write("sys/devices/dm-0/dm/name", "vg-root\n");
        machine.hold("sda/sda2", "dm-0");
        machine.hold("sda/sda2", "dm-1");
        machine.hold("sdb", "md0");
        machine.write(
            "proc/self/mountinfo",
            "1 0 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n\
             2 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n\
             3 1 253:1 / /srv/my\\040data rw - xfs /dev/mapper/vg-data rw\n\
             4 1 8:64 / /mnt rw - xfs /dev/sde rw\n",
        );
        machine.write("proc/swaps", "Filename Type Size Used Priority\n");
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.place.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn add(&self, name: &str, dev: &str) {
        let directory = format!("sys/devices/{name}");
        self.write(&format!("{directory}/dev"), &format!("{dev}\n"));
        self.write(&format!("{directory}/size"), "2048\n");
        self.write(&format!("{directory}/ro"), "0\n");
        if name.contains('/') {
            self.write(&format!("{directory}/partition"), "1\n");
        } else {
            self.write(&format!("{directory}/queue/logical_block_size"), "4096\n");
            self.write(&format!("{directory}/queue/write_zeroes_max_bytes"), "65536\n");
        }
        let link = self.place.path().join(format!("sys/dev/block/{dev}"));
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(self.place.path().join(directory), link).unwrap();
    }

    fn hold(&self, low: &str, high: &str) {
        let devices = self.place.path().join("sys/devices");
        for (from, list, to) in [(low, "holders", high), (high, "slaves", low)] {
            let directory = devices.join(from).join(list);
            std::fs::create_dir_all(&directory).unwrap();
            let leaf = to.rsplit('/').next().unwrap();
            symlink(devices.join(to), directory.join(leaf)).unwrap();
        }
    }

    fn device(&self, major: u32, minor: u32) -> BlockDevice {
        self.system.sysfs.device(makedev(major, minor)).unwrap()
    }

    fn uses(&self, major: u32, minor: u32) -> Vec<String> {
        let found = sorted(self.system.uses_of_device(&self.device(major, minor)));
        found.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn the_system_disk_is_known_through_lvm() {
    let uses = Machine::new().uses(8, 0);
    let wanted = [
        "/dev/sda carries the running system",
        "/dev/dm-0 (vg-root) is mounted on /",
        "/dev/dm-1 is mounted on /srv/my data",
        "/dev/sda1 is mounted on /boot",
        "/dev/sda2 is in use by /dev/dm-0 (vg-root)",
        "/dev/sda2 is in use by /dev/dm-1",
    ];
    assert_eq!(uses, wanted);
}

#[test]
fn a_part_of_the_system_disk_is_not_the_system() {
    let wanted = ["/dev/sda1 is mounted on /boot"];
    assert_eq!(Machine::new().uses(8, 1), wanted);
    let uses = Machine::new().uses(253, 1);
    assert_eq!(uses, ["/dev/dm-1 is mounted on /srv/my data"]);
    let uses = Machine::new().uses(8, 2);
    assert_eq!(uses[0], "/dev/sda2 carries the running system");
}

#[test]
fn members_and_whole_disk_mounts_are_in_use() {
    let machine = Machine::new();
    assert_eq!(machine.uses(8, 16), ["/dev/sdb is in use by /dev/md0"]);
    assert_eq!(machine.uses(8, 64), ["/dev/sde is mounted on /mnt"]);
    machine.hold("sdc", "md0");
    assert_eq!(machine.uses(8, 33), ["/dev/sdc is in use by /dev/md0"]);
}

#[test]
fn a_free_disk_is_free() {
    let machine = Machine::new();
    assert_eq!(machine.uses(8, 32), [""; 0]);
    assert_eq!(machine.uses(8, 48), [""; 0]);
}

#[test]
fn attributes_of_a_partition_come_from_its_disk() {
    let machine = Machine::new();
    let part = machine.device(8, 33);
    assert_eq!(part.name(), "/dev/sdc1");
    assert_eq!(part.block_size(), Some(4096));
    assert_eq!(part.size(), Some(1 << 20));
    assert!(part.zeroes_by_command() && !part.read_only());
    machine.write("sys/devices/sdc/ro", "1\n");
    assert!(part.read_only());
}

#[test]
fn layers_that_hold_each_other_end() {
    let machine = Machine::new();
    machine.hold("dm-0", "dm-1");
    machine.hold("dm-1", "dm-0");
    assert!(machine.uses(253, 0).len() >= 3);
}

#[test]
fn a_source_is_still_unless_something_on_it_is_mounted_for_writing() {
    let machine = Machine::new();
    let node = |major, minor| {
        let mut stat = rustix::fs::stat("/").unwrap();
        stat.st_mode = rustix::fs::FileType::BlockDevice.as_raw_mode();
        stat.st_rdev = makedev(major, minor);
        stat
    };
    let writers = |major, minor| {
        let found = machine.system.writers(&node(major, minor));
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let wanted = [
        "/dev/dm-0 (vg-root) is mounted on /",
        "/dev/dm-1 is mounted on /srv/my data",
        "/dev/sda1 is mounted on /boot",
    ];
    assert_eq!(writers(8, 0), wanted);
    assert_eq!(writers(8, 64), ["/dev/sde is mounted on /mnt"]);
    // Held, but nothing writes; free; swap that is not in use.
    for free in [16, 32, 48] {
        assert_eq!(writers(8, free), [""; 0]);
    }
    machine.write("proc/self/mountinfo", "4 1 8:64 / /mnt rw - xfs /dev/sde ro,noquota\n");
    assert_eq!(writers(8, 64), [""; 0]);
}

#[test]
fn writes_and_attachments_are_told_apart() {
    let machine = Machine::new();
    let history = || machine.system.sysfs.history(makedev(8, 33));
    let stat = |writes: u32| format!(" 9 0 72 1 {writes} 0 8 1 0 1 2 3 0 24 0 0 0\n");
    machine.write("sys/devices/sdc/sdc1/stat", &stat(7));
    machine.write("sys/devices/sdc/diskseq", "12\n");
    let first = history();
    assert!(first.contains(":12:7/8/3/24:"), "{first}");
    machine.write("sys/devices/sdc/sdc1/stat", &stat(8));
    assert_ne!(history(), first);
    machine.write("sys/devices/sdc/sdc1/stat", &stat(7));
    assert_eq!(history(), first);
    machine.write("sys/devices/sdc/diskseq", "13\n");
    assert_ne!(history(), first);
}
