//! What the encoders write, the readers read back: every format and option, over sizes and
//! contents at which units, tables and files end. (`cargo xtask e2e qemu` asks qemu-img the same.)
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "these are tests")]

use carreto_block::{ByteRange, OpenGate, SourceExt as _};
use carreto_error::Kind;
use carreto_formats::write::{
    Encoder, Form, OutputFormat, PackCodec, Packed, Packer, Segment, WriteOptions, encoder, gauge,
};
use carreto_formats::{Format, Image, Limits, OpenOptions, Warning, open};
use carreto_testkit::{MemSource, Rng};
use std::sync::Arc;

const ITEM: u64 = 2 << 20;

/// A disk as its size and the places that hold data.
#[derive(Debug, Clone, Default)]
struct Disk {
    size: u64,
    data: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    fn new(size: u64) -> Self {
        Self { size, data: Vec::new() }
    }

    fn with(mut self, at: u64, len: u64, compressible: bool) -> Self {
        let mut bytes = vec![0; len as usize];
        Rng::new(at ^ len).fill(&mut bytes);
        if compressible {
            bytes = bytes
                .iter()
                .flat_map(|byte| format!("line {:02} of text\n", byte % 64).into_bytes())
                .take(len as usize)
                .collect();
        }
        self.data.push((at, bytes));
        self
    }

    /// Data all over, compressible or not, in runs of every length.
    fn busy(size: u64, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (mut disk, mut at) = (Self::new(size), rng.below(3) * 4096);
        while at < size {
            let len = (1 + rng.below(300_000)).min(size - at);
            disk = disk.with(at, len, rng.below(2) == 0);
            at += len + rng.below(3) * rng.below(200_000);
        }
        disk
    }

    fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        for (start, data) in &self.data {
            let (from, to) = ((*start).max(at), (start + data.len() as u64).min(at + len));
            if from < to {
                let piece = &data[(from - start) as usize..(to - start) as usize];
                bytes[(from - at) as usize..(to - at) as usize].copy_from_slice(piece);
            }
        }
        bytes
    }

    /// The items that are not empty.
    fn items(&self) -> Vec<(u64, Vec<u8>)> {
        let numbers = self
            .data
            .iter()
            .flat_map(|(at, bytes)| at / ITEM..=(at + bytes.len() as u64 - 1) / ITEM);
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.dedup();
        let item = |n: u64| (n * ITEM, self.read(n * ITEM, ITEM.min(self.size - n * ITEM)));
        numbers.into_iter().map(item).collect()
    }
}

fn append(file: &mut Vec<u8>, segments: &mut Vec<Segment>, item: &[u8], packed: &Packed) {
    let slice = |bytes: &[u8], at: u64, len: u64| bytes[at as usize..][..len as usize].to_vec();
    for segment in segments.drain(..) {
        match segment {
            Segment::Guest { at, len } => file.extend(slice(item, at, len)),
            Segment::Packed { at, len } => file.extend(slice(&packed.bytes, at, len)),
            Segment::Bytes(bytes) => file.extend(bytes),
            Segment::Zero(len) => file.resize(file.len() + len as usize, 0),
        }
    }
}

fn write_with(mut image: Box<dyn Encoder>, packer: Packer, disk: &Disk) -> Vec<u8> {
    let (mut file, mut segments) = (vec![0; image.head_len() as usize], Vec::new());
    for (at, item) in disk.items() {
        let packed = packer.pack(&item).unwrap();
        image.place(at, &packed.forms, &mut segments).unwrap();
        append(&mut file, &mut segments, &item, &packed);
    }
    let head = image.finish(&mut segments).unwrap();
    append(&mut file, &mut segments, &[], &Packed::default());
    file[..head.len()].copy_from_slice(&head);
    file
}

fn write(options: &WriteOptions, disk: &Disk) -> Vec<u8> {
    let (image, packer) = encoder(options, disk.size).unwrap();
    write_with(image, packer, disk)
}

async fn read(options: &WriteOptions, file: Vec<u8>) -> Arc<dyn Image> {
    let format = match options.format {
        OutputFormat::Raw => Format::Raw,
        OutputFormat::Qcow2 => Format::Qcow2,
        OutputFormat::VhdFixed | OutputFormat::VhdDynamic => Format::Vhd,
        OutputFormat::VmdkSparse | OutputFormat::VmdkStream => Format::Vmdk,
    };
    let open_options = OpenOptions { format: Some(format), ..OpenOptions::default() };
    let file = Arc::new(MemSource::new("written", file));
    open(file, &open_options, &OpenGate::closed()).await.unwrap()
}

