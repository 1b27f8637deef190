//! Well-formed VHDs of every kind read as what was put into them.
#![expect(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    reason = "numbers are small; a failed expectation of a test is a panic"
)]

mod vhd_support;

use carreto_block::{ByteRange, OpenGate, Placement};
use carreto_error::Kind;
use carreto_formats::{Format, Image, Limits, OpenOptions, open, vhd};
use carreto_testkit::{MemSource, Rng, conformance, sparse_disk};
use std::sync::Arc;
use vhd_support::{DIFFERENCING, DYNAMIC, Disks, FIXED, ParentSpec, Spec, put_footers, reseal};
use vhd_support::{put, source};

async fn opened(image: Vec<u8>) -> Arc<dyn Image> {
    let file = source("/disks/a.vhd", image);
    open(file, &OpenOptions::default(), &OpenGate::closed()).await.expect("open")
}

fn codes(image: &dyn Image) -> Vec<&'static str> {
    image.info().warnings.iter().map(|w| w.code).collect()
}

/// A disk that differs from `below` in some runs of sectors.
fn changed(below: &[u8], seed: u64) -> Vec<u8> {
    let mut disk = below.to_vec();
    let mut rng = Rng::new(seed);
    for _ in 0..40 {
        let at = rng.below(disk.len() as u64) as usize / 512 * 512;
        let end = (at + 512 * (1 + rng.below(60) as usize)).min(disk.len());
        rng.fill(&mut disk[at..end]);
    }
    disk
}

#[tokio::test]
async fn fixed_disks_of_any_size_read_as_their_bytes() {
    for size in [512, 4096, 1_000_448, 3 << 20] {
        let disk = sparse_disk(size, 3);
        let image = opened(Spec::new(FIXED, size as u64).build(&disk, &[])).await;
        assert_eq!(image.info().subformat, "fixed");
        assert_eq!(codes(image.as_ref()), [""; 0]);
        conformance::source(image.as_ref(), &disk).await;
        let report = image.check(&Limits::default()).await.expect("check");
        assert_eq!(report.allocated_size, None);
    }
}

#[tokio::test]
async fn a_fixed_disk_with_a_footer_of_511_bytes_loses_no_sector() {
    let disk = sparse_disk(1 << 20, 4);
    let mut file = Spec::new(FIXED, 1 << 20).build(&disk, &[]);
    file.pop();
    let image = opened(file).await;
    assert_eq!(image.info().format, Format::Vhd);
    conformance::source(image.as_ref(), &disk).await;
}

#[tokio::test]
async fn dynamic_disks_read_with_any_block_size() {
    let sizes = [(512, 40_000), (4096, 123_392), (65536, 1_000_448), (2 << 20, 7_340_544)];
    for (block, size) in sizes {
        let disk = sparse_disk(size, u64::from(block));
        let spec = Spec::new(DYNAMIC, size as u64).block_size(block);
        let file = spec.build(&disk, &[]);
        let image = opened(file.clone()).await;
        assert_eq!(image.info().subformat, "dynamic");
        assert_eq!(image.info().cluster_size, Some(u64::from(block)));
        conformance::source(image.as_ref(), &disk).await;
        let report = image.check(&Limits::default()).await.expect("check");
        assert_eq!(report.warnings, []);
        assert!(report.allocated_size.is_some_and(|bytes| bytes <= size as u64));

        let remote = Arc::new(MemSource::new("/disks/a.vhd", file).remote().dense());
        let image = open(remote, &OpenOptions::default(), &OpenGate::closed()).await;
        conformance::source(image.expect("open").as_ref(), &disk).await;
    }
}

#[tokio::test]
async fn sectors_outside_the_bitmap_are_zeros_and_are_reported_as_such() {
    let mut disk = vec![0; 4 << 20];
    disk[1 << 20..(1 << 20) + 1024].fill(9);
    let image = opened(Spec::new(DYNAMIC, 4 << 20).build(&disk, &[])).await;
    let map = image.extents(ByteRange::whole(4 << 20), 100).await.expect("extents");
    let data: Vec<ByteRange> = map
        .iter()
        .filter(|extent| matches!(extent.placement, Placement::Plain { .. }))
        .map(|extent| extent.range)
        .collect();
    assert_eq!(data, [ByteRange::from_len(1 << 20, 1024).expect("a range")]);
    conformance::source(image.as_ref(), &disk).await;
}

