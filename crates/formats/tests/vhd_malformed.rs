//! Malformed VHDs: every field at its limits, tables and blocks in impossible places, cut files,
//! and random damage. None panics, and what passes the check can be read to the end.
#![expect(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    reason = "numbers are small; a failed expectation of a test is a panic"
)]

mod vhd_support;

use carreto_block::{ByteRange, OpenGate, Source, SourceExt as _};
use carreto_error::{Kind, Result};
use carreto_formats::{Image, Limits, OpenOptions, open};
use carreto_testkit::{Fault, FaultySource, MemSource, Rng, sparse_disk};
use std::sync::Arc;
use vhd_support::source;
use vhd_support::{DIFFERENCING, DYNAMIC, Disks, FIXED, Spec, put, put_footers, reseal, seal};

const HEADER: usize = 512;
const TABLE: usize = 1536;
const SIZE: u64 = 8 << 20;

async fn outcome(file: Vec<u8>) -> Result<Vec<&'static str>> {
    open_and_check(file, &OpenOptions::default()).await
}

async fn open_and_check(file: Vec<u8>, options: &OpenOptions) -> Result<Vec<&'static str>> {
    let file = source("/disks/a.vhd", file);
    let image = open(file, options, &OpenGate::closed()).await?;
    let report = image.check(&Limits::default()).await?;
    let warnings = image.info().warnings.iter().chain(&report.warnings);
    Ok(warnings.map(|warning| warning.code).collect())
}

fn dynamic() -> Vec<u8> {
    let mut disk = sparse_disk(usize::try_from(SIZE).expect("small"), 1);
    for block in disk.chunks_mut(2 << 20) {
        block[0] = 1;
    }
    Spec::new(DYNAMIC, SIZE).build(&disk, &[])
}

async fn refused(what: &str, file: Vec<u8>, wanted: Kind) {
    let error = outcome(file).await.expect_err(what);
    assert_eq!(error.kind(), wanted, "{what}: {error}");
}

#[tokio::test]
async fn every_footer_field_is_checked() {
    let zero = 0_u64.to_be_bytes();
    let cases: [(&str, usize, &[u8], Kind); 17] = [
        ("version", 12, &[0, 2, 0, 0], Kind::Unsupported),
        ("data offset 0", 16, &zero, Kind::Corrupt),
        ("data offset odd", 16, &700_u64.to_be_bytes(), Kind::Corrupt),
        ("data offset elsewhere", 16, &1024_u64.to_be_bytes(), Kind::Corrupt),
        ("data offset past end", 16, &(1_u64 << 40).to_be_bytes(), Kind::Truncated),
        ("data offset overflow", 16, &u64::MAX.to_be_bytes(), Kind::Corrupt),
        ("type 0", 60, &[0; 4], Kind::Unsupported),
        ("type 1", 60, &1_u32.to_be_bytes(), Kind::Unsupported),
        ("type 2", 60, &2_u32.to_be_bytes(), Kind::Corrupt),
        ("type 4", 60, &4_u32.to_be_bytes(), Kind::Unsafe),
        ("type 5", 60, &5_u32.to_be_bytes(), Kind::Unsupported),
        ("type 6", 60, &6_u32.to_be_bytes(), Kind::Unsupported),
        ("type max", 60, &[0xFF; 4], Kind::Unsupported),
        ("size 0", 48, &zero, Kind::Corrupt),
        ("size max", 48, &u64::MAX.to_be_bytes(), Kind::Limit),
        ("size above the bound", 48, &(5_u64 << 50).to_be_bytes(), Kind::Limit),
        ("size above the table", 48, &(1_u64 << 41).to_be_bytes(), Kind::Corrupt),
    ];
    for (what, at, value, wanted) in cases {
        let mut file = dynamic();
        put_footers(&mut file, at, value);
        reseal(&mut file);
        refused(what, file, wanted).await;
    }
}

