//! Probing: every known format by its signature, no two at once, two reads at most.
#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a failed expectation of a test is a panic; what was found is said"
)]

mod vhd_support;

use carreto_block::OpenGate;
use carreto_error::Kind;
use carreto_formats::{Format, OpenOptions, open, probe};
use carreto_testkit::{Fault, FaultySource, MemSource, conformance, sparse_disk};
use std::sync::Arc;
use vhd_support::corpus::{Corpus, FileSource};
use vhd_support::{DYNAMIC, FIXED, Spec, put};

/// A file of 200 KiB with `bytes` at `at`, counted from the end where that is negative.
fn file_with(places: &[(i64, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 200 << 10];
    for (at, bytes) in places {
        let at = if *at < 0 {
            file.len() - usize::try_from(-at).expect("small")
        } else {
            usize::try_from(*at).expect("small")
        };
        put(&mut file, at, bytes);
    }
    file
}

async fn looks_like(name: &str, file: Vec<u8>) -> Result<Format, Kind> {
    let file = MemSource::new(name, file);
    let found = probe(&file).await.map_err(|error| error.kind())?;
    assert!(!found.evidence.is_empty());
    Ok(found.format)
}

/// What a file holds, and where; from the end where that is negative.
type Places<'a> = Vec<(i64, &'a [u8])>;

const QCOW2: &[u8] = b"QFI\xfb\0\0\0\x03";
const MBR_ENTRY: &[u8] = &[0x80, 0, 1, 0, 0x83, 0, 1, 0, 0, 8, 0, 0, 0, 8, 0, 0];

/// The footer of a VHD of which [`file_with`] makes the disk, if it has `len` bytes.
fn footer(kind: u32, len: u64) -> Vec<u8> {
    Spec::new(kind, (200 << 10) - len).footer().to_vec()
}

