//! Block devices, full disks and mounts: what only root can set up.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests count bytes in usize, and their disks are small"
)]

mod local_support;

use carreto_block::{ByteRange, LocalWrite as _, Source as _, Target};
use carreto_error::Kind;
use carreto_store::{
    DeviceTarget, FileTarget, LocalFile, LocalOptions, Obstacle, TargetKind, inspect_target,
};
use carreto_testkit::{Rng, conformance, sparse_disk};
use local_support::machine::{Loop, Mounted, allowed, run};
use local_support::{places, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: usize = 1 << 20;

/// Loop devices of both block sizes over files in both places, filled with `bytes`.
fn each_device(bytes: &[u8], mut test: impl FnMut(&Loop, &Path, u32)) {
    for place in places() {
        for sector in [512, 4096] {
            let file = place.path().join(format!("disk-{sector}"));
            std::fs::write(&file, bytes).unwrap();
            test(&Loop::attach(&file, sector, &[]), &file, sector);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn devices_are_sources() {
    let Some(_alone) = allowed("devices_are_sources") else {
        return;
    };
    let bytes = sparse_disk(2 * MIB + 4096, 3);
    each_device(&bytes, |device, _, _| {
        let source = LocalFile::open(&device.device).unwrap();
        assert!(source.is_device());
        runtime().block_on(conformance::source(&source, &bytes));
    });
}

#[test]
fn devices_are_targets() {
    let Some(_alone) = allowed("devices_are_targets") else {
        return;
    };
    let bytes = vec![0xC3; 3 * MIB + 4096];
    each_device(&bytes, |device, _, sector| {
        let target = DeviceTarget::open(&device.device).unwrap();
        assert_eq!(target.size(), bytes.len() as u64);
        let caps = target.caps();
        assert_eq!(caps.alignment, sector);
        assert!(caps.device && !caps.known_zero);
        assert!(target.verifies_past_cache());
        // Who holds the target may look at it as a source too.
        assert!(LocalFile::open(&device.device).unwrap().is_device());
        runtime().block_on(conformance::target(&target));
        let range = ByteRange::new(100, 2 * MIB as u64 + 77).unwrap();
        runtime().block_on(target.discard(range)).unwrap();
    });
}

/// The file under the device and a reader that cached the old content are the oracles.
#[test]
fn what_is_written_reaches_the_file_and_cached_readers() {
    let Some(_alone) = allowed("what_is_written_reaches_the_file_and_cached_readers") else {
        return;
    };
    let old = vec![0x11; 2 * MIB];
    each_device(&old, |device, file, _| {
        assert!(std::fs::read(&device.device).unwrap() == old);
        let mut wanted = old.clone();
        let target = DeviceTarget::open(&device.device).unwrap();
        let mut rng = Rng::new(8);
        for _ in 0..40 {
            let len = 1 + rng.below(200_000) as usize;
            let at = rng.below((wanted.len() - len) as u64) as usize;
            rng.fill(&mut wanted[at..at + len]);
            target.write_local(at as u64, &wanted[at..at + len]).unwrap();
            let zeros = ByteRange::from_len(at as u64 + 3, len as u64 / 2).unwrap();
            target.zero_local(zeros).unwrap();
            wanted[zeros.start() as usize..zeros.end() as usize].fill(0);
        }
        runtime().block_on(target.flush()).unwrap();
        assert!(std::fs::read(&device.device).unwrap() == wanted, "cached");
        drop(target);
        assert!(std::fs::read(file).unwrap() == wanted, "file");
    });
}

/// Every thread owns every eighth run of seven bytes: all blocks are shared by all threads.
#[test]
fn writes_of_parts_of_one_block_are_all_kept() {
    let Some(_alone) = allowed("writes_of_parts_of_one_block_are_all_kept") else {
        return;
    };
    let size = MIB;
    each_device(&vec![0xFF; size], |device, _, _| {
        let target = DeviceTarget::open(&device.device).unwrap();
        let written = 16 * 4096;
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let target = &target;
                scope.spawn(move || {
                    let starts = (usize::from(thread) * 7..written).step_by(56);
                    for start in starts {
                        let len = 7.min(written - start);
                        target.write_local(start as u64, &vec![thread; len]).unwrap();
                    }
                });
            }
        });
        let wanted: Vec<u8> = (0..written).map(|at| (at / 7 % 8) as u8).collect();
        let bytes = std::fs::read(&device.device).unwrap();
        assert!(bytes[..written] == wanted, "a write was lost");
        assert!(bytes[written..].iter().all(|byte| *byte == 0xFF));
    });
}

#[test]
fn one_run_has_the_device() {
    let Some(_alone) = allowed("one_run_has_the_device") else {
        return;
    };
    each_device(&vec![0; MIB], |device, file, _| {
        let target = DeviceTarget::open(&device.device).unwrap();
        let error = DeviceTarget::open(&device.device).unwrap_err();
        assert_eq!(error.kind(), Kind::Locked, "{error}");
        drop(target);
        DeviceTarget::open(&device.device).unwrap();
        let error = DeviceTarget::open(file).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
        let error = FileTarget::open_existing(&device.device).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{error}");
    });
}

#[test]
fn a_mounted_device_is_refused_by_name() {
    let Some(_alone) = allowed("a_mounted_device_is_refused_by_name") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("disk");
    std::fs::write(&file, vec![0; 4 * MIB]).unwrap();
    let device = Loop::attach(&file, 512, &[]);
    run("mkfs.ext4", &["-q", device.name()]);
    let facts = inspect_target(&device.device).unwrap();
    assert_eq!(facts.obstacles, []);
    assert_eq!((facts.kind, facts.size, facts.sector), (TargetKind::Device, 4 * MIB as u64, 512));
    let point = place.path().join("a mount point");
    let mounted = Mounted::new(&[device.name()], &point);
    let error = DeviceTarget::open(&device.device).unwrap_err();
    assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    let used = Obstacle::Mounted {
        device: device.name().to_owned(),
        mount_point: point.to_str().unwrap().to_owned(),
    };
    let facts = inspect_target(&device.device).unwrap();
    assert_eq!(facts.obstacles, std::slice::from_ref(&used));
    let error = used.to_error(device.name());
    assert_eq!(error.kind(), Kind::TargetUnusable);
    assert!(error.remedy().contains("a mount point"), "{}", error.remedy());
    let facts = inspect_target(&file).unwrap();
    let held = Obstacle::Held {
        device: std::fs::canonicalize(&file).unwrap().to_str().unwrap().to_owned(),
        holder: device.name().to_owned(),
    };
    assert_eq!(facts.obstacles, [used, held]);
    drop(mounted);
    DeviceTarget::open(&device.device).unwrap();
}

#[test]
fn a_mounted_partition_makes_its_disk_busy() {
    let Some(_alone) = allowed("a_mounted_partition_makes_its_disk_busy") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("disk");
    std::fs::write(&file, vec![0; 16 * MIB]).unwrap();
    let table = place.path().join("table");
    std::fs::write(&table, "label: gpt\nstart=2048,size=8192\nstart=12288,size=8192\n").unwrap();
    let command = format!("sfdisk -q {} < {}", file.display(), table.display());
    run("sh", &["-c", &command]);
    let device = Loop::attach(&file, 512, &["--partscan"]);
    let (first, second) = (format!("{}p1", device.name()), format!("{}p2", device.name()));
    if !Path::new(&first).exists() {
        // A kernel that reads no partition tables is told.
        run("partx", &["--add", device.name()]);
    }
    run("mkfs.ext4", &["-q", &first]);
    let point = place.path().join("mnt");
    let _mounted = Mounted::new(&[&first], &point);
    let used = Obstacle::Mounted {
        device: first.clone(),
        mount_point: point.to_str().unwrap().to_owned(),
    };
    for target in [device.name(), &first] {
        let facts = inspect_target(target).unwrap();
        assert_eq!(facts.obstacles, std::slice::from_ref(&used));
        let error = DeviceTarget::open(target).unwrap_err();
        assert_eq!(error.kind(), Kind::TargetUnusable, "{target}: {error}");
    }
    assert_eq!(inspect_target(&second).unwrap().obstacles, []);
    let target = DeviceTarget::open(&second).unwrap();
    assert_eq!(target.size(), 4 * MIB as u64);
    runtime().block_on(conformance::target(&target));
}

#[test]
fn read_only_and_empty_devices_are_refused() {
    let Some(_alone) = allowed("read_only_and_empty_devices_are_refused") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("disk");
    std::fs::write(&file, vec![0; MIB]).unwrap();
    let device = Loop::attach(&file, 512, &["--read-only"]);
    let error = DeviceTarget::open(&device.device).unwrap_err();
    assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    let wanted = Obstacle::ReadOnlyDevice { device: device.name().to_owned() };
    assert_eq!(inspect_target(&device.device).unwrap().obstacles, [wanted]);
    let empty = run("losetup", &["--find"]);
    let error = DeviceTarget::open(&empty).unwrap_err();
    assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    let wanted = Obstacle::NoMedium { device: empty.clone() };
    assert_eq!(inspect_target(&empty).unwrap().obstacles, [wanted]);
}

#[test]
fn swap_is_in_use() {
    let Some(_alone) = allowed("swap_is_in_use") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("swap");
    std::fs::write(&file, vec![0; MIB]).unwrap();
    let device = Loop::attach(&file, 512, &[]);
    run("mkswap", &[device.name()]);
    let on = Command::new("swapon").arg(&device.device).output().unwrap();
    if !on.status.success() {
        skip("swap: this machine takes none");
        return;
    }
    let facts = inspect_target(&device.device);
    let opened = DeviceTarget::open(&device.device);
    run("swapoff", &[device.name()]);
    let wanted = Obstacle::Swap { device: device.name().to_owned() };
    assert_eq!(facts.unwrap().obstacles, [wanted]);
    assert_eq!(opened.unwrap_err().kind(), Kind::TargetUnusable);
}

#[test]
fn the_running_system_is_never_a_target() {
    let Some(_alone) = allowed("the_running_system_is_never_a_target") else {
        return;
    };
    let source = run("findmnt", &["--noheadings", "--output", "SOURCE", "/"]);
    let root = PathBuf::from(&source);
    if !root.exists() {
        skip("the system disk: the root file system is not on a device");
        return;
    }
    let facts = inspect_target(&root).unwrap();
    assert!(matches!(facts.obstacles[0], Obstacle::SystemDisk { .. }), "{facts:?}");
    let on_root = |found: &Obstacle| matches!(found, Obstacle::Mounted { mount_point, .. } if mount_point == "/");
    assert!(facts.obstacles.iter().any(on_root), "{facts:?}");
    // A container may be denied the device before the mount counts.
    let error = DeviceTarget::open(&root).unwrap_err();
    assert!([Kind::TargetUnusable, Kind::Denied].contains(&error.kind()), "{error}");
}

#[test]
fn a_full_file_system_is_the_targets_fault() {
    let Some(_alone) = allowed("a_full_file_system_is_the_targets_fault") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let point = place.path().join("small");
    let _mounted = Mounted::tmpfs(4 * MIB as u64, &point);
    let file = point.join("disk");
    let free = inspect_target(&file).unwrap().free.unwrap();
    assert_eq!(free, 4 * MIB as u64);
    let target = FileTarget::create_new(&file, 64 * MIB as u64).unwrap();
    let data = vec![1; MIB];
    let error =
        (0..64).find_map(|index| target.write_local(index * MIB as u64, &data).err()).unwrap();
    assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    assert!(error.nearest_offset().is_some());
    let device = Loop::attach(&file, 4096, &[]);
    let target = DeviceTarget::open(&device.device).unwrap();
    let error =
        (8..64).find_map(|index| target.write_local(index * MIB as u64, &data).err()).unwrap();
    assert!([Kind::TargetUnusable, Kind::Io].contains(&error.kind()), "{error}");
}

/// ext4 takes the writes into memory, and the device under it has no room for them.
#[test]
fn a_failed_flush_is_final() {
    let Some(_alone) = allowed("a_failed_flush_is_final") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let small = place.path().join("small");
    let _memory = Mounted::tmpfs(8 * MIB as u64, &small);
    let file = small.join("disk");
    std::fs::File::create(&file).unwrap().set_len(64 * MIB as u64).unwrap();
    let device = Loop::attach(&file, 512, &[]);
    run("mkfs.ext4", &["-q", "-O", "^has_journal", device.name()]);
    let point = place.path().join("mnt");
    let _mounted = Mounted::new(&[device.name()], &point);
    let path = point.join("target");
    let target = FileTarget::create_new(&path, 32 * MIB as u64).unwrap();
    let runtime = runtime();
    runtime.block_on(target.flush()).unwrap();
    let data = vec![7; 4 * MIB];
    for index in 0..8 {
        target.write_local(index * data.len() as u64, &data).unwrap();
    }
    let error = runtime.block_on(target.flush()).unwrap_err();
    assert!([Kind::Io, Kind::TargetUnusable].contains(&error.kind()), "{error}");
    run("mount", &["-o", "remount,size=128m", small.to_str().unwrap()]);
    for _ in 0..2 {
        let error = runtime.block_on(target.flush()).unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.detail().contains("an earlier flush failed"), "{error}");
    }
}

