//! From a fresh connection to an export.

use super::wire::{
    ALLOCATION, CAN_MULTI_CONN, FIXED_NEWSTYLE, INFO_BLOCK_SIZE, INFO_EXPORT, MAGIC, NO_ZEROES,
    OPT_ABORT, OPT_GO, OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, READ_ONLY, REP_ACK, REP_ERR_POLICY, REP_ERR_TLS_REQUIRED, REP_ERR_UNKNOWN,
    REP_ERROR, REP_INFO, REP_META_CONTEXT, SEND_FAST_ZERO, SEND_FLUSH, SEND_TRIM,
    SEND_WRITE_ZEROES, violation,
};
use carreto_error::{Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest answer to an option that is read, in bytes.
const MAX_REPLY: u32 = 16 << 10;
/// Servers that say nothing about sizes accept requests of this many bytes (block size
/// constraints of the specification).
const DEFAULT_MAX: u32 = 32 << 20;

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) size: u64,
    flags: u16,
    /// Requests start and end on multiples of this.
    pub(super) min_block: u32,
    /// The longest payload of a request.
    pub(super) max_block: u32,
    /// Replies may be structured.
    pub(super) structured: bool,
    /// The number of the allocation context, where the server has it.
    pub(super) allocation: Option<u32>,
}

impl Agreed {
    /// An export of `size` bytes from a server that offers nothing.
    #[cfg(test)]
    pub(super) const fn plain(size: u64) -> Self {
        let (structured, allocation) = (false, None);
        Self { size, flags: 0, min_block: 1, max_block: DEFAULT_MAX, structured, allocation }
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(super) const fn read_only(&self) -> bool {
        self.has(READ_ONLY)
    }

    pub(super) const fn can_flush(&self) -> bool {
        self.has(SEND_FLUSH)
    }

    pub(super) const fn can_trim(&self) -> bool {
        self.has(SEND_TRIM)
    }

    pub(super) const fn can_zero(&self) -> bool {
        self.has(SEND_WRITE_ZEROES)
    }

    pub(super) const fn can_zero_fast(&self) -> bool {
        self.has(SEND_FAST_ZERO)
    }

    pub(super) const fn can_multiply(&self) -> bool {
        self.has(CAN_MULTI_CONN)
    }
}

/// A stream to a server, until transmission begins.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

struct Reply {
    kind: u32,
    data: Vec<u8>,
}

/// Negotiates `export`.
///
/// # Errors
/// `NotFound` when there is no such export, `Denied` when the server's policy refuses,
/// `Unsupported` when it insists on TLS or speaks an older protocol, `Unavailable` when the
/// connection fails.
pub(super) async fn negotiate(stream: &mut dyn Stream, export: &str) -> Result<Agreed> {
    greet(stream).await?;
    let structured = ask_structured(stream).await?;
    let allocation = if structured { ask_allocation(stream, export).await? } else { None };
    let mut agreed = go(stream, export).await?;
    agreed.structured = structured;
    agreed.allocation = allocation;
    Ok(agreed)
}

async fn greet(stream: &mut dyn Stream) -> Result<()> {
    let magic = stream.read_u64().await.map_err(lost)?;
    if magic != MAGIC {
        let text = format!("it greets with {magic:#018x}, so it is no NBD server");
        return Err(Error::new(Kind::Unsupported, text));
    }
    let style = stream.read_u64().await.map_err(lost)?;
    if style != OPTION_MAGIC {
        return Err(Error::new(Kind::Unsupported, "the NBD server speaks only the old handshake"));
    }
    let flags = stream.read_u16().await.map_err(lost)?;
    if flags & FIXED_NEWSTYLE == 0 {
        let text = "the NBD server speaks only the unfixed newstyle handshake";
        return Err(Error::new(Kind::Unsupported, text));
    }
    let ours = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES));
    stream.write_u32(ours).await.map_err(lost)
}

async fn ask_structured(stream: &mut dyn Stream) -> Result<bool> {
    option(stream, OPT_STRUCTURED_REPLY, &[]).await?;
    let reply = answer(stream, OPT_STRUCTURED_REPLY).await?;
    Ok(reply.kind == REP_ACK)
}