/// Writes `disk`, reads it back, and checks structure and every byte.
async fn round_trip(options: &WriteOptions, disk: &Disk) {
    let what = format!("{options:?} of {} bytes", disk.size);
    let image = read(options, write(options, disk)).await;
    let report = image.check(&Limits::default()).await.unwrap();
    let size = image.size();
    let warnings: Vec<_> = image.info().warnings.iter().chain(&report.warnings).collect();
    let odd = |warning: &&&Warning| warning.code == "odd_size" && !size.is_multiple_of(512);
    assert!(warnings.iter().all(|warning| odd(&warning)), "{what}: {warnings:?}");
    assert!(size >= disk.size && size <= disk.size + (1 << 20), "{what}: {size}");
    for (at, wanted) in disk.items() {
        let found = image.read_vec(at, wanted.len()).await.unwrap();
        assert!(found == wanted, "{what}: differs in the item at {at}");
    }
    let data: u64 = disk.items().len() as u64 * ITEM;
    assert!(
        report.allocated_size.is_none_or(|found| found <= data),
        "{what}: empty space is stored"
    );
    let tail = size - disk.size;
    assert_eq!(image.read_vec(disk.size, tail as usize).await.unwrap(), vec![0; tail as usize]);
}

fn all_options() -> Vec<WriteOptions> {
    let mut list: Vec<WriteOptions> = [
        OutputFormat::Raw,
        OutputFormat::VhdFixed,
        OutputFormat::VhdDynamic,
        OutputFormat::VmdkSparse,
        OutputFormat::VmdkStream,
    ]
    .map(WriteOptions::new)
    .into();
    for cluster_size in [512, 4096, 65536, 2 << 20] {
        for compress in [None, Some(PackCodec::Deflate), Some(PackCodec::Zstd)] {
            let cluster_size = Some(cluster_size);
            list.push(WriteOptions { compress, cluster_size, ..qcow2() });
        }
    }
    list
}

fn qcow2() -> WriteOptions {
    WriteOptions::new(OutputFormat::Qcow2)
}

#[tokio::test]
async fn every_format_and_option_is_read_back() {
    for options in all_options() {
        for size in [0, 1, 511, 65_536, 1_000_000, 2 * ITEM + 512, 4_999_999] {
            round_trip(&options, &Disk::new(size)).await;
            round_trip(&options, &Disk::busy(size, size ^ 7)).await;
        }
        let full = Disk::new(ITEM + 70_000).with(0, ITEM + 70_000, true);
        round_trip(&options, &full).await;
        let random = Disk::new(ITEM + 70_000).with(0, ITEM + 70_000, false);
        round_trip(&options, &random).await;
    }
}

#[tokio::test]
async fn two_tebibytes_cost_what_their_data_costs() {
    let disk = Disk::new((2 << 40) - 512).with(0, 100, true).with(700 << 30, 5 << 20, true).with(
        (2 << 40) - 1000,
        488,
        false,
    );
    for options in [
        qcow2(),
        WriteOptions { compress: Some(PackCodec::Zstd), ..qcow2() },
        WriteOptions::new(OutputFormat::VmdkSparse),
        WriteOptions::new(OutputFormat::VmdkStream),
    ] {
        let file = write(&options, &disk);
        assert!(file.len() < 16 << 20, "{options:?} takes {} bytes", file.len());
        round_trip(&options, &disk).await;
    }
}

#[test]
fn disks_that_a_format_cannot_hold_are_refused() {
    let small = WriteOptions { cluster_size: Some(512), ..qcow2() };
    for (options, size) in [
        (WriteOptions::new(OutputFormat::VhdDynamic), (2040 << 30) + 1),
        (WriteOptions::new(OutputFormat::VhdFixed), (32 << 40) + 1),
        (WriteOptions::new(OutputFormat::VmdkSparse), (62 << 40) + 1),
        (small, 1 << 40),
        (qcow2(), u64::MAX),
    ] {
        let error = encoder(&options, size).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Limit, "{options:?}: {error}");
    }
}

#[test]
fn choices_that_do_not_fit_are_refused() {
    let raw = || WriteOptions::new(OutputFormat::Raw);
    let deflate = Some(PackCodec::Deflate);
    for options in [
        WriteOptions { compress: deflate, ..raw() },
        WriteOptions { cluster_size: Some(4096), ..raw() },
        WriteOptions { level: Some(1), ..qcow2() },
        WriteOptions { compress: Some(PackCodec::Zlib), ..qcow2() },
        WriteOptions { compress: deflate, level: Some(13), ..qcow2() },
        WriteOptions { compress: Some(PackCodec::Zstd), level: Some(0), ..qcow2() },
        WriteOptions { cluster_size: Some(1000), ..qcow2() },
        WriteOptions { cluster_size: Some(256), ..qcow2() },
        WriteOptions { cluster_size: Some(4 << 20), ..qcow2() },
        WriteOptions { align: 100, ..WriteOptions::new(OutputFormat::VhdDynamic) },
    ] {
        let error = encoder(&options, 1 << 20).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{options:?}: {error}");
    }
}

