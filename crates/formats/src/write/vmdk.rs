//! Writing VMDK: monolithicSparse and streamOptimized.
//!
//! Both fill grain tables as the disk goes by and append each when its span ends; tables of empty
//! spans do not exist. The head is the header, the descriptor and, where grains are not
//! compressed, the two grain directories. A stream has markers in front of everything, and its
//! directory and footer at the end. Facts: VMware "Virtual Disk Format 5.0", "Hosted Sparse
//! Extents" and "Stream-Optimized Compressed Sparse Extents".

use super::cursor::Cursor;
use super::descriptor::{SECTORS as DESCRIPTOR_SECTORS, descriptor};
use super::{Encoder, Form, OutputFormat, Segment, WriteOptions};
use carreto_error::{Error, Kind, Result};

const SECTOR: u64 = 512;
const GRAIN: u64 = 64 << 10;
const TABLE_ENTRIES: usize = 512;
/// Guest bytes of a grain table.
const SPAN: u64 = GRAIN * TABLE_ENTRIES as u64;
/// Where data begins at the earliest, as other writers have it.
const OVERHEAD: u64 = 128 * SECTOR;
/// VMware's bound for hosted disks; sector numbers in tables have 32 bits.
const MAX_SIZE: u64 = 62 << 40;
/// The largest directory held in memory.
const MAX_DIRECTORY: u64 = 32 << 20;
const AT_END: u64 = u64::MAX;
/// Bytes in front of a compressed grain.
const GRAIN_MARKER: u64 = 12;

const NEWLINE_TEST: u32 = 1;
const REDUNDANT: u32 = 1 << 1;
const COMPRESSED_WITH_MARKERS: u32 = 3 << 16;

/// What follows a metadata marker.
#[derive(Debug, Clone, Copy)]
enum Marker {
    EndOfStream = 0,
    Table = 1,
    Directory = 2,
    Footer = 3,
}

/// A sparse extent with its descriptor.
#[derive(Debug)]
pub(super) struct Sparse {
    cursor: Cursor,
    sectors: u64,
    stream: bool,
    text: String,
    /// Sector numbers of the grain tables, and of their copies.
    directory: Vec<u32>,
    redundant: Vec<u32>,
    /// The grain table being filled: its index in the directory, and its entries.
    table: Option<(usize, Vec<u32>)>,
}

impl Sparse {
    /// # Errors
    /// `Limit` when the disk is too large for the format.
    pub(super) fn new(options: &WriteOptions, size: u64) -> Result<Self> {
        let tables = size.div_ceil(SPAN);
        if size > MAX_SIZE || tables * 4 > MAX_DIRECTORY {
            let text = format!("a disk of {size} bytes; a VMDK file holds at most {MAX_SIZE}");
            return Err(Error::new(Kind::Limit, text));
        }
        // A disk without sectors does not exist for VMware.
        let sectors = size.div_ceil(SECTOR).max(1);
        let stream = options.format == OutputFormat::VmdkStream;
        let directory = vec![0; usize::try_from(tables.max(1)).unwrap_or(usize::MAX)];
        let redundant = if stream { Vec::new() } else { directory.clone() };
        let text = descriptor(options, sectors);
        let mut sparse = Self {
            cursor: Cursor::new(0, size, GRAIN),
            sectors,
            stream,
            text,
            directory,
            redundant,
            table: None,
        };
        sparse.cursor.at = sparse.head_len();
        Ok(sparse)
    }

    /// Sectors of a grain directory.
    fn directory_sectors(&self) -> u64 {
        (self.directory.len() as u64 * 4).div_ceil(SECTOR)
    }

    fn sector(&self) -> Result<u32> {
        u32::try_from(self.cursor.at / SECTOR)
            .map_err(|_| Error::new(Kind::Limit, "the VMDK file grew beyond 2 TiB"))
    }

    /// Makes the table of `guest` the one being filled; gives the index of its entry.
    fn turn_to(&mut self, guest: u64, out: &mut Vec<Segment>) -> Result<usize> {
        let index = usize::try_from(guest / SPAN).unwrap_or(usize::MAX);
        if self.table.as_ref().is_none_or(|(current, _)| *current != index) {
            self.end_table(out)?;
            self.table = Some((index, vec![0; TABLE_ENTRIES]));
        }
        Ok(usize::try_from(guest % SPAN / GRAIN).unwrap_or(0))
    }

    fn end_table(&mut self, out: &mut Vec<Segment>) -> Result<()> {
        let Some((index, entries)) = self.table.take() else {
            return Ok(());
        };
        let bytes: Vec<u8> = entries.into_iter().flat_map(u32::to_le_bytes).collect();
        if self.stream {
            self.marker(Marker::Table, bytes.len() as u64 / SECTOR, out);
        } else {
            self.redundant[index] = self.sector()?;
            self.cursor.bytes(bytes.clone(), out);
        }
        self.directory[index] = self.sector()?;
        self.cursor.bytes(bytes, out);
        Ok(())
    }

    fn marker(&mut self, marker: Marker, sectors: u64, out: &mut Vec<Segment>) {
        let mut bytes = sectors.to_le_bytes().to_vec();
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend((marker as u32).to_le_bytes());
        bytes.resize(512, 0);
        self.cursor.bytes(bytes, out);
    }

