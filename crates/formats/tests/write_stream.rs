//! A streamOptimized VMDK, taken apart by a reader of its own: header, markers, tables, footer and
//! end as VMware's "Virtual Disk Format 5.0" has them, byte by byte from front to back.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "these are tests")]

use carreto_formats::write::{OutputFormat, Packed, Segment, WriteOptions, encoder};
use carreto_testkit::Rng;
use libdeflater::Decompressor;

const SECTOR: usize = 512;
const GRAIN: usize = 64 << 10;
const SPAN: usize = GRAIN * 512;

/// Writes `disk`, handing over the items of 2 MiB that are not empty.
fn write(disk: &[u8]) -> Vec<u8> {
    let mut options = WriteOptions::new(OutputFormat::VmdkStream);
    options.id = *b"sixteen bytes id";
    "web01.vmdk".clone_into(&mut options.name);
    let (mut image, packer) = encoder(&options, disk.len() as u64).unwrap();
    let (mut file, mut segments) = (vec![0; image.head_len() as usize], Vec::new());
    let mut append = |segments: &mut Vec<Segment>, item: &[u8], packed: &Packed| {
        for segment in segments.drain(..) {
            match segment {
                Segment::Guest { at, len } => file.extend(&item[at as usize..][..len as usize]),
                Segment::Packed { at, len } => {
                    file.extend(&packed.bytes[at as usize..][..len as usize]);
                }
                Segment::Bytes(bytes) => file.extend(bytes),
                Segment::Zero(len) => file.resize(file.len() + len as usize, 0),
            }
        }
    };
    for (index, item) in disk.chunks(2 << 20).enumerate() {
        if item.iter().any(|byte| *byte != 0) {
            let packed = packer.pack(item).unwrap();
            image.place((index as u64) << 21, &packed.forms, &mut segments).unwrap();
            append(&mut segments, item, &packed);
        }
    }
    let head = image.finish(&mut segments).unwrap();
    append(&mut segments, &[], &Packed::default());
    file[..head.len()].copy_from_slice(&head);
    file
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Checks a header or a footer, which differ in where the grain directory is.
fn check_header(header: &[u8], sectors: u64, directory: u64) {
    assert_eq!(&header[..4], b"KDMV");
    assert_eq!((u32_at(header, 4), u32_at(header, 8)), (3, 0x3_0001), "version and flags");
    assert_eq!((u64_at(header, 12), u64_at(header, 20)), (sectors, 128), "capacity and grain");
    assert_eq!((u64_at(header, 28), u64_at(header, 36)), (1, 20), "descriptor");
    assert_eq!((u32_at(header, 44), u64_at(header, 48)), (512, 0), "entries, redundant directory");
    assert_eq!((u64_at(header, 56), u64_at(header, 64)), (directory, 128), "directory, overhead");
    assert_eq!((header[72], &header[73..77]), (0, &b"\n \r\n"[..]), "clean, newline test");
    assert_eq!(u16_at(header, 77), 1, "deflate");
    assert!(header[79..SECTOR].iter().all(|byte| *byte == 0));
}

fn check_descriptor(text: &[u8], sectors: u64) {
    let end = text.iter().position(|byte| *byte == 0).unwrap();
    assert!(text[end..].iter().all(|byte| *byte == 0));
    let text = std::str::from_utf8(&text[..end]).unwrap();
    assert!(text.starts_with("# Disk DescriptorFile\n"), "{text}");
    for line in [
        "version=1",
        "parentCID=ffffffff",
        "createType=\"streamOptimized\"",
        &format!("RW {sectors} SPARSE \"web01.vmdk\""),
        "ddb.adapterType = \"lsilogic\"",
        "ddb.toolsVersion = \"2147483647\"",
        "ddb.longContentID = \"7369787465656e206279746573206964\"",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is missing in {text}");
    }
    assert!(text.contains("ddb.virtualHWVersion = ") && text.contains("\nCID="), "{text}");
}

/// What a walk over the markers found.
#[derive(Default)]
struct Walked {
    disk: Vec<u8>,
    /// Sector of the marker by guest grain.
    grains: Vec<(usize, u32)>,
    /// Sector and entries.
    tables: Vec<(u32, Vec<u32>)>,
    directory: Option<(u64, Vec<u32>)>,
    footer: Option<Vec<u8>>,
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|entry| u32_at(entry, 0)).collect()
}

