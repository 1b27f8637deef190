//! Writing qcow2, version 3.
//!
//! The head is the header and the L1 table, whose size follows from the disk's. Clusters, L2
//! tables and refcount blocks follow as they become known, the refcount table comes last. Facts:
//! qcow2 specification, "Header", "Cluster mapping" and "Compressed Clusters Descriptor".

use super::cursor::Cursor;
use super::refcounts::Refcounts;
use super::{Encoder, Form, PackCodec, Segment, WriteOptions};
use carreto_error::{Error, Kind, Result};

const HEADER_LEN: u32 = 112;
/// QEMU refuses larger L1 tables.
const MAX_L1: u64 = 32 << 20;
/// QEMU refuses larger refcount tables.
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const FEATURE_NAMES: u32 = 0x6803_F857;
/// Host offsets have 56 bits.
const MAX_FILE: u64 = 1 << 56;

/// A qcow2 image.
#[derive(Debug)]
pub(super) struct Qcow2 {
    cursor: Cursor,
    cluster: u64,
    size: u64,
    zstd: bool,
    refcounts: Refcounts,
    l1: Vec<u64>,
    /// The L2 table being filled: its index in the L1 table, and its entries.
    l2: Option<(usize, Vec<u64>)>,
}

impl Qcow2 {
    /// # Errors
    /// `Limit` when the L1 table, or the refcount table of a full disk, would be larger than
    /// readers accept.
    pub(super) fn new(options: &WriteOptions, size: u64) -> Result<Self> {
        let cluster = options.cluster_size();
        // Smaller units than sectors do not exist for a guest.
        let source = size;
        let size = size.checked_next_multiple_of(512).ok_or_else(|| too_large(size, cluster))?;
        let entries = size.div_ceil(cluster * (cluster / 8));
        if entries * 8 > MAX_L1 || most_refcount_table(size, cluster) > MAX_REFCOUNT_TABLE {
            return Err(too_large(size, cluster));
        }
        let l1 = vec![0; usize::try_from(entries).unwrap_or(usize::MAX)];
        let head = cluster + (entries * 8).next_multiple_of(cluster);
        let mut refcounts = Refcounts::new(cluster);
        refcounts.refer(0, head);
        let cursor = Cursor::new(head, source, cluster);
        let zstd = options.compress == Some(PackCodec::Zstd);
        Ok(Self { cursor, cluster, size, zstd, refcounts, l1, l2: None })
    }

    /// Stores units that share an L2 table; `packed` is where the first compressed one begins.
    fn place_in_table(&mut self, run: &Run<'_>, out: &mut Vec<Segment>) -> Result<()> {
        if run.forms.iter().all(|form| *form == Form::Zero) {
            return Ok(());
        }
        self.turn_to(run.guest, out)?;
        // Plain clusters are aligned and compressed ones are not: storing the kind first that the
        // file ended with loses no more than one gap for each item.
        if self.cursor.at.is_multiple_of(self.cluster) {
            self.plain(run, out)?;
            self.compressed(run, out)
        } else {
            self.compressed(run, out)?;
            self.plain(run, out)
        }
    }

    /// Makes the table of `guest` the one being filled.
    fn turn_to(&mut self, guest: u64, out: &mut Vec<Segment>) -> Result<()> {
        let index = usize::try_from(guest / self.span()).unwrap_or(usize::MAX);
        if self.l2.as_ref().is_some_and(|(current, _)| *current == index) {
            return Ok(());
        }
        self.end_table(out)?;
        let entries = usize::try_from(self.cluster / 8).unwrap_or(usize::MAX);
        self.l2 = Some((index, vec![0; entries]));
        Ok(())
    }

    fn end_table(&mut self, out: &mut Vec<Segment>) -> Result<()> {
        let Some((index, entries)) = self.l2.take() else {
            return Ok(());
        };
        let bytes = entries.into_iter().flat_map(u64::to_be_bytes).collect();
        let at = self.metadata(bytes, out)?;
        self.l1[index] = at | COPIED;
        Ok(())
    }

    /// Appends whole clusters of metadata; gives where they are.
    fn metadata(&mut self, bytes: Vec<u8>, out: &mut Vec<Segment>) -> Result<u64> {
        self.align(out)?;
        let at = self.cursor.at;
        self.refcounts.refer(at, bytes.len() as u64);
        self.cursor.bytes(bytes, out);
        Ok(at)
    }

