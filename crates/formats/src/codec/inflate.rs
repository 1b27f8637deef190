//! Deflate, fast where the data is clean and patient where it is not.
//!
//! libdeflate decodes a whole buffer about twice as fast as a streaming decoder but insists on
//! an output that is large enough for all of the data. What it refuses goes through the streaming
//! decoder, which accepts what QEMU accepts.

use carreto_error::{Error, Kind, Result};
use flate2::{Decompress, DecompressError, FlushDecompress, Status};
use libdeflater::Decompressor;
use std::cell::RefCell;

/// What surrounds the deflate data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrapping {
    /// Nothing: RFC 1951, as in qcow2.
    Raw,
    /// The zlib header and checksum: RFC 1950, as in VMDK.
    Zlib,
}

/// How much came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inflated {
    /// The data ended exactly where the output did.
    Exactly,
    /// The data ended after this many bytes of output.
    Short(usize),
    /// The output is full and the data goes on.
    Longer,
}

thread_local! {
    static FAST: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// Inflates `input`, of which trailing bytes are ignored, into `output`.
///
/// # Errors
/// `Corrupt` when the data is not deflate data.
pub(crate) fn inflate(wrapping: Wrapping, input: &[u8], output: &mut [u8]) -> Result<Inflated> {
    let fast = FAST.with_borrow_mut(|fast| match wrapping {
        Wrapping::Raw => fast.deflate_decompress(input, output),
        Wrapping::Zlib => fast.zlib_decompress(input, output),
    });
    match fast {
        Ok(len) if len == output.len() => Ok(Inflated::Exactly),
        Ok(len) => Ok(Inflated::Short(len)),
        Err(_) => stream(wrapping, input, output),
    }
}

fn stream(wrapping: Wrapping, input: &[u8], output: &mut [u8]) -> Result<Inflated> {
    let mut decoder = Decompress::new(wrapping == Wrapping::Zlib);
    let corrupt = |error: DecompressError| {
        Error::new(Kind::Corrupt, "the compressed data is damaged").caused_by(error)
    };
    loop {
        let (read, written) = (position(decoder.total_in()), position(decoder.total_out()));
        if written >= output.len() {
            return Ok(Inflated::Longer);
        }
        let status = decoder
            .decompress(&input[read..], &mut output[written..], FlushDecompress::None)
            .map_err(corrupt)?;
        let (now_read, now_written) = (position(decoder.total_in()), position(decoder.total_out()));
        match status {
            Status::StreamEnd if now_written == output.len() => return Ok(Inflated::Exactly),
            Status::StreamEnd => return Ok(Inflated::Short(now_written)),
            _ if now_read == read && now_written == written => {
                let text = format!("the compressed data ends after {now_written} decoded bytes");
                return Err(Error::new(Kind::Corrupt, text));
            }
            _ => {}
        }
    }
}

fn position(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
