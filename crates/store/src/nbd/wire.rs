//! The numbers of the protocol, and errors as it counts them.

use carreto_error::{Error, Kind};
use std::fmt;

pub(super) const MAGIC: u64 = 0x4E42_444D_4147_4943;
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_E889_0455_65A9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_MAGIC: u32 = 0x668E_33EF;

/// Handshake flags of server and client.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 2;

pub(super) const OPT_ABORT: u32 = 2;
pub(super) const OPT_GO: u32 = 7;
pub(super) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(super) const OPT_SET_META_CONTEXT: u32 = 10;

pub(super) const REP_ACK: u32 = 1;
pub(super) const REP_INFO: u32 = 3;
pub(super) const REP_META_CONTEXT: u32 = 4;
pub(super) const REP_ERROR: u32 = 1 << 31;
pub(super) const REP_ERR_POLICY: u32 = REP_ERROR | 2;
pub(super) const REP_ERR_TLS_REQUIRED: u32 = REP_ERROR | 5;
pub(super) const REP_ERR_UNKNOWN: u32 = REP_ERROR | 6;

pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags of an export.
pub(super) const READ_ONLY: u16 = 1 << 1;
pub(super) const SEND_FLUSH: u16 = 1 << 2;
pub(super) const SEND_TRIM: u16 = 1 << 5;
pub(super) const SEND_WRITE_ZEROES: u16 = 1 << 6;
pub(super) const CAN_MULTI_CONN: u16 = 1 << 8;
pub(super) const SEND_FAST_ZERO: u16 = 1 << 11;

/// Command flag: fail at once where zeroing is no faster than writing.
pub(super) const FLAG_FAST_ZERO: u16 = 1 << 4;

pub(super) const CMD_READ: u16 = 0;
pub(super) const CMD_WRITE: u16 = 1;
pub(super) const CMD_DISCONNECT: u16 = 2;
pub(super) const CMD_FLUSH: u16 = 3;
pub(super) const CMD_TRIM: u16 = 4;
pub(super) const CMD_WRITE_ZEROES: u16 = 6;
pub(super) const CMD_BLOCK_STATUS: u16 = 7;

pub(super) const REPLY_DONE: u16 = 1;
pub(super) const REPLY_NONE: u16 = 0;
pub(super) const REPLY_DATA: u16 = 1;
pub(super) const REPLY_HOLE: u16 = 2;
pub(super) const REPLY_STATUS: u16 = 5;
pub(super) const REPLY_ERROR: u16 = 1 << 15;

const INVALID: u32 = 22;
const OVERFLOW: u32 = 75;

/// `base:allocation`: the range reads as zeros.
pub(super) const STATE_ZERO: u32 = 2;

/// The context that tells data from zeros.
pub(super) const ALLOCATION: &str = "base:allocation";

/// The number and the words with which a server refused a request.
#[derive(Debug)]
struct Refused {
    code: u32,
    name: &'static str,
    said: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.code)?;
        if self.said.is_empty() { Ok(()) } else { write!(f, ": {}", self.said) }
    }
}

impl std::error::Error for Refused {}

/// What a server refused, by the number it gave.
pub(super) fn refusal(code: u32, message: &str) -> Error {
    let (kind, name) = match code {
        1 => (Kind::Denied, "not permitted"),
        5 => (Kind::Io, "input/output error"),
        12 => (Kind::Unavailable, "out of memory"),
        INVALID => (Kind::Io, "invalid request"),
        28 => (Kind::TargetUnusable, "no space left"),
        OVERFLOW => (Kind::Io, "value too large"),
        95 => (Kind::Unsupported, "not supported"),
        108 => (Kind::Unavailable, "shutting down"),
        _ => (Kind::Io, "error"),
    };
    let refused = Refused { code, name, said: message.to_owned() };
    Error::new(kind, "the NBD server refused a request").caused_by(refused)
}

/// Whether a server refused a request that may have been too long for it: `EINVAL` and
/// `EOVERFLOW` ("Error values").
pub(super) fn may_be_too_long(error: &Error) -> bool {
    let refused = std::error::Error::source(error).and_then(|e| e.downcast_ref::<Refused>());
    refused.is_some_and(|refused| matches!(refused.code, INVALID | OVERFLOW))
}

/// A server that breaks the protocol.
pub(super) fn violation(text: impl Into<String>) -> Error {
    Error::new(Kind::Unavailable, format!("the NBD server breaks the protocol: {}", text.into()))
}