    /// Goes on at a cluster boundary, and writes the refcount blocks that are complete there.
    fn align(&mut self, out: &mut Vec<Segment>) -> Result<()> {
        self.cursor.pad(self.cluster, out);
        if self.cursor.at >= MAX_FILE {
            return Err(Error::new(Kind::Limit, "the qcow2 file grew beyond 2^56 bytes"));
        }
        while let Some(block) = self.refcounts.complete(self.cursor.at) {
            self.refcount_block(block, out);
        }
        Ok(())
    }

    fn refcount_block(&mut self, block: Vec<u8>, out: &mut Vec<Segment>) {
        self.refcounts.blocks.push(self.cursor.at);
        self.refcounts.refer(self.cursor.at, self.cluster);
        self.cursor.bytes(block, out);
    }

    fn plain(&mut self, run: &Run<'_>, out: &mut Vec<Segment>) -> Result<()> {
        for (index, form) in run.forms.iter().enumerate() {
            if *form != Form::Plain {
                continue;
            }
            self.align(out)?;
            let (at, guest) = (self.cursor.at, run.guest + index as u64 * self.cluster);
            self.refcounts.refer(at, self.cluster);
            self.cursor.unit(guest, run.item, out);
            self.enter(guest, at | COPIED);
        }
        Ok(())
    }

    fn compressed(&mut self, run: &Run<'_>, out: &mut Vec<Segment>) -> Result<()> {
        let mut packed = run.packed;
        for (index, form) in run.forms.iter().enumerate() {
            let Form::Packed(len) = *form else {
                continue;
            };
            if self.cursor.at.is_multiple_of(self.cluster) {
                self.align(out)?;
            }
            let (at, len) = (self.cursor.at, u64::from(len));
            if at + len > 1 << self.offset_bits() {
                return Err(Error::new(Kind::Limit, "the compressed qcow2 file grew too large"));
            }
            self.refcounts.refer(at, len);
            self.cursor.packed(packed, len, out);
            packed += len;
            self.enter(run.guest + index as u64 * self.cluster, self.descriptor(at, len));
        }
        Ok(())
    }

    /// Bits of a compressed cluster's host offset; the rest counts additional sectors.
    const fn offset_bits(&self) -> u32 {
        62 - (self.cluster.trailing_zeros() - 8)
    }

    fn descriptor(&self, at: u64, len: u64) -> u64 {
        let sectors = (at + len - 1) / 512 - at / 512;
        COMPRESSED | sectors << self.offset_bits() | at
    }

    fn enter(&mut self, guest: u64, entry: u64) {
        if let Some((_, entries)) = &mut self.l2 {
            let index = guest / self.cluster % entries.len() as u64;
            entries[usize::try_from(index).unwrap_or(0)] = entry;
        }
    }

