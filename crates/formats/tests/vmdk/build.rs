//! A small writer of every VMDK layout, independent of the reader.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write as _;

pub(crate) const SECTOR: usize = 512;
pub(crate) const NO_PARENT: u32 = 0xffff_ffff;

/// The text of a descriptor.
pub(crate) fn descriptor(
    create_type: &str,
    parent: Option<(u32, &str)>,
    extents: &[String],
) -> String {
    let (cid, hint) = parent.map_or((NO_PARENT, String::new()), |(cid, name)| {
        (cid, format!("parentFileNameHint=\"{name}\"\n"))
    });
    format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=0badcafe\nparentCID={cid:08x}\n\
         createType=\"{create_type}\"\n{hint}\n# Extent description\n{}\n\n# The Disk Data Base\n\
         #DDB\n\nddb.adapterType = \"lsilogic\"\n",
        extents.join("\n")
    )
}

/// The CID that [`descriptor`] writes.
pub(crate) const CID: u32 = 0x0bad_cafe;

fn put32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn pad(image: &mut Vec<u8>) {
    image.resize(image.len().next_multiple_of(SECTOR), 0);
}

fn sector_of(len: usize) -> u32 {
    assert_eq!(len % SECTOR, 0);
    u32::try_from(len / SECTOR).unwrap()
}

/// How to write a hosted sparse extent.
#[derive(Debug, Clone)]
pub(crate) struct Hosted {
    pub(crate) grain: usize,
    pub(crate) per_table: usize,
    /// Use table entry 1 for zero grains, as children must.
    pub(crate) zero_entries: bool,
    /// Write a redundant directory.
    pub(crate) redundant: bool,
    /// The embedded descriptor; none for a part of a split disk.
    pub(crate) descriptor: Option<String>,
    /// Grains that stay unallocated although they have data, for children.
    pub(crate) absent: fn(usize) -> bool,
    /// Write grains backwards, so that no two are adjacent.
    pub(crate) backwards: bool,
}

impl Default for Hosted {
    fn default() -> Self {
        Self {
            grain: 128,
            per_table: 512,
            zero_entries: false,
            redundant: true,
            descriptor: Some(String::new()),
            absent: |_| false,
            backwards: false,
        }
    }
}

/// Where the pieces of a written image are, for tests that damage it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    pub(crate) directory: usize,
    pub(crate) redundant: usize,
    pub(crate) tables: Vec<usize>,
    pub(crate) grains: Vec<usize>,
}

fn header(version: u32, flags: u32, disk: &[u8], grain: usize, per_table: usize) -> Vec<u8> {
    let mut sector = vec![0; SECTOR];
    sector[..4].copy_from_slice(b"KDMV");
    put32(&mut sector, 4, version);
    put32(&mut sector, 8, flags);
    put64(&mut sector, 12, (disk.len() / SECTOR) as u64);
    put64(&mut sector, 20, grain as u64);
    put32(&mut sector, 44, u32::try_from(per_table).unwrap());
    sector[73..77].copy_from_slice(b"\n \r\n");
    sector
}

fn embed(image: &mut Vec<u8>, text: &str) {
    let at = image.len();
    put64(image, 28, (at / SECTOR) as u64);
    put64(image, 36, 20);
    image.extend_from_slice(text.as_bytes());
    image.resize(at + 20 * SECTOR, 0);
}

fn default_text(text: &str, create_type: &str, disk: &[u8]) -> String {
    if text.is_empty() {
        let line = format!("RW {} SPARSE \"some-other-name.vmdk\"", disk.len() / SECTOR);
        descriptor(create_type, None, &[line])
    } else {
        text.to_owned()
    }
}

