//! Stacks of devices of which only some disks are migrated.

use super::*;
use crate::host::disk::disks_of;
use crate::host::file_systems::on;
use crate::host::testing::Fake;

/// Three disks of which the first is migrated.
fn fake() -> Fake {
    let fake = Fake::new();
    fake.disk("vda", (254, 0), 1 << 30).partition("vda", "vda1", (254, 1), 2048, 4096);
    fake.disk("vdb", (254, 16), 1 << 30).partition("vdb", "vdb1", (254, 17), 2048, 4096);
    fake.disk("vdc", (254, 32), 1 << 30);
    fake
}

fn systems(fake: &Fake, names: &[&str]) -> Vec<FileSystem> {
    let disks = disks_of(&fake.machine()).unwrap();
    let disks: Vec<_> = disks.into_iter().filter(|one| names.contains(&&*one.name)).collect();
    assert_eq!(disks.len(), names.len());
    on(&fake.machine(), &disks).unwrap()
}

fn outside(fake: &Fake, names: &[&str]) -> (Vec<String>, Vec<String>) {
    let mut list = systems(fake, names);
    assert_eq!(list.len(), 1);
    let system = list.remove(0);
    (system.missing, system.copies)
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_volume_over_a_disk_that_stays_behind_is_refused() {
    let fake = fake();
    fake.disk("dm-0", (253, 0), 1 << 20).built_on("dm-0", "vda1").built_on("dm-0", "vdb1");
    fake.disk("nbd0", (43, 0), 1 << 20).built_on("dm-0", "nbd0");
    fake.mounted("20 1 253:0 / /srv rw - xfs /dev/mapper/vg-srv rw\n");
    assert_eq!(outside(&fake, &["vda"]), (names(&["nbd0", "vdb"]), vec![]));
    assert_eq!(outside(&fake, &["vda", "vdb"]), (names(&["nbd0"]), vec![]));
    let error = expect_whole(&systems(&fake, &["vda"])).unwrap_err();
    assert_eq!(error.kind(), Kind::SourceChanged);
    let text = carreto_error::chain_text(&error);
    for word in ["/srv", "xfs of /dev/mapper/vg-srv", "/dev/nbd0, /dev/vdb", "only vda"] {
        assert!(text.contains(word), "{text}");
    }
    assert!(error.remedy().contains("/dev/vdb"), "{}", error.remedy());
}

#[test]
fn what_is_whole_is_let_through() {
    let fake = fake();
    fake.disk("dm-0", (253, 0), 1 << 20).built_on("dm-0", "vda1");
    fake.disk("dm-1", (253, 1), 1 << 20).built_on("dm-1", "vdb1");
    fake.disk("loop0", (7, 0), 1 << 20).attribute("loop0", "loop/backing_file", "/i.img\n");
    fake.mounted(
        "20 1 253:0 / / rw - ext4 /dev/dm-0 rw\n21 20 253:1 / /b rw - ext4 /dev/dm-1 rw\n\
        22 20 7:0 / /i rw - ext4 /dev/loop0 rw\n",
    );
    let list = systems(&fake, &["vda"]);
    assert_eq!(list.len(), 2);
    expect_whole(&list).unwrap();
}

/// A loop device whose file is in memory, in one volume with a partition.
#[test]
fn a_file_in_memory_stays_behind() {
    let fake = fake();
    fake.disk("loop0", (7, 0), 1 << 20).attribute("loop0", "loop/backing_file", "/t/i.img\n");
    fake.disk("dm-0", (253, 0), 1 << 20).built_on("dm-0", "vda1").built_on("dm-0", "loop0");
    fake.mounted("20 1 253:0 / / rw - ext4 /dev/dm-0 rw\n21 20 0:44 / /t rw - tmpfs tmpfs rw\n");
    assert_eq!(outside(&fake, &["vda"]), (names(&["loop0"]), vec![]));
}

#[test]
fn the_parts_of_xfs_count() {
    let fake = fake();
    fake.mounted("20 1 254:1 / / rw - xfs /dev/vda1 rw,logdev=/dev/vdb1,rtdev=/dev/gone\n");
    assert_eq!(outside(&fake, &["vda"]), (names(&["/dev/gone", "vdb"]), vec![]));
    fake.mounted("20 1 254:1 / / rw - xfs /dev/vda1 rw,logdev=/dev/vdb1\n");
    assert_eq!(outside(&fake, &["vda", "vdb"]), (vec![], vec![]));
    // The log alone is on a disk that is migrated.
    assert_eq!(outside(&fake, &["vdb"]), (names(&["vda"]), vec![]));
}

#[test]
fn a_journal_elsewhere_counts() {
    let fake = fake();
    let mut head = vec![0; 2048];
    head[1024 + 0x38..1024 + 0x3A].copy_from_slice(&[0x53, 0xEF]);
    head[1024 + 0x5C] = 4;
    // 254:17.
    head[1024 + 0xE4..1024 + 0xE6].copy_from_slice(&[17, 254]);
    fake.file("/dev/vda1", head).mounted("20 1 254:1 / / rw - ext4 /dev/vda1 rw\n");
    assert_eq!(outside(&fake, &["vda"]), (names(&["vdb"]), vec![]));
    assert_eq!(outside(&fake, &["vda", "vdb"]), (vec![], vec![]));
}

#[test]
fn all_members_of_btrfs_count() {
    let fake = fake();
    fake.link("/sys/fs/btrfs/1-2/devices/vda1", "../../../../devices/vda/vda1");
    fake.link("/sys/fs/btrfs/1-2/devices/vdb1", "../../../../devices/vdb/vdb1");
    fake.mounted("20 1 0:30 / / rw - btrfs /dev/vda1 rw\n");
    assert_eq!(outside(&fake, &["vda"]), (names(&["vdb"]), vec![]));
    assert_eq!(outside(&fake, &["vda", "vdb"]), (vec![], vec![]));
}

/// Without an initial RAM disk, the root's source is no device that can be found.
#[test]
fn a_btrfs_without_a_source_is_the_one_that_is_left() {
    let fake = fake();
    fake.link("/sys/fs/btrfs/1-2/devices/vda1", "../../../../devices/vda/vda1");
    fake.link("/sys/fs/btrfs/3-4/devices/vdb1", "../../../../devices/vdb/vdb1");
    fake.mounted(
        "20 1 0:30 / / rw - btrfs /dev/root rw\n21 20 0:31 / /b rw - btrfs /dev/vdb1 rw\n",
    );
    assert_eq!(outside(&fake, &["vda"]), (vec![], vec![]));
    assert_eq!(outside(&fake, &["vdb"]), (vec![], vec![]));
}

fn array(level: &str, resync: &str, states: [&str; 2]) -> Fake {
    let fake = fake();
    fake.disk("md0", (9, 0), 1 << 20).built_on("md0", "vda1").built_on("md0", "vdb1");
    fake.attribute("md0", "md/level", level).attribute("md0", "md/resync_start", resync);
    fake.attribute("md0", "md/dev-vda1/state", states[0]);
    fake.attribute("md0", "md/dev-vdb1/state", states[1]);
    fake.mounted("20 1 9:0 / / rw - ext4 /dev/md0 rw\n");
    fake
}

#[test]
fn a_sound_half_of_a_mirror_is_enough() {
    let fake = array("raid1\n", "none\n", ["in_sync\n", "in_sync\n"]);
    assert_eq!(outside(&fake, &["vda"]), (vec![], names(&["vdb"])));
    fake.attribute("md0", "md/dev-vda1/bad_blocks", "");
    assert_eq!(outside(&fake, &["vda"]), (vec![], names(&["vdb"])));
    fake.attribute("md0", "md/dev-vda1/bad_blocks", "2048 8\n");
    assert_eq!(outside(&fake, &["vda"]), (names(&["vdb"]), vec![]));
}

#[test]
fn half_of_anything_else_is_not() {
    for (level, resync, states) in [
        ("raid0", "none", ["in_sync", "in_sync"]),
        ("raid10", "none", ["in_sync", "in_sync"]),
        ("raid1", "1024", ["in_sync", "in_sync"]),
        ("raid1", "none", ["spare", "in_sync"]),
        ("raid1", "none", ["in_sync,write_mostly", "in_sync"]),
    ] {
        let fake = array(level, resync, states);
        let list = systems(&fake, &["vda"]);
        assert_eq!(list[0].missing, ["vdb"], "{level} {resync} {states:?}");
    }
    // A spare holds nothing, whoever has it.
    let fake = array("raid5", "none", ["in_sync", "spare"]);
    assert_eq!(outside(&fake, &["vda"]), (vec![], vec![]));
}

#[test]
fn circles_end() {
    let fake = fake();
    fake.disk("loop0", (7, 0), 1 << 20).attribute("loop0", "loop/backing_file", "/i/self\n");
    fake.disk("dm-0", (253, 0), 1 << 20).built_on("dm-0", "vda1").built_on("dm-0", "loop0");
    fake.mounted("20 1 253:0 / /i rw - ext4 /dev/dm-0 rw\n");
    assert_eq!(outside(&fake, &["vda"]), (vec![], vec![]));
}

#[test]
fn volumes_without_a_file_system_are_told_of() {
    let fake = fake();
    for (number, below) in [(0, "vda1"), (1, "vdb1"), (2, "dm-0"), (3, "vda1"), (4, "vda1")] {
        let name = format!("dm-{number}");
        fake.disk(&name, (253, number), 1 << 20).built_on(&name, below);
    }
    for name in ["dm-2", "dm-3", "dm-4"] {
        fake.built_on(name, "vdb1");
    }
    fake.attribute("dm-2", "dm/name", "vg-db\n").file("/proc/swaps", "Filename\n/dev/dm-4 x\n");
    fake.mounted("20 1 253:3 / / rw - ext4 /dev/dm-3 rw\n");
    let machine = fake.machine();
    let disks = disks_of(&machine).unwrap();
    let wanted = ("/dev/mapper/vg-db".to_owned(), names(&["vdb"]));
    assert_eq!(volumes_on(&machine, &disks[..1]), [wanted]);
    assert_eq!(volumes_on(&machine, &disks[2..]), []);
    assert_eq!(volumes_on(&machine, &disks), []);
}
