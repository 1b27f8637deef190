//! Every kind of image reads as the bytes that went in.

use crate::builder::{Built, Put, Spec, build, build_snapshots, build_with_snapshots};
use crate::support::{Folder, open_bytes, qcow2, verdict};
use carreto_block::{ByteRange, OpenGate, Placement};
use carreto_error::Kind;
use carreto_formats::{OpenOptions, open};
use carreto_testkit::{MemSource, Rng, conformance, sparse_disk};
use std::sync::Arc;

/// Clusters of all sorts, repeatable.
fn mixed(spec: &Spec, seed: u64) -> impl Fn(u64) -> Put + use<> {
    let (extended, v3) = (spec.extended, spec.version == 3);
    let packable = spec.data_file.is_none();
    move |index| {
        let mut rng = Rng::new(seed.wrapping_mul(31).wrapping_add(index + 1));
        rng.next_u64();
        match rng.below(8) {
            0 => Put::Absent,
            1 if v3 => Put::Zero,
            2 if v3 => Put::Reserved,
            3 | 4 if packable => Put::Packed,
            5 | 6 if extended => {
                let (data, zero) = (rng.next_u64() as u32, rng.next_u64() as u32);
                Put::Sub(data, zero & !data)
            }
            _ => Put::Plain,
        }
    }
}

async fn conforms(spec: &Spec, what: &str) -> Built {
    let guest = sparse_disk(spec.size as usize, spec.size);
    let built = build(spec, &guest, &[], mixed(spec, spec.size));
    let image = open_bytes(&built.file).await.expect(what);
    conformance::source(image.as_ref(), &built.wanted).await;
    let report = image.check(&qcow2().limits).await.expect(what);
    assert!(report.warnings.is_empty(), "{what}: {:?}", report.warnings);
    assert!(report.allocated_size <= Some(spec.size), "{what}");
    built
}

#[tokio::test]
async fn every_cluster_size_version_and_codec_conforms() {
    for cluster_bits in [9, 12, 16, 21] {
        for (version, zstd) in [(2, false), (3, false), (3, true)] {
            let spec = Spec {
                version,
                cluster_bits,
                zstd,
                ..Spec::new((5 << cluster_bits) + (300 << 10) + 1)
            };
            let what = format!("v{version}, cluster_bits {cluster_bits}, zstd {zstd}");
            conforms(&spec, &what).await;
        }
    }
}

#[tokio::test]
async fn extended_l2_conforms() {
    for cluster_bits in [14, 16, 21] {
        let spec = Spec {
            extended: true,
            zstd: cluster_bits == 16,
            cluster_bits,
            ..Spec::new((9 << cluster_bits) + 12_345)
        };
        conforms(&spec, &format!("extended, cluster_bits {cluster_bits}")).await;
    }
}

#[tokio::test]
async fn odd_sizes_conform() {
    for size in [0, 1, 511, 512, 65_535, 65_536, 65_537, 3 * 65_536 + 77] {
        let spec = Spec::new(size);
        let built = conforms(&spec, &format!("{size} bytes")).await;
        assert_eq!(built.wanted.len() as u64, size);
    }
}

#[tokio::test]
async fn every_refcount_width_is_understood() {
    for refcount_order in 0..=6 {
        let spec = Spec { refcount_order, cluster_bits: 12, ..Spec::new(2 << 20) };
        conforms(&spec, &format!("refcount_order {refcount_order}")).await;
    }
}

#[tokio::test]
async fn a_remote_file_reads_the_same() {
    let spec = Spec { cluster_bits: 9, ..Spec::new(1 << 20) };
    let guest = sparse_disk(1 << 20, 3);
    let built = build(&spec, &guest, &[], mixed(&spec, 3));
    let file = MemSource::new("remote", built.file).remote().dense();
    let image = open(Arc::new(file), &qcow2(), &OpenGate::closed()).await.unwrap();
    conformance::source(image.as_ref(), &built.wanted).await;
}