/// Writes `disk` as a hosted sparse extent.
pub(crate) fn hosted(disk: &[u8], how: &Hosted) -> (Vec<u8>, Places) {
    let flags = 1 | u32::from(how.redundant) << 1 | u32::from(how.zero_entries) << 2;
    let mut image = header(1, flags, disk, how.grain, how.per_table);
    if let Some(text) = &how.descriptor {
        embed(&mut image, &default_text(text, "monolithicSparse", disk));
    }
    let grain = how.grain * SECTOR;
    let tables = disk.len().div_ceil(grain * how.per_table);
    let mut places = Places::default();
    if how.redundant {
        places.redundant = image.len();
        let at = sector_of(image.len());
        put64(&mut image, 48, u64::from(at));
        reserve(&mut image, tables, how.per_table);
    }
    places.directory = image.len();
    let at = sector_of(image.len());
    put64(&mut image, 56, u64::from(at));
    places.tables = reserve(&mut image, tables, how.per_table);
    let overhead = image.len() / SECTOR;
    put64(&mut image, 64, overhead as u64);
    let mut chunks: Vec<(usize, &[u8])> = disk.chunks(grain).enumerate().collect();
    if how.backwards {
        chunks.reverse();
    }
    for (index, chunk) in chunks {
        let entry = if (how.absent)(index) {
            0
        } else if chunk.iter().all(|byte| *byte == 0) {
            u32::from(how.zero_entries)
        } else {
            let at = image.len();
            places.grains.push(at);
            image.extend_from_slice(chunk);
            image.resize(at + grain, 0);
            sector_of(at)
        };
        let slot = index / how.per_table;
        put32(&mut image, places.tables[slot] + index % how.per_table * 4, entry);
        if how.redundant {
            let table = places.redundant + places.tables[slot] - places.directory;
            put32(&mut image, table + index % how.per_table * 4, entry);
        }
    }
    (image, places)
}

/// Makes room for a directory and its tables, and fills the directory.
fn reserve(image: &mut Vec<u8>, tables: usize, per_table: usize) -> Vec<usize> {
    let directory = image.len();
    image.resize(directory + tables * 4, 0);
    pad(image);
    (0..tables)
        .map(|table| {
            let at = image.len();
            put32(image, directory + table * 4, sector_of(at));
            image.resize(at + per_table * 4, 0);
            pad(image);
            at
        })
        .collect()
}

/// The five layouts of streams that real writers produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Directory and tables in front, grains, end marker.
    Front,
    /// Directory in front with a redundant one, no end marker, padded with zeros.
    FrontRedundant,
    /// Table markers between the grains, directory, footer, end marker.
    Footer,
    /// The same with the directory also in the header.
    HeaderAndFooter,
    /// Grains out of order, tables and directory behind them, footer.
    OutOfOrder,
}

impl Stream {
    pub(crate) const ALL: [Self; 5] =
        [Self::Front, Self::FrontRedundant, Self::Footer, Self::HeaderAndFooter, Self::OutOfOrder];
}

/// zlib data.
pub(crate) fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Appends a grain with its marker; returns the sector it starts at.
fn put_grain(image: &mut Vec<u8>, lba: usize, bytes: &[u8]) -> u32 {
    let at = sector_of(image.len());
    let packed = deflate(bytes);
    image.extend_from_slice(&(lba as u64).to_le_bytes());
    image.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
    image.extend_from_slice(&packed);
    pad(image);
    at
}

fn put_marker(image: &mut Vec<u8>, sectors: usize, kind: u32) {
    let at = image.len();
    image.resize(at + SECTOR, 0);
    put64(image, at, sectors as u64);
    put32(image, at + 12, kind);
}

fn put_table(image: &mut Vec<u8>, entries: &[u32]) -> u32 {
    let at = sector_of(image.len());
    for entry in entries {
        image.extend_from_slice(&entry.to_le_bytes());
    }
    pad(image);
    at
}

