//! Replies as they come: one message, or chunks of several.

use super::assembly::Assembly;
use super::handshake::lost;
use super::wire::{
    REPLY_DATA, REPLY_DONE, REPLY_ERROR, REPLY_HOLE, REPLY_NONE, REPLY_STATUS, SIMPLE_MAGIC,
    STRUCTURED_MAGIC, refusal, violation,
};
use carreto_error::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest error chunk.
const MAX_ERROR: usize = 128 << 10;
/// The longest block status: the context and 2^20 descriptors, the most that a client asks a
/// server for (the specification's limit for the length of a block status reply).
const MAX_STATUS: usize = 4 + (8 << 20);
/// Descriptors are read in pieces of this many bytes.
const STATUS_PIECE: usize = 64 << 10;
/// The offset in front of data and holes.
const CHUNK_HEAD: usize = 8;

/// The reply to one request, as far as it has come.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) assembly: Assembly,
    pub(super) refusal: Option<Error>,
}

impl Reply {
    pub(super) const fn to(assembly: Assembly) -> Self {
        Self { assembly, refusal: None }
    }

    /// What has come, once the last chunk has.
    ///
    /// # Errors
    /// What the server refused; `Unavailable` when something is missing.
    pub(super) fn finish(self) -> Result<Assembly> {
        match self.refusal {
            Some(refusal) => Err(refusal),
            None => self.assembly.finish(),
        }
    }
}

/// The head of a message from the server.
pub(super) struct Chunk {
    pub(super) cookie: u64,
    body: Body,
}

enum Body {
    Simple(u32),
    Structured { flags: u16, kind: u16, len: usize },
}

impl Chunk {
    /// Reads the head of the next message.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn head<R>(reader: &mut R, structured: bool) -> Result<Self>
    where
        R: AsyncRead + Unpin + Send,
    {
        match reader.read_u32().await.map_err(lost)? {
            SIMPLE_MAGIC => {
                let code = reader.read_u32().await.map_err(lost)?;
                let cookie = reader.read_u64().await.map_err(lost)?;
                Ok(Self { cookie, body: Body::Simple(code) })
            }
            STRUCTURED_MAGIC if structured => {
                let flags = reader.read_u16().await.map_err(lost)?;
                let kind = reader.read_u16().await.map_err(lost)?;
                let cookie = reader.read_u64().await.map_err(lost)?;
                let len = reader.read_u32().await.map_err(lost)?;
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                Ok(Self { cookie, body: Body::Structured { flags, kind, len } })
            }
            magic => Err(violation(format!("a reply starts with {magic:#010x}"))),
        }
    }

    pub(super) const fn is_last(&self) -> bool {
        match self.body {
            Body::Simple(_) => true,
            Body::Structured { flags, .. } => flags & REPLY_DONE != 0,
        }
    }

    /// Reads what follows the head into `reply`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn body<R>(&self, reader: &mut R, reply: &mut Reply) -> Result<()>
    where
        R: AsyncRead + Unpin + Send,
    {
        match self.body {
            Body::Simple(code) => simple(reader, code, reply).await,
            Body::Structured { kind, len, .. } => payload(reader, kind, len, reply).await,
        }
    }
}

async fn simple<R>(reader: &mut R, code: u32, reply: &mut Reply) -> Result<()>
where
    R: AsyncRead + Unpin + Send,
{
    if code != 0 {
        reply.refusal = Some(refusal(code, ""));
        return Ok(());
    }
    if let Some((offset, len)) = reply.assembly.payload().filter(|(_, len)| *len > 0) {
        let slot = reply.assembly.slot(offset, len)?;
        reader.read_exact(slot).await.map_err(lost)?;
    }
    Ok(())
}

async fn payload<R>(reader: &mut R, kind: u16, len: usize, reply: &mut Reply) -> Result<()>
where
    R: AsyncRead + Unpin + Send,
{
    match kind {
        REPLY_NONE if len == 0 => Ok(()),
        REPLY_DATA if len > CHUNK_HEAD => {
            let offset = reader.read_u64().await.map_err(lost)?;
            let slot = reply.assembly.slot(offset, len - CHUNK_HEAD)?;
            reader.read_exact(slot).await.map(drop).map_err(lost)
        }
        REPLY_HOLE if len == CHUNK_HEAD + 4 => {
            let offset = reader.read_u64().await.map_err(lost)?;
            let hole = reader.read_u32().await.map_err(lost)?;
            // The buffer is zero from the start.
            let hole = usize::try_from(hole).unwrap_or(usize::MAX);
            reply.assembly.slot(offset, hole).map(drop)
        }
        REPLY_STATUS if (12..=MAX_STATUS).contains(&len) && len % 8 == 4 => {
            status(reader, len - 4, &mut reply.assembly).await
        }
        kind if kind & REPLY_ERROR != 0 && len <= MAX_ERROR => {
            let mut bytes = vec![0; len];
            reader.read_exact(&mut bytes).await.map_err(lost)?;
            let refused = refused(&bytes)?;
            reply.refusal.get_or_insert(refused);
            Ok(())
        }
        kind => Err(violation(format!("a chunk of type {kind} of {len} bytes"))),
    }
}

/// Reads `rest` bytes of descriptors after the number of the context.
async fn status<R>(reader: &mut R, rest: usize, assembly: &mut Assembly) -> Result<()>
where
    R: AsyncRead + Unpin + Send,
{
    assembly.begin_status(reader.read_u32().await.map_err(lost)?)?;
    let mut piece = vec![0; rest.min(STATUS_PIECE)];
    let mut rest = rest;
    while rest > 0 {
        let now = &mut piece[..rest.min(STATUS_PIECE)];
        reader.read_exact(now).await.map_err(lost)?;
        assembly.descriptors(now)?;
        rest -= now.len();
    }
    Ok(())
}

/// The error of an error chunk: its number, and a message with its length in front.
fn refused(bytes: &[u8]) -> Result<Error> {
    let malformed = || violation("a malformed error");
    let (code, rest) = bytes.split_first_chunk::<4>().ok_or_else(malformed)?;
    let (len, rest) = rest.split_first_chunk::<2>().ok_or_else(malformed)?;
    let said = rest.get(..usize::from(u16::from_be_bytes(*len))).ok_or_else(malformed)?;
    let said = String::from_utf8_lossy(said).escape_debug().to_string();
    Ok(refusal(u32::from_be_bytes(*code), &said))
}
