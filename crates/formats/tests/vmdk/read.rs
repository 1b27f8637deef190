//! Good images of every layout give the bytes that were put in.

use crate::build::{CID, Hosted, SECTOR, Stream, cowd, descriptor, hosted, sesparse, stream};
use crate::support::{MemFolder, open_alone, open_source, open_with};
use carreto_block::{ByteRange, FetchPlan, FetchTuning, OpenGate, Placement, ReadHint, Source};
use carreto_error::Kind;
use carreto_formats::{Image, Limits};
use carreto_testkit::{Fault, FaultySource, MemSource, conformance, sparse_disk};
use futures_util::FutureExt as _;
use std::sync::Arc;

/// Checks the structure, then the bytes.
async fn passes(image: &Arc<dyn Image>, disk: &[u8], warnings: &[&str]) {
    let report = image.check(&Limits::default()).await.expect("check");
    let found: Vec<&str> =
        image.info().warnings.iter().chain(&report.warnings).map(|w| w.code).collect();
    assert_eq!(found, warnings);
    conformance::source(image.as_ref(), disk).await;
}

#[tokio::test]
async fn monolithic_sparse() {
    for (sectors, grain, backwards) in
        [(1, 128, false), (1954, 128, true), (9_000, 8, false), (20_480, 128, false)]
    {
        let disk = sparse_disk(sectors * SECTOR, sectors as u64);
        for (zero_entries, redundant) in [(false, true), (true, false)] {
            let how = Hosted { grain, zero_entries, redundant, backwards, ..Hosted::default() };
            let image = open_alone(hosted(&disk, &how).0).await.unwrap();
            assert_eq!(image.info().subformat, "monolithicSparse");
            assert_eq!(image.info().cluster_size, Some((grain * SECTOR) as u64));
            passes(&image, &disk, &[]).await;
        }
    }
}

#[tokio::test]
async fn streams_of_all_five_layouts() {
    for layout in Stream::ALL {
        for sectors in [1954, 66_000 / 8] {
            for full_last in [false, true] {
                let disk = sparse_disk(sectors * SECTOR, 5);
                let (bytes, _) = stream(&disk, layout, "", full_last);
                let image = open_alone(bytes).await.unwrap();
                assert_eq!(image.info().subformat, "streamOptimized");
                passes(&image, &disk, &[]).await;
            }
        }
        let disk = vec![0; 100_000 * SECTOR];
        let image = open_alone(stream(&disk, layout, "", true).0).await.unwrap();
        assert_eq!(image.check(&Limits::default()).await.unwrap().allocated_size, Some(0));
        let whole = ByteRange::whole(image.size());
        assert_eq!(image.extents(whole, 9).await.unwrap().len(), 1, "{layout:?}");
    }
}

/// More than one grain table in a stream: 66,000 sectors are two spans.
#[tokio::test]
async fn streams_of_several_tables() {
    let mut disk = vec![0; 70_000 * SECTOR];
    let data = sparse_disk(300_000, 3);
    disk[..data.len()].copy_from_slice(&data);
    let at = disk.len() - data.len();
    disk[at..].copy_from_slice(&data);
    for layout in Stream::ALL {
        let image = open_alone(stream(&disk, layout, "", false).0).await.unwrap();
        image.check(&Limits::default()).await.unwrap();
        for (offset, len) in [(0, 400_000), (at - 1000, data.len() + 1000), (33_554_000, 5_000)] {
            let mut buf = vec![1; len];
            image.read_at(offset as u64, &mut buf).await.unwrap();
            assert!(buf == disk[offset..offset + len], "{layout:?} at {offset}");
        }
    }
}

/// A map of a plain image has one extent per run, not per grain.
#[tokio::test]
async fn contiguous_grains_are_one_extent() {
    let mut disk = vec![7; 64 << 20];
    disk[40 << 20..50 << 20].fill(0);
    let image = open_alone(hosted(&disk, &Hosted::default()).0).await.unwrap();
    let list = image.extents(ByteRange::whole(image.size()), 100).await.unwrap();
    let plain = |p: &Placement| matches!(p, Placement::Plain { .. });
    let shape: Vec<_> = list.iter().map(|e| (plain(&e.placement), e.range.len() >> 20)).collect();
    assert_eq!(shape, [(true, 40), (false, 10), (true, 14)]);
}