#[test]
fn a_read_only_file_system_is_refused() {
    let Some(_alone) = allowed("a_read_only_file_system_is_refused") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let point = place.path().join("frozen");
    let _mounted = Mounted::tmpfs(MIB as u64, &point);
    let file = point.join("disk");
    std::fs::write(&file, vec![0; 4096]).unwrap();
    run("mount", &["-o", "remount,ro", point.to_str().unwrap()]);
    let error = FileTarget::open_existing(&file).unwrap_err();
    assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    let error = FileTarget::create_new(point.join("new"), 4096).unwrap_err();
    assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    let facts = inspect_target(&file).unwrap();
    assert!(matches!(facts.obstacles[..], [Obstacle::ReadOnlyFileSystem { .. }]), "{facts:?}");
    let facts = inspect_target(point.join("new")).unwrap();
    assert!(matches!(facts.obstacles[..], [Obstacle::ReadOnlyFileSystem { .. }]), "{facts:?}");
    let source = LocalFile::open(&file).unwrap();
    assert_eq!(source.size(), 4096);
}

/// Others write the disk behind the device without this machine's cache hearing of it.
#[test]
fn a_device_source_is_not_read_from_the_cache() {
    let Some(_alone) = allowed("a_device_source_is_not_read_from_the_cache") else {
        return;
    };
    let old = vec![0x11; 2 * MIB];
    each_device(&old, |device, file, _| {
        // Held open, or closing the last descriptor would drop the cache.
        let mut cache = std::fs::File::open(&device.device).unwrap();
        let mut cached = Vec::new();
        std::io::Read::read_to_end(&mut cache, &mut cached).unwrap();
        assert!(cached == old);
        let behind = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&behind, &vec![0x22; MIB], 4096).unwrap();
        behind.sync_all().unwrap();
        let mut wanted = old.clone();
        wanted[4096..4096 + MIB].fill(0x22);
        let source = LocalFile::open(&device.device).unwrap();
        assert!(source.bypasses_cache(), "{}", device.name());
        let mut bytes = vec![0; 2 * MIB];
        carreto_block::LocalRead::read_local(&source, 0, &mut bytes).unwrap();
        assert!(bytes == wanted, "old bytes came from the cache");
        drop(cache);
    });
}

