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