#[test]
fn units_out_of_order_are_refused() {
    for options in all_options() {
        let (mut image, _) = encoder(&options, 8 << 20).unwrap();
        let unit = image.unit();
        let mut place = |at, forms: &[Form]| image.place(at, forms, &mut Vec::new());
        place(unit, &[Form::Zero]).unwrap();
        for (at, count) in [(0, 1), (unit + 1, 1), (8 << 20, 1), (4 << 20, (8 << 20) / unit)] {
            let forms = vec![Form::Zero; count as usize];
            assert_eq!(place(at, &forms).unwrap_err().kind(), Kind::Internal, "{options:?}: {at}");
        }
    }
}

#[test]
fn the_same_forms_give_the_same_image_however_they_are_told() {
    let disk = Disk::busy(7_000_000, 3);
    for options in all_options() {
        let whole = write(&options, &disk);
        let (mut replayed, packer) = encoder(&options, disk.size).unwrap();
        let mut segments = Vec::new();
        for (at, item) in disk.items() {
            replayed.place(at, &packer.pack(&item).unwrap().forms, &mut segments).unwrap();
        }
        let head = replayed.finish(&mut segments).unwrap();
        let len = head.len() as u64 + segments.iter().map(Segment::len).sum::<u64>();
        assert_eq!(len, whole.len() as u64, "{options:?}");
        assert_eq!(head, whole[..head.len()], "{options:?}");
    }
}

#[test]
fn levels_matter_and_what_does_not_shrink_is_stored() {
    let (disk, noise) =
        (Disk::new(1 << 20).with(0, 1 << 20, true), Disk::new(1 << 20).with(0, 1 << 20, false));
    for compress in [PackCodec::Deflate, PackCodec::Zstd] {
        let options = |level| WriteOptions { compress: Some(compress), level, ..qcow2() };
        let bytes = |level| {
            let (_, packer) = encoder(&options(Some(level)), disk.size).unwrap();
            packer.pack(&disk.read(0, disk.size)).unwrap().bytes
        };
        assert_ne!(bytes(12), bytes(1), "{compress:?}");
        let plain = write(&qcow2(), &noise).len();
        assert_eq!(write(&options(None), &noise).len(), plain, "{compress:?}");
    }
}

/// What is measured is what is written: exactly without compression, and never less with it.
#[test]
fn the_size_is_known_before_anything_is_written() {
    for options in all_options() {
        for size in [0, 1, 511, 65_536, 1_000_000, 2 * ITEM + 512, 4_999_999, 70 << 20] {
            // Noise, since a unit of zeros that is said to be data would be left out.
            let full = Disk::new(size);
            let full = if size > 0 { full.with(0, size, false) } else { full };
            let some = [(0, 700), (size / 3, 100_000), (size / 3 + 100_000, 5), (size / 2, 3000)];
            let some = some.into_iter().filter(|(at, len)| at + len <= size);
            let some = some.fold(Disk::new(size), |disk, (at, len)| disk.with(at, len, false));
            let full = if size > 8 << 20 { some.clone() } else { full };
            for disk in [Disk::new(size), some, full] {
                let mut gauge = gauge(&options, size).unwrap();
                for (at, bytes) in &disk.data {
                    gauge.data(ByteRange::new(*at, at + bytes.len() as u64).unwrap());
                }
                let (what, written) = (format!("{options:?} {size}"), write(&options, &disk));
                let (bound, written) = (gauge.required(), written.len() as u64);
                match options.pack_codec() {
                    None => assert_eq!(bound, written, "{what}"),
                    Some(_) => {
                        assert!((written..=written + written / 8 + (8 << 20)).contains(&bound));
                    }
                }
                assert!(gauge.fully_allocated() >= bound, "{what}");
                if disk.data.len() == 1 && disk.data[0].1.len() as u64 == size {
                    assert_eq!(gauge.fully_allocated(), bound, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_huge_disk_is_measured_by_arithmetic() {
    let size = 8 << 40;
    let mut gauge = gauge(&qcow2(), size).unwrap();
    gauge.data(ByteRange::whole(size));
    assert_eq!(gauge.required(), gauge.fully_allocated());
    // 2^27 clusters, 2^14 L2 tables, an L1 table, a header, and refcounts of 2 bytes for all.
    let clusters: u64 = (1 << 27) + (1 << 14) + 2 + 1;
    let blocks = (clusters + 4097 + 1).div_ceil(32_768);
    assert_eq!(gauge.required(), (clusters + blocks + blocks.div_ceil(8192)) * 65_536);
}
