//! Putting the reply to a request together from its chunks.

use super::wire::{STATE_ZERO, violation};
use carreto_error::Result;
use std::ops::Range;

/// Descriptors of a block status that are kept; a server may send fewer than were asked for.
const MAX_DESCRIPTORS: usize = 8192;
/// Separate runs of bytes that one reply may have come in at any time. Servers send their chunks
/// in order, or nearly so.
const MAX_RUNS: usize = 4096;

/// What a request expects.
#[derive(Debug)]
pub(super) enum Assembly {
    /// Nothing but success.
    Nothing,
    /// The bytes from `offset` on.
    Bytes { offset: u64, bytes: Vec<u8>, covered: Vec<Range<usize>> },
    /// What is zero from the start of the request on: lengths and whether they read as zeros.
    /// The connection fills in the number of its context.
    Status { context: Option<u32>, pieces: Vec<(u64, bool)> },
}

impl Assembly {
    pub(super) fn bytes(offset: u64, len: usize) -> Self {
        Self::Bytes { offset, bytes: vec![0; len], covered: Vec::new() }
    }

    pub(super) const fn status() -> Self {
        Self::Status { context: None, pieces: Vec::new() }
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
        cover(covered, after, &range)?;
        Ok(&mut bytes[range])
    }

    /// Whether a simple reply carries this many payload bytes.
    pub(super) fn payload(&self) -> Option<(u64, usize)> {
        match self {
            Self::Bytes { offset, bytes, .. } => Some((*offset, bytes.len())),
            _ => None,
        }
    }

    /// Takes the beginning of a block status chunk, the number of its context.
    ///
    /// # Errors
    /// `Unavailable` when it is not what was asked for.
    pub(super) fn begin_status(&self, of: u32) -> Result<()> {
        match self {
            Self::Status { context, pieces } if *context == Some(of) && pieces.is_empty() => Ok(()),
            Self::Status { .. } => Err(violation("a block status of another context, or a second")),
            _ => Err(violation("a block status for another request")),
        }
    }

    /// Takes more of a block status chunk, whole descriptors.
    ///
    /// # Errors
    /// `Unavailable` when one is empty.
    pub(super) fn descriptors(&mut self, payload: &[u8]) -> Result<()> {
        let Self::Status { pieces, .. } = self else {
            return Err(violation("a block status for another request"));
        };
        for descriptor in payload.as_chunks::<8>().0 {
            let [a, b, c, d, state @ ..] = *descriptor;
            let len = u32::from_be_bytes([a, b, c, d]);
            if len == 0 {
                return Err(violation("an empty extent in a block status"));
            }
            if pieces.len() < MAX_DESCRIPTORS {
                pieces.push((u64::from(len), u32::from_be_bytes(state) & STATE_ZERO != 0));
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

/// Notes that `range` has come, which belongs at `index` among the sorted runs.
fn cover(runs: &mut Vec<Range<usize>>, index: usize, range: &Range<usize>) -> Result<()> {
    let joins_after = runs.get(index).is_some_and(|after| after.start == range.end);
    let before = index.checked_sub(1).filter(|before| runs[*before].end == range.start);
    match (before, joins_after) {
        (Some(before), true) => {
            let after = runs.remove(index);
            runs[before].end = after.end;
        }
        (Some(before), false) => runs[before].end = range.end,
        (None, true) => runs[index].start = range.start,
        (None, false) if runs.len() < MAX_RUNS => runs.insert(index, range.clone()),
        (None, false) => {
            let text = format!("a reply of more than {MAX_RUNS} pieces that do not touch");
            return Err(violation(text));
        }
    }
    Ok(())
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
        assert!(Assembly::status().finish().is_err());
    }

    #[test]
    fn a_reply_in_countless_pieces_is_given_up() {
        let mut read = Assembly::bytes(0, 4 * MAX_RUNS);
        for run in 0..MAX_RUNS as u64 {
            read.slot(4 * run, 1).unwrap();
        }
        assert!(read.slot(4 * MAX_RUNS as u64 - 2, 1).is_err());
        // What touches a run makes none.
        for run in 0..MAX_RUNS as u64 {
            read.slot(4 * run + 3, 1).unwrap();
            read.slot(4 * run + 1, 2).unwrap();
        }
        let Assembly::Bytes { covered, .. } = read.finish().unwrap() else { unreachable!() };
        assert_eq!(covered, vec![0..4 * MAX_RUNS; 1]);
    }

    #[test]
    fn a_block_status_is_for_its_context_and_whole() {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
        let status = |context: u32, payload: &[u8]| {
            let mut status = Assembly::Status { context: Some(7), pieces: Vec::new() };
            status.begin_status(context)?;
            status.descriptors(payload).map(|()| status)
        };
        let status_of = status(7, &words(&[512, 3, 1024, 0])).unwrap();
        assert!(status_of.begin_status(7).is_err(), "a second status");
        let Assembly::Status { pieces, .. } = status_of else { unreachable!() };
        assert_eq!(pieces, [(512, true), (1024, false)]);
        assert!(status(8, &words(&[512, 0])).is_err());
        assert!(status(7, &words(&[0, 0])).is_err());
        assert!(Assembly::status().begin_status(0).is_err());
    }
}