#[tokio::test]
async fn every_header_field_is_checked() {
    let entries = |count: u32| count.to_be_bytes();
    let cases: [(&str, usize, &[u8], Kind); 20] = [
        ("cookie", 0, b"cxsparsf", Kind::Corrupt),
        ("version", 24, &[0, 2, 0, 0], Kind::Unsupported),
        ("table at 0", 16, &[0; 8], Kind::Corrupt),
        ("table on the header", 16, &1024_u64.to_be_bytes(), Kind::Corrupt),
        ("table odd", 16, &1600_u64.to_be_bytes(), Kind::Corrupt),
        ("table past end", 16, &(1_u64 << 40).to_be_bytes(), Kind::Truncated),
        ("table overflow", 16, &(u64::MAX - 3).to_be_bytes(), Kind::Corrupt),
        ("no entries", 28, &entries(0), Kind::Corrupt),
        ("too few entries", 28, &entries(3), Kind::Corrupt),
        ("too many entries for the file", 28, &entries(8_000_000), Kind::Truncated),
        ("too many entries", 28, &entries(u32::MAX), Kind::Limit),
        ("block size 0", 32, &[0; 4], Kind::Corrupt),
        ("block size 1", 32, &entries(1), Kind::Corrupt),
        ("block size 256", 32, &entries(256), Kind::Corrupt),
        ("block size 1536", 32, &entries(1536), Kind::Corrupt),
        ("block size 3 MiB", 32, &entries(3 << 20), Kind::Corrupt),
        ("block size max", 32, &entries(u32::MAX), Kind::Corrupt),
        ("block size 2 GiB", 32, &entries(1 << 31), Kind::Limit),
        ("block size too small for the table", 32, &entries(1 << 20), Kind::Corrupt),
        ("block size too large for the file", 32, &entries(4 << 20), Kind::Truncated),
    ];
    for (what, at, value, wanted) in cases {
        let mut file = dynamic();
        put(&mut file, HEADER + at, value);
        seal(&mut file[HEADER..TABLE], 36);
        refused(what, file, wanted).await;
    }
}

#[tokio::test]
async fn wrong_checksums_are_refused_unless_told_to_ignore_them() {
    let ignore = OpenOptions { ignore_checksum: true, ..OpenOptions::default() };
    for at in [64, 36, 45, 90, 500] {
        let mut file = dynamic();
        let flipped = [file[at] ^ 0x40];
        put_footers(&mut file, at, &flipped);
        refused("both footers", file.clone(), Kind::Corrupt).await;
        assert!(open_and_check(file, &ignore).await.is_ok_and(|codes| codes == ["wrong_checksum"]));
    }
    for at in [36, 12, 1000] {
        let mut file = dynamic();
        file[HEADER + at] ^= 0x40;
        refused("header", file.clone(), Kind::Corrupt).await;
        assert!(open_and_check(file, &ignore).await.is_ok_and(|codes| codes == ["wrong_checksum"]));
    }
}