#[tokio::test]
async fn every_readable_format_is_found() {
    let text = |text: &'static str| vec![(0, text.as_bytes())];
    let (whole, sparse) = (footer(FIXED, 512), footer(DYNAMIC, 512));
    let short = footer(FIXED, 511)[..511].to_vec();
    let cases: [(Format, Places<'_>); 20] = [
        (Format::Raw, vec![]),
        (Format::Raw, vec![(510, b"\x55\xaa"), (446, MBR_ENTRY)]),
        (Format::Raw, vec![(510, b"\x55\xaa"), (512, b"EFI PART")]),
        (Format::Raw, vec![(32769, b"CD001")]),
        (Format::Raw, text("#!/bin/sh\nversion=1\necho a script")),
        (Format::Qcow2, vec![(0, QCOW2)]),
        (Format::Qcow2, vec![(0, b"QFI\xfb\0\0\0\x09")]),
        (Format::Vhd, vec![(0, b"conectix")]),
        (Format::Vhd, vec![(-512, &whole)]),
        (Format::Vhd, vec![(-511, &short)]),
        (Format::Vhd, vec![(-512, &sparse)]),
        (Format::Vhd, vec![(-512, &whole), (510, b"\x55\xaa"), (446, MBR_ENTRY)]),
        (Format::Vhd, vec![(0, b"conectix"), (4096, b"EFI PART")]),
        (Format::Raw, vec![(510, b"\x55\xaa"), (4096, b"EFI PART")]),
        (Format::Vmdk, vec![(0, b"KDMV")]),
        (Format::Vmdk, vec![(0, b"COWD")]),
        (Format::Vmdk, vec![(0, b"\xbe\xba\xfe\xca\0\0\0\0")]),
        (Format::Vmdk, text("# Disk DescriptorFile\nversion=1\n")),
        (Format::Vmdk, text("\n \t#disk  descriptorFILE\r\nversion = 1\r\n")),
        (Format::Vmdk, text("\u{feff}# a comment\n\nVersion=3\ncreateType = \"vmfs\"")),
    ];
    for (wanted, places) in cases {
        let text = format!("{places:?}");
        assert_eq!(looks_like("a.img", file_with(&places)).await, Ok(wanted), "{text}");
    }
}

#[tokio::test]
async fn known_formats_without_a_reader_are_refused_by_name() {
    let cases: [(&str, i64, &[u8]); 26] = [
        ("VHDX", 0, b"vhdxfile"),
        ("VDI", 64, b"\x7f\x10\xda\xbe"),
        ("QED", 0, b"QED\0"),
        ("qcow version 1", 0, b"QFI\xfb\0\0\0\x01"),
        ("Parallels", 0, b"WithoutFreeSpace"),
        ("Parallels", 0, b"WithouFreSpacExt"),
        ("Bochs", 0, b"Bochs Virtual HD Image"),
        ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop"),
        ("DMG", -512, b"koly"),
        ("EWF", 0, b"EVF\x09\x0d\x0a\xff\x00"),
        ("EWF", 0, b"EVF2\x0d\x0a\x81\x00"),
        ("AFF", 0, b"AFF10\r\n\0"),
        ("WIM", 0, b"MSWIM\0\0\0"),
        ("VMA", 0, b"VMA\0"),
        ("Android sparse", 0, b"\x3a\xff\x26\xed"),
        ("gzip", 0, b"\x1f\x8b\x08"),
        ("xz", 0, b"\xfd7zXZ\0"),
        ("zstd", 0, b"\x28\xb5\x2f\xfd"),
        ("lz4", 0, b"\x04\x22\x4d\x18"),
        ("bzip2", 0, b"BZh91AY&SY"),
        ("zip", 0, b"PK\x03\x04"),
        ("7z", 0, b"7z\xbc\xaf\x27\x1c"),
        ("rar", 0, b"Rar!\x1a\x07"),
        ("tar", 257, b"ustar"),
        ("OVF", 0, b"<?xml version=\"1.0\"?>\n<Envelope xmlns=\"\">"),
        ("OVF", 0, b"<ovf:Envelope>"),
    ];
    for (name, at, bytes) in cases {
        let file = MemSource::new("a.img", file_with(&[(at, bytes)]));
        let error = probe(&file).await.expect_err(name);
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert_ne!(error.remedy(), Kind::Unsupported.remedy(), "{error}");
    }
    for bytes in [b"LUKS\xba\xbe".as_slice(), b"encrcdsa"] {
        let found = looks_like("a.img", file_with(&[(0, bytes)])).await;
        assert_eq!(found, Err(Kind::Encrypted));
    }
}

#[tokio::test]
async fn two_formats_at_once_are_refused() {
    let iso: (i64, &[u8]) = (32769, b"CD001");
    let mbr: [(i64, &[u8]); 2] = [(510, b"\x55\xaa"), (446, MBR_ENTRY)];
    let (whole, short) = (footer(FIXED, 512), footer(FIXED, 511)[..511].to_vec());
    let cases: [Places<'_>; 10] = [
        vec![(0, QCOW2), iso],
        vec![(0, QCOW2), (-512, &whole)],
        vec![(0, b"KDMV"), (510, b"\x55\xaa"), (4096, b"EFI PART")],
        vec![(0, QCOW2), (257, b"ustar")],
        vec![(0, QCOW2), (-512, b"koly")],
        vec![(0, b"KDMV"), iso],
        vec![(0, b"# Disk DescriptorFile\nversion=1\n"), mbr[0], mbr[1]],
        vec![(0, b"# Disk DescriptorFile\nversion=1\n"), (512, b"EFI PART")],
        vec![(0, b"LUKS\xba\xbe"), (-511, &short)],
        vec![(0, b"conectix"), (64, b"\x7f\x10\xda\xbe")],
    ];
    for places in cases {
        let file = MemSource::new("a.img", file_with(&places));
        let error = probe(&file).await.expect_err("two formats");
        assert_eq!(error.kind(), Kind::Ambiguous, "{places:?}");
        assert!(error.to_string().contains(", "), "names both: {error}");
    }
}

#[tokio::test]
async fn small_files_and_odd_names_are_handled() {
    for len in [0, 1, 7, 511, 512, 513] {
        assert_eq!(looks_like("a.img", vec![0; len]).await, Ok(Format::Raw));
        assert_eq!(looks_like("s3://b/a.VHD", vec![0; len]).await, Err(Kind::Truncated));
    }
    for name in ["a.qcow2", "a.VMDK", "a.vhdx", "a.vdi", "a-f001.vmdk", "a-s001.vmdk"] {
        assert_eq!(looks_like(name, vec![0; 512]).await, Err(Kind::Corrupt), "{name}");
        let options = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
        let file = Arc::new(MemSource::new(name, vec![0; 512]));
        let image = open(file, &options, &OpenGate::closed()).await.expect("raw as asked");
        assert_eq!(image.size(), 512);
    }
    let mut disk = vec![0; 512];
    disk[450] = 0x83;
    disk[458] = 1;
    disk[510..].copy_from_slice(b"\x55\xAA");
    assert_eq!(codes("a.vmdk", disk.clone()).await, ["name_not_format"]);
    assert_eq!(looks_like("a-f001.vmdk", disk).await, Err(Kind::Corrupt));
    let part = probe(&MemSource::new("a-f001.vmdk", vec![0; 512])).await.expect_err("a part");
    assert!(part.remedy().contains("descriptor"), "{}", part.remedy());
    assert_eq!(codes("a-flat.vmdk", vec![0; 512]).await, [""; 0]);
    assert_eq!(codes("a-f.qcow", vec![0; 512]).await, [""; 0]);
    assert_eq!(codes("a.img", vec![]).await, ["empty_file"]);
    assert_eq!(codes("a.iso", file_with(&[(32769, b"CD001")])).await, ["iso9660"]);
}

async fn codes(name: &str, file: Vec<u8>) -> Vec<&'static str> {
    let found = probe(&MemSource::new(name, file)).await.expect("readable");
    found.warnings.iter().map(|warning| warning.code).collect()
}