#[tokio::test]
async fn a_full_block_is_one_extent_and_an_empty_disk_is_one_extent() {
    let mut disk = vec![0; 8 << 20];
    disk[2 << 20..6 << 20].fill(1);
    let image = opened(Spec::new(DYNAMIC, 8 << 20).build(&disk, &[])).await;
    let map = image.extents(ByteRange::whole(8 << 20), 100).await.expect("extents");
    let lengths: Vec<u64> = map.iter().map(|extent| extent.range.len()).collect();
    assert_eq!(lengths, [2 << 20; 4]);

    let size = 256 << 20;
    let empty = vec![0; size];
    let image = opened(Spec::new(DYNAMIC, size as u64).block_size(4096).build(&empty, &[])).await;
    let map = image.extents(ByteRange::whole(size as u64), 3).await.expect("extents");
    assert_eq!(map.len(), 1);
    assert!(matches!(map[0].placement, Placement::Zero));
}

#[tokio::test]
async fn a_last_block_with_a_bitmap_of_its_own_sectors_only_is_whole() {
    let size = (2 << 20) + 7 * 512;
    let disk = vec![5; size];
    let image = opened(Spec::new(DYNAMIC, size as u64).build(&disk, &[])).await;
    let map = image.extents(ByteRange::whole(size as u64), 9).await.expect("extents");
    assert_eq!(map.len(), 2);
    conformance::source(image.as_ref(), &disk).await;
}

#[tokio::test]
async fn chains_decide_by_sector_and_may_grow_and_shrink() {
    let base = sparse_disk(3_000_320, 1);
    let mut middle = changed(&base, 2);
    middle.resize(4_000_256, 0);
    let mut top = changed(&middle, 3);
    top.truncate(3_500_032);
    for kind in [FIXED, DYNAMIC] {
        let base_spec = Spec::new(kind, base.len() as u64).block_size(65536);
        let middle_spec =
            Spec::new(DIFFERENCING, middle.len() as u64).child_of(&base_spec, "base.vhd");
        let top_spec = Spec::new(DIFFERENCING, top.len() as u64)
            .block_size(4096)
            .child_of(&middle_spec, "middle.vhd");
        let disks = Disks::default()
            .with("base.vhd", base_spec.build(&base, &[]))
            .with("middle.vhd", middle_spec.build(&middle, &base))
            .with("top.vhd", top_spec.build(&top, &middle));
        let file = disks.source("top.vhd");
        let image = open(file, &OpenOptions::default(), &disks.gate("top.vhd"))
            .await
            .expect("open the chain");
        assert_eq!(image.info().subformat, "differencing");
        let backing = image.info().backing.as_ref().expect("a parent");
        assert_eq!(backing.name, ".\\middle.vhd");
        assert_eq!(codes(image.as_ref()), ["parent_size", "parent_size"]);
        let about_parent = &image.info().warnings[1].text;
        assert!(about_parent.starts_with("/disks/middle.vhd: "), "{about_parent}");
        conformance::source(image.as_ref(), &top).await;
        image.check(&Limits::default()).await.expect("check");
    }
}

async fn open_child(parent: ParentSpec, found: &[&str]) -> Result<Vec<&'static str>, Kind> {
    let disk = sparse_disk(1 << 20, 8);
    let base = Spec::new(FIXED, 1 << 20);
    let mut child = Spec::new(DIFFERENCING, 1 << 20).child_of(&base, "base.vhd");
    child.parent = Some(ParentSpec { unique_id: base.unique_id, ..parent });
    let mut disks = Disks::default().with("child.vhd", child.build(&disk, &disk));
    for name in found {
        disks = disks.with(name, base.build(&disk, &[]));
    }
    let gate = disks.gate("child.vhd");
    let image = open(disks.source("child.vhd"), &OpenOptions::default(), &gate)
        .await
        .map_err(|error| error.kind())?;
    conformance::source(image.as_ref(), &disk).await;
    Ok(codes(image.as_ref()))
}

#[tokio::test]
async fn the_parent_is_found_by_any_of_its_names_inside_the_grant() {
    let parent = |code, name: &str| ParentSpec {
        locators: vec![(code, name.to_owned())],
        ..ParentSpec::default()
    };
    let found = [
        (parent(b"W2ru", ".\\base.vhd"), "base.vhd"),
        (parent(b"W2ru", "sub\\base.vhd"), "sub/base.vhd"),
        (parent(b"W2ku", "C:\\machines\\base.vhd"), "base.vhd"),
        (parent(b"W2ku", "\\\\server\\share\\base.vhd"), "base.vhd"),
        (parent(b"W2ku", "/disks/base.vhd"), "base.vhd"),
        (parent(b"MacX", "file://./base.vhd"), "base.vhd"),
        (parent(b"Wi2r", "base.vhd"), "base.vhd"),
        (parent(b"W2ru", "..\\elsewhere\\base.vhd"), "base.vhd"),
    ];
    for (parent, name) in found {
        let text = format!("{parent:?}");
        assert_eq!(open_child(parent, &[name]).await, Ok(vec![]), "{text}");
    }
    let by_name = ParentSpec { name: "D:\\old\\base.vhd".into(), ..ParentSpec::default() };
    assert_eq!(open_child(by_name, &["base.vhd"]).await, Ok(vec![]));
}