/// An item of a stream is one read of the file, about as long as its compressed data.
#[tokio::test]
async fn a_work_item_of_a_stream_is_one_read() {
    let mut disk = vec![0; 8 << 20];
    carreto_testkit::Rng::new(9).fill(&mut disk);
    for layout in Stream::ALL {
        let image = open_alone(stream(&disk, layout, "", true).0).await.unwrap();
        let item = ByteRange::from_len(0, 4 << 20).unwrap();
        let list = image.extents(item, 1000).await.unwrap();
        assert_eq!(list.len(), 64);
        let plan = FetchPlan::new(item, &list, FetchTuning::new(ReadHint::LOCAL)).unwrap();
        if layout != Stream::OutOfOrder {
            let most = (4 << 20) + (80 << 10);
            assert!(plan.read_len() <= most, "{layout:?} reads {}", plan.read_len());
            assert_eq!(format!("{plan:?}").matches("Read {").count(), 1, "{layout:?}");
        }
    }
}

/// The extents of an empty disk cost no more than its directory.
#[tokio::test]
async fn an_empty_disk_of_any_size_is_one_extent() {
    let disk = vec![0; SECTOR];
    let (mut bytes, places) = hosted(&disk, &Hosted { redundant: false, ..Hosted::default() });
    let capacity: u64 = 40 << 40;
    bytes[12..20].copy_from_slice(&(capacity / 512).to_le_bytes());
    let directory = usize::try_from(capacity.div_ceil(32 << 20)).unwrap() * 4;
    bytes[places.directory..places.directory + 4].fill(0);
    bytes.resize(places.directory + directory, 0);
    let text = String::from_utf8_lossy(&bytes[512..1024]).replace("RW 1 ", "RW 85899345920 ");
    bytes[512..512 + text.len()].copy_from_slice(text.as_bytes());
    let image = open_alone(bytes).await.unwrap();
    assert_eq!(image.size(), capacity);
    let whole = ByteRange::whole(capacity);
    assert_eq!(image.extents(whole, 5).await.unwrap().len(), 1);
    let report = image.check(&Limits::default()).await.unwrap();
    assert_eq!(report.allocated_size, Some(0));
}

fn line(disk: &[u8], kind: &str, name: &str) -> String {
    let offset = if kind == "FLAT" { " 0" } else { "" };
    format!("RW {} {kind} \"{name}\"{offset}", disk.len() / SECTOR)
}

const WHOLE: fn(usize) -> bool = |_| false;

#[tokio::test]
async fn cowd_and_se_sparse_behind_a_descriptor() {
    let disk = sparse_disk(9_001 * SECTOR, 4);
    let images = [
        ("vmfsSparse", "VMFSSPARSE", cowd(&disk, 1, false, WHOLE)),
        ("vmfsSparse", "VMFSSPARSE", cowd(&disk, 16, true, WHOLE)),
        ("seSparse", "SESPARSE", sesparse(&disk, WHOLE)),
        ("monolithicSparse", "SPARSE", hosted(&disk, &Hosted::default()).0),
    ];
    for (create_type, kind, bytes) in images {
        let folder = MemFolder::new([("x.vmdk", bytes)]);
        let text = descriptor(create_type, None, &[line(&disk, kind, "x.vmdk")]);
        let image = open_with(text.into_bytes(), &folder.gate()).await.unwrap();
        assert_eq!(image.info().subformat, create_type);
        passes(&image, &disk, &[]).await;
    }
    let image = open_alone(cowd(&disk, 8, true, WHOLE)).await.unwrap();
    passes(&image, &disk, &["no_descriptor"]).await;
}

/// From grain 4096 on the split index of an seSparse entry has bits in both of its parts.
#[tokio::test]
async fn se_sparse_grains_with_high_numbers() {
    let disk = sparse_disk(9_000 * 4096, 14);
    // Grains lie backwards: the first 4904 ones have numbers from 4096 on.
    assert!(disk[..4904 * 4096].iter().any(|byte| *byte != 0));
    let folder = MemFolder::new([("x.vmdk", sesparse(&disk, WHOLE))]);
    let text = descriptor("seSparse", None, &[line(&disk, "SESPARSE", "x.vmdk")]);
    let image = open_with(text.into_bytes(), &folder.gate()).await.unwrap();
    image.check(&Limits::default()).await.unwrap();
    let mut buf = vec![1; disk.len()];
    image.read_at(0, &mut buf).await.unwrap();
    assert!(buf == disk);
}