/// From the first marker to the end of the stream, which is the end of the file.
fn walk(file: &[u8], size: usize) -> Walked {
    let mut walked = Walked { disk: vec![0; size], ..Walked::default() };
    let mut at = u64_at(file, 64) as usize * SECTOR;
    loop {
        let (value, len) = (u64_at(file, at), u32_at(file, at + 8) as usize);
        if len > 0 {
            let mut grain = vec![0; GRAIN];
            let packed = &file[at + 12..][..len];
            let unpacked = Decompressor::new().zlib_decompress(packed, &mut grain).unwrap();
            assert_eq!(unpacked, GRAIN, "a whole grain");
            assert!((value as usize).is_multiple_of(128), "grains are aligned");
            let start = value as usize * SECTOR;
            let (inside, past) = grain.split_at(GRAIN.min(size - start));
            assert!(past.iter().all(|byte| *byte == 0), "nothing lies behind the disk");
            walked.disk[start..start + inside.len()].copy_from_slice(inside);
            walked.grains.push((start / GRAIN, (at / SECTOR) as u32));
            let end = (at + 12 + len).next_multiple_of(SECTOR);
            assert!(file[at + 12 + len..end].iter().all(|byte| *byte == 0), "padding");
            at = end;
            continue;
        }
        assert!(file[at + 16..at + SECTOR].iter().all(|byte| *byte == 0), "padding of a marker");
        let body = &file[at + SECTOR..][..value as usize * SECTOR];
        let sector = at / SECTOR + 1;
        match u32_at(file, at + 12) {
            0 => {
                assert_eq!((value, at + SECTOR), (0, file.len()), "the end is the end");
                return walked;
            }
            1 => walked.tables.push((sector as u32, numbers(body))),
            2 => walked.directory = Some((sector as u64, numbers(body))),
            3 => walked.footer = Some(body.to_vec()),
            other => assert!(other < 4, "unknown marker {other}"),
        }
        at += SECTOR + body.len();
    }
}

/// A disk with text and noise in every other grain or so of the spans named.
fn disk(size: usize, spans: &[usize]) -> Vec<u8> {
    let (mut bytes, mut rng) = (vec![0; size], Rng::new(size as u64));
    for span in spans {
        for grain in [0, 1, 7, 300, 511] {
            let start = span * SPAN + grain * GRAIN;
            if start < size {
                let piece = &mut bytes[start..size.min(start + GRAIN)];
                if grain % 2 == 0 { piece.fill(b'x') } else { rng.fill(piece) }
            }
        }
    }
    bytes
}

#[test]
fn a_stream_is_laid_out_as_its_readers_expect() {
    let cases: [(usize, &[usize]); 6] = [
        (512, &[]),
        (3 << 20, &[]),
        (SPAN, &[0]),
        (3 * SPAN + 5 * GRAIN, &[0, 2, 3]),
        (SPAN + 7 * GRAIN + 3 * SECTOR, &[1]),
        (1954 * SECTOR, &[0]),
    ];
    for (size, spans) in cases {
        let disk = disk(size, spans);
        let file = write(&disk);
        let sectors = (size / SECTOR) as u64;
        assert!(file.len().is_multiple_of(SECTOR));
        check_header(&file[..SECTOR], sectors, u64::MAX);
        check_descriptor(&file[SECTOR..21 * SECTOR], sectors);
        assert!(file[21 * SECTOR..128 * SECTOR].iter().all(|byte| *byte == 0));
        let walked = walk(&file, size);
        assert!(walked.disk == disk, "{size}: other bytes");
        let data = |grain: &[u8]| grain.iter().any(|byte| *byte != 0);
        let wanted: Vec<usize> =
            disk.chunks(GRAIN).enumerate().filter(|(_, g)| data(g)).map(|(n, _)| n).collect();
        let found: Vec<usize> = walked.grains.iter().map(|(grain, _)| *grain).collect();
        assert_eq!(found, wanted, "{size}: grains with data, once each, in the order of the disk");
        check_tables(&walked, size);
        let (at, _) = walked.directory.unwrap();
        check_header(&walked.footer.unwrap(), sectors, at);
        let tail = &file[file.len() - 3 * SECTOR..];
        assert_eq!(u32_at(tail, 12), 3, "footer marker, footer, end");
        check_header(&tail[SECTOR..2 * SECTOR], sectors, at);
        assert!(tail[2 * SECTOR..].iter().all(|byte| *byte == 0));
    }
}

/// The tables lead to the same grains as the markers.
fn check_tables(walked: &Walked, size: usize) {
    let (_, directory) = walked.directory.as_ref().unwrap();
    let spans = size.div_ceil(SPAN);
    assert!(directory.len() >= spans && directory[spans..].iter().all(|entry| *entry == 0));
    let used: Vec<u32> = directory.iter().copied().filter(|entry| *entry != 0).collect();
    let tables: Vec<u32> = walked.tables.iter().map(|(sector, _)| *sector).collect();
    assert_eq!(used, tables, "empty spans have no table");
    let mut grains = Vec::new();
    for (span, sector) in directory.iter().enumerate().filter(|(_, sector)| **sector != 0) {
        let (_, entries) = walked.tables.iter().find(|(at, _)| at == sector).unwrap();
        assert_eq!(entries.len(), 512);
        let used = entries.iter().enumerate().filter(|(_, entry)| **entry != 0);
        grains.extend(used.map(|(index, entry)| (span * 512 + index, *entry)));
    }
    assert_eq!(grains, walked.grains, "entries name the markers");
}
