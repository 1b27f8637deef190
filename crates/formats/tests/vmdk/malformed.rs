//! Damaged images: the right kind, never a panic, never a byte that was not there.

use crate::build::{
    Hosted, Places, SECTOR, Stream, cowd, deflate, descriptor, hosted, sesparse, stream,
};
use crate::support::{MemFolder, open_alone, open_with};
use carreto_block::{OpenGate, SourceExt as _};
use carreto_error::{Kind, Result};
use carreto_formats::Limits;
use carreto_testkit::{Rng, sparse_disk};

const NONE: Option<Kind> = None;

/// What opening, checking and reading everything gives: the first failure.
async fn judge(bytes: Vec<u8>, gate: &OpenGate) -> Result<(usize, Vec<u8>)> {
    let image = open_with(bytes, gate).await?;
    let report = image.check(&Limits::default()).await?;
    let size = usize::try_from(image.size().min(16 << 20)).unwrap();
    let warnings = report.warnings.len() + image.info().warnings.len();
    Ok((warnings, image.read_vec(0, size).await?))
}

async fn kind_of(bytes: Vec<u8>) -> Option<Kind> {
    judge(bytes, &OpenGate::closed()).await.err().map(|error| error.kind())
}

fn patched(bytes: &[u8], at: usize, patch: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

fn small() -> (Vec<u8>, Places) {
    let disk = vec![0x5A; 3000 * SECTOR];
    hosted(&disk, &Hosted { grain: 8, ..Hosted::default() })
}

#[tokio::test]
async fn header_fields_of_a_hosted_extent() {
    let (good, _) = small();
    let sectors = (good.len() / SECTOR) as u64;
    let u64s: &[(usize, u64, Kind)] = &[
        (12, 0, Kind::Corrupt),
        (12, u64::MAX, Kind::Limit),
        (12, u64::MAX / 512, Kind::Limit),
        (12, 1 << 50, Kind::Limit),
        (20, 0, Kind::Corrupt),
        (20, 3, Kind::Corrupt),
        (20, u64::MAX, Kind::Corrupt),
        (20, 1 << 63, Kind::Corrupt),
        (20, 1 << 22, Kind::Corrupt),
        (28, 0, Kind::Corrupt),
        (28, u64::MAX, Kind::Corrupt),
        (28, sectors, Kind::Truncated),
        (36, 0, Kind::Corrupt),
        (36, 4096, Kind::Limit),
        (36, u64::MAX, Kind::Limit),
        (56, 0, Kind::Corrupt),
        (56, u64::MAX - 1, Kind::Corrupt),
        (56, u64::MAX / 512, Kind::Corrupt),
        (56, sectors, Kind::Truncated),
        (56, sectors + 10, Kind::Truncated),
        (56, 1, Kind::Corrupt),
        (64, u64::MAX, Kind::Corrupt),
        (64, sectors + 1, Kind::Truncated),
    ];
    for (at, value, wanted) in u64s {
        let bytes = patched(&good, *at, &value.to_le_bytes());
        assert_eq!(kind_of(bytes).await, Some(*wanted), "field {at} = {value}");
    }
    let u32s: &[(usize, u32, Kind)] = &[
        (4, 0, Kind::Unsupported),
        (4, 9, Kind::Unsupported),
        (44, 0, Kind::Corrupt),
        (44, 511, Kind::Corrupt),
        (44, u32::MAX, Kind::Corrupt),
        (44, 1024, Kind::Corrupt),
        (44, 256, Kind::Unsupported),
        (44, 1, Kind::Unsupported),
        (8, 0x10003, Kind::Corrupt),
    ];
    for (at, value, wanted) in u32s {
        let bytes = patched(&good, *at, &value.to_le_bytes());
        assert_eq!(kind_of(bytes).await, Some(*wanted), "field {at} = {value}");
    }
    assert_eq!(kind_of(patched(&good, 77, &[7, 0])).await, Some(Kind::Unsupported));
    assert_eq!(kind_of(patched(&good, 73, b"\n\n \r")).await, Some(Kind::Corrupt));
    assert_eq!(kind_of(patched(&good, 0, b"KDMX")).await, Some(Kind::Corrupt));
    // Odd, but readable.
    let longer = patched(&good, 36, &2000_u64.to_le_bytes());
    assert_eq!(kind_of(longer).await, NONE);
    assert_eq!(kind_of(patched(&good, 72, &[1])).await, NONE);
    assert_eq!(kind_of(patched(&good, 48, &u64::MAX.to_le_bytes())).await, NONE);
    for at in [0, 3, 4, 80, 511] {
        let wanted = if at < 4 { Kind::Corrupt } else { Kind::Truncated };
        assert_eq!(kind_of(good[..at].to_vec()).await, Some(wanted), "cut at {at}");
    }
    for at in [600, 20_000, good.len() / 2, good.len() - 1] {
        assert_eq!(kind_of(good[..at].to_vec()).await, Some(Kind::Truncated), "cut at {at}");
    }
}

#[tokio::test]
async fn directories_and_tables_of_a_hosted_extent() {
    let disk = vec![0x5A; 9000 * SECTOR];
    let how = Hosted { grain: 8, redundant: false, ..Hosted::default() };
    let (good, places) = hosted(&disk, &how);
    let past = u32::try_from(good.len() / SECTOR).unwrap();
    let sector = |at: usize| u32::try_from(at / SECTOR).unwrap();
    let entry: &[(u32, Kind)] = &[
        (past, Kind::Truncated),
        (u32::MAX, Kind::Truncated),
        (sector(places.directory), Kind::Corrupt),
        (sector(places.tables[1]), Kind::Corrupt),
        (1, Kind::Corrupt),
    ];
    for (value, wanted) in entry {
        let bytes = patched(&good, places.directory, &value.to_le_bytes());
        assert_eq!(kind_of(bytes).await, Some(*wanted), "directory entry {value}");
    }
    let grain: &[(u32, Kind)] = &[
        (1, Kind::Corrupt),
        (past, Kind::Truncated),
        (past - 4, Kind::Truncated),
        (u32::MAX, Kind::Truncated),
        (sector(places.directory), Kind::Corrupt),
        (sector(places.tables[1]) + 1, Kind::Corrupt),
        (sector(places.grains[9]) + 4, Kind::Corrupt),
        (sector(places.grains[0]) + 1, Kind::Corrupt),
    ];
    for (value, wanted) in grain {
        let bytes = patched(&good, places.tables[0] + 20, &value.to_le_bytes());
        assert_eq!(kind_of(bytes).await, Some(*wanted), "table entry {value}");
    }
    let shared = patched(&good, places.tables[0] + 20, &sector(places.grains[9]).to_le_bytes());
    let (warnings, _) = judge(shared, &OpenGate::closed()).await.unwrap();
    assert_eq!(warnings, 1, "a shared grain is readable");
}

/// Grains that begin anywhere, as in extents whose tables lie between them.
#[tokio::test]
async fn grains_that_overlap_in_part_are_refused_wherever_they_begin() {
    let disk = vec![0x5A; 200 * 128 * SECTOR];
    let how = Hosted { redundant: false, ..Hosted::default() };
    let (mut bytes, places) = hosted(&disk, &how);
    bytes.resize(bytes.len() + 1000 * SECTOR, 7);
    let mut put = |slot: usize, sector: usize| {
        let sector = u32::try_from(sector).unwrap();
        bytes[places.tables[0] + slot * 4..][..4].copy_from_slice(&sector.to_le_bytes());
        bytes.clone()
    };
    let end = places.grains[199] / SECTOR + 128;
    let apart = put(0, end + 1);
    assert_eq!(kind_of(apart).await, NONE, "behind all others");
    assert_eq!(kind_of(put(1, end + 2)).await, Some(Kind::Corrupt), "a sector further");
    assert_eq!(kind_of(put(1, end + 128)).await, Some(Kind::Corrupt), "the last sector");
    assert_eq!(kind_of(put(1, end + 129)).await, NONE, "the next grain");
}

#[tokio::test]
async fn grains_on_redundant_tables_are_refused() {
    let disk = vec![0x5A; 9000 * SECTOR];
    let (mut bytes, places) = hosted(&disk, &Hosted { grain: 8, ..Hosted::default() });
    let copy = places.tables[1] - places.directory + places.redundant;
    let sector = u32::try_from(copy / SECTOR).unwrap().to_le_bytes();
    for at in [places.tables[0], places.tables[0] - places.directory + places.redundant] {
        bytes[at..at + 4].copy_from_slice(&sector);
    }
    assert_eq!(kind_of(bytes).await, Some(Kind::Corrupt));
}

/// A small file whose disk decodes from one grain.
#[tokio::test]
async fn many_entries_for_one_grain_are_a_bomb() {
    let mut disk = vec![0; 2000 * 4096];
    disk[0] = 1;
    let (mut bytes, places) =
        hosted(&disk, &Hosted { grain: 8, redundant: false, ..Hosted::default() });
    for grain in 0..disk.len() / 4096 {
        let first = places.tables[0];
        bytes.copy_within(first..first + 4, places.tables[grain / 512] + grain % 512 * 4);
    }
    assert_eq!(kind_of(bytes).await, Some(Kind::Limit));
    let disk = vec![0xA5; 3 * 65536];
    let (mut bytes, places) = stream(&disk, Stream::Front, "", true);
    bytes.copy_within(places.tables[0]..places.tables[0] + 4, places.tables[0] + 4);
    assert_eq!(kind_of(bytes).await, Some(Kind::Corrupt), "a marker names one address");
}

/// In a large stream the last grain is checked and the rest is said not to be.
#[tokio::test]
async fn large_streams_are_checked_at_their_end() {
    let disk = sparse_disk(5000 * SECTOR, 2);
    let (mut bytes, places) = stream(&disk, Stream::FrontRedundant, "", true);
    bytes.resize(65 << 20, 0);
    let codes = async |bytes| {
        let image = open_alone(bytes).await?;
        let report = image.check(&Limits::default()).await?;
        Ok(report.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>())
    };
    let found: Result<Vec<&str>> = codes(bytes.clone()).await;
    assert_eq!(found.unwrap(), ["markers_not_checked"]);
    let last = *places.grains.iter().max().unwrap();
    let found: Result<Vec<&str>> = codes(patched(&bytes, last, &[9; 8])).await;
    assert_eq!(found.unwrap_err().kind(), Kind::Corrupt);
}

#[tokio::test]
async fn streams() {
    let disk = sparse_disk(5000 * SECTOR, 2);
    for layout in Stream::ALL {
        let (good, places) = stream(&disk, layout, "", true);
        let at = places.grains[1];
        let garbage: Vec<u8> = (0..200_u8).map(|n| n.wrapping_mul(37) ^ 0x55).collect();
        let cases: Vec<(&str, Vec<u8>, Kind)> = vec![
            ("lba", patched(&good, at, &9_u64.to_le_bytes()), Kind::Corrupt),
            ("size 0", patched(&good, at + 8, &[0; 4]), Kind::Corrupt),
            ("size huge", patched(&good, at + 8, &0x7fff_ffff_u32.to_le_bytes()), Kind::Corrupt),
            ("size max", patched(&good, at + 8, &[0xff; 4]), Kind::Corrupt),
            ("size short", patched(&good, at + 8, &[7, 0, 0, 0]), Kind::Corrupt),
            ("garbage", patched(&good, at + 12, &garbage[..20]), Kind::Corrupt),
        ];
        for (what, bytes, wanted) in cases {
            assert_eq!(kind_of(bytes).await, Some(wanted), "{layout:?}: {what}");
        }
        let last = *places.grains.iter().max().unwrap();
        let cut = good[..last + 100].to_vec();
        assert_eq!(kind_of(cut).await, Some(Kind::Truncated), "{layout:?}: cut");
    }
}

#[tokio::test]
async fn grains_that_decode_to_another_size() {
    let disk = vec![0xA5; 3 * 65536];
    let (good, places) = stream(&disk, Stream::Front, "", true);
    let at = places.grains[2];
    for (len, wanted) in [
        (65536, NONE),
        (65535, Some(Kind::Corrupt)),
        (65537, Some(Kind::Corrupt)),
        (40_000_000, Some(Kind::Corrupt)),
        (0, Some(Kind::Corrupt)),
    ] {
        let packed = deflate(&vec![0xA5; len]);
        let mut bytes = good[..at + 8].to_vec();
        bytes.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&packed);
        bytes.resize(bytes.len().next_multiple_of(512) + 512, 0);
        assert_eq!(kind_of(bytes).await, wanted, "{len}");
    }
}

