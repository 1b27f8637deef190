//! Finding decompression bombs: many L2 entries that point at the same few host bytes.
//!
//! A disk of 16 GiB that decodes from one cluster costs its reader far more than it cost its
//! writer. No writer shares host data between entries of one table, so two entries that do are
//! odd, and a disk that mostly does is an attack.

use super::claims::Bitmap;
use carreto_error::{Error, Kind, Result};

/// Bits of memory for each guest cluster, which keeps false repeats near six in a hundred.
const BITS_EACH: u64 = 16;
const MIN_BITS: u64 = 1 << 16;
/// 8 MiB of memory.
const MAX_BITS: u64 = 1 << 26;
/// So few repeats are odd, not an attack.
const TOLERATED: u64 = 1024;

/// Counts offsets and how many of them came before, the latter approximately.
#[derive(Debug)]
pub(super) struct Repeats {
    bits: u64,
    known: Option<Bitmap>,
    total: u64,
    repeated: u64,
}

impl Repeats {
    /// For a disk of `clusters` clusters.
    pub(super) fn new(clusters: u64) -> Self {
        let wanted = clusters.saturating_mul(BITS_EACH).clamp(MIN_BITS, MAX_BITS);
        Self { bits: wanted.next_power_of_two(), known: None, total: 0, repeated: 0 }
    }

    /// Counts an entry that points at `offset`.
    pub(super) fn add(&mut self, offset: u64) {
        let bits = self.bits;
        let known = self.known.get_or_insert_with(|| Bitmap::new(bits));
        let hash = mixed(offset) >> (64 - bits.trailing_zeros());
        self.total += 1;
        self.repeated += u64::from(known.insert(hash));
    }

    /// Fails once most entries are repeats.
    ///
    /// # Errors
    /// `Limit`, with the counts.
    pub(super) fn verdict(&self) -> Result<()> {
        let saturated = self.total > self.bits / 2;
        if saturated || self.repeated <= TOLERATED || self.repeated <= self.total / 2 {
            return Ok(());
        }
        let (repeated, total) = (self.repeated, self.total);
        let text = format!(
            "about {repeated} of {total} L2 entries point at host data that others point at: \
             the image decodes to far more than it holds"
        );
        Err(Error::new(Kind::Limit, text).during("check the L2 tables"))
    }
}

/// Spreads offsets evenly whatever their pattern: writers allocate clusters in a row, and a weaker
/// hash folds rows onto themselves (the finaliser of `SplitMix64`, by Steele, Lea and Flood).
fn mixed(offset: u64) -> u64 {
    let mut word = offset;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_in_a_row_are_no_attack() {
        for bits in 9..=21 {
            for first in [0, 5, 6, 1000, 1 << 20] {
                for count in [2048, 16_384, 50_000] {
                    let mut repeats = Repeats::new(count);
                    for index in 0..count {
                        repeats.add((first + index) << bits);
                    }
                    let share = repeats.repeated as f64 / repeats.total as f64;
                    assert!(share < 0.1, "{share} of {count} clusters of 2^{bits} from {first}");
                    repeats.verdict().unwrap();
                }
            }
        }
    }

    #[test]
    fn entries_that_share_their_data_are() {
        for distinct in [1, 2, 7, 1000] {
            let mut repeats = Repeats::new(16_384);
            for index in 0..16_384 {
                repeats.add((index % distinct) << 16);
            }
            assert_eq!(repeats.verdict().unwrap_err().kind(), Kind::Limit);
        }
    }
}