#[tokio::test]
async fn a_parent_that_is_missing_or_outside_is_not_opened() {
    let parent = |code, name: &str| ParentSpec {
        locators: vec![(code, name.to_owned())],
        ..ParentSpec::default()
    };
    let cases = [
        (parent(b"W2ru", ".\\base.vhd"), Kind::NotFound),
        (parent(b"W2ru", "json:{}"), Kind::Unsafe),
        (parent(b"Mac ", "alias"), Kind::Unsafe),
        (ParentSpec::default(), Kind::Unsafe),
    ];
    for (parent, wanted) in cases {
        let text = format!("{parent:?}");
        assert_eq!(open_child(parent, &[]).await, Err(wanted), "{text}");
    }
    let itself = parent(b"W2ru", ".\\child.vhd");
    assert_eq!(open_child(itself, &[]).await, Err(Kind::Unsafe));
}

#[tokio::test]
async fn a_closed_gate_refuses_every_kind_of_parent_name() {
    let base = Spec::new(FIXED, 1 << 20);
    let names = ["\\\\server\\share\\p.vhd", "/etc/passwd", "C:\\p.vhd", "..\\..\\p.vhd", "p.vhd"];
    for name in names {
        for code in [b"W2ru", b"W2ku", b"MacX"] {
            let mut spec = Spec::new(DIFFERENCING, 1 << 20).child_of(&base, "x.vhd");
            spec.parent = Some(ParentSpec {
                locators: vec![(code, name.to_owned())],
                name: name.into(),
                ..ParentSpec::default()
            });
            let file = source("/disks/a.vhd", spec.build(&vec![0; 1 << 20], &[]));
            let error = open(file, &OpenOptions::default(), &OpenGate::closed()).await;
            assert_eq!(error.expect_err(name).kind(), Kind::Unsafe, "{name}");
        }
    }
}

#[tokio::test]
async fn the_parents_identity_must_match_and_its_time_should() {
    let disk = sparse_disk(1 << 20, 5);
    let base = Spec::new(FIXED, 1 << 20);
    let mut child = Spec::new(DIFFERENCING, 1 << 20).child_of(&base, "base.vhd");
    child.parent.as_mut().expect("set").time_stamp = 77;
    let disks = Disks::default()
        .with("base.vhd", base.build(&disk, &[]))
        .with("child.vhd", child.build(&disk, &disk));
    let gate = disks.gate("child.vhd");
    let options = OpenOptions::default();
    let image = open(disks.source("child.vhd"), &options, &gate).await;
    assert_eq!(codes(image.expect("open").as_ref()), ["parent_time"]);

    child.parent.as_mut().expect("set").unique_id[3] ^= 1;
    let disks = disks.with("child.vhd", child.build(&disk, &disk));
    let gate = disks.gate("child.vhd");
    let error = open(disks.source("child.vhd"), &options, &gate).await;
    assert_eq!(error.expect_err("another disk").kind(), Kind::Corrupt);
}

#[tokio::test]
async fn the_creator_decides_about_the_size() {
    let bytes = 1000 * 16 * 63 * 512_u64;
    // Creator, geometry, current size, wanted size, wanted warnings.
    let cases = [
        (b"win ", (990, 16, 63), bytes, bytes, vec![]),
        (b"wa\0\0", (990, 16, 63), bytes, bytes, vec![]),
        (b"qem2", (65535, 16, 255), bytes, bytes, vec![]),
        (b"vpc ", (990, 16, 63), bytes, 990 * 16 * 63 * 512, vec!["size_differs"]),
        (b"qemu", (990, 16, 63), bytes, 990 * 16 * 63 * 512, vec!["size_differs"]),
        (b"qemu", (1000, 16, 63), bytes, bytes, vec![]),
        (b"vpc ", (65535, 16, 255), bytes, bytes, vec![]),
        (b"vpc ", (0, 16, 63), bytes, bytes, vec!["size_differs"]),
        (b"win ", (4, 16, 63), bytes, bytes, vec!["size_differs"]),
    ];
    for (creator, geometry, current, wanted, warnings) in cases {
        let mut spec = Spec::new(DYNAMIC, current);
        spec.creator = *creator;
        spec.geometry = geometry;
        let empty = vec![0; current as usize];
        let image = opened(spec.build(&empty, &[])).await;
        assert_eq!(image.size(), wanted, "{spec:?}");
        assert_eq!(codes(image.as_ref()), warnings, "{spec:?}");
        let detail = |name| image.info().details.iter().find(|d| d.0 == name).map(|d| d.1.clone());
        assert_eq!(detail("current_size"), Some(current.to_string()));
        assert!(detail("creator").is_some() && detail("geometry_size").is_some());
    }
}