#[tokio::test]
async fn parts_opened_alone_are_refused() {
    let disk = sparse_disk(100 * SECTOR, 4);
    let part = Hosted { descriptor: None, ..Hosted::default() };
    for bytes in [hosted(&disk, &part).0, cowd(&disk, 8, false, WHOLE), sesparse(&disk, WHOLE)] {
        let error = open_alone(bytes).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.remedy().contains("descriptor"), "{}", error.remedy());
    }
}

/// Every kind of extent in one disk; nothing shifts.
#[tokio::test]
async fn many_extents_keep_their_places() {
    let flat = sparse_disk(33 * SECTOR, 1);
    let part = Hosted { descriptor: None, ..Hosted::default() };
    let sparse = sparse_disk(301 * SECTOR, 2);
    let cow = sparse_disk(77 * SECTOR, 3);
    let mut disk = vec![0; 5 * SECTOR];
    disk.extend_from_slice(&flat[3 * SECTOR..]);
    disk.extend_from_slice(&sparse);
    disk.resize(disk.len() + 1000 * SECTOR, 0);
    disk.extend_from_slice(&flat[..3 * SECTOR]);
    disk.extend_from_slice(&cow);
    disk.resize(disk.len() + 9 * SECTOR, 0);
    let extents = [
        "RW 5 ZERO".to_owned(),
        "RDONLY 30 FLAT \"disk-f001.vmdk\" 3".to_owned(),
        "RW 301 SPARSE \"disk-s002.vmdk\"".to_owned(),
        "NOACCESS 1000 ZERO".to_owned(),
        "RW 3 VMFS \"disk-f001.vmdk\"".to_owned(),
        "rdonly 77 vmfssparse \"disk-s003.vmdk\"".to_owned(),
        "RDONLY 9 ZERO \"\"".to_owned(),
    ];
    let folder = MemFolder::new([
        ("disk-f001.vmdk", flat),
        ("disk-s002.vmdk", hosted(&sparse, &part).0),
        ("disk-s003.vmdk", cowd(&cow, 1, true, WHOLE)),
    ]);
    let text = descriptor("twoGbMaxExtentSparse", None, &extents);
    for text in [text.clone(), text.replace('\n', "\r\n")] {
        let image = open_with(text.into_bytes(), &folder.gate()).await.unwrap();
        assert_eq!(image.check(&Limits::default()).await.unwrap().allocated_size, None);
        passes(&image, &disk, &[]).await;
    }
    assert_eq!(folder.asked.lock().unwrap().len(), 6, "each file is opened once");
}

