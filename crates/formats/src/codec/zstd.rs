//! Zstandard for units whose compressed length is known only as an upper bound.
//!
//! A unit may consist of several frames, and whatever fills the last sector follows them. Walking
//! the block headers finds where a frame ends, so each frame is decoded in one shot straight into
//! the output: no window buffer is allocated whatever the frame header claims, and every step
//! consumes a whole frame, so the walk ends.

use carreto_error::{Error, Kind, Result};
use std::cell::RefCell;
use zstd::zstd_safe::{DCtx, find_frame_compressed_size, get_error_name};

thread_local! {
    /// The decoder's tables cost more to set up than a cluster to decode.
    static CONTEXT: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Fills `output` from the frames at the start of `input`; what follows them is ignored.
///
/// # Errors
/// `Corrupt` when the frames are damaged, end before the output is full, or go on after it;
/// `Limit` when there is no memory for the decoder.
pub(crate) fn unzstd(input: &[u8], output: &mut [u8]) -> Result<()> {
    CONTEXT.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = DCtx::try_create();
        }
        let context = slot
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Limit, "there is no memory for a zstd decoder"))?;
        frames(context, input, output)
    })
}

fn frames(context: &mut DCtx<'_>, mut input: &[u8], output: &mut [u8]) -> Result<()> {
    let mut written = 0;
    while written < output.len() {
        let damaged = |code: usize| {
            let reason = get_error_name(code);
            let text = format!("the compressed data fails after {written} decoded bytes: {reason}");
            Error::new(Kind::Corrupt, text)
        };
        if input.is_empty() {
            let text = format!("the compressed data ends after {written} decoded bytes");
            return Err(Error::new(Kind::Corrupt, text));
        }
        let len = find_frame_compressed_size(input).map_err(damaged)?;
        let (frame, rest) = input
            .split_at_checked(len.max(1))
            .ok_or_else(|| Error::new(Kind::Corrupt, "a zstd frame ends past its input"))?;
        let room = &mut output[written..];
        written += context.decompress(room, frame).map_err(damaged)?;
        input = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    fn outcome(input: &[u8], len: usize) -> Result<Vec<u8>> {
        let mut output = vec![0xA5; len];
        unzstd(input, &mut output).map(|()| output)
    }

    #[test]
    fn frames_follow_each_other_and_anything_follows_them() {
        let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let input = [frame(b"one "), frame(b""), skippable, frame(b"two"), b"anything".to_vec()];
        assert_eq!(outcome(&input.concat(), 7).unwrap(), b"one two");
        assert_eq!(outcome(b"not even a frame", 0).unwrap(), b"");
    }

    #[test]
    fn too_little_too_much_and_damage_are_corrupt() {
        let good = frame(&[7; 1000]);
        let cut = &good[..good.len() - 1];
        let empty = [frame(b""), frame(b"")].concat();
        let mut huge_window = frame(&[7; 1000]);
        // A frame header without a content size that claims the largest window there is.
        huge_window.splice(4..5, [0x00, 0xFF]);
        let cases: [(&[u8], usize); 7] = [
            (&good, 1001),
            (&good, 999),
            (cut, 1000),
            (&empty, 1),
            (b"", 1),
            (b"nonsense", 4),
            (&huge_window, 1000),
        ];
        for (input, len) in cases {
            let error = outcome(input, len).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{len}: {error}");
        }
        assert_eq!(outcome(&good, 1000).unwrap(), [7; 1000], "the context recovers");
    }
}