    fn header(&self, table_at: u64, table_clusters: u64) -> Vec<u8> {
        let clusters = u32::try_from(table_clusters).unwrap_or(u32::MAX);
        let entries = u32::try_from(self.l1.len()).unwrap_or(u32::MAX);
        let incompatible = if self.zstd { INCOMPATIBLE_COMPRESSION } else { 0 };
        let mut header = Vec::with_capacity(256);
        header.extend(b"QFI\xFB");
        header.extend(3_u32.to_be_bytes());
        header.extend([0; 12]); // no backing file
        header.extend(self.cluster.trailing_zeros().to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend(0_u32.to_be_bytes()); // not encrypted
        header.extend(entries.to_be_bytes());
        header.extend(self.cluster.to_be_bytes());
        header.extend(table_at.to_be_bytes());
        header.extend(clusters.to_be_bytes());
        header.extend([0; 12]); // no snapshots
        header.extend(incompatible.to_be_bytes());
        header.extend([0; 16]); // no compatible and no autoclear features
        header.extend(4_u32.to_be_bytes());
        header.extend(HEADER_LEN.to_be_bytes());
        header.extend([u8::from(self.zstd), 0, 0, 0, 0, 0, 0, 0]);
        header.extend(feature_names());
        header
    }
}

/// The extension that lets older readers name what they lack, and the end of the extensions.
fn feature_names() -> Vec<u8> {
    let mut extension = FEATURE_NAMES.to_be_bytes().to_vec();
    extension.extend(48_u32.to_be_bytes());
    extension.extend([0, 3]);
    let mut name = b"compression type".to_vec();
    name.resize(46, 0);
    extension.extend(name);
    extension.extend([0; 8]);
    extension
}

/// The bytes of the refcount table when every cluster of the disk is stored.
fn most_refcount_table(size: u64, cluster: u64) -> u64 {
    let (guest, cluster) = (u128::from(size.div_ceil(cluster)), u128::from(cluster));
    // L2 tables and the L1 table; refcount blocks count themselves.
    let tables = guest.div_ceil(cluster / 8) + 1;
    let clusters = guest + 2 * tables + 4;
    let blocks = (clusters + clusters / (cluster / 2) + 1).div_ceil(cluster / 2) + 1;
    u64::try_from(blocks * 8).unwrap_or(u64::MAX)
}

fn too_large(size: u64, cluster: u64) -> Error {
    let text = format!(
        "a disk of {size} bytes in clusters of {cluster} needs larger tables than readers accept: \
         choose larger clusters"
    );
    Error::new(Kind::Limit, text)
}

/// Units of an item that share an L2 table.
struct Run<'a> {
    /// The guest byte of the item.
    item: u64,
    /// The guest byte of the first unit.
    guest: u64,
    forms: &'a [Form],
    /// Where the first compressed unit is among the item's compressed bytes.
    packed: u64,
}

impl Encoder for Qcow2 {
    fn unit(&self) -> u64 {
        self.cluster
    }

    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn head_len(&self) -> u64 {
        self.cluster + (self.l1.len() as u64 * 8).next_multiple_of(self.cluster)
    }

    fn place(&mut self, item: u64, mut forms: &[Form], out: &mut Vec<Segment>) -> Result<()> {
        self.cursor.advance(item, forms.len())?;
        let (mut guest, mut packed) = (item, 0);
        while !forms.is_empty() {
            let room = (self.span() - guest % self.span()) / self.cluster;
            let count = usize::try_from(room).unwrap_or(usize::MAX).min(forms.len());
            let (now, rest) = forms.split_at(count);
            self.place_in_table(&Run { item, guest, forms: now, packed }, out)?;
            packed += now.iter().copied().map(packed_len).sum::<u64>();
            guest += count as u64 * self.cluster;
            forms = rest;
        }
        Ok(())
    }

    /// Guest bytes that one L2 table describes.
    fn span(&self) -> u64 {
        self.cluster * (self.cluster / 8)
    }

    fn file_len(&self, units: u64, spans: u64, form: Form) -> u64 {
        let data = if form == Form::Zero { 0 } else { units };
        let end = self.head_len() / self.cluster + data + spans;
        let (blocks, table) = Refcounts::new(self.cluster).rest(end);
        (end + blocks + table) * self.cluster
    }

    fn finish(&mut self, out: &mut Vec<Segment>) -> Result<Vec<u8>> {
        self.end_table(out)?;
        self.align(out)?;
        let end = self.cursor.at / self.cluster;
        let (blocks, table) = self.refcounts.rest(end);
        self.refcounts.refer(self.cursor.at, (blocks + table) * self.cluster);
        for _ in 0..blocks {
            self.refcounts.blocks.push(self.cursor.at);
            let block = self.refcounts.take();
            self.cursor.bytes(block, out);
        }
        let table_at = self.cursor.at;
        let offsets = self.refcounts.blocks.iter().flat_map(|at| at.to_be_bytes()).collect();
        self.cursor.bytes(offsets, out);
        self.cursor.pad(self.cluster, out);
        let mut head = self.header(table_at, table);
        head.resize(usize::try_from(self.cluster).unwrap_or(usize::MAX), 0);
        head.extend(self.l1.iter().flat_map(|entry| entry.to_be_bytes()));
        head.resize(usize::try_from(self.head_len()).unwrap_or(usize::MAX), 0);
        Ok(head)
    }
}

const fn packed_len(form: Form) -> u64 {
    match form {
        Form::Packed(len) => len as u64,
        Form::Zero | Form::Plain => 0,
    }
}
