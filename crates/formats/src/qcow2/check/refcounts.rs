//! Refcounts: needed by writers only, so whatever is wrong with them is a warning.
//!
//! Facts: qcow2 specification, "Host cluster management".

use super::claims::Claims;
use crate::Warning;
use crate::qcow2::Qcow2;
use crate::qcow2::features;
use crate::qcow2::header::MAX_OFFSET;
use crate::qcow2::tables::{
    BATCH_BYTES, BATCH_PIECES, Piece, Words, index_of, read_pieces, read_table,
};
use carreto_error::Result;

/// QEMU's bound for the refcount table in bytes.
const MAX_TABLE: u64 = 8 << 20;
/// Refcount blocks are read in pieces of this many bytes.
const MAX_PIECE: u64 = 64 << 10;
const RESERVED: u64 = 0x1FF;
const CODE: &str = "refcount_damage";

/// The refcount blocks of an image whose refcount table can be believed.
#[derive(Debug)]
pub(super) struct Refcounts {
    /// Where each block is; 0 where there is none or it is damaged.
    blocks: Vec<u64>,
    cluster_size: u64,
    order: u32,
}

/// Reads the refcount table, and claims it and its blocks if it can be believed.
///
/// # Errors
/// What reading meets. Damage goes to `warnings`.
pub(super) async fn read(
    image: &Qcow2,
    claims: &mut Claims,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Refcounts>> {
    let table = image.header.refcounts;
    let cluster_size = image.layout.cluster_size();
    if let Some(problem) = place_problem(image, claims) {
        warnings.push(Warning::new(CODE, problem).offset(48));
        return Ok(None);
    }
    let per_block = (cluster_size * 8) >> table.order;
    let needed = image.layout.file_size.div_ceil(cluster_size).div_ceil(per_block);
    let entries = needed.min(u64::from(table.clusters) * cluster_size / 8);
    let words = read_table(image.file(), table.offset, entries).await?;
    let mut found = Refcounts {
        blocks: words.iter().map(|word| found_block(*word, image)).collect(),
        cluster_size,
        order: table.order,
    };
    if !found.counts(image, table.offset / cluster_size).await? {
        if !image.header.features.has(features::DIRTY) {
            let text = "the refcount table has no refcount for itself";
            warnings.push(Warning::new(CODE, text).offset(table.offset));
        }
        return Ok(None);
    }
    claims.metadata(table.offset, u64::from(table.clusters) * cluster_size);
    let damaged = words.iter().zip(&found.blocks);
    let mut bad = damaged.filter(|(word, block)| **word != 0 && **block == 0).count();
    for block in &mut found.blocks {
        if *block != 0 && !claims.metadata(*block, cluster_size) {
            (*block, bad) = (0, bad + 1);
        }
    }
    if bad > 0 {
        let text = format!("{bad} entries of the refcount table point where no block can be");
        warnings.push(Warning::new(CODE, text).offset(table.offset));
    }
    Ok(Some(found))
}

/// What is wrong with the header's idea of the refcount table.
fn place_problem(image: &Qcow2, claims: &Claims) -> Option<String> {
    let table = image.header.refcounts;
    let cluster_size = image.layout.cluster_size();
    let len = u64::from(table.clusters) * cluster_size;
    let (offset, clusters) = (table.offset, table.clusters);
    if clusters == 0 {
        return Some("there is no refcount table".into());
    }
    if len > MAX_TABLE.max(cluster_size) {
        return Some(format!("the refcount table has {clusters} clusters"));
    }
    if !offset.is_multiple_of(cluster_size) || offset >= MAX_OFFSET {
        return Some(format!("the refcount table lies at {offset}, not at a cluster boundary"));
    }
    if offset + len > image.layout.file_size {
        return Some(format!("the refcount table at {offset} reaches past the end of the file"));
    }
    (!claims.is_free(offset, len))
        .then(|| format!("the refcount table at {offset} overlaps the header or the L1 table"))
}

/// The offset in a refcount table entry, or 0 when no block can be there.
fn found_block(word: u64, image: &Qcow2) -> u64 {
    let cluster_size = image.layout.cluster_size();
    let fits = word & RESERVED == 0
        && word.is_multiple_of(cluster_size)
        && word < MAX_OFFSET
        && word >= cluster_size
        && word + cluster_size <= image.layout.file_size;
    if fits { word } else { 0 }
}

impl Refcounts {
    fn per_block(&self) -> u64 {
        (self.cluster_size * 8) >> self.order
    }

    /// Whether `cluster` has a refcount other than zero.
    async fn counts(&self, image: &Qcow2, cluster: u64) -> Result<bool> {
        let per_block = self.per_block();
        let Some(block) = self.blocks.get(index_of(cluster / per_block)) else {
            return Ok(false);
        };
        if *block == 0 {
            return Ok(false);
        }
        let bit = (cluster % per_block) << self.order;
        let words = read_table(image.file(), block + bit / 64 * 8, 1).await?;
        Ok(value_bits(&words, bit % 64, self.order) != 0)
    }

    /// Warns when clusters in use have the refcount zero: a writer would overwrite them.
    ///
    /// # Errors
    /// What reading meets.
    pub(super) async fn compare(
        &self,
        image: &Qcow2,
        claims: &Claims,
        warnings: &mut Vec<Warning>,
    ) -> Result<()> {
        let mut used: Vec<u64> = Vec::new();
        let mut zero = ZeroCounts::default();
        // One piece of a block covers so many clusters; only pieces that are used are read.
        let piece_len = self.cluster_size.min(MAX_PIECE);
        let covered = (piece_len * 8) >> self.order;
        claims.for_each(|cluster| {
            if used.last() != Some(&(cluster / covered)) {
                used.push(cluster / covered);
            }
        });
        let mut read: Vec<(u64, Words)> = Vec::new();
        let batch = index_of(BATCH_BYTES / piece_len).min(BATCH_PIECES);
        for numbers in used.chunks(batch.max(1)) {
            let places: Vec<(u64, Piece)> = numbers
                .iter()
                .filter_map(|number| Some((*number, self.piece(*number, covered, piece_len)?)))
                .collect();
            let pieces: Vec<Piece> = places.iter().map(|(_, piece)| *piece).collect();
            let words = read_pieces(image.file(), &pieces).await?;
            read.clear();
            read.extend(places.iter().map(|(number, _)| *number).zip(words));
            let range = numbers[0] * covered..(numbers[numbers.len() - 1] + 1) * covered;
            claims.for_each_in(range, |cluster| {
                let found = read.binary_search_by_key(&(cluster / covered), |(number, _)| *number);
                let counted = found.is_ok_and(|index| {
                    let bit = (cluster % covered) << self.order;
                    let words = read[index].1.get(index_of(bit / 64)..).unwrap_or(&[]);
                    value_bits(words, bit % 64, self.order) != 0
                });
                if !counted {
                    zero.add(cluster);
                }
            });
        }
        if let Some(first) = zero.first {
            let count = zero.count;
            let text = format!("{count} clusters in use have the refcount 0");
            warnings.push(Warning::new(CODE, text).offset(first * self.cluster_size));
        }
        Ok(())
    }

    /// Where piece `number` (of `covered` refcounts) is.
    fn piece(&self, number: u64, covered: u64, len: u64) -> Option<Piece> {
        let pieces = self.per_block() / covered;
        let block = *self.blocks.get(index_of(number / pieces))?;
        (block != 0).then_some(Piece { offset: block + number % pieces * len, len })
    }
}

#[derive(Default)]
struct ZeroCounts {
    count: u64,
    first: Option<u64>,
}

impl ZeroCounts {
    fn add(&mut self, cluster: u64) {
        self.count += 1;
        self.first.get_or_insert(cluster);
    }
}

/// The refcount at bit `bit` of the first word. Refcounts of less than a byte fill each byte
/// from its low end; words are big-endian.
fn value_bits(words: &[u64], bit: u64, order: u32) -> u64 {
    let word = words.first().copied().unwrap_or(0);
    let width = 1u64 << order;
    let shift = if width >= 8 { 64 - bit - width } else { 56 - bit / 8 * 8 + bit % 8 };
    let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
    word >> shift & mask
}