/// The signature of a footer is also in the disks of guests that keep VHDs.
#[tokio::test]
async fn a_footer_that_does_not_fit_the_file_is_guest_data() {
    let good = footer(FIXED, 512);
    let mut unsealed = good.clone();
    unsealed[100] ^= 1;
    let cases: [Vec<u8>; 3] =
        [b"conectix".to_vec(), unsealed, Spec::new(FIXED, 100 << 10).footer().to_vec()];
    for bytes in cases {
        let file = file_with(&[(-512, &bytes)]);
        assert_eq!(looks_like("a.img", file.clone()).await, Ok(Format::Raw));
        assert_eq!(codes("a.img", file.clone()).await, ["vhd_footer_in_raw"]);
        for name in ["a.vhd", "a.vpc"] {
            assert_eq!(looks_like(name, file.clone()).await, Ok(Format::Vhd), "{name}");
        }
        let nested = file_with(&[(0, QCOW2), (-512, &bytes)]);
        assert_eq!(looks_like("a.qcow2", nested).await, Ok(Format::Qcow2));
    }
}

/// With 257 to 384 blocks the first one's data starts at byte 3584, and so the guest's GPT lies
/// where one of a disk with sectors of 4096 bytes would.
#[tokio::test]
async fn a_dynamic_vhd_with_a_gpt_at_byte_4096_is_no_disk() {
    let mut disk = vec![0; 300 * 4096];
    put(&mut disk, 510, b"\x55\xaa");
    put(&mut disk, 512, b"EFI PART");
    let file = Spec::new(DYNAMIC, disk.len() as u64).block_size(4096).build(&disk, &[]);
    assert!(file[4096..].starts_with(b"EFI PART"));
    assert_eq!(looks_like("a.vhd", file).await, Ok(Format::Vhd));
}

/// A guest can write the header of an image into its disk, which shows where the file has the
/// name of a raw disk.
#[tokio::test]
async fn an_image_with_the_name_of_a_raw_disk_is_said() {
    for name in ["guest.raw", "guest.IMG", "guest.dd"] {
        let codes = codes(name, file_with(&[(0, QCOW2)])).await;
        assert_eq!(codes, ["name_not_format"], "{name}");
    }
    assert_eq!(codes("guest.qcow2", file_with(&[(0, QCOW2)])).await, [""; 0]);
    let disk = sparse_disk(1 << 20, 2);
    let file = Arc::new(MemSource::new("a.img", Spec::new(FIXED, 1 << 20).build(&disk, &[])));
    let image = open(file, &OpenOptions::default(), &OpenGate::closed()).await.expect("a VHD");
    assert_eq!(image.info().format, Format::Vhd);
    assert_eq!(image.info().warnings[0].code, "name_not_format");
    conformance::source(image.as_ref(), &disk).await;
}

#[tokio::test]
async fn a_snapshot_of_a_format_without_any_is_not_found() {
    let disk = sparse_disk(1 << 20, 2);
    let raw = Arc::new(MemSource::new("a.raw", disk.clone()));
    let vhd = Arc::new(MemSource::new("a.vhd", Spec::new(DYNAMIC, 1 << 20).build(&disk, &[])));
    let vmdk = Arc::new(MemSource::new("a.vmdk", b"# Disk DescriptorFile\n".to_vec()));
    let options = OpenOptions { snapshot: Some("old".into()), ..OpenOptions::default() };
    for file in [raw, vhd, vmdk] {
        let error = open(file, &options, &OpenGate::closed()).await.expect_err("no snapshot");
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert!(error.to_string().contains("old"), "{error}");
    }
}

