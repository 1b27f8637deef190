//! Sets of numbers at a bit each, for finding what is used twice.

/// A set of numbers.
#[derive(Debug)]
pub(crate) struct Bitmap(Vec<u64>);

impl Bitmap {
    /// The empty set of numbers below `len`.
    pub(crate) fn new(len: u64) -> Self {
        Self(vec![0; index_of(len.div_ceil(64))])
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        let word = self.0.get(index_of(number / 64)).copied().unwrap_or(0);
        word >> (number % 64) & 1 == 1
    }

    /// Adds `number`, and says whether it was in the set already. Numbers past the end are
    /// ignored.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let Some(word) = self.0.get_mut(index_of(number / 64)) else {
            return false;
        };
        let bit = 1 << (number % 64);
        let known = *word & bit != 0;
        *word |= bit;
        known
    }

    /// The numbers from 64 times `index` on, the lowest in the lowest bit.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }
}

fn index_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