#[tokio::test]
async fn backing_files_show_through() {
    // Shorter than the overlay and ending inside a cluster; longer; a chain.
    for base_len in [100_001, 3 << 20] {
        let base = sparse_disk(base_len, 5);
        for extended in [false, true] {
            let spec = Spec {
                extended,
                backing: Some(("base.raw".into(), Some("raw".into()))),
                ..Spec::new((2 << 20) + 513)
            };
            let guest = sparse_disk(spec.size as usize, 6);
            let built = build(&spec, &guest, &base, mixed(&spec, 9));
            let over = Spec {
                backing: Some(("middle.qcow2".into(), Some("qcow2".into()))),
                ..spec.clone()
            };
            let again = sparse_disk(over.size as usize, 7);
            let top = build(&over, &again, &built.wanted, mixed(&over, 10));
            let folder = Folder::default()
                .with("base.raw", &base)
                .with("middle.qcow2", &built.file)
                .with("top.qcow2", &top.file);
            let middle = folder.open("middle.qcow2").await.unwrap();
            conformance::source(middle.as_ref(), &built.wanted).await;
            let image = folder.open("top.qcow2").await.unwrap();
            conformance::source(image.as_ref(), &top.wanted).await;
            image.check(&qcow2().limits).await.unwrap();
            let backing = image.info().backing.clone().unwrap();
            assert_eq!(backing.name, "middle.qcow2");
        }
    }
}

#[tokio::test]
async fn a_raw_backing_file_is_raw_whatever_it_holds() {
    let inner = build(&Spec::new(1 << 20), &sparse_disk(1 << 20, 1), &[], |_| Put::Plain);
    let spec = Spec {
        backing: Some(("base".into(), Some("raw".into()))),
        ..Spec::new(inner.file.len() as u64)
    };
    let blank = vec![0; spec.size as usize];
    let top = build(&spec, &blank, &inner.file, |_| Put::Absent);
    let folder = Folder::default().with("base", &inner.file).with("top", &top.file);
    let image = folder.open("top").await.unwrap();
    conformance::source(image.as_ref(), &inner.file).await;
    let warnings = &image.info().warnings;
    assert_eq!(warnings[0].code, "image_header_in_raw");
    assert!(warnings[0].text.starts_with("base: "), "{}", warnings[0].text);
}

/// What is odd about a backing file is said once, with its name.
#[tokio::test]
async fn warnings_about_backing_files_name_them() {
    let over = |name: &str| Spec {
        backing: Some((name.into(), Some("qcow2".into()))),
        ..Spec::new(1 << 20)
    };
    let blank = vec![0; 1 << 20];
    let mut base = build(&Spec::new(1 << 20), &blank, &[], |_| Put::Plain).file;
    // The bits for "dirty" and "corrupt", and two entries for one cluster.
    base[79] |= 3;
    let be = |at: usize| u64::from_be_bytes(base[at..at + 8].try_into().unwrap());
    let l2 = (be(be(40) as usize) & !(1 << 63)) as usize;
    base.copy_within(l2..l2 + 8, l2 + 8);
    let folder = Folder::default()
        .with("base", &base)
        .with("middle", &build(&over("base"), &blank, &[], |_| Put::Absent).file)
        .with("top", &build(&over("middle"), &blank, &[], |_| Put::Absent).file);
    let image = folder.open("top").await.unwrap();
    let report = image.check(&qcow2().limits).await.unwrap();
    let all = image.info().warnings.iter().chain(&report.warnings);
    let all: Vec<_> = all.map(|warning| (warning.code, warning.text.as_str())).collect();
    let codes: Vec<_> = all.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, ["dirty_bit", "corrupt_bit", "shared_cluster"]);
    assert!(all.iter().all(|(_, text)| text.starts_with("base: ")), "{all:?}");
}

#[tokio::test]
async fn a_backing_file_without_a_format_is_never_opened() {
    let spec = Spec { backing: Some(("base".into(), None)), ..Spec::new(1 << 20) };
    let top = build(&spec, &vec![0; 1 << 20], &[], |_| Put::Absent);
    let folder = Folder::default().with("base", &[0; 512]).with("top", &top.file);
    let error = folder.open("top").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsafe, "{error}");
    assert!(error.remedy().contains("rebase -u"), "{}", error.remedy());
}

