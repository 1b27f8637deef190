//! The mounted file systems on the disks, in the order in which they are frozen.

use super::disk::Disk;
use super::machine::{Machine, Number};
use super::mounts::{Mount, is_covered, mounts, parse};
use super::outside::Outside;
use super::stack::{Below, Stack};
use carreto_error::{Error, Kind, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A mounted file system, whatever the number of its mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// One of the places where it is mounted. A file system that only another mount namespace
    /// sees is reached through a process of it: `/proc/<pid>/root/…`.
    pub mount_point: PathBuf,
    /// The kernel's name of the kind, like `ext4`.
    pub kind: String,
    /// What was mounted.
    pub source: String,
    /// The number of the file system; major 0 where it is not on one block device.
    pub devno: (u32, u32),
    /// The names of the disks that it lies on.
    pub disks: Vec<String>,
    /// The names of other disks that it lies on too; a copy without them lacks a part.
    pub missing: Vec<String>,
    /// The names of other disks that hold nothing but copies of what is on `disks`.
    pub copies: Vec<String>,
    /// Whether it can be frozen, as far as its kind tells.
    pub freezable: Freezable,
    /// Whether no mount of it takes changes.
    pub read_only: bool,
}

/// Whether a file system can be frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freezable {
    /// As far as is known.
    Yes,
    /// No, and why. It is only synced.
    No(String),
}

/// The mounted file systems that lie on one of `disks`, through whatever is between, each once,
/// in the order in which they have to be frozen: the reverse of mounting, and a file system in a
/// loop file before the one that holds the file.
///
/// # Errors
/// `Io` when the system does not say what is mounted.
pub fn file_systems(disks: &[Disk]) -> Result<Vec<FileSystem>> {
    on(&Machine::here(), disks)
}

pub(super) fn on(machine: &Machine, disks: &[Disk]) -> Result<Vec<FileSystem>> {
    let own = mounts(machine);
    if own.is_empty() {
        let text = "the system does not say what is mounted";
        let error = Error::new(Kind::Io, text).path("/proc/self/mountinfo");
        return Err(error.remedied_by("mount /proc and run again"));
    }
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    collect(machine, disks, &own, Path::new("/"), &mut known, &mut found);
    for (root, theirs) in other_namespaces(machine) {
        collect(machine, disks, &theirs, &root, &mut known, &mut found);
    }
    Ok(in_order(found))
}

/// A file system with the file systems that hold its loop files.
struct Found {
    system: FileSystem,
    lies_in: BTreeSet<Number>,
}

/// Adds the file systems among `mounts` that are not `known`, in the order of mounting.
fn collect(
    machine: &Machine,
    disks: &[Disk],
    mounts: &[Mount],
    root: &Path,
    known: &mut BTreeSet<Number>,
    found: &mut Vec<Found>,
) {
    let stack = Stack { machine, mounts };
    for mount in mounts {
        if !known.insert(mount.number) {
            continue;
        }
        let below = stack.below_mount(mount);
        let names = names(mount, &below, disks);
        if names.is_empty() {
            continue;
        }
        let best = best_of(mounts, mount.number).unwrap_or(mount);
        let inside = best.point.strip_prefix("/").unwrap_or(&best.point);
        let outside = Outside::of(&stack, mount, disks);
        let system = FileSystem {
            mount_point: if inside.as_os_str().is_empty() {
                root.into()
            } else {
                root.join(inside)
            },
            kind: mount.kind.clone(),
            source: mount.source.to_string_lossy().into_owned(),
            devno: mount.number,
            disks: names,
            missing: outside.needed.into_iter().collect(),
            copies: outside.copies.into_iter().collect(),
            freezable: freezable(&mount.kind),
            read_only: mount.read_only(),
        };
        found.push(Found { system, lies_in: below.file_systems });
    }
}

/// ZFS does not say on which disks it lies: it may be any.
fn names(mount: &Mount, below: &Below, disks: &[Disk]) -> Vec<String> {
    if mount.kind == "zfs" {
        return disks.iter().map(|disk| disk.name.clone()).collect();
    }
    below.names_of(disks)
}

/// The mount by which a file system is reached: one whose path leads there, best with all of it.
fn best_of(mounts: &[Mount], number: Number) -> Option<&Mount> {
    let reachable = mounts
        .iter()
        .enumerate()
        .filter(|(index, mount)| mount.number == number && !is_covered(mounts, *index));
    reachable.map(|(_, mount)| mount).min_by_key(|mount| mount.root.components().count())
}