    /// Appends a grain of the item at `item`; `packed` is where its compressed bytes are.
    fn grain(
        &mut self,
        guest: u64,
        (item, packed): (u64, u64),
        form: Form,
        out: &mut Vec<Segment>,
    ) -> Result<()> {
        let entry = self.turn_to(guest, out)?;
        let sector = self.sector()?;
        if let Some((_, entries)) = &mut self.table {
            entries[entry] = sector;
        }
        match form {
            Form::Packed(len) => {
                let mut marker = (guest / SECTOR).to_le_bytes().to_vec();
                marker.extend(len.to_le_bytes());
                self.cursor.bytes(marker, out);
                self.cursor.packed(packed, u64::from(len), out);
                self.cursor.pad(SECTOR, out);
            }
            _ => self.cursor.unit(guest, item, out),
        }
        Ok(())
    }

    /// The header, or the footer that says where the directory is (`directory` in sectors).
    fn header(&self, redundant: u64, directory: u64) -> Vec<u8> {
        let (version, flags, compression) = if self.stream {
            (3_u32, NEWLINE_TEST | COMPRESSED_WITH_MARKERS, 1_u16)
        } else {
            (1, NEWLINE_TEST | REDUNDANT, 0)
        };
        let mut header = Vec::with_capacity(512);
        header.extend(b"KDMV");
        header.extend(version.to_le_bytes());
        header.extend(flags.to_le_bytes());
        header.extend(self.sectors.to_le_bytes());
        header.extend((GRAIN / SECTOR).to_le_bytes());
        header.extend(1_u64.to_le_bytes());
        header.extend(DESCRIPTOR_SECTORS.to_le_bytes());
        header.extend(512_u32.to_le_bytes());
        header.extend(redundant.to_le_bytes());
        header.extend(directory.to_le_bytes());
        header.extend((self.head_len() / SECTOR).to_le_bytes());
        header.push(0); // shut down cleanly
        header.extend(b"\n \r\n");
        header.extend(compression.to_le_bytes());
        header.resize(512, 0);
        header
    }

    fn end_stream(&mut self, out: &mut Vec<Segment>) -> Result<()> {
        self.marker(Marker::Directory, self.directory_sectors(), out);
        let at = u64::from(self.sector()?);
        let entries = directory_bytes(&self.directory);
        self.cursor.bytes(entries, out);
        self.marker(Marker::Footer, 1, out);
        let footer = self.header(0, at);
        self.cursor.bytes(footer, out);
        self.marker(Marker::EndOfStream, 0, out);
        Ok(())
    }
}

/// A directory, padded to whole sectors.
fn directory_bytes(directory: &[u32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = directory.iter().flat_map(|sector| sector.to_le_bytes()).collect();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

impl Encoder for Sparse {
    fn unit(&self) -> u64 {
        GRAIN
    }

    fn virtual_size(&self) -> u64 {
        self.sectors * SECTOR
    }

    fn head_len(&self) -> u64 {
        let directories = if self.stream { 0 } else { 2 * self.directory_sectors() };
        ((1 + DESCRIPTOR_SECTORS + directories) * SECTOR).next_multiple_of(OVERHEAD)
    }

    fn place(&mut self, item: u64, forms: &[Form], out: &mut Vec<Segment>) -> Result<()> {
        self.cursor.advance(item, forms.len())?;
        let mut packed = 0;
        for (index, form) in forms.iter().enumerate() {
            if *form != Form::Zero {
                self.grain(item + index as u64 * GRAIN, (item, packed), *form, out)?;
            }
            if let Form::Packed(len) = form {
                packed += u64::from(*len);
            }
        }
        Ok(())
    }

    fn span(&self) -> u64 {
        SPAN
    }

    fn file_len(&self, units: u64, spans: u64, form: Form) -> u64 {
        let table = TABLE_ENTRIES as u64 * 4;
        let grain = match form {
            Form::Zero => 0,
            Form::Plain => GRAIN,
            Form::Packed(len) => (GRAIN_MARKER + u64::from(len)).next_multiple_of(SECTOR),
        };
        let end = if self.stream {
            // Markers of the directory, the footer and the end, and the footer itself.
            spans * (SECTOR + table) + 4 * SECTOR + self.directory_sectors() * SECTOR
        } else {
            spans * 2 * table
        };
        self.head_len() + units * grain + end
    }

    fn finish(&mut self, out: &mut Vec<Segment>) -> Result<Vec<u8>> {
        self.end_table(out)?;
        let text_len = usize::try_from(DESCRIPTOR_SECTORS * SECTOR).unwrap_or(usize::MAX);
        let mut text = self.text.clone().into_bytes();
        text.resize(text_len, 0);
        let mut head = if self.stream {
            self.end_stream(out)?;
            [self.header(0, AT_END), text].concat()
        } else {
            let redundant = 1 + DESCRIPTOR_SECTORS;
            let header = self.header(redundant, redundant + self.directory_sectors());
            let (copy, directory) = (&self.redundant, &self.directory);
            [header, text, directory_bytes(copy), directory_bytes(directory)].concat()
        };
        head.resize(usize::try_from(self.head_len()).unwrap_or(usize::MAX), 0);
        Ok(head)
    }
}