/// A stream whose directory is at the end.
#[tokio::test]
async fn footers() {
    let disk = sparse_disk(5000 * SECTOR, 2);
    let (good, places) = stream(&disk, Stream::Footer, "", true);
    let footer = good.len() - 1024;
    let read = async |bytes| judge(bytes, &OpenGate::closed()).await;
    let mut padded = good.clone();
    padded.resize(good.len() + 70_000, 0);
    assert!(read(padded).await.unwrap().1 == disk, "zeros behind the end");
    let mut tailed = good.clone();
    tailed.extend_from_slice(b"appended by somebody");
    assert!(read(tailed).await.unwrap().1 == disk, "bytes behind the end");
    // Without a footer the directory's own marker is found.
    let (warnings, content) = read(good[..footer - 512].to_vec()).await.unwrap();
    assert!(content == disk && warnings == 1, "no footer");
    // Without both the stream is an interrupted one, however it is padded.
    let cut = good[..places.directory - 512].to_vec();
    assert_eq!(kind_of(cut.clone()).await, Some(Kind::Truncated));
    let mut zeros = cut;
    zeros.resize(good.len(), 0);
    assert_eq!(kind_of(zeros).await, Some(Kind::Truncated));
    let other = patched(&good, footer + 12, &4999_u64.to_le_bytes());
    assert_eq!(kind_of(other).await, Some(Kind::Corrupt), "another capacity");
    let nowhere = patched(&good, footer + 56, &[0xff; 8]);
    assert_eq!(kind_of(nowhere).await, Some(Kind::Corrupt), "no place in the footer");
    // With the directory in the header too, both must agree.
    let (both, places) = stream(&disk, Stream::HeaderAndFooter, "", true);
    let footer = both.len() - 1024;
    let other = patched(&both, footer + 12, &4999_u64.to_le_bytes());
    assert_eq!(kind_of(other).await, Some(Kind::Corrupt), "another capacity in the footer");
    let sector = (places.directory / SECTOR - 1) as u64;
    let other = patched(&both, footer + 56, &sector.to_le_bytes());
    assert_eq!(kind_of(other).await, Some(Kind::Corrupt), "another directory in the footer");
    let (front, _) = stream(&disk, Stream::Front, "", true);
    let lost = patched(&front, 56, &[0xff; 8]);
    assert_eq!(kind_of(lost).await, Some(Kind::Truncated), "no directory at the end");
}

