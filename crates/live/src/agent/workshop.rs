//! What reading and packing takes in memory, used again and again.
//!
//! Buffers of megabytes that come and go on many threads leave the allocator with holes: hundreds of
//! megabytes were held for the few dozen that were in use.

use super::prepare::PIECE;
use crate::granule::GRANULE;
use carreto_block::AlignedBuf;
use carreto_error::{Error, Kind, Result};
use std::sync::{Mutex, PoisonError};
use zstd::bulk::Compressor;

/// What one thread works with.
pub(super) struct Workshop {
    /// Of a whole piece.
    pub(super) buffer: AlignedBuf,
    pub(super) press: Press,
}

/// What packs.
pub(super) struct Press {
    /// What is to be packed.
    pub(super) plain: Vec<u8>,
    packed: Vec<u8>,
    compressor: Compressor<'static>,
}

impl Press {
    /// [`Self::plain`] as it travels, and whether it is packed: what does not shrink by a sixteenth
    /// is not worth the receiver's time.
    ///
    /// # Errors
    /// `Internal` where zstd fails.
    pub(super) fn payload(&mut self, level: i32) -> Result<(Vec<u8>, bool)> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.plain.len()));
        self.compressor.set_compression_level(level).map_err(zstd_failed)?;
        let len = self
            .compressor
            .compress_to_buffer(&self.plain, &mut self.packed)
            .map_err(zstd_failed)?;
        let is_packed = len < self.plain.len() - self.plain.len() / 16;
        // A copy that is as long as its content: it waits for its answer.
        let payload = if is_packed { &self.packed[..len] } else { &self.plain[..] };
        Ok((payload.to_vec(), is_packed))
    }
}

fn zstd_failed(error: std::io::Error) -> Error {
    Error::new(Kind::Internal, "zstd failed").caused_by(error)
}

/// Workshops that nobody works in; as many as there were threads at work at a time.
#[derive(Default)]
pub(super) struct Workshops(Mutex<Vec<Workshop>>);

impl Workshops {
    /// # Errors
    /// `Internal` where there is no memory for another one.
    pub(super) fn take(&self) -> Result<Workshop> {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(workshop) = idle {
            return Ok(workshop);
        }
        let len = usize::try_from(PIECE * GRANULE).unwrap_or(usize::MAX);
        let compressor = Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL).map_err(zstd_failed)?;
        Ok(Workshop {
            buffer: AlignedBuf::zeroed(len)?,
            press: Press { plain: Vec::new(), packed: Vec::new(), compressor },
        })
    }

    pub(super) fn give_back(&self, workshop: Workshop) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(workshop);
    }
}

impl std::fmt::Debug for Workshops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workshops").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shrinks_is_packed_and_nothing_of_an_earlier_turn_is_left() {
        let workshops = Workshops::default();
        let mut workshop = workshops.take().expect("memory");
        let noise: Vec<u8> = (0u32..50_000)
            .flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..4].to_vec())
            .collect();
        for (plain, level, packs) in
            [(vec![7; 1 << 20], 1, true), (noise, 3, false), (vec![8; 1000], 9, true)]
        {
            workshop.press.plain.clear();
            workshop.press.plain.extend_from_slice(&plain);
            let (payload, is_packed) = workshop.press.payload(level).expect("packed");
            assert_eq!(is_packed, packs);
            let found = if packs {
                zstd::bulk::decompress(&payload, plain.len()).expect("what zstd made")
            } else {
                payload
            };
            assert!(found == plain);
        }
    }

    #[test]
    fn a_workshop_is_used_again() {
        let workshops = Workshops::default();
        let first = workshops.take().expect("memory");
        let place = first.buffer.as_ptr();
        workshops.give_back(first);
        assert_eq!(workshops.take().expect("memory").buffer.as_ptr(), place);
    }
}