fn freezable(kind: &str) -> Freezable {
    let reason = match kind {
        "vfat" | "msdos" | "exfat" | "ntfs" | "ntfs3" | "hfs" | "hfsplus" | "minix" | "udf"
        | "affs" | "ufs" => "this kind of file system cannot be frozen",
        "iso9660" | "squashfs" | "erofs" | "cramfs" | "romfs" => "it never changes",
        "zfs" => "ZFS cannot be frozen and does not say on which disks it lies: export the pool",
        kind if kind.starts_with("fuse") => "a program serves it, and it cannot be frozen",
        _ => return Freezable::Yes,
    };
    Freezable::No(reason.to_owned())
}

/// The last mounted first, but none before those whose loop files it holds.
fn in_order(found: Vec<Found>) -> Vec<FileSystem> {
    let mut rest: Vec<_> = found.into_iter().rev().collect();
    let mut order = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let free = |one: &Found| {
            let holds = |other: &Found| {
                other.system.devno != one.system.devno && other.lies_in.contains(&one.system.devno)
            };
            !rest.iter().any(holds)
        };
        // Files that hold each other in a circle do not exist; if the kernel says so, any is first.
        let next = rest.iter().position(free).unwrap_or(0);
        order.push(rest.remove(next).system);
    }
    order
}

/// The mounts of all mount namespaces.
pub(super) fn all_mounts(machine: &Machine) -> Vec<Mount> {
    let mut list = mounts(machine);
    list.extend(other_namespaces(machine).into_iter().flat_map(|(_, theirs)| theirs));
    list
}