#[tokio::test]
async fn cowd_and_se_sparse_headers() {
    let disk = sparse_disk(5000 * SECTOR, 2);
    let whole: fn(usize) -> bool = |_| false;
    let cow = cowd(&disk, 4, true, whole);
    let se = sesparse(&disk, whole);
    let cases: &[(&[u8], usize, u64, Kind)] = &[
        (&cow, 4, 2, Kind::Unsupported),
        (&cow, 12, 0, Kind::Corrupt),
        (&cow, 12, 0xffff_ffff, Kind::Corrupt),
        (&cow, 16, 0, Kind::Corrupt),
        (&cow, 16, 3, Kind::Corrupt),
        (&cow, 16, 0xffff_ffff, Kind::Corrupt),
        (&cow, 20, 0, Kind::Corrupt),
        (&cow, 20, 0xffff_ffff, Kind::Truncated),
        (&cow, 24, 0, Kind::Corrupt),
        (&cow, 2048, 0xffff_ffff, Kind::Truncated),
        (&cow, 2048, 1, Kind::Corrupt),
        (&cow, 2048, 4, Kind::Corrupt),
        (&cow, 2560, 0xffff_ffff, Kind::Truncated),
        (&cow, 2560, 5, Kind::Corrupt),
        (&se, 8, 1, Kind::Unsupported),
        (&se, 16, 0, Kind::Corrupt),
        (&se, 16, u64::MAX, Kind::Limit),
        (&se, 24, 16, Kind::Unsupported),
        (&se, 32, 0, Kind::Unsupported),
        (&se, 40, 1, Kind::Unsupported),
        (&se, 80, 0, Kind::Corrupt),
        (&se, 80, u64::MAX, Kind::Corrupt),
        (&se, 80, 1 << 40, Kind::Truncated),
        (&se, 128, 0, Kind::Corrupt),
        (&se, 128, 1 << 40, Kind::Truncated),
        (&se, 136, 0, Kind::Corrupt),
        (&se, 144, 0, Kind::Corrupt),
        (&se, 152, 0, Kind::Corrupt),
        (&se, 192, u64::MAX / 512, Kind::Corrupt),
        (&se, 192, 1, Kind::Corrupt),
        (&se, 88, 1 << 30, Kind::Corrupt),
        (&se, 120, 1 << 30, Kind::Corrupt),
        (&se, 200, 0, Kind::Corrupt),
        (&se, 512, 0, Kind::Corrupt),
        (&se, 512 + 24, 1, Kind::Unsupported),
        (&se, 2048, 0x2000_0000_0000_0001, Kind::Corrupt),
        (&se, 2048, 0x1000_0000_0000_0009, Kind::Corrupt),
    ];
    for (good, at, value, wanted) in cases {
        let hosted = good.starts_with(b"COWD");
        let width = if hosted { 4 } else { 8 };
        let bytes = patched(good, *at, &value.to_le_bytes()[..width]);
        let folder = MemFolder::new([("x", bytes)]);
        let text = descriptor("vmfsSparse", None, &["RW 5000 SPARSE \"x\"".into()]);
        let error = judge(text.into_bytes(), &folder.gate()).await;
        let error = error.err().unwrap_or_else(|| panic!("field {at} = {value:#x} passed"));
        assert_eq!(error.kind(), *wanted, "field {at} = {value:#x}: {error:?}");
    }
}

