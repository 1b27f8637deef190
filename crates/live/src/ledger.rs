//! The proof: one BLAKE3 leaf for each granule of a disk.
//!
//! BLAKE3 is a tree over chunks of 1 KiB. A granule of 64 KiB is a complete subtree of it, so its
//! chaining value (its *leaf*) can be computed from its bytes and its place alone, and the leaves of
//! all granules give the plain BLAKE3 of the whole disk. After a write only the leaf of its granule
//! is computed again. (BLAKE3 specification, section 2.1; the same as `b3sum` prints.)
//!
//! Leaves are kept in pages of 1024 granules (64 MiB). A page of zeros keeps one value instead of
//! 1024, so memory follows the data on the disk: 32 bytes for each 64 KiB of it.

mod page;

use crate::granule::{GRANULE, GranuleSet, granules_in};
use blake3::Hasher;
use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use carreto_error::{Error, Kind, Result};
use page::Page;

/// Granules of a page.
pub const PAGE: u64 = 1024;

/// A chaining value: of a granule, or of a complete subtree of granules.
pub type Leaf = [u8; 32];

/// What is known about a granule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Every byte is zero.
    Zero,
    /// The content has this leaf.
    Leaf(Leaf),
}

/// The leaf of granule `index` with the content `bytes`, which are not empty.
pub fn leaf_of(index: u64, bytes: &[u8]) -> Leaf {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(index.min(u64::MAX / GRANULE) * GRANULE);
    hasher.update(bytes).finalize_non_root()
}

/// What is known about the content of one disk, granule by granule.
#[derive(Debug, Clone)]
pub struct Ledger {
    size: u64,
    pages: Vec<Page>,
    /// Granules that nothing is known about.
    unknown: u64,
}

impl Ledger {
    /// Nothing is known yet about a disk of `size` bytes.
    ///
    /// # Errors
    /// `Unsupported` for a disk of a single granule: its leaf is no part of its BLAKE3.
    pub fn unknown(size: u64) -> Result<Self> {
        if size <= GRANULE {
            let text = format!("a disk of {size} bytes cannot be migrated online: it is too small");
            return Err(Error::new(Kind::Unsupported, text));
        }
        let numbers = 0..granules_in(size).div_ceil(PAGE);
        let pages = numbers.map(|number| Page::unknown(number * PAGE, size)).collect();
        Ok(Self { size, pages, unknown: granules_in(size) })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many granules nothing is known about.
    pub fn unknown_count(&self) -> u64 {
        self.unknown
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// What is known about granule `index`.
    pub fn get(&self, index: u64) -> Option<Known> {
        self.pages.get(page_of(index))?.get(slot_of(index))
    }

    /// Remembers what granule `index` holds.
    pub fn set(&mut self, index: u64, known: Known) {
        if let Some(page) = self.pages.get_mut(page_of(index)) {
            self.unknown -= u64::from(page.set(slot_of(index), known));
        }
    }

    /// Forgets what granule `index` holds.
    pub fn forget(&mut self, index: u64) {
        if let Some(page) = self.pages.get_mut(page_of(index)) {
            self.unknown += u64::from(page.forget(slot_of(index)));
        }
    }

    /// The granules that nothing is known about.
    pub fn unknown_set(&self) -> GranuleSet {
        let mut set = GranuleSet::empty(granules_in(self.size));
        for (number, page) in (0u64..).zip(&self.pages) {
            for slot in page.unknown_slots() {
                set.insert(number * PAGE + slot as u64);
            }
        }
        set
    }

    /// The chaining value of page `number`; `None` while a granule of it is unknown.
    ///
    /// The first call after a change of the page hashes its zeros, which may be 64 MiB.
    pub fn page_value(&mut self, number: u64) -> Option<Leaf> {
        self.pages.get_mut(usize::try_from(number).ok()?)?.value()
    }

    /// The plain BLAKE3 of the whole disk; `None` while a granule is unknown.
    ///
    /// Takes time for the pages whose value was not asked for since they changed.
    pub fn root(&mut self) -> Option<[u8; 32]> {
        if self.unknown > 0 {
            return None;
        }
        if let [page] = self.pages.as_mut_slice() {
            return page.root();
        }
        let values: Option<Vec<Leaf>> = self.pages.iter_mut().map(Page::value).collect();
        let values = values?;
        let (left, right) = values.split_at(left_of(values.len()));
        Some(*merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes())
    }
}

/// Nodes of the left subtree of a tree over `count` complete subtrees: the largest power of two
/// below `count`, which is at least 2. (BLAKE3 specification, section 2.1.)
const fn left_of(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// The chaining value over subtrees of equal height, of which the last may be less.
fn merge(values: &[Leaf]) -> Leaf {
    if let [value] = values {
        return *value;
    }
    let (left, right) = values.split_at(left_of(values.len()));
    merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
}

fn page_of(index: u64) -> usize {
    usize::try_from(index / PAGE).unwrap_or(usize::MAX)
}

const fn slot_of(index: u64) -> usize {
    (index % PAGE) as usize
}

#[cfg(test)]
mod tests;