#[tokio::test]
async fn children_read_through_to_their_parents() {
    let base = sparse_disk(3000 * SECTOR, 11);
    let mut disk = base.clone();
    disk[100_000..200_000].fill(0);
    disk[700_000..900_000].fill(0xEE);
    let changed = |grain: usize, index: usize| {
        let range = index * grain..(index + 1) * grain;
        range.start < 200_000 && range.end > 100_000 || range.start < 900_000 && range.end > 700_000
    };
    // The child holds the grains of 64 KiB or 4 KiB that differ.
    let big: fn(usize) -> bool = |index| !matches!(index, 1..=3 | 10..=13);
    let small: fn(usize) -> bool = |index| !matches!(index, 24..=48 | 170..=219);
    for index in 0..375 {
        assert!(!changed(4096, index) || !small(index));
        assert!(!changed(65536, index) || !big(index));
    }
    let parent = hosted(&base, &Hosted::default()).0;
    let named = Some((CID, "C:\\VMs\\base.vmdk"));
    let text = descriptor("monolithicSparse", named, &[line(&disk, "SPARSE", "any")]);
    let how =
        Hosted { zero_entries: true, absent: big, descriptor: Some(text), ..Hosted::default() };
    let folder = MemFolder::new([("base.vmdk", parent), ("delta.vmdk", sesparse(&disk, small))]);
    let image = open_with(hosted(&disk, &how).0, &folder.gate()).await.unwrap();
    assert_eq!(image.info().backing.as_ref().unwrap().name, "C:\\VMs\\base.vmdk");
    passes(&image, &disk, &[]).await;
    let text =
        descriptor("seSparse", Some((CID, "base.vmdk")), &[line(&disk, "SESPARSE", "delta.vmdk")]);
    let image = open_with(text.clone().into_bytes(), &folder.gate()).await.unwrap();
    passes(&image, &disk, &[]).await;

    let wrong = text.replace("parentCID=0badcafe", "parentCID=0badcaff");
    let error = open_with(wrong.into_bytes(), &folder.gate()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    let error = open_alone(text.into_bytes()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsafe, "{error}");
}

/// The parent is beside the child, or where the hint says, whatever else has its name.
#[tokio::test]
async fn parents_are_found_past_files_of_the_same_name() {
    let base = sparse_disk(900 * SECTOR, 3);
    let parent = hosted(&base, &Hosted::default()).0;
    let stranger = descriptor("monolithicFlat", None, &["RW 900 ZERO".to_owned()])
        .replace("CID=0badcafe", "CID=00000001");
    let junk = b"no VMDK at all".to_vec();
    let child = |hint: &str| {
        let text =
            descriptor("monolithicSparse", Some((CID, hint)), &["RW 900 SPARSE \"x\"".into()]);
        let empty = Hosted { absent: |_| true, descriptor: Some(text), ..Hosted::default() };
        hosted(&base, &empty).0
    };
    let beside = |name: &str, bytes: &[u8]| vec![(name.to_owned(), bytes.to_vec())];
    // The hint, what there is besides the parent, and where the parent is.
    let cases = [
        ("../disk.vmdk", beside("sub/disk.vmdk", &child("../disk.vmdk")), "disk.vmdk"),
        ("..\\disk.vmdk", Vec::new(), "disk.vmdk"),
        ("/images/old/disk.vmdk", Vec::new(), "old/disk.vmdk"),
        ("/images/old/disk.vmdk", beside("sub/disk.vmdk", stranger.as_bytes()), "old/disk.vmdk"),
        ("../old/disk.vmdk", beside("sub/disk.vmdk", &junk), "old/disk.vmdk"),
        ("C:\\VMs\\disk.vmdk", Vec::new(), "sub/disk.vmdk"),
        ("/not/granted/disk.vmdk", Vec::new(), "sub/disk.vmdk"),
    ];
    for (hint, others, place) in cases {
        let folder = MemFolder::new(others.into_iter().chain(beside(place, &parent)));
        let own = if place == "disk.vmdk" { "sub/disk.vmdk" } else { "sub/top.vmdk" };
        let gate = folder.gate_in("/images/sub", own);
        let image = open_with(child(hint), &gate).await.unwrap();
        conformance::source(image.as_ref(), &base).await;
        assert_eq!(image.info().backing.as_ref().unwrap().name, hint);
    }
    // And when it is nowhere.
    let stranger = stranger.into_bytes();
    let cases = [
        ("C:\\VMs\\disk.vmdk", Vec::new(), Kind::NotFound),
        ("../disk.vmdk", Vec::new(), Kind::NotFound),
        ("/not/granted/disk.vmdk", Vec::new(), Kind::NotFound),
        ("C:\\VMs\\disk.vmdk", beside("sub/disk.vmdk", &stranger), Kind::Corrupt),
        ("https://host/disk.vmdk", Vec::new(), Kind::NotFound),
    ];
    for (hint, others, wanted) in cases {
        let gate = MemFolder::new(others).gate_in("/images/sub", "sub/top.vmdk");
        let error = open_with(child(hint), &gate).await.unwrap_err();
        assert_eq!(error.kind(), wanted, "{hint}: {error}");
    }
}

/// A damaged primary table is read from the redundant copy, and said.
#[tokio::test]
async fn the_redundant_copy_helps_out() {
    let disk = sparse_disk(20_000 * SECTOR, 6);
    let how = Hosted { grain: 8, ..Hosted::default() };
    let (good, places) = hosted(&disk, &how);
    let mut entry = good.clone();
    entry[places.directory..places.directory + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut table = good.clone();
    table[places.tables[2]..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    for bytes in [entry, table] {
        passes(&open_alone(bytes).await.unwrap(), &disk, &["grain_table_rescued"]).await;
    }
    // What is lost is not taken for zeros: the directory, an entry, a table, a sector of one.
    let lost = [(places.directory, 40), (places.directory + 4, 4), (places.tables[1], 2048)];
    for (at, len) in lost.into_iter().chain([(places.tables[2] + 512, 512)]) {
        let mut bytes = good.clone();
        bytes[at..at + len].fill(0);
        passes(&open_alone(bytes).await.unwrap(), &disk, &["grain_table_rescued"]).await;
    }
    let mut differs = good;
    let copy = places.tables[0] - places.directory + places.redundant;
    differs[copy..copy + 4].fill(0);
    passes(&open_alone(differs).await.unwrap(), &disk, &["redundant_differs"]).await;
}

/// Damage that neither copy mends is an error, never zeros.
#[tokio::test]
async fn an_empty_redundant_copy_does_not_stand_in_for_a_damaged_one() {
    let disk = sparse_disk(20_000 * SECTOR, 6);
    let (mut bytes, places) = hosted(&disk, &Hosted { grain: 8, ..Hosted::default() });
    bytes[places.tables[2]..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let copy = places.tables[2] - places.directory + places.redundant;
    bytes[copy..copy + 2048].fill(0);
    let image = open_alone(bytes).await.unwrap();
    let error = image.check(&Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Truncated, "{error}");
    let mut buf = vec![0; disk.len()];
    image.read_at(0, &mut buf).await.unwrap_err();
}

/// A disk of many tables of which only the redundant directory knows is read and checked page by
/// page, and the check lets others have a turn.
#[tokio::test]
async fn a_long_check_gives_way() {
    const TABLES: usize = 600;
    let (mut bytes, _) = hosted(&vec![0; SECTOR], &Hosted { grain: 8, ..Hosted::default() });
    let capacity = (TABLES * 512 * 8) as u64;
    bytes[12..20].copy_from_slice(&capacity.to_le_bytes());
    for field in [56, 48] {
        let sector = (bytes.len() / SECTOR) as u64;
        bytes[field..field + 8].copy_from_slice(&sector.to_le_bytes());
        bytes.resize(bytes.len() + (TABLES * 4).next_multiple_of(SECTOR), 0);
    }
    let redundant = bytes.len() - (TABLES * 4).next_multiple_of(SECTOR);
    for table in 0..TABLES {
        let sector = u32::try_from(bytes.len() / SECTOR).unwrap();
        bytes[redundant + table * 4..][..4].copy_from_slice(&sector.to_le_bytes());
        bytes.resize(bytes.len() + 2048, 0);
    }
    let grain = u32::try_from(bytes.len() / SECTOR).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&grain.to_le_bytes());
    bytes.resize(bytes.len() + 4096, 0xAA);
    let image = open_alone(bytes).await.unwrap();
    assert!(image.check(&Limits::default()).now_or_never().is_none(), "it never gave way");
    let report = image.check(&Limits::default()).await.unwrap();
    assert_eq!(report.allocated_size, Some(4096));
    let list = image.extents(ByteRange::whole(image.size()), 9).await.unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[1].range.len(), 4096);
}

/// Names in the encoding of the machine that wrote the descriptor.
#[tokio::test]
async fn extents_with_names_in_other_encodings() {
    let disk = sparse_disk(20 * SECTOR, 4);
    let folder = MemFolder::new([("磁盘-flat.vmdk", disk.clone())]);
    let text = descriptor("monolithicFlat", None, &[line(&disk, "FLAT", "@-flat.vmdk")])
        .replace("UTF-8", "GBK");
    let (head, tail) = text.split_once('@').unwrap();
    let bytes = [head.as_bytes(), b"\xb4\xc5\xc5\xcc", tail.as_bytes()].concat();
    let image = open_with(bytes, &folder.gate()).await.unwrap();
    conformance::source(image.as_ref(), &disk).await;
}

/// Reading by the redundant directory costs about as many requests as reading by the primary one.
#[tokio::test]
async fn redundant_tables_are_read_together() {
    let disk = sparse_disk(200_000 * SECTOR, 6);
    let (good, places) = hosted(&disk, &Hosted { grain: 8, ..Hosted::default() });
    let mut lost = good.clone();
    lost[places.directory..places.directory + places.tables.len() * 4].fill(0);
    let mut counts = Vec::new();
    for bytes in [good, lost] {
        let count = Fault::never();
        let memory: Arc<dyn Source> = Arc::new(MemSource::new("x.vmdk", bytes));
        let counted = Arc::new(FaultySource::new(memory, count.clone()));
        let image = open_source(counted, &OpenGate::closed()).await.unwrap();
        let mut todo = ByteRange::whole(image.size());
        while !todo.is_empty() {
            let end = image.extents(todo, 50).await.unwrap().last().unwrap().range.end();
            todo = todo.split_at(end).1;
        }
        counts.push(count.operations());
    }
    assert!(counts[1] <= counts[0] + 2, "{counts:?}");
}