#[tokio::test]
async fn external_data_files_are_read_through_the_gate() {
    for extended in [false, true] {
        let spec =
            Spec { extended, data_file: Some("guest.data".into()), ..Spec::new((1 << 20) + 7) };
        let guest = sparse_disk(spec.size as usize, 8);
        let built = build(&spec, &guest, &[], mixed(&spec, 4));
        let folder = Folder::default().with("guest.data", &built.data).with("top", &built.file);
        let image = folder.open("top").await.unwrap();
        conformance::source(image.as_ref(), &built.wanted).await;
        let report = image.check(&qcow2().limits).await.unwrap();
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        assert_eq!(image.files()[1].name(), "guest.data");
        assert_eq!(open_bytes(&built.file).await.unwrap_err().kind(), Kind::Unsafe);
        let cut = &built.data[..built.data.len() - 65_536];
        let image = folder.with("guest.data", cut).open("top").await.unwrap();
        let error = image.check(&qcow2().limits).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Truncated, "{error}");
        assert_eq!(error.nearest_path(), Some("guest.data"), "{error}");
    }
}

/// Where the data file is a raw image by itself, it decides: tables that say nothing, or say
/// zeros, do not hide what is in it.
#[tokio::test]
async fn a_raw_data_file_decides() {
    let spec = Spec { data_file: Some("guest.data".into()), ..Spec::new((1 << 20) + 7) };
    let guest = sparse_disk(spec.size as usize, 8);
    let cluster = 65_536;
    for put in [Put::Plain, Put::Absent, Put::Zero] {
        let mut file = build(&spec, &guest, &[], |_| put).file;
        file[95] |= 2;
        let folder = Folder::default().with("guest.data", &guest).with("top", &file);
        let image = folder.open("top").await.unwrap();
        conformance::source(image.as_ref(), &guest).await;
        let report = image.check(&qcow2().limits).await.unwrap();
        assert_eq!(report.allocated_size, None);
        let longer = [guest.as_slice(), &[9; 1000]].concat();
        let image = folder.clone().with("guest.data", &longer).open("top").await.unwrap();
        conformance::source(image.as_ref(), &guest).await;
        let mut wanted = guest[..cluster].to_vec();
        let image = folder.with("guest.data", &wanted).open("top").await.unwrap();
        if put == Put::Plain {
            let error = image.check(&qcow2().limits).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Truncated, "{error}");
        } else {
            wanted.resize(guest.len(), 0);
            conformance::source(image.as_ref(), &wanted).await;
        }
    }
    // Entries for other places, and a backing file, contradict it.
    let mut moved =
        build(&spec, &guest, &[], |index| [Put::Absent, Put::Plain][usize::from(index == 3)]);
    moved.file[95] |= 2;
    let folder = Folder::default().with("guest.data", &guest).with("top", &moved.file);
    let image = folder.open("top").await.unwrap();
    assert_eq!(image.check(&qcow2().limits).await.unwrap_err().kind(), Kind::Corrupt);
    let spec = Spec { backing: Some(("base".into(), Some("raw".into()))), ..spec };
    let mut file = build(&spec, &guest, &[], |_| Put::Absent).file;
    file[95] |= 2;
    let error = folder.with("base", &guest).with("top", &file).open("top").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
}