fn entry(file: &[u8], index: usize) -> u32 {
    let bytes = &file[TABLE + index * 4..][..4];
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

#[tokio::test]
async fn blocks_in_impossible_places_are_refused() {
    let good = dynamic();
    assert_eq!(outcome(good.clone()).await.expect("good"), [""; 0]);
    let first = (0..4).min_by_key(|index| entry(&good, *index)).expect("four");
    let last = (0..4).max_by_key(|index| entry(&good, *index)).expect("four");
    let cases = [
        ("on the copy of the footer", first, 0, Kind::Corrupt),
        ("on the header", first, 1, Kind::Corrupt),
        ("on the table", first, 3, Kind::Corrupt),
        ("on the next block", first, entry(&good, first) + 1, Kind::Corrupt),
        ("on the block before", last, entry(&good, last) - 9, Kind::Corrupt),
        ("on the footer", last, entry(&good, last) + 1, Kind::Truncated),
        ("past the end", last, 1 << 20, Kind::Truncated),
        ("far past the end", last, u32::MAX - 1, Kind::Truncated),
    ];
    for (what, index, sector, wanted) in cases {
        let mut file = good.clone();
        put(&mut file, TABLE + index * 4, &sector.to_be_bytes());
        refused(what, file, wanted).await;
    }
    let mut file = good.clone();
    let shared = entry(&good, last).to_be_bytes();
    put(&mut file, TABLE + first * 4, &shared);
    assert_eq!(outcome(file).await.expect("readable"), ["shared_block"]);
}

#[tokio::test]
async fn a_block_past_the_end_is_an_error_of_the_image_also_without_a_check() {
    let mut file = dynamic();
    put(&mut file, TABLE, &(1_u32 << 24).to_be_bytes());
    let file = source("/disks/a.vhd", file);
    let image = open(file, &OpenOptions::default(), &OpenGate::closed()).await;
    let error = image.expect("the headers are good").read_vec(0, 512).await;
    assert_eq!(error.expect_err("no such bytes").kind(), Kind::Truncated);
}

#[tokio::test]
async fn cut_files_are_truncated() {
    let good = dynamic();
    for len in [0, 100, 511, 512, 1535, 1536, 4096, good.len() / 2, good.len() - 512] {
        refused(&format!("{len} bytes"), good[..len].to_vec(), Kind::Truncated).await;
    }
    let disk = sparse_disk(1 << 20, 2);
    let fixed = Spec::new(FIXED, 1 << 20).build(&disk, &[]);
    for len in [0, 512, 4096, 1 << 19, 1 << 20] {
        refused(&format!("fixed, {len} bytes"), fixed[..len].to_vec(), Kind::Truncated).await;
    }
    let mut short = fixed;
    short.drain(4096..8192);
    refused("fixed without its middle", short, Kind::Truncated).await;
}

#[tokio::test]
async fn both_signatures_gone_is_damage() {
    let mut file = dynamic();
    put_footers(&mut file, 0, &[0; 8]);
    refused("no signature", file, Kind::Corrupt).await;
}

/// The start of a fixed disk is the guest's, who can write a footer there.
#[tokio::test]
async fn a_footer_in_the_guests_hands_does_not_stand_in_for_a_damaged_one() {
    let size = 1 << 20;
    let mut disk = sparse_disk(1 << 20, 2);
    for kind in [FIXED, DYNAMIC] {
        let mut forged = Spec::new(kind, 512 << 10);
        forged.unique_id = [9; 16];
        put(&mut disk, 0, &forged.footer());
        let mut file = Spec::new(FIXED, size).build(&disk, &[]);
        let tail = file.len() - 512;
        file[tail + 100] ^= 1;
        let error = outcome(file.clone()).await.expect_err("damaged");
        assert!(matches!(error.kind(), Kind::Corrupt | Kind::Truncated), "{error}");
        file[tail..].fill(0);
        refused("no footer at all", file, Kind::Truncated).await;
    }
    let mut twin = dynamic();
    let tail = twin.len() - 512;
    twin[tail + 70] ^= 1;
    refused("a sparse disk with another id", twin, Kind::Corrupt).await;
}

/// Fields for the parent mean nothing where there is none.
#[tokio::test]
async fn locators_of_a_disk_without_a_parent_are_not_looked_at() {
    let mut file = dynamic();
    put(&mut file, HEADER + 576, b"W2ru");
    put(&mut file, HEADER + 584, &64_u32.to_be_bytes());
    put(&mut file, HEADER + 592, &u64::MAX.to_be_bytes());
    reseal(&mut file);
    assert_eq!(outcome(file).await.expect("good"), [""; 0]);
}

#[tokio::test]
async fn locators_are_bounded_and_inside_the_file() {
    let base = Spec::new(FIXED, SIZE);
    let child = Spec::new(DIFFERENCING, SIZE).child_of(&base, "base.vhd");
    let disk = vec![0; usize::try_from(SIZE).expect("small")];
    let cases: [(&str, usize, &[u8], Kind); 3] = [
        ("past the end", 16, &(1_u64 << 40).to_be_bytes(), Kind::Truncated),
        ("overflow", 16, &u64::MAX.to_be_bytes(), Kind::Corrupt),
        ("too long", 8, &[0xFF; 4], Kind::Limit),
    ];
    for (what, at, value, wanted) in cases {
        let mut file = child.build(&disk, &[]);
        put(&mut file, HEADER + 576 + at, value);
        reseal(&mut file);
        refused(what, file, wanted).await;
    }
}

/// A disk of 2040 GiB, the largest that the specification has, with `entry` for every block.
fn huge(entry: u32) -> Vec<u8> {
    let size = 2040_u64 << 30;
    let spec = Spec::new(DYNAMIC, size);
    let blocks = usize::try_from(size >> 21).expect("a million");
    let mut file = Spec::new(DYNAMIC, 2 << 20).build(&vec![1; 2 << 20], &[]);
    let block = file[2048..2048 + 512 + (2 << 20)].to_vec();
    file.truncate(TABLE);
    put(&mut file, 0, &spec.footer());
    let count = u32::try_from(blocks).expect("a million");
    put(&mut file, HEADER + 28, &count.to_be_bytes());
    seal(&mut file[HEADER..TABLE], 36);
    file.extend(entry.to_be_bytes().repeat(blocks));
    file.resize(file.len().next_multiple_of(512), 0);
    file.extend(block);
    file.extend(spec.footer());
    file
}

/// The table of the largest disk is 4 MiB: it is read in pieces, and nothing else is.
#[tokio::test]
async fn the_largest_disk_is_checked_and_mapped_with_few_reads() {
    let count = Fault::never();
    let file: Arc<dyn Source> = Arc::new(MemSource::new("/disks/a.vhd", huge(u32::MAX)));
    let counted = Arc::new(FaultySource::new(file, count.clone()));
    let image = open(counted, &OpenOptions::default(), &OpenGate::closed()).await.expect("open");
    let report = image.check(&Limits::default()).await.expect("check");
    assert_eq!(report.allocated_size, Some(0));
    let map = image.extents(ByteRange::whole(image.size()), 5).await.expect("extents");
    assert_eq!(map.len(), 1);
    assert!(count.operations() < 60, "{} reads for 16 pieces", count.operations());
}

/// 2 TiB out of one block of 2 MiB.
#[tokio::test]
async fn many_entries_for_one_block_are_a_bomb() {
    let entry = u32::try_from((TABLE + 1_044_480 * 4) / 512).expect("a sector");
    let image = opened(huge(entry)).await;
    let error = image.check(&Limits::default()).await.expect_err("a bomb");
    assert_eq!(error.kind(), Kind::Limit, "{error}");
    assert_eq!(image.read_vec(1 << 40, 512).await.expect("read"), [1; 512]);
}

#[tokio::test]
async fn a_check_without_memory_says_that_it_did_not_look_for_overlaps() {
    let limits = Limits { max_check_memory: 8, ..Limits::default() };
    let report = opened(dynamic()).await.check(&limits).await.expect("check");
    assert_eq!(report.warnings[0].code, "overlaps_not_checked");
}

async fn opened(file: Vec<u8>) -> Arc<dyn Image> {
    let file = Arc::new(MemSource::new("/disks/a.vhd", file));
    open(file, &OpenOptions::default(), &OpenGate::closed()).await.expect("open")
}

/// Damages a few bytes of the metadata and makes the checksums right again, most of the time.
fn damaged(good: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut file = good.to_vec();
    for _ in 0..=rng.below(4) {
        let in_tail = rng.below(3) == 0;
        let at = if in_tail {
            file.len() - 1 - rng.below(512) as usize
        } else {
            rng.below(2400.min(file.len() as u64)) as usize
        };
        file[at] = [0, 1, 0x7F, 0x80, 0xFF, rng.next_u64() as u8][rng.below(6) as usize];
    }
    match rng.below(8) {
        0 => {}
        1 => file.truncate(512 + rng.below(file.len() as u64 - 512) as usize),
        2 => {
            let footer = file[..512].to_vec();
            let tail = file.len() - 512;
            put(&mut file, tail, &footer);
            reseal(&mut file);
        }
        _ => reseal(&mut file),
    }
    file
}

#[tokio::test]
async fn random_damage_never_panics_and_what_passes_the_check_is_readable() {
    let base = sparse_disk(60_416, 1);
    let top = sparse_disk(60_416, 2);
    let dynamic = Spec::new(DYNAMIC, 60_416).block_size(4096);
    let child = Spec::new(DIFFERENCING, 60_416).block_size(4096).child_of(&dynamic, "base.vhd");
    let fixed = Spec::new(FIXED, 60_416);
    let disks = Disks::default().with("base.vhd", dynamic.build(&base, &[]));
    let good = [dynamic.build(&base, &[]), child.build(&top, &base), fixed.build(&base, &[])];
    let mut rng = Rng::new(2026);
    let mut readable = 0;
    for round in 0..3000 {
        let file = damaged(&good[round % good.len()], &mut rng);
        let gate = disks.gate("child.vhd");
        let options = OpenOptions { ignore_checksum: round % 5 == 0, ..OpenOptions::default() };
        let Ok(image) = open(source("/disks/child.vhd", file), &options, &gate).await else {
            continue;
        };
        let checked = image.check(&Limits::default()).await.is_ok();
        let end = image.size().min(1 << 20);
        let mut buf = vec![0; usize::try_from(end).expect("small")];
        match image.read_at(0, &mut buf).await {
            Ok(()) => readable += 1,
            Err(error) => {
                assert!(!checked, "round {round}: {error}");
                assert!(matches!(error.kind(), Kind::Corrupt | Kind::Truncated), "{error}");
            }
        }
    }
    assert!(readable > 300, "only {readable} readable: the damage is too coarse");
}