#[tokio::test]
async fn a_header_in_a_disk_that_is_raw_by_order_is_reported() {
    let options = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
    let cases: [(&str, Places<'_>); 4] = [
        ("qcow2", vec![(0, QCOW2)]),
        ("vhd", vec![(-512, b"conectix")]),
        ("gzip", vec![(0, b"\x1f\x8b\x08")]),
        ("LUKS", vec![(0, b"LUKS\xba\xbe")]),
    ];
    for (name, places) in cases {
        let bytes = file_with(&places);
        let file = Arc::new(MemSource::new("a.raw", bytes.clone()));
        let image = open(file, &options, &OpenGate::closed()).await.expect("raw");
        let warnings = &image.info().warnings;
        assert_eq!(warnings[0].code, "image_header_in_raw");
        assert!(warnings[0].text.contains(name), "{}", warnings[0].text);
        conformance::source(image.as_ref(), &bytes).await;
    }
    let file = Arc::new(MemSource::new("a.raw", sparse_disk(1 << 20, 1)));
    let image = open(file, &options, &OpenGate::closed()).await.expect("raw");
    assert_eq!(image.info().warnings, []);
}

#[tokio::test]
async fn probing_reads_the_two_ends_once_and_reports_failures() {
    let disk = sparse_disk(1 << 20, 2);
    let files = [
        Spec::new(FIXED, 1 << 20).build(&disk, &[]),
        Spec::new(DYNAMIC, 1 << 20).build(&disk, &[]),
        vec![0; 600],
    ];
    for file in files {
        let source = Arc::new(MemSource::new("a.img", file));
        let count = Fault::never();
        let counted = FaultySource::new(source.clone(), count.clone());
        probe(&counted).await.expect("probe");
        assert!(count.operations() <= 2, "{} reads", count.operations());
        for at in 1..=count.operations() {
            let faulty = FaultySource::new(source.clone(), Fault::at(at, Kind::Io));
            let error = probe(&faulty).await.expect_err("a failing read");
            assert_eq!(error.kind(), Kind::Io);
        }
        for polls in 0..4 {
            conformance::poll_then_drop(probe(&counted), polls);
        }
        probe(&counted).await.expect("probe again");
    }
}

#[tokio::test]
async fn the_corpus_is_recognised() {
    let Some(corpus) = Corpus::find("the_corpus_is_recognised") else {
        return;
    };
    let mut known = 0;
    for entry in corpus.manifest() {
        // The ends of the few large ones look like those of the others.
        if entry["size_decompressed"].as_u64().is_some_and(|size| size > 256 << 20) {
            continue;
        }
        let name = entry["file"].as_str().expect("a name");
        let format = entry["format"].as_str().expect("a format");
        let wanted = match format {
            "qcow2" | "vhd" | "vmdk" | "raw" => Ok(format.to_owned()),
            // A picture under a wrong name.
            _ if name.ends_with("not-tar.ova") => Ok("raw".into()),
            _ => Err(Kind::Unsupported),
        };
        let found = probe(corpus.source(name).as_ref()).await;
        let found = found.map(|probe| probe.format.name().to_owned()).map_err(|error| error.kind());
        if found != wanted {
            eprintln!("{name}: {found:?}, the manifest says {format}");
        }
        assert_eq!(found, wanted, "{name}");
        known += 1;
    }
    assert!(known >= 75, "only {known} files");
}

#[tokio::test]
async fn the_malformed_corpus_is_recognised() {
    let Some(corpus) = Corpus::find("the_malformed_corpus_is_recognised") else {
        return;
    };
    let mut cases = 0;
    for (path, wanted) in corpus.malformed() {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let file = FileSource::open(&path).expect("open");
        let found = probe(file.as_ref()).await;
        let found = found.map(|probe| probe.format).map_err(|error| error.kind());
        let expected = match name.as_bytes()[0] {
            b'q' => Ok(Format::Qcow2),
            b'h' => Ok(Format::Vhd),
            b'v' => Ok(Format::Vmdk),
            b'x' => Err(Kind::Unsupported),
            _ => Err(found.expect_err("refused")),
        };
        assert_eq!(found, expected, "{name}");
        if name.starts_with('r') {
            assert_eq!(found.map_err(Kind::name), Err(wanted.as_str()), "{name}");
        }
        cases += 1;
    }
    assert!(cases >= 83, "only {cases} cases");
}