#[tokio::test]
async fn snapshots_are_found_by_id_and_by_name() {
    let (old, new) = (sparse_disk(3 << 20, 1), sparse_disk(2 << 20, 2));
    let now = sparse_disk((4 << 20) + 5, 3);
    let spec = Spec::new(now.len() as u64);
    let list: [(&str, &str, &[u8]); 2] = [("1", "2", &old), ("2", "after", &new)];
    let built = build_with_snapshots(&spec, &now, &list);
    for (wanted, disk) in [("1", &old), ("2", &new), ("after", &new)] {
        let options = OpenOptions { snapshot: Some(wanted.into()), ..qcow2() };
        let file = Arc::new(MemSource::new("s.qcow2", built.file.clone()));
        let image = open(file, &options, &OpenGate::closed()).await.unwrap();
        conformance::source(image.as_ref(), disk).await;
        let report = image.check(&qcow2().limits).await.unwrap();
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    }
    conformance::source(open_bytes(&built.file).await.unwrap().as_ref(), &now).await;
    assert!(verdict(&built.file).await.unwrap().is_empty());
    let options = OpenOptions { snapshot: Some("gone".into()), ..qcow2() };
    let file = Arc::new(MemSource::new("s.qcow2", built.file.clone()));
    let error = open(file, &options, &OpenGate::closed()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

/// Snapshots over a backing file, with extended entries, and with the state of a machine behind
/// the disk, which is never read.
#[tokio::test]
async fn snapshots_of_every_kind_read_as_they_were() {
    let base = sparse_disk(900_001, 4);
    let backing = Some(("base".to_owned(), Some("raw".to_owned())));
    let small = Spec { cluster_bits: 9, ..Spec::new(300_000) };
    let specs = [
        Spec { backing: backing.clone(), ..small.clone() },
        Spec { vm_state: 70_000, ..small.clone() },
        Spec { vm_state: 70_000, backing: backing.clone(), ..small },
        Spec { extended: true, cluster_bits: 14, ..Spec::new(3 << 20) },
        Spec { extended: true, backing, ..Spec::new(3 << 20) },
    ];
    for spec in specs {
        let below = if spec.backing.is_some() { base.as_slice() } else { &[] };
        let now = sparse_disk(spec.size as usize, 1);
        let (old, larger) = (sparse_disk(200_123, 2), sparse_disk((2 << 20) + 77, 3));
        let list: [(&str, &str, &[u8]); 2] = [("1", "old", &old), ("2", "larger", &larger)];
        let plan = mixed(&spec, 5);
        let (built, wanted) = build_snapshots(&spec, below, &now, &list, &plan);
        let folder = Folder::default().with("base", &base).with("top", &built.file);
        let image = folder.open("top").await.unwrap();
        conformance::source(image.as_ref(), &built.wanted).await;
        assert!(image.check(&qcow2().limits).await.unwrap().warnings.is_empty(), "{spec:?}");
        for ((_, name, _), wanted) in list.iter().zip(&wanted) {
            let options = OpenOptions { snapshot: Some((*name).into()), ..qcow2() };
            let file = folder.0["top"].clone();
            let image = open(file, &options, &folder.gate("top")).await.unwrap();
            conformance::source(image.as_ref(), wanted).await;
            assert!(image.check(&qcow2().limits).await.unwrap().warnings.is_empty(), "{spec:?}");
        }
    }
}

/// A file of the project's own corpus, which qemu-img made.
fn corpus_file(name: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/corpus/{name}.gz", env!("CARGO_MANIFEST_DIR"));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).unwrap();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(file), &mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn backing_files_may_have_other_formats() {
    let base = corpus_file("disk.raw");
    for (name, format) in [
        ("dynamic-exact.vhd", "vpc"),
        ("fixed-exact.vhd", "vpc"),
        ("sparse.vmdk", "vmdk"),
        ("stream.vmdk", "vmdk"),
    ] {
        let spec = Spec {
            backing: Some((name.into(), Some(format.into()))),
            ..Spec::new(base.len() as u64 + 5000)
        };
        let guest = sparse_disk(spec.size as usize, 6);
        let top = build(&spec, &guest, &base, mixed(&spec, 9));
        let folder = Folder::default().with(name, &corpus_file(name)).with("top", &top.file);
        let image = folder.open("top").await.unwrap();
        conformance::source(image.as_ref(), &top.wanted).await;
        image.check(&qcow2().limits).await.unwrap();
    }
}

#[tokio::test]
async fn an_empty_disk_of_any_size_is_one_extent() {
    let mut built = build(&Spec::new(1 << 20), &vec![0; 1 << 20], &[], |_| Put::Absent);
    // 10 TiB: 20480 entries in the L1 table, which gets a place of its own at the end.
    let size = 10u64 << 40;
    let at = built.file.len().next_multiple_of(65_536);
    built.file.resize(at + 20_480 * 8, 0);
    crate::builder::be64(&mut built.file, 24, size);
    crate::builder::be32(&mut built.file, 36, 20_480);
    crate::builder::be64(&mut built.file, 40, at as u64);
    let image = open_bytes(&built.file).await.unwrap();
    let list = image.extents(ByteRange::whole(size), 10).await.unwrap();
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(list[0].range, ByteRange::whole(size));
    assert!(matches!(list[0].placement, Placement::Zero));
    let report = image.check(&qcow2().limits).await.unwrap();
    assert_eq!(report.allocated_size, Some(0));
}

#[tokio::test]
async fn neighbouring_clusters_are_one_extent() {
    let guest = sparse_disk(4 << 20, 77);
    let built = build(&Spec::new(4 << 20), &guest, &[], |_| Put::Plain);
    let image = open_bytes(&built.file).await.unwrap();
    let list = image.extents(ByteRange::whole(4 << 20), 10).await.unwrap();
    assert_eq!(list.len(), 1, "{list:?}");
}