/// Writes `disk` as a stream. A partial last grain is padded with zeros before it is compressed
/// if `full_last`, else it is short.
pub(crate) fn stream(
    disk: &[u8],
    layout: Stream,
    text: &str,
    full_last: bool,
) -> (Vec<u8>, Places) {
    const GRAIN: usize = 128;
    const PER_TABLE: usize = 512;
    let front = matches!(layout, Stream::Front | Stream::FrontRedundant);
    let redundant = layout == Stream::FrontRedundant;
    let flags = 0x30001 | u32::from(redundant) << 1;
    let mut image = header(3, flags, disk, GRAIN, PER_TABLE);
    image[77] = 1;
    embed(&mut image, &default_text(text, "streamOptimized", disk));
    let tables = disk.len().div_ceil(GRAIN * SECTOR * PER_TABLE);
    let mut places = Places::default();
    put64(&mut image, 56, u64::MAX);
    if redundant {
        places.redundant = image.len();
        let at = sector_of(image.len());
        put64(&mut image, 48, u64::from(at));
        reserve(&mut image, tables, PER_TABLE);
    }
    if front {
        places.directory = image.len();
        let at = sector_of(image.len());
        put64(&mut image, 56, u64::from(at));
        places.tables = reserve(&mut image, tables, PER_TABLE);
    }
    image.resize(image.len().next_multiple_of(64 << 10), 0);
    let overhead = image.len() / SECTOR;
    put64(&mut image, 64, overhead as u64);
    let mut entries = vec![0_u32; tables * PER_TABLE];
    let mut table_at = Vec::new();
    for index in order(disk.len().div_ceil(GRAIN * SECTOR), layout) {
        let start = index * GRAIN * SECTOR;
        let chunk = &disk[start..disk.len().min(start + GRAIN * SECTOR)];
        if chunk.iter().any(|byte| *byte != 0) {
            let mut chunk = chunk.to_vec();
            if full_last {
                chunk.resize(GRAIN * SECTOR, 0);
            }
            places.grains.push(image.len());
            entries[index] = put_grain(&mut image, start / SECTOR, &chunk);
        }
        let last_of_table =
            index % PER_TABLE == PER_TABLE - 1 || start + GRAIN * SECTOR >= disk.len();
        if last_of_table && !front && layout != Stream::OutOfOrder {
            put_marker(&mut image, 4, 1);
            let table = index / PER_TABLE;
            table_at.push(put_table(&mut image, &entries[table * PER_TABLE..][..PER_TABLE]));
        }
    }
    if front {
        for (index, entry) in entries.iter().enumerate() {
            let at = places.tables[index / PER_TABLE] + index % PER_TABLE * 4;
            put32(&mut image, at, *entry);
            if redundant {
                put32(&mut image, at - places.directory + places.redundant, *entry);
            }
        }
        finish_front(&mut image, layout);
        return (image, places);
    }
    if layout == Stream::OutOfOrder {
        for table in entries.chunks(PER_TABLE) {
            put_marker(&mut image, 4, 1);
            table_at.push(put_table(&mut image, table));
        }
    }
    places.tables = table_at.iter().map(|at| *at as usize * SECTOR).collect();
    put_marker(&mut image, (tables * 4).div_ceil(SECTOR), 2);
    places.directory = image.len();
    let directory = put_table(&mut image, &table_at);
    put_marker(&mut image, 1, 3);
    let mut footer = image[..SECTOR].to_vec();
    put64(&mut footer, 56, u64::from(directory));
    image.extend_from_slice(&footer);
    put_marker(&mut image, 0, 0);
    if layout == Stream::HeaderAndFooter {
        put64(&mut image, 56, u64::from(directory));
    }
    (image, places)
}

fn finish_front(image: &mut Vec<u8>, layout: Stream) {
    if layout == Stream::Front {
        put_marker(image, 0, 0);
    } else {
        image.resize(image.len().next_multiple_of(64 << 10), 0);
    }
}

fn order(grains: usize, layout: Stream) -> Vec<usize> {
    let mut order: Vec<usize> = (0..grains).collect();
    if layout == Stream::OutOfOrder {
        order.sort_by_key(|index| (index % 4, std::cmp::Reverse(*index)));
    }
    order
}

