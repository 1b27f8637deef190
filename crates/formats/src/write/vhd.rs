//! Writing VHD: the footer of both kinds, and the dynamic kind.
//!
//! Facts: Microsoft's "Virtual Hard Disk Image Format Specification" 1.0, "Hard Disk Footer
//! Format", "Dynamic Disk Header Format", "Block Allocation Table and Data Blocks" and the
//! appendix "CHS Calculation".

use super::cursor::Cursor;
use super::{Encoder, Form, Segment, WriteOptions};
use carreto_error::{Error, Kind as ErrorKind, Result};

/// The largest dynamic disk: what fits 32-bit sector numbers, blocks' bitmaps included.
const MAX_DYNAMIC: u64 = 2040 << 30;
/// The largest disk of Azure.
pub(super) const MAX_FIXED: u64 = 32 << 40;
const BLOCK: u64 = 2 << 20;
/// A bit for each sector of a block.
const BITMAP: usize = 512;
const FOOTER: u64 = 512;
const HEADER: u64 = 1024;
const ABSENT: u32 = u32::MAX;
/// 2000-01-01 in seconds since 1970.
const EPOCH: u64 = 946_684_800;
/// The writer whose disks every reader measures by `current_size` rather than by the geometry.
const CREATOR: &[u8; 4] = b"qem2";

/// The kind of disk that a footer announces.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Fixed = 2,
    Dynamic = 3,
}

/// `size` rounded up to a multiple of `align`.
///
/// # Errors
/// `Limit` above `most`.
pub(super) fn rounded(size: u64, align: u64, most: u64) -> Result<u64> {
    // A disk without sectors does not exist for VHD.
    match size.max(1).checked_next_multiple_of(align) {
        Some(rounded) if rounded <= most => Ok(rounded),
        _ => {
            let text = format!("a disk of {size} bytes; this kind of VHD holds at most {most}");
            Err(Error::new(ErrorKind::Limit, text))
        }
    }
}

/// The footer of a disk of `size` bytes.
pub(super) fn footer(options: &WriteOptions, kind: Kind, size: u64) -> Vec<u8> {
    let data_offset = match kind {
        Kind::Fixed => u64::MAX,
        Kind::Dynamic => FOOTER,
    };
    let time = u32::try_from(options.time.saturating_sub(EPOCH)).unwrap_or(u32::MAX);
    let mut footer = Vec::with_capacity(512);
    footer.extend(b"conectix");
    footer.extend(2_u32.to_be_bytes());
    footer.extend(0x0001_0000_u32.to_be_bytes());
    footer.extend(data_offset.to_be_bytes());
    footer.extend(time.to_be_bytes());
    footer.extend(CREATOR);
    footer.extend(0x0001_0000_u32.to_be_bytes());
    footer.extend(b"Wi2k");
    footer.extend(size.to_be_bytes());
    footer.extend(size.to_be_bytes());
    footer.extend(geometry(size / 512));
    footer.extend((kind as u32).to_be_bytes());
    footer.extend([0; 4]);
    footer.extend(options.id);
    footer.resize(512, 0);
    seal(&mut footer, 64);
    footer
}

