//! Putting the reply to a request together from its chunks.

use super::wire::{STATE_ZERO, violation};
use carreto_error::Result;
use std::ops::Range;

/// Descriptors of a block status that are kept; a server may send fewer than were asked for.
const MAX_DESCRIPTORS: usize = 8192;

/// What a request expects.
#[derive(Debug)]
pub(super) enum Assembly {
    /// Nothing but success.
    Nothing,
    /// The bytes from `offset` on.
    Bytes { offset: u64, bytes: Vec<u8>, covered: Vec<Range<usize>> },
    /// What is zero from the start of the request on: lengths and whether they read as zeros.
    Status { context: u32, pieces: Vec<(u64, bool)> },
}

impl Assembly {
    pub(super) fn bytes(offset: u64, len: usize) -> Self {
        Self::Bytes { offset, bytes: vec![0; len], covered: Vec::new() }
    }

    /// Where `len` payload bytes for `at` belong.
    ///
    /// # Errors
    /// `Unavailable` when they lie outside the request or on bytes that came already.
    pub(super) fn slot(&mut self, at: u64, len: usize) -> Result<&mut [u8]> {
        let Self::Bytes { offset, bytes, covered } = self else {
            return Err(violation("data for a request that asked for none"));
        };
        let start = at.checked_sub(*offset).and_then(|start| usize::try_from(start).ok());
        let range = start.and_then(|start| Some(start..start.checked_add(len)?));
        let range = range
            .filter(|range| range.end <= bytes.len())
            .ok_or_else(|| violation(format!("{len} bytes at {at} outside of the request")))?;
        let after = covered.partition_point(|before| before.start < range.start);
        let overlaps = |other: Option<&Range<usize>>| {
            other.is_some_and(|other| other.start < range.end && range.start < other.end)
        };
        let before = after.checked_sub(1).and_then(|index| covered.get(index));
        if overlaps(before) || overlaps(covered.get(after)) || len == 0 {
            return Err(violation(format!("{len} bytes at {at} a second time")));
        }
        // Chunks come in order almost always; growing the last range keeps the list short.
        match after.checked_sub(1).and_then(|index| covered.get_mut(index)) {
            Some(before) if before.end == range.start => before.end = range.end,
            _ => covered.insert(after, range.clone()),
        }
        Ok(&mut bytes[range])
    }

    /// Whether a simple reply carries this many payload bytes.
    pub(super) fn payload(&self) -> Option<(u64, usize)> {
        match self {
            Self::Bytes { offset, bytes, .. } => Some((*offset, bytes.len())),
            _ => None,
        }
    }

    /// Takes the payload of a block status chunk.
    ///
    /// # Errors
    /// `Unavailable` when it is not what was asked for.
    pub(super) fn status(&mut self, payload: &[u8]) -> Result<()> {
        let Self::Status { context, pieces } = self else {
            return Err(violation("a block status for another request"));
        };
        let (words, rest) = payload.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_be_bytes(*word));
        if !rest.is_empty() || words.next() != Some(*context) || !pieces.is_empty() {
            return Err(violation("a malformed block status"));
        }
        while let (Some(len), Some(state)) = (words.next(), words.next()) {
            if len == 0 {
                return Err(violation("an empty extent in a block status"));
            }
            if pieces.len() < MAX_DESCRIPTORS {
                pieces.push((u64::from(len), state & STATE_ZERO != 0));
            }
        }
        Ok(())
    }

    /// Checks that nothing is missing.
    ///
    /// # Errors
    /// `Unavailable`, saying what is.
    pub(super) fn finish(self) -> Result<Self> {
        match &self {
            Self::Bytes { bytes, covered, .. } => {
                let got: usize = covered.iter().map(ExactSizeIterator::len).sum();
                if got != bytes.len() {
                    let text = format!("{got} bytes for a read of {}", bytes.len());
                    return Err(violation(text));
                }
            }
            Self::Status { pieces, .. } if pieces.is_empty() => {
                return Err(violation("no block status for a request for one"));
            }
            _ => {}
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_in_any_order_make_the_whole_and_nothing_else_does() {
        let mut read = Assembly::bytes(100, 30);
        for (at, fill) in [(120, 3), (100, 1), (110, 2)] {
            read.slot(at, 10).unwrap().fill(fill);
        }
        for (at, len) in [(100, 10), (119, 1), (99, 1), (130, 1), (100, 31), (90, 50), (105, 0)] {
            assert!(read.slot(at, len).is_err(), "{at} {len}");
        }
        let Assembly::Bytes { bytes, .. } = read.finish().unwrap() else { unreachable!() };
        assert_eq!(bytes, [[1; 10], [2; 10], [3; 10]].concat());
    }

    #[test]
    fn a_hole_in_a_reply_is_an_error() {
        let mut read = Assembly::bytes(0, 30);
        read.slot(0, 10).unwrap();
        read.slot(20, 10).unwrap();
        assert!(read.finish().is_err());
        assert!(Assembly::Status { context: 1, pieces: Vec::new() }.finish().is_err());
    }

    #[test]
    fn a_block_status_is_for_its_context_and_whole() {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
        let status = |payload: &[u8]| {
            let mut status = Assembly::Status { context: 7, pieces: Vec::new() };
            status.status(payload).map(|()| status)
        };
        let Assembly::Status { pieces, .. } = status(&words(&[7, 512, 3, 1024, 0])).unwrap() else {
            unreachable!()
        };
        assert_eq!(pieces, [(512, true), (1024, false)]);
        for bad in [&words(&[8, 512, 0])[..], &words(&[7, 0, 0]), &[0; 5], &[]] {
            assert!(status(bad).is_err(), "{bad:?}");
        }
    }
}