/// Writes `disk` as an ESX copy-on-write extent with grains of `grain` sectors.
pub(crate) fn cowd(disk: &[u8], grain: usize, root: bool, absent: fn(usize) -> bool) -> Vec<u8> {
    const PER_TABLE: usize = 4096;
    let mut image = vec![0; 4 * SECTOR];
    image[..4].copy_from_slice(b"COWD");
    let tables = disk.len().div_ceil(grain * SECTOR * PER_TABLE);
    for (at, value) in [
        (4, 1),
        (8, 2 | u32::from(root)),
        (12, sector_of(disk.len())),
        (16, u32::try_from(grain).unwrap()),
        (20, 4),
        (24, u32::try_from(tables).unwrap()),
    ] {
        put32(&mut image, at, value);
    }
    let directory = image.len();
    image.resize(directory + tables * 4, 0);
    pad(&mut image);
    for (table, span) in disk.chunks(grain * SECTOR * PER_TABLE).enumerate() {
        if span.iter().all(|byte| *byte == 0) {
            continue;
        }
        let at = image.len();
        put32(&mut image, directory + table * 4, sector_of(at));
        image.resize(at + PER_TABLE * 4, 0);
        for (slot, chunk) in span.chunks(grain * SECTOR).enumerate() {
            if absent(table * PER_TABLE + slot) || chunk.iter().all(|byte| *byte == 0) {
                continue;
            }
            let sector = sector_of(image.len());
            put32(&mut image, at + slot * 4, sector);
            let end = image.len() + grain * SECTOR;
            image.extend_from_slice(chunk);
            image.resize(end, 0);
        }
    }
    let end = sector_of(image.len());
    put32(&mut image, 28, end);
    image
}

/// Writes `disk` as a space-efficient sparse extent; zero grains get the types 1 and 2 in turn,
/// data grains lie backwards.
pub(crate) fn sesparse(disk: &[u8], absent: fn(usize) -> bool) -> Vec<u8> {
    const GRAIN: usize = 4096;
    const PER_TABLE: usize = 4096;
    let tables = disk.len().div_ceil(GRAIN * PER_TABLE);
    let grains = disk.len().div_ceil(GRAIN);
    let directory = 4 * SECTOR;
    let tables_at = directory + (tables * 8).next_multiple_of(SECTOR);
    let grains_at = tables_at + (tables + 1) * PER_TABLE * 8;
    let mut image = vec![0; grains_at + grains * GRAIN];
    let sectors = |bytes: usize| (bytes / SECTOR) as u64;
    for (at, value) in [
        (0, 0xcafe_babe),
        (8, 0x2_0000_0001),
        (16, sectors(disk.len())),
        (24, 8),
        (32, 64),
        (80, 1),
        (88, 1),
        (128, sectors(directory)),
        (136, sectors(tables_at - directory)),
        (144, sectors(tables_at)),
        (152, sectors(grains_at - tables_at)),
        (192, sectors(grains_at)),
        (200, sectors(grains * GRAIN)),
        (SECTOR, 0xcafe_cafe),
    ] {
        put64(&mut image, at, value);
    }
    for table in 0..tables {
        // Table 0 of the area stays unused, so that index and position differ.
        put64(&mut image, directory + table * 8, 0x1000_0000_0000_0000 | (table + 1) as u64);
    }
    for (index, chunk) in disk.chunks(GRAIN).enumerate() {
        let entry = if absent(index) {
            0
        } else if chunk.iter().all(|byte| *byte == 0) {
            [1 << 60, 2 << 60][index % 2]
        } else {
            let place = grains - 1 - index;
            let at = grains_at + place * GRAIN;
            image[at..at + chunk.len()].copy_from_slice(chunk);
            let place = place as u64;
            3 << 60 | (place & 0xfff) << 48 | place >> 12
        };
        let table = tables_at + (index / PER_TABLE + 1) * PER_TABLE * 8;
        put64(&mut image, table + index % PER_TABLE * 8, entry);
    }
    image
}
