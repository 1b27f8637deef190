//! The leaves of 1024 granules.

use super::{Known, Leaf, PAGE, leaf_of, left_of, merge};
use crate::granule::{GRANULE_LEN, bytes_of, granules_in};
use blake3::hazmat::{Mode, merge_subtrees_root};

/// Granules whose common value is kept: after a change the zeros of so many are hashed again, and
/// not those of the whole page.
const GROUP: usize = 64;

static ZEROS: [u8; GRANULE_LEN] = [0; GRANULE_LEN];

/// Up to 1024 granules that follow each other on a disk.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// The first granule.
    first: u64,
    /// Bytes of the whole disk.
    size: u64,
    content: Content,
    /// The chaining value, once it was asked for.
    value: Option<Leaf>,
}

#[derive(Debug, Clone)]
enum Content {
    Unknown,
    Zero,
    Mixed(Mixed),
}

#[derive(Debug, Clone)]
struct Mixed {
    slots: Vec<Slot>,
    /// The chaining value of each group, once it was asked for.
    groups: Vec<Option<Leaf>>,
    zeros: usize,
    unknown: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Unknown,
    Zero,
    Leaf(Leaf),
}

impl Page {
    pub(super) fn unknown(first: u64, size: u64) -> Self {
        Self { first, size, content: Content::Unknown, value: None }
    }

    /// How many granules the page has.
    fn len(&self) -> usize {
        usize::try_from(granules_in(self.size).saturating_sub(self.first).min(PAGE)).unwrap_or(0)
    }

    pub(super) fn get(&self, slot: usize) -> Option<Known> {
        if slot >= self.len() {
            return None;
        }
        match &self.content {
            Content::Unknown => None,
            Content::Zero => Some(Known::Zero),
            Content::Mixed(mixed) => mixed.slots[slot].known(),
        }
    }

    /// Says whether nothing was known before.
    pub(super) fn set(&mut self, slot: usize, known: Known) -> bool {
        self.replace(slot, known.into()) == Some(Slot::Unknown)
    }

    /// Says whether something was known before.
    pub(super) fn forget(&mut self, slot: usize) -> bool {
        self.replace(slot, Slot::Unknown).is_some_and(|old| old != Slot::Unknown)
    }

    /// What was there before; `None` past the end.
    fn replace(&mut self, slot: usize, new: Slot) -> Option<Slot> {
        let len = self.len();
        if slot >= len {
            return None;
        }
        let same = match (&self.content, new) {
            (Content::Unknown, Slot::Unknown) | (Content::Zero, Slot::Zero) => true,
            (Content::Mixed(mixed), new) => mixed.slots[slot] == new,
            _ => false,
        };
        if same {
            return Some(new);
        }
        self.value = None;
        let mut mixed = std::mem::replace(&mut self.content, Content::Unknown).into_mixed(len);
        let old = std::mem::replace(&mut mixed.slots[slot], new);
        mixed.groups[slot / GROUP] = None;
        mixed.count(old, new);
        if mixed.zeros == len {
            self.content = Content::Zero;
        } else if mixed.unknown < len {
            self.content = Content::Mixed(mixed);
        }
        Some(old)
    }

    pub(super) fn unknown_slots(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(|slot| self.get(*slot).is_none())
    }

    pub(super) fn value(&mut self) -> Option<Leaf> {
        if self.value.is_none() {
            self.value = Some(merge(&self.groups()?));
        }
        self.value
    }

    /// The BLAKE3 of a disk that has this page alone, which has at least two granules.
    pub(super) fn root(&mut self) -> Option<[u8; 32]> {
        let len = self.len();
        let values = if len > GROUP { self.groups()? } else { self.leaves(0..len)? };
        let (left, right) = values.split_at(left_of(values.len()));
        Some(*merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes())
    }

    /// The chaining values of all groups, which are complete subtrees as pages are.
    fn groups(&mut self) -> Option<Vec<Leaf>> {
        (0..self.len().div_ceil(GROUP)).map(|group| self.group(group)).collect()
    }

    fn group(&mut self, group: usize) -> Option<Leaf> {
        if let Content::Mixed(mixed) = &self.content
            && let Some(value) = mixed.groups[group]
        {
            return Some(value);
        }
        let first = group * GROUP;
        let value = merge(&self.leaves(first..(first + GROUP).min(self.len()))?);
        if let Content::Mixed(mixed) = &mut self.content {
            mixed.groups[group] = Some(value);
        }
        Some(value)
    }

    /// The leaves of `slots`, those of zeros included.
    fn leaves(&self, mut slots: std::ops::Range<usize>) -> Option<Vec<Leaf>> {
        slots.try_fold(Vec::new(), |mut leaves, slot| {
            leaves.push(self.leaf(slot, self.get(slot)?));
            Some(leaves)
        })
    }

    fn leaf(&self, slot: usize, known: Known) -> Leaf {
        let Known::Leaf(leaf) = known else {
            let index = self.first + slot as u64;
            let len = usize::try_from(bytes_of(index, self.size).len()).unwrap_or(0);
            return leaf_of(index, &ZEROS[..len]);
        };
        leaf
    }
}

impl Content {
    fn into_mixed(self, len: usize) -> Mixed {
        let groups = || vec![None; len.div_ceil(GROUP)];
        let of = |slot, zeros, unknown| Mixed {
            slots: vec![slot; len],
            groups: groups(),
            zeros,
            unknown,
        };
        match self {
            Self::Unknown => of(Slot::Unknown, 0, len),
            Self::Zero => of(Slot::Zero, len, 0),
            Self::Mixed(mixed) => mixed,
        }
    }
}

impl Mixed {
    fn count(&mut self, old: Slot, new: Slot) {
        self.zeros -= usize::from(old == Slot::Zero);
        self.unknown -= usize::from(old == Slot::Unknown);
        self.zeros += usize::from(new == Slot::Zero);
        self.unknown += usize::from(new == Slot::Unknown);
    }
}

impl Slot {
    fn known(self) -> Option<Known> {
        match self {
            Self::Unknown => None,
            Self::Zero => Some(Known::Zero),
            Self::Leaf(leaf) => Some(Known::Leaf(leaf)),
        }
    }
}

impl From<Known> for Slot {
    fn from(known: Known) -> Self {
        match known {
            Known::Zero => Self::Zero,
            Known::Leaf(leaf) => Self::Leaf(leaf),
        }
    }
}