#[tokio::test]
async fn descriptors() {
    let flat = vec![1; 10 * SECTOR];
    let folder = MemFolder::new([("a.vmdk", flat)]);
    let text = |extent: &str| descriptor("monolithicFlat", None, &[extent.to_owned()]);
    let cases = [
        ("RW 10 FLAT \"a.vmdk\" 0", NONE),
        ("RW 11 FLAT \"a.vmdk\" 0", Some(Kind::Truncated)),
        ("RW 10 FLAT \"a.vmdk\" 1", Some(Kind::Truncated)),
        ("RW 10 FLAT \"a.vmdk\" 18446744073709551615", Some(Kind::Corrupt)),
        ("RW 18446744073709551615 FLAT \"a.vmdk\" 0", Some(Kind::Limit)),
        ("RW 10 SPARSE \"a.vmdk\"", Some(Kind::Corrupt)),
        ("RW 10 FLAT \"b.vmdk\" 0", Some(Kind::NotFound)),
        ("RW 10 FLAT \"/etc/passwd\" 0", Some(Kind::Unsafe)),
        ("RW 10 FLAT \"../a.vmdk\" 0", Some(Kind::Unsafe)),
        ("RW 10 FLAT \"sub/a.vmdk\" 0", Some(Kind::Unsafe)),
        ("RW 10 FLAT \"\\\\.\\PhysicalDrive0\" 0", Some(Kind::Unsafe)),
        ("RW 10 FLAT \"json:{}\" 0", Some(Kind::Unsafe)),
        ("RW 10 FLAT \"http:a\" 0", Some(Kind::Unsafe)),
        ("RW 10 FLAT \"\" 0", Some(Kind::Unsafe)),
        ("NOACCESS 10 FLAT \"a.vmdk\" 0", Some(Kind::Unsupported)),
        ("RW 10 VMFSRDM \"a.vmdk\"", Some(Kind::Unsupported)),
        ("RW 10 NEWTYPE \"a.vmdk\"", Some(Kind::Unsupported)),
        ("RX 10 FLAT \"a.vmdk\" 0", Some(Kind::Corrupt)),
        ("", Some(Kind::Corrupt)),
    ];
    for (extent, wanted) in cases {
        let found = judge(text(extent).into_bytes(), &folder.gate()).await;
        assert_eq!(found.err().map(|error| error.kind()), wanted, "{extent}");
    }
    let asked = folder.asked.lock().unwrap().clone();
    assert!(asked.iter().all(|name| name == "a.vmdk" || name == "b.vmdk"), "{asked:?}");
    let good = text("RW 10 FLAT \"a.vmdk\" 0");
    for (from, to, wanted) in [
        ("monolithicFlat", "fullDevice", Kind::Unsupported),
        ("monolithicFlat", "partitionedDevice", Kind::Unsupported),
        ("monolithicFlat", "custom", Kind::Unsupported),
        ("monolithicFlat", "vmfsRawDeviceMap", Kind::Unsupported),
        ("monolithicFlat", "no-such-type", Kind::Unsupported),
        ("#DDB", "encryption.keySafe = \"vmware:key\"", Kind::Encrypted),
        ("parentCID=ffffffff", "parentCID=12345678", Kind::Unsafe),
    ] {
        assert!(good.contains(from));
        let found = judge(good.replace(from, to).into_bytes(), &folder.gate()).await;
        assert_eq!(found.unwrap_err().kind(), wanted, "{to}");
    }
    let many = (0..5000).map(|n| format!("RW 1 FLAT \"{n}\" 0")).collect::<Vec<_>>();
    let many = descriptor("monolithicFlat", None, &many);
    assert_eq!(kind_of(many.into_bytes()).await, Some(Kind::Limit));
}

