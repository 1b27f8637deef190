//! Local files as sources and targets: the suites, and what only files have.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests count bytes in usize, and their disks are small"
)]

mod local_support;

use carreto_block::{ByteRange, LocalRead as _, LocalWrite as _, Placement, Source, Target};
use carreto_error::Kind;
use carreto_store::{FileTarget, LocalFile, Obstacle, TargetKind, inspect_target, lock_file};
use carreto_testkit::{Rng, conformance, sparse_disk};
use local_support::{places, skip, write_sparse};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn files_of_every_size_are_sources() {
    for place in places() {
        for size in [0, 1, 511, 512, 513, 4095, 4097, 65_537, 3 * MIB + 17] {
            let path = place.path().join(format!("disk-{size}"));
            let bytes = sparse_disk(size, 7);
            write_sparse(&path, &bytes);
            conformance::source(&LocalFile::open(&path).unwrap(), &bytes).await;
        }
    }
}

#[tokio::test]
async fn a_huge_hole_is_one_extent() {
    for place in places() {
        let path = place.path().join("sparse");
        let file = std::fs::File::create_new(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        file.write_all_at(b"x", 1 << 39).unwrap();
        let source = LocalFile::open(&path).unwrap();
        let list = source.extents(ByteRange::whole(1 << 40), 100).await.unwrap();
        assert_eq!(list.len(), 3, "{list:?}");
        assert!(matches!(list[0].placement, Placement::Zero));
        assert!(matches!(list[1].placement, Placement::Opaque));
        assert!(list[1].range.start() <= 1 << 39 && list[1].range.end() > 1 << 39);
        assert!(list[1].range.len() <= 2 * MIB as u64, "{list:?}");
        assert!(matches!(list[2].placement, Placement::Zero));
        assert_eq!(list[2].range.end(), 1 << 40);
        let one = source.extents(ByteRange::whole(1 << 40), 1).await.unwrap();
        assert!(!one.is_empty() && one.len() <= 2);
    }
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_never_zeros() {
    for place in places() {
        let path = place.path().join("cut");
        write_sparse(&path, &vec![1; 2 * MIB]);
        let source = LocalFile::open(&path).unwrap();
        let stamp = source.stamp().await.unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(MIB as u64).unwrap();
        let mut buf = vec![0; 2 * MIB];
        let error = source.read_at(0, &mut buf).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Truncated);
        assert_eq!(error.nearest_offset(), Some(MIB as u64));
        let error = source.read_local(MIB as u64, &mut buf[..1]).unwrap_err();
        assert_eq!(error.kind(), Kind::Truncated);
        for start in [0, MIB as u64, 3 * MIB as u64 / 2] {
            assert_eq!(map_to_the_end(&source, start).await.kind(), Kind::Truncated);
        }
        assert_ne!(source.stamp().await.unwrap(), stamp);
    }
}

/// Maps from `start` on, sees no hole, and returns the error that must come before the end.
async fn map_to_the_end(source: &LocalFile, start: u64) -> carreto_error::Error {
    let mut at = start;
    loop {
        let rest = ByteRange::new(at, source.size()).unwrap();
        match source.extents(rest, 1).await {
            Ok(extents) => {
                let end = extents.last().unwrap();
                assert!(matches!(end.placement, Placement::Opaque), "{extents:?}");
                at = end.range.end();
                assert!(at < source.size(), "the cut was not noticed: {extents:?}");
            }
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn stamps_change_with_the_content() {
    for place in places() {
        let path = place.path().join("changing");
        write_sparse(&path, b"before");
        let source = LocalFile::open(&path).unwrap();
        let stamp = source.stamp().await.unwrap();
        assert_eq!(stamp, LocalFile::open(&path).unwrap().stamp().await.unwrap());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all_at(b"after!", 0).unwrap();
        assert_ne!(source.stamp().await.unwrap(), stamp);
        let link = place.path().join("link");
        symlink(&path, &link).unwrap();
        let same = LocalFile::open(&link).unwrap();
        assert_eq!(same.identity(), source.identity());
    }
}

#[test]
fn what_is_no_disk_is_refused_at_once() {
    let place = tempfile::tempdir().unwrap();
    let fifo = place.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    let socket = place.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = place.path().join("link");
    symlink(&fifo, &link).unwrap();
    let missing = place.path().join("missing");
    let cases = [
        (place.path(), Kind::Usage, Kind::Usage),
        (&fifo, Kind::Unsupported, Kind::Usage),
        (&link, Kind::Unsupported, Kind::Usage),
        (&socket, Kind::Unsupported, Kind::Usage),
        (Path::new("/dev/zero"), Kind::Unsupported, Kind::Usage),
        (&missing, Kind::NotFound, Kind::NotFound),
    ];
    for (path, as_source, as_target) in cases {
        let error = LocalFile::open(path).unwrap_err();
        assert_eq!(error.kind(), as_source, "{error}");
        assert_eq!(error.nearest_path(), path.to_str());
        assert_eq!(FileTarget::open_existing(path).unwrap_err().kind(), as_target);
    }
}

#[tokio::test]
async fn files_are_targets() {
    for place in places() {
        for (index, size) in [MIB, MIB + 1, 3 * MIB + 513].into_iter().enumerate() {
            let path = place.path().join(format!("new-{index}"));
            let target = FileTarget::create_new(&path, size as u64).unwrap();
            assert!(target.caps().known_zero && !target.caps().device);
            conformance::target(&target).await;
            drop(target);
            let target = FileTarget::open_existing(&path).unwrap();
            assert!(!target.caps().known_zero);
            assert_eq!(target.size(), size as u64);
            conformance::target(&target).await;
        }
    }
}

#[tokio::test]
async fn the_reader_is_a_source() {
    for place in places() {
        for size in [MIB, 2 * MIB + 4096, 2 * MIB + 777] {
            let bytes = sparse_disk(size, 21);
            let path = place.path().join(format!("disk-{size}"));
            let target = FileTarget::create_new(&path, size as u64).unwrap();
            for (index, block) in bytes.chunks(4096).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    target.write_local(index as u64 * 4096, block).unwrap();
                }
            }
            target.flush().await.unwrap();
            let reader = target.reader().await.unwrap();
            conformance::source(reader.as_ref(), &bytes).await;
            let list = reader.extents(ByteRange::whole(size as u64), 1000).await.unwrap();
            assert!(
                list.iter().any(|extent| matches!(extent.placement, Placement::Zero)),
                "holes cost nothing to verify: {list:?}"
            );
            assert!(std::fs::read(&path).unwrap() == bytes);
        }
    }
}

#[tokio::test]
async fn odd_reads_of_the_reader_are_right() {
    let mut rng = Rng::new(5);
    for place in places() {
        let size = 5 * MIB + 1234;
        let mut bytes = vec![0; size];
        rng.fill(&mut bytes);
        let target = FileTarget::create_new(place.path().join("disk"), size as u64).unwrap();
        target.write_local(0, &bytes).unwrap();
        target.flush().await.unwrap();
        let reader = target.reader().await.unwrap();
        let local = reader.as_local().unwrap();
        let mut buf = carreto_block::AlignedBuf::zeroed(4 * MIB).unwrap();
        for _ in 0..300 {
            let start = rng.below(3) as usize * rng.below(5000) as usize;
            let len = rng.below((4 * MIB - start) as u64) as usize;
            let mut offset = rng.below((size - len + 1) as u64) as usize;
            if rng.below(2) == 0 {
                offset &= !4095;
            }
            let piece = &mut buf[start..start + len];
            local.read_local(offset as u64, piece).unwrap();
            assert!(piece == &bytes[offset..offset + len], "{len} from {offset} at {start}");
        }
    }
}

#[test]
fn an_existing_name_is_not_overwritten() {
    for place in places() {
        let path = place.path().join("taken");
        std::fs::write(&path, b"precious").unwrap();
        let dangling = place.path().join("dangling");
        symlink(place.path().join("elsewhere"), &dangling).unwrap();
        for path in [&path, &dangling] {
            let error = FileTarget::create_new(path, 4096).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert!(!place.path().join("elsewhere").exists());
        let error = FileTarget::create_new(place.path().join("no/dir"), 4096).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        let error = FileTarget::create_new("/", 4096).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
}

#[test]
fn a_size_the_file_system_refuses_leaves_nothing() {
    let place = places().pop().unwrap();
    let path = place.path().join("big");
    let error = FileTarget::create_new(&path, u64::MAX >> 1).unwrap_err();
    assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn one_run_has_the_file() {
    for place in places() {
        let path = place.path().join("disk");
        let target = FileTarget::create_new(&path, MIB as u64).unwrap();
        let error = FileTarget::open_existing(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Locked, "{error}");
        let second = target.clone();
        drop(target);
        assert_eq!(FileTarget::open_existing(&path).unwrap_err().kind(), Kind::Locked);
        drop(second);
        FileTarget::open_existing(&path).unwrap();
    }
}

#[tokio::test]
async fn a_replaced_file_is_not_verified_in_its_place() {
    for place in places() {
        let path = place.path().join("disk");
        let target = FileTarget::create_new(&path, MIB as u64).unwrap();
        std::fs::rename(&path, place.path().join("moved")).unwrap();
        std::fs::write(&path, vec![0; MIB]).unwrap();
        let error = target.reader().await.unwrap_err();
        assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    }
}

#[tokio::test]
async fn zeroing_gives_space_back_and_keeps_the_size() {
    use std::os::unix::fs::MetadataExt as _;
    for place in places() {
        let path = place.path().join("disk");
        std::fs::write(&path, vec![7; 4 * MIB]).unwrap();
        let target = FileTarget::open_existing(&path).unwrap();
        target.flush().await.unwrap();
        let before = std::fs::metadata(&path).unwrap().blocks();
        let range = ByteRange::new(MIB as u64 + 5, 3 * MIB as u64 + 7).unwrap();
        target.write_zeroes(range).await.unwrap();
        target.discard(ByteRange::new(0, 4096).unwrap()).await.unwrap();
        target.flush().await.unwrap();
        let after = std::fs::metadata(&path).unwrap();
        if target.caps().fast_zero {
            assert!(after.blocks() < before, "{} of {before} blocks", after.blocks());
        } else {
            skip(&format!("freed space: no holes can be punched in {}", path.display()));
        }
        assert_eq!(after.len(), 4 * MIB as u64);
        let bytes = std::fs::read(&path).unwrap();
        let (start, end) = (range.start() as usize, range.end() as usize);
        assert!(bytes[4096..start].iter().all(|byte| *byte == 7));
        assert!(bytes[start..end].iter().all(|byte| *byte == 0));
        assert!(bytes[end..].iter().all(|byte| *byte == 7));
    }
}

/// What a dropped call leaves on its thread must not fall on what is written afterwards.
#[test]
fn dropped_calls_do_not_undo_later_ones() {
    for place in places() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let target = FileTarget::create_new(place.path().join("disk"), 8 * MIB as u64).unwrap();
        let whole = ByteRange::whole(8 * MIB as u64);
        runtime.block_on(async {
            for round in 1..25_u8 {
                let (old, data) = (vec![0xEE; 8 * MIB], vec![round; 8 * MIB]);
                let polls = usize::from(round % 3);
                conformance::poll_then_drop(target.flush(), polls);
                conformance::poll_then_drop(target.reader(), polls);
                conformance::poll_then_drop(target.write_at(0, &old), polls);
                conformance::poll_then_drop(target.discard(whole), polls);
                conformance::poll_then_drop(target.write_zeroes(whole), polls);
                if round % 2 == 0 {
                    target.write_local(0, &data).unwrap();
                } else {
                    target.write_at(0, &data).await.unwrap();
                }
                target.flush().await.unwrap();
                let reader = target.reader().await.unwrap();
                let mut back = vec![0; data.len()];
                reader.read_at(0, &mut back).await.unwrap();
                assert!(back == data, "round {round}");
            }
        });
        // Whatever was left has ended now.
        drop(runtime);
        assert!(std::fs::read(place.path().join("disk")).unwrap() == vec![24; 8 * MIB]);
    }
}

/// A run that is killed between creating its file and giving it its size.
#[test]
fn an_empty_file_counts_as_missing() {
    for place in places() {
        let path = place.path().join("disk");
        std::fs::write(&path, b"").unwrap();
        let facts = inspect_target(&path).unwrap();
        assert_eq!((facts.kind, facts.size), (TargetKind::Missing, 0));
        assert_eq!(facts.obstacles, []);
        let target = FileTarget::create_new(&path, MIB as u64).unwrap();
        assert!(target.caps().known_zero);
        assert_eq!(target.size(), MIB as u64);
        drop(target);
        assert_eq!(FileTarget::create_new(&path, 4096).unwrap_err().kind(), Kind::Usage);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), MIB as u64);
    }
    // A size that cannot be set leaves the file that was there.
    let place = places().pop().unwrap();
    let path = place.path().join("disk");
    std::fs::write(&path, b"").unwrap();
    let error = FileTarget::create_new(&path, u64::MAX >> 1).unwrap_err();
    assert_eq!(error.kind(), Kind::TargetUnusable, "{error}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn facts_of_files_and_of_what_is_none() {
    for place in places() {
        let path = place.path().join("disk");
        let facts = inspect_target(&path).unwrap();
        assert_eq!((facts.kind, facts.size), (TargetKind::Missing, 0));
        assert_eq!(facts.obstacles, []);
        assert!(facts.free.unwrap() > 0);
        let file = std::fs::File::create_new(&path).unwrap();
        file.set_len(8 * MIB as u64).unwrap();
        file.write_all_at(&[1; 4096], 4096).unwrap();
        file.sync_all().unwrap();
        let facts = inspect_target(&path).unwrap();
        assert_eq!((facts.kind, facts.size), (TargetKind::File, 8 * MIB as u64));
        assert_eq!(facts.obstacles, []);
        assert!((4096..MIB as u64).contains(&facts.allocated), "{facts:?}");
        let missing = place.path().join("no/disk");
        let directory = place.path().join("no").to_str().unwrap().to_owned();
        let facts = inspect_target(&missing).unwrap();
        assert_eq!(facts.obstacles, [Obstacle::NoDirectory { directory }]);
        let dangling = place.path().join("dangling");
        symlink(&missing, &dangling).unwrap();
        for (other, what) in [
            (dangling.as_path(), "a symbolic link to nothing"),
            (place.path(), "a directory"),
            (Path::new("/dev/null"), "a character device"),
        ] {
            let facts = inspect_target(other).unwrap();
            assert_eq!(facts.kind, TargetKind::Other);
            assert_eq!(facts.obstacles, [Obstacle::NotADisk { what }]);
            assert_eq!(facts.obstacles[0].kind(), Kind::Usage);
        }
    }
}

/// QEMU itself is the oracle of how it locks.
#[test]
fn a_file_that_qemu_uses_is_refused() {
    use std::io::{BufRead as _, Write as _};
    use std::process::{Command, Stdio};
    for place in places() {
        let path = place.path().join("disk");
        std::fs::write(&path, vec![7; MIB]).unwrap();
        for mode in ["-r", "-n"] {
            let mut command = Command::new("qemu-io");
            command.args(["-f", "raw", mode]).arg(&path);
            let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let Ok(mut qemu) = spawned else {
                skip("a_file_that_qemu_uses_is_refused: there is no qemu-io");
                return;
            };
            let mut commands = qemu.stdin.take().unwrap();
            commands.write_all(b"length\n").unwrap();
            let mut line = String::new();
            std::io::BufReader::new(qemu.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert!(line.contains("1 MiB"), "it has the file open: {line:?}");
            let error = FileTarget::open_existing(&path).unwrap_err();
            assert_eq!(error.kind(), Kind::TargetUnusable, "{mode}: {error}");
            assert!(error.to_string().contains("QEMU"), "{error}");
            drop(commands);
            qemu.wait().unwrap();
        }
        FileTarget::open_existing(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == vec![7; MIB]);
    }
}

#[test]
fn a_lock_file_has_one_owner() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("job.lock");
    let lock = lock_file(&path).unwrap();
    assert_eq!(lock_file(&path).unwrap_err().kind(), Kind::Locked);
    drop(lock);
    lock_file(&path).unwrap();
    let error = lock_file(place.path().join("no/job.lock")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}
