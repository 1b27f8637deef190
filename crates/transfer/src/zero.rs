//! Finding zeros while the bytes are in cache.

use std::ops::Range;

/// The granularity in bytes at which zeros are found and left out.
pub(crate) const BLOCK: usize = 4096;

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut pieces = bytes.chunks_exact(256);
    pieces.by_ref().all(piece_is_zero) && pieces.remainder().iter().all(|byte| *byte == 0)
}

/// 256 bytes without an early exit inside, so that the compiler uses wide registers.
fn piece_is_zero(piece: &[u8]) -> bool {
    let (words, _) = piece.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum | u64::from_ne_bytes(*word)) == 0
}

/// The runs of `bytes` that are not zero, cut at multiples of [`BLOCK`]. Zero gaps shorter than
/// `min_gap` stay inside a run.
pub(crate) fn data_runs(bytes: &[u8], min_gap: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if is_zero(block) {
            continue;
        }
        let start = index * BLOCK;
        let end = start + block.len();
        match runs.last_mut() {
            Some(last) if start - last.end < min_gap.max(1) => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_is_seen() {
        for len in [1, 255, 256, 257, 4096, 5000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes), "{len}");
            for at in [0, len / 2, len - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{len} at {at}");
                bytes[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }

    #[test]
    fn runs_cover_all_data_and_respect_the_gap() {
        let mut bytes = vec![0; 10 * BLOCK + 7];
        bytes[5] = 1;
        bytes[2 * BLOCK] = 1;
        bytes[9 * BLOCK] = 1;
        bytes[10 * BLOCK + 6] = 1;
        let end = 10 * BLOCK + 7;
        assert_eq!(data_runs(&bytes, 0), [0..BLOCK, 2 * BLOCK..3 * BLOCK, 9 * BLOCK..end]);
        assert_eq!(data_runs(&bytes, 2 * BLOCK), [0..3 * BLOCK, 9 * BLOCK..end]);
        assert_eq!(data_runs(&bytes, 1 << 20), vec![0..end]);
        assert!(data_runs(&[0; 100], 0).is_empty());
    }
}