#[test]
fn a_device_that_is_written_while_it_is_read_has_another_stamp() {
    let Some(_alone) = allowed("a_device_that_is_written_while_it_is_read_has_another_stamp")
    else {
        return;
    };
    each_device(&vec![0x11; 2 * MIB], |device, _, _| {
        // Written before and not yet on the device: no change while it is read.
        let write = || {
            let node = std::fs::OpenOptions::new().write(true).open(&device.device).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&node, &[0x33; 8192], 8192).unwrap();
            node
        };
        let early = write();
        let source = LocalFile::open(&device.device).unwrap();
        let stamp = || runtime().block_on(source.stamp()).unwrap();
        let first = stamp();
        let mut bytes = vec![0; 2 * MIB];
        carreto_block::LocalRead::read_local(&source, 0, &mut bytes).unwrap();
        drop(early);
        assert_eq!(stamp(), first);
        assert!(bytes[8192..16384].iter().all(|byte| *byte == 0x33));
        write().sync_all().unwrap();
        assert_ne!(stamp(), first);
    });
}

#[test]
fn a_mounted_source_is_refused_unless_allowed_or_read_only() {
    let Some(_alone) = allowed("a_mounted_source_is_refused_unless_allowed_or_read_only") else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("disk");
    std::fs::write(&file, vec![0; 16 * MIB]).unwrap();
    let device = Loop::attach(&file, 512, &[]);
    run("mkfs.ext4", &["-q", device.name()]);
    let point = place.path().join("point");
    let mounted = Mounted::new(&[device.name()], &point);
    let error = LocalFile::open(&device.device).unwrap_err();
    assert_eq!(error.kind(), Kind::SourceChanged, "{error}");
    assert!(error.to_string().contains("for writing"), "{error}");
    assert!(error.remedy().contains(point.to_str().unwrap()), "{}", error.remedy());
    let mut options = LocalOptions::default();
    options.allow_in_use = true;
    LocalFile::open_with(&device.device, options).unwrap();
    drop(mounted);
    let _read_only = Mounted::new(&["-o", "ro", device.name()], &point);
    LocalFile::open(&device.device).unwrap();
}
