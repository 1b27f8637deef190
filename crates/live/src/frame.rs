//! Messages on a stream of bytes: a length, a kind, a payload.
//!
//! A frame is the length of what follows as 4 bytes, little-endian, a kind of one byte that is
//! never 0, and the payload. What a kind means, and whether its payload is JSON or data, is the
//! matter of whoever reads it. A frame that is longer than the reader's limit is refused before
//! memory is taken for it.

mod message;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use message::{decode, encode};
pub use reader::FrameReader;
pub use writer::FrameWriter;

use bytes::Bytes;

/// Bytes of a frame of a control connection, at most, kind included.
pub const CONTROL_LIMIT: u32 = 1 << 20;
/// The same on a data connection: 2 MiB of data and what describes it.
pub const DATA_LIMIT: u32 = (2 << 20) + (64 << 10);
/// The same before the other end is known.
pub const STRANGER_LIMIT: u32 = 16 << 10;

/// Bytes of the length.
const LENGTH: usize = 4;
/// Bytes before the payload.
const HEADER: usize = LENGTH + 1;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is; never 0.
    pub kind: u8,
    /// What it says.
    pub payload: Bytes,
}