/// One process of every other mount namespace: its root folder, and what it sees mounted.
fn other_namespaces(machine: &Machine) -> Vec<(PathBuf, Vec<Mount>)> {
    let namespace = |id: &str| std::fs::read_link(machine.path(format!("/proc/{id}/ns/mnt"))).ok();
    let Some(own) = namespace("self") else { return Vec::new() };
    let (mut seen, mut list) = (BTreeSet::from([own]), Vec::new());
    for id in machine.names("/proc") {
        let process = id.bytes().all(|byte| byte.is_ascii_digit());
        if !process || !namespace(&id).is_some_and(|space| seen.insert(space)) {
            continue;
        }
        let text = machine.bytes(format!("/proc/{id}/mountinfo")).unwrap_or_default();
        list.push((PathBuf::from(format!("/proc/{id}/root")), parse(&text)));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::disk::disks_of;
    use crate::host::testing::Fake;

    fn points(fake: &Fake, disks: &[Disk]) -> Vec<String> {
        let list = on(&fake.machine(), disks).unwrap();
        list.iter().map(|system| system.mount_point.display().to_string()).collect()
    }

    fn disks_named(fake: &Fake, names: &[&str]) -> Vec<Disk> {
        let all = disks_of(&fake.machine()).unwrap();
        all.into_iter().filter(|disk| names.contains(&disk.name.as_str())).collect()
    }

    #[test]
    fn each_once_and_in_reverse() {
        let fake = Fake::new();
        fake.disk("sda", (8, 0), 1 << 30).partition("sda", "sda1", (8, 1), 2048, 2048);
        fake.partition("sda", "sda2", (8, 2), 4096, 2048).partition("sda", "sda3", (8, 3), 8192, 9);
        fake.disk("sdb", (8, 16), 1 << 30).disk("dm-0", (253, 0), 1 << 20).built_on("dm-0", "sda3");
        fake.mounted(
            "20 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n21 20 0:5 / /proc rw - proc proc rw\n\
            22 20 8:2 / /boot rw - ext4 /dev/sda2 rw\n23 22 8:1 / /boot/efi rw - vfat /dev/sda1 rw\n\
            24 20 253:0 /var /srv/a\\040b rw - ext4 /dev/mapper/vg-root rw\n\
            25 20 8:16 / /other rw - xfs /dev/sdb ro\n26 20 0:44 / /t rw - tmpfs tmpfs rw\n",
        );
        assert_eq!(points(&fake, &disks_named(&fake, &["sda"])), ["/boot/efi", "/boot", "/"]);
        let all = on(&fake.machine(), &disks_named(&fake, &["sda", "sdb"])).unwrap();
        assert_eq!(all.len(), 4);
        assert!(all[0].read_only && all[0].disks == ["sdb"] && all[0].freezable == Freezable::Yes);
        assert!(matches!(all[1].freezable, Freezable::No(_)));
        assert_eq!((all[3].devno, all[3].disks.as_slice()), ((253, 0), &["sda".to_owned()][..]));
        assert_eq!(points(&fake, &[]), Vec::<String>::new());
    }

    #[test]
    fn btrfs_lies_on_all_its_members_and_has_many_mounts() {
        let fake = Fake::new();
        fake.disk("sda", (8, 0), 1 << 30).disk("sdb", (8, 16), 1 << 30).disk(
            "sdc",
            (8, 32),
            1 << 30,
        );
        fake.link("/sys/fs/btrfs/1-2/devices/sda", "../../../../devices/sda");
        fake.link("/sys/fs/btrfs/1-2/devices/sdb", "../../../../devices/sdb");
        fake.link("/sys/fs/btrfs/3-4/devices/sdc", "../../../../devices/sdc");
        fake.file("/sys/fs/btrfs/features/x", "");
        fake.mounted(
            "20 1 0:30 /@users /users rw - btrfs /dev/sda rw,subvol=/@users\n\
            21 1 0:30 / /top rw - btrfs /dev/sda rw\n22 1 0:31 / /c rw - btrfs /dev/sdc rw\n\
            23 1 0:32 / /lost rw - btrfs /dev/root rw\n",
        );
        assert_eq!(points(&fake, &disks_named(&fake, &["sdb"])), ["/lost", "/top"]);
        let list = on(&fake.machine(), &disks_named(&fake, &["sda", "sdb", "sdc"])).unwrap();
        let disks: Vec<_> = list.iter().map(|system| system.disks.join("+")).collect();
        assert_eq!(disks, ["sda+sdb+sdc", "sdc", "sda+sdb"]);
    }

    /// The file of the loop device lies on what was mounted after the loop's own file system.
    #[test]
    fn what_is_in_a_loop_file_comes_first() {
        let fake = Fake::new();
        fake.disk("sda", (8, 0), 1 << 30).disk("sdb", (8, 16), 1 << 30).disk(
            "loop0",
            (7, 0),
            1 << 20,
        );
        fake.disk("loop1", (7, 1), 1 << 20).attribute("loop1", "loop/backing_file", "/dev/loop0\n");
        fake.attribute("loop0", "loop/backing_file", "/data/disk.img\n");
        fake.mounted(
            "20 1 8:0 / / rw - ext4 /dev/sda rw\n21 20 7:1 / /inner rw - ext4 /dev/loop1 rw\n\
            22 20 8:16 / /data rw - ext4 /dev/sdb rw\n",
        );
        assert_eq!(points(&fake, &disks_named(&fake, &["sda", "sdb"])), ["/inner", "/data", "/"]);
        assert_eq!(points(&fake, &disks_named(&fake, &["sdb"])), ["/inner", "/data"]);
    }

    #[test]
    fn file_systems_of_other_namespaces_and_circles() {
        let fake = Fake::new();
        fake.disk("sda", (8, 0), 1 << 30).disk("loop0", (7, 0), 1 << 20);
        fake.attribute("loop0", "loop/backing_file", "/inner/self.img\n");
        fake.mounted("20 1 8:0 / / rw - ext4 /dev/sda rw\n");
        fake.link("/proc/self/ns/mnt", "mnt:[1]").link("/proc/7/ns/mnt", "mnt:[2]");
        fake.link("/proc/8/ns/mnt", "mnt:[1]");
        fake.file(
            "/proc/7/mountinfo",
            "30 1 8:0 / / rw - ext4 /dev/sda rw\n31 30 7:0 / /inner rw - ext4 /dev/loop0 rw\n\
            32 30 8:0 /x /inner/x rw - ext4 /dev/sda rw\n",
        );
        let mut disks = disks_named(&fake, &["sda"]);
        assert_eq!(points(&fake, &disks), ["/"]);
        disks[0].devno = (7, 0);
        assert_eq!(points(&fake, &disks), ["/proc/7/root/inner"]);
        let error = on(&Fake::new().machine(), &disks).unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
    }
}