#[tokio::test]
async fn one_good_copy_of_the_footer_is_enough() {
    let disk = sparse_disk(3 << 20, 6);
    let good = Spec::new(DYNAMIC, 3 << 20).build(&disk, &[]);
    let tail = good.len() - 512;
    let cases: [(usize, &[u8], &str); 6] = [
        (64, &[1, 2, 3, 4], "footer_copy_damaged"),
        (0, b"CONECTIX", "footer_copy_damaged"),
        (48, &[0xFF; 8], "footer_copy_damaged"),
        (tail + 64, &[1, 2, 3, 4], "footer_damaged"),
        (tail, &[0; 8], "footer_damaged"),
        (tail + 48, &[0xFF; 8], "footer_damaged"),
    ];
    for (at, value, code) in cases {
        let mut file = good.clone();
        put(&mut file, at, value);
        let image = opened(file).await;
        assert_eq!(codes(image.as_ref()), [code], "{at}");
        conformance::source(image.as_ref(), &disk).await;
    }
    let mut differ = good;
    put(&mut differ, 68, &[9; 16]);
    reseal(&mut differ);
    assert_eq!(codes(opened(differ).await.as_ref()), ["footer_copies_differ"]);
}

#[tokio::test]
async fn checksums_from_before_the_identity_was_stamped_are_accepted() {
    let disk = sparse_disk(1 << 20, 6);
    let mut unstamped = Spec::new(DYNAMIC, 1 << 20);
    unstamped.unique_id = [0; 16];
    let mut file = unstamped.build(&disk, &[]);
    put_footers(&mut file, 68, &[0x5A; 16]);
    let image = opened(file.clone()).await;
    assert_eq!(codes(image.as_ref()), ["stale_checksum"]);
    conformance::source(image.as_ref(), &disk).await;

    // The same for the header: parent fields that came later.
    put(&mut file, 512 + 40, &[3; 16]);
    let image = opened(file.clone()).await;
    assert_eq!(codes(image.as_ref()), ["stale_checksum", "stale_checksum"]);

    // Nothing else that came later is accepted.
    put(&mut file, 512 + 800, &[3]);
    let file = source("/disks/a.vhd", file);
    let error = open(Arc::clone(&file), &OpenOptions::default(), &OpenGate::closed()).await;
    assert_eq!(error.expect_err("wrong").kind(), Kind::Corrupt);
    let options = OpenOptions { ignore_checksum: true, ..OpenOptions::default() };
    let image = open(file, &options, &OpenGate::closed()).await.expect("as asked");
    assert_eq!(codes(image.as_ref()), ["stale_checksum", "wrong_checksum"]);
}

#[tokio::test]
async fn a_saved_state_and_bytes_behind_a_fixed_disk_are_warned_about() {
    let disk = vec![1; 1 << 20];
    let mut file = Spec::new(FIXED, 1 << 20).build(&disk, &[]);
    let end = file.len();
    put(&mut file, end - 512 + 84, &[1]);
    vhd_support::seal(&mut file[end - 512..], 64);
    file.splice(end - 512..end - 512, [0xAB; 1536]);
    let image = opened(file).await;
    assert_eq!(codes(image.as_ref()), ["saved_state", "trailing_data"]);
    conformance::source(image.as_ref(), &disk).await;
}

#[tokio::test]
async fn a_table_longer_than_the_disk_needs_is_fine() {
    let disk = sparse_disk(5 << 20, 9);
    let mut spec = Spec::new(DYNAMIC, 5 << 20);
    spec.spare_entries = 500;
    let image = opened(spec.build(&disk, &[])).await;
    conformance::source(image.as_ref(), &disk).await;
    image.check(&Limits::default()).await.expect("check");
}

#[tokio::test]
async fn asked_for_by_name_a_raw_disk_is_no_vhd() {
    let file = source("/disks/a.raw", vec![1; 4096]);
    let error = vhd::open(file, &OpenOptions::default(), &OpenGate::closed()).await;
    assert_eq!(error.expect_err("no footer").kind(), Kind::Truncated);
}