/// Asks for the allocation context; gives its number.
async fn ask_allocation(stream: &mut dyn Stream, export: &str) -> Result<Option<u32>> {
    let mut data = text(export);
    data.extend(1_u32.to_be_bytes());
    data.extend(text(ALLOCATION));
    option(stream, OPT_SET_META_CONTEXT, &data).await?;
    let mut found = None;
    loop {
        let reply = answer(stream, OPT_SET_META_CONTEXT).await?;
        match reply.kind {
            REP_META_CONTEXT if found.is_none() => {
                let (id, name) = reply.data.split_at_checked(4).ok_or_else(short)?;
                if name != ALLOCATION.as_bytes() {
                    return Err(violation("it grants a context that was not asked for"));
                }
                found = id.try_into().ok().map(u32::from_be_bytes);
            }
            REP_ACK => return Ok(found),
            kind if kind & REP_ERROR != 0 => return Ok(None),
            kind => return Err(violation(format!("reply type {kind} to a context query"))),
        }
    }
}

async fn go(stream: &mut dyn Stream, export: &str) -> Result<Agreed> {
    let mut data = text(export);
    data.extend(1_u16.to_be_bytes());
    data.extend(INFO_BLOCK_SIZE.to_be_bytes());
    option(stream, OPT_GO, &data).await?;
    let (mut exported, mut blocks) = (None, None);
    loop {
        let reply = answer(stream, OPT_GO).await?;
        match reply.kind {
            REP_INFO => match number::<2>(&reply.data, 0).map(u16::from_be_bytes)? {
                INFO_EXPORT => {
                    let size = u64::from_be_bytes(number(&reply.data, 2)?);
                    exported = Some((size, u16::from_be_bytes(number(&reply.data, 10)?)));
                }
                INFO_BLOCK_SIZE => {
                    let min = u32::from_be_bytes(number(&reply.data, 2)?);
                    blocks = Some((min, u32::from_be_bytes(number(&reply.data, 10)?)));
                }
                _ => {}
            },
            REP_ACK => break,
            kind => {
                // Best effort: the connection is given up anyway.
                let _ended = option(stream, OPT_ABORT, &[]).await;
                return Err(refused(kind, export, &reply.data));
            }
        }
    }
    let (size, flags) = exported.ok_or_else(|| violation("it does not tell the export's size"))?;
    if i64::try_from(size).is_err() {
        return Err(violation(format!("an export of {size} bytes")));
    }
    let (min_block, max_block) = blocks.unwrap_or((1, DEFAULT_MAX));
    if !min_block.is_power_of_two() || min_block > 64 << 10 || max_block < min_block {
        return Err(violation(format!("block sizes from {min_block} to {max_block}")));
    }
    let max_block = max_block.min(DEFAULT_MAX) / min_block * min_block;
    Ok(Agreed { size, flags, min_block, max_block, structured: false, allocation: None })
}

fn refused(kind: u32, export: &str, data: &[u8]) -> Error {
    let said = String::from_utf8_lossy(data);
    let said = if said.is_empty() { String::new() } else { format!(": {}", said.escape_debug()) };
    match kind {
        REP_ERR_UNKNOWN => {
            let text = format!("the NBD server has no export {export:?}{said}");
            Error::new(Kind::NotFound, text)
        }
        REP_ERR_POLICY => {
            Error::new(Kind::Denied, format!("the NBD server's policy refuses{said}"))
        }
        REP_ERR_TLS_REQUIRED => {
            let text = format!("the NBD server insists on TLS, which is not spoken{said}");
            Error::new(Kind::Unsupported, text)
        }
        kind => {
            let text = format!("the NBD server refuses with reply type {kind:#x}{said}");
            Error::new(Kind::Unsupported, text)
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&len.to_be_bytes(), text.as_bytes()].concat()
}

fn number<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N]> {
    data.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)
}

fn short() -> Error {
    violation("a reply of the negotiation is too short")
}

async fn option(stream: &mut dyn Stream, option: u32, data: &[u8]) -> Result<()> {
    let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend(option.to_be_bytes());
    message.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend(data);
    stream.write_all(&message).await.map_err(lost)?;
    stream.flush().await.map_err(lost)
}

async fn answer(stream: &mut dyn Stream, wanted: u32) -> Result<Reply> {
    let magic = stream.read_u64().await.map_err(lost)?;
    let option = stream.read_u32().await.map_err(lost)?;
    if magic != OPTION_REPLY_MAGIC || option != wanted {
        return Err(violation(format!("a reply of {magic:#x} to option {option}")));
    }
    let kind = stream.read_u32().await.map_err(lost)?;
    let len = stream.read_u32().await.map_err(lost)?;
    if len > MAX_REPLY {
        return Err(violation(format!("a reply of {len} bytes to option {option}")));
    }
    let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
    stream.read_exact(&mut data).await.map_err(lost)?;
    Ok(Reply { kind, data })
}

/// The connection failed.
pub(super) fn lost(error: std::io::Error) -> Error {
    Error::new(Kind::Unavailable, "the connection to the NBD server failed").caused_by(error)
}