/// Writes the checksum of `table` at `at`: the complement of the sum of its bytes.
fn seal(table: &mut [u8], at: usize) {
    let sum = table.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    table[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// Cylinders, heads and sectors per track as the appendix computes them.
fn geometry(sectors: u64) -> [u8; 4] {
    let sectors = sectors.min(65535 * 16 * 255);
    let (per_track, heads, tracks);
    if sectors > 65535 * 16 * 63 {
        (per_track, heads, tracks) = (255, 16, sectors / 255);
    } else {
        (per_track, heads, tracks) = small_geometry(sectors);
    }
    let cylinders = u16::try_from(tracks / heads).unwrap_or(u16::MAX).to_be_bytes();
    let byte = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
    [cylinders[0], cylinders[1], byte(heads), byte(per_track)]
}

fn small_geometry(sectors: u64) -> (u64, u64, u64) {
    let tracks = sectors / 17;
    let heads = tracks.div_ceil(1024).max(4);
    if tracks < heads * 1024 && heads <= 16 {
        return (17, heads, tracks);
    }
    let tracks = sectors / 31;
    if tracks < 16 * 1024 {
        return (31, 16, tracks);
    }
    (63, 16, sectors / 63)
}

/// A dynamic disk.
#[derive(Debug)]
pub(super) struct Dynamic {
    cursor: Cursor,
    size: u64,
    head: Vec<u8>,
    footer: Vec<u8>,
    blocks: Vec<u32>,
}

impl Dynamic {
    /// # Errors
    /// `Limit` when the disk is too large for the format.
    pub(super) fn new(options: &WriteOptions, size: u64) -> Result<Self> {
        let source = size;
        let size = rounded(size, options.align, MAX_DYNAMIC)?;
        let footer = footer(options, Kind::Dynamic, size);
        // At most 2040 Gi / 2 Mi.
        let count = u32::try_from(size.div_ceil(BLOCK)).unwrap_or(u32::MAX);
        let blocks = vec![ABSENT; count as usize];
        let table = (u64::from(count) * 4).next_multiple_of(512);
        let head = [footer.clone(), header(count)].concat();
        let cursor = Cursor::new(FOOTER + HEADER + table, source, BLOCK);
        Ok(Self { cursor, size, head, footer, blocks })
    }

    fn block(&mut self, guest: u64, item: u64, out: &mut Vec<Segment>) -> Result<()> {
        let full = || Error::new(ErrorKind::Limit, "the VHD file grew beyond 2 TiB");
        let sector = u32::try_from(self.cursor.at / 512).map_err(|_| full())?;
        let index = usize::try_from(guest / BLOCK).map_err(|_| full())?;
        *self.blocks.get_mut(index).ok_or_else(full)? = sector;
        self.cursor.bytes(vec![0xFF; BITMAP], out);
        self.cursor.unit(guest, item, out);
        Ok(())
    }
}

/// The dynamic disk header of a disk of `blocks` blocks.
fn header(blocks: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(1024);
    header.extend(b"cxsparse");
    header.extend(u64::MAX.to_be_bytes());
    header.extend((FOOTER + HEADER).to_be_bytes());
    header.extend(0x0001_0000_u32.to_be_bytes());
    header.extend(blocks.to_be_bytes());
    header.extend(0x0020_0000_u32.to_be_bytes());
    header.resize(1024, 0);
    seal(&mut header, 36);
    header
}

impl Encoder for Dynamic {
    fn unit(&self) -> u64 {
        BLOCK
    }

    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn head_len(&self) -> u64 {
        FOOTER + HEADER + (self.blocks.len() as u64 * 4).next_multiple_of(512)
    }

    fn place(&mut self, guest: u64, forms: &[Form], out: &mut Vec<Segment>) -> Result<()> {
        self.cursor.advance(guest, forms.len())?;
        for (index, form) in forms.iter().enumerate() {
            if *form != Form::Zero {
                self.block(guest + index as u64 * BLOCK, guest, out)?;
            }
        }
        Ok(())
    }

    fn file_len(&self, units: u64, _spans: u64, _form: Form) -> u64 {
        self.head_len() + units * (BITMAP as u64 + BLOCK) + FOOTER
    }

    fn finish(&mut self, out: &mut Vec<Segment>) -> Result<Vec<u8>> {
        self.cursor.bytes(self.footer.clone(), out);
        let mut head = self.head.clone();
        head.extend(self.blocks.iter().flat_map(|sector| sector.to_be_bytes()));
        // What the padding reads as decides nothing; other writers have it so.
        head.resize(usize::try_from(self.head_len()).unwrap_or(head.len()), 0xFF);
        Ok(head)
    }
}