/// An image that names itself as extent or parent ends, whatever the gate allows.
#[tokio::test]
async fn cycles_end() {
    let own = descriptor("monolithicFlat", Some((crate::build::CID, "top")), &["RW 1 ZERO".into()]);
    let folder = MemFolder::new([("top", own.clone().into_bytes())]);
    let error = judge(own.into_bytes(), &folder.gate()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsafe, "{error:?}");
    let own = descriptor("monolithicSparse", None, &["RW 1 SPARSE \"top\"".into()]);
    let folder = MemFolder::new([("top", own.clone().into_bytes())]);
    let error = judge(own.into_bytes(), &folder.gate()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
}

/// Damages a few bytes, mostly of the metadata.
fn damaged(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(3) {
        let metadata = bytes.len().min(24_000) as u64;
        let at = match rng.below(4) {
            0 => rng.below(80),
            1 => rng.below(bytes.len() as u64),
            _ => rng.below(metadata),
        };
        let value = [0, 1, 0x7f, 0xff, (rng.next_u64() & 0xff) as u8];
        bytes[usize::try_from(at).unwrap()] = value[usize::try_from(rng.below(5)).unwrap()];
    }
    if rng.below(4) == 0 {
        bytes.truncate(usize::try_from(rng.below(bytes.len() as u64)).unwrap());
    }
    bytes
}

/// Random damage never panics, and what passes the check is read without an error of the
/// metadata. In streams, where marker and checksum guard every grain, a grain is what it was or, if
/// its table entry was lost, nothing.
#[tokio::test]
async fn random_damage_is_survived() {
    let disk = sparse_disk(300 * SECTOR, 8);
    let hosted_small = hosted(&disk, &Hosted { grain: 8, ..Hosted::default() }).0;
    let seeds = [
        (hosted_small, false),
        (stream(&disk, Stream::Footer, "", false).0, true),
        (stream(&disk, Stream::FrontRedundant, "", true).0, true),
        (cowd(&disk, 1, true, |_| false), false),
    ];
    let mut rng = Rng::new(77);
    let mut readable = 0;
    for round in 0..1200 {
        let (seed, packed) = &seeds[round % seeds.len()];
        let image = match open_alone(damaged(seed, &mut rng)).await {
            Ok(image) => image,
            Err(error) => {
                assert!(!matches!(error.kind(), Kind::Internal | Kind::Usage), "{error:?}");
                continue;
            }
        };
        let checked = image.check(&Limits::default()).await.is_ok();
        let mut buf = vec![0; usize::try_from(image.size().min(16 << 20)).unwrap()];
        match image.read_at(0, &mut buf).await {
            Ok(()) => {
                readable += 1;
                for (found, wanted) in
                    buf.chunks(65_536).zip(disk.chunks(65_536)).filter(|_| *packed)
                {
                    let len = found.len().min(wanted.len());
                    let lost = found.iter().all(|byte| *byte == 0);
                    assert!(lost || found[..len] == wanted[..len], "round {round}: made up bytes");
                }
            }
            Err(error) => {
                assert!(matches!(error.kind(), Kind::Corrupt | Kind::Truncated), "{error:?}");
                // Compressed bytes themselves are not looked at by the check.
                let payload = *packed && error.operation() == Some("decode zlib data");
                assert!(!checked || payload, "round {round}: passed, but {error:?}");
            }
        }
    }
    assert!(readable > 200, "only {readable} readable: the damage is too coarse");
}
