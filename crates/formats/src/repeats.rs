//! Finding decompression bombs: many table entries that point at the same few host bytes.
//!
//! A disk of 16 GiB that decodes from one cluster costs its reader far more than it cost its
//! writer. No writer shares host data between entries of one table, so two entries that do are
//! odd, and a disk that mostly does is an attack.

use crate::bits::Bitmap;
use carreto_error::{Error, Kind, Result};

/// Bits of memory for each entry, so that few fall together by chance.
const BITS_EACH: u64 = 16;
const MIN_BITS: u64 = 1 << 16;
/// 8 MiB of memory.
const MAX_BITS: u64 = 1 << 26;
/// So few repeats are odd, not an attack.
const TOLERATED: u64 = 1024;
/// So few guest bytes are not an attack either, however few entries they are.
const TOLERATED_BYTES: u64 = 64 << 20;

/// Counts entries, and estimates how many different offsets they have.
#[derive(Debug)]
pub(crate) struct Repeats {
    bits: u64,
    known: Option<Bitmap>,
    /// Entries, and bits of `known` that are set.
    total: u64,
    set: u64,
    tolerated: u64,
}

impl Repeats {
    /// For a disk of `units` units (clusters, grains) of `unit` bytes.
    pub(crate) fn new(units: u64, unit: u64) -> Self {
        let wanted = units.saturating_mul(BITS_EACH).clamp(MIN_BITS, MAX_BITS);
        Self {
            bits: wanted.next_power_of_two(),
            known: None,
            total: 0,
            set: 0,
            tolerated: tolerated(unit),
        }
    }

    /// Counts an entry that points at `offset`.
    pub(crate) fn add(&mut self, offset: u64) {
        let bits = self.bits;
        let known = self.known.get_or_insert_with(|| Bitmap::new(bits));
        let hash = mixed(offset) >> (64 - bits.trailing_zeros());
        self.total += 1;
        self.set += u64::from(!known.insert(hash));
    }

    /// How many entries repeat an offset that was there before. From the share of set bits
    /// follows how many offsets set them (linear counting: Whang, Vander-Zanden and Taylor).
    fn repeated(&self) -> f64 {
        if self.set == self.bits {
            return 0.0;
        }
        let bits = self.bits as f64;
        let free = (self.bits - self.set) as f64;
        let different = bits * (bits / free).ln();
        self.total as f64 - different
    }

    /// Fails once most entries are repeats.
    ///
    /// # Errors
    /// `Limit`, with the counts.
    pub(crate) fn verdict(&self) -> Result<()> {
        judge(self.repeated(), self.total, self.tolerated)
    }
}

/// The verdict where repeats of units of `unit` bytes were counted exactly.
///
/// # Errors
/// As [`Repeats::verdict`].
pub(crate) fn verdict_of(repeated: u64, total: u64, unit: u64) -> Result<()> {
    judge(repeated as f64, total, tolerated(unit))
}

fn tolerated(unit: u64) -> u64 {
    (TOLERATED_BYTES / unit.max(1)).clamp(16, TOLERATED)
}

fn judge(repeated: f64, total: u64, tolerated: u64) -> Result<()> {
    if repeated <= tolerated as f64 || repeated <= total as f64 / 2.0 {
        return Ok(());
    }
    let text = format!(
        "about {repeated:.0} of {total} table entries point at host data that others point at: \
         the image decodes to far more than it holds"
    );
    Err(Error::new(Kind::Limit, text).during("check the tables"))
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
                    let mut repeats = Repeats::new(count, 1 << bits);
                    for index in 0..count {
                        repeats.add((first + index) << bits);
                    }
                    let share = repeats.repeated() / repeats.total as f64;
                    assert!(share < 0.02, "{share} of {count} clusters of 2^{bits} from {first}");
                    repeats.verdict().unwrap();
                }
            }
        }
    }

    #[test]
    fn entries_that_share_their_data_are() {
        for distinct in [1, 2, 7, 1000] {
            let mut repeats = Repeats::new(16_384, 1 << 16);
            for index in 0..16_384 {
                repeats.add((index % distinct) << 16);
            }
            assert_eq!(repeats.verdict().unwrap_err().kind(), Kind::Limit);
        }
        assert_eq!(verdict_of(1000, 1001, 2 << 20).unwrap_err().kind(), Kind::Limit);
        verdict_of(10, 12, 2 << 20).unwrap();
    }

    /// More entries than the memory has bits for are still judged.
    #[test]
    fn very_large_disks_are_judged_too() {
        let repeats = |set, total| Repeats { total, set, ..Repeats::new(1 << 40, 512) };
        assert_eq!(repeats(1, 1 << 27).verdict().unwrap_err().kind(), Kind::Limit);
        assert_eq!(repeats(1 << 20, 1 << 26).verdict().unwrap_err().kind(), Kind::Limit);
        // As many bits as 2^27 different offsets set: 1 - e^-2 of all.
        repeats(58_026_676, 1 << 27).verdict().unwrap();
        repeats(MAX_BITS, 1 << 33).verdict().unwrap();
    }
}
