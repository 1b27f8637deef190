//! Putting frames on a stream.

use super::HEADER;
use carreto_error::{Error, Kind, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, BufWriter};

/// Bytes that small frames are gathered in; parts that are longer go straight through.
const GATHER: usize = 32 << 10;

/// Writes frames, gathering small ones until [`Self::flush`].
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: BufWriter<W>,
    limit: u32,
    bytes: u64,
    /// A write has begun and not ended: part of a frame may be out.
    torn: bool,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `inner`; a frame may have `limit` bytes after its length.
    pub fn new(inner: W, limit: u32) -> Self {
        Self { inner: BufWriter::with_capacity(GATHER, inner), limit, bytes: 0, torn: false }
    }

    /// Bytes of frames written so far, gathered ones included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the frame of `kind` whose payload is `parts`, one after another.
    ///
    /// Not cancel safe: after a dropped or failed call half a frame may be out, so every later
    /// call is an error.
    ///
    /// # Errors
    /// `Unavailable` when the connection breaks; `Internal` when the frame is longer than the
    /// limit, the kind is 0, or an earlier call did not end.
    pub async fn send(&mut self, kind: u8, parts: &[&[u8]]) -> Result<()> {
        let len = parts.iter().try_fold(1_usize, |sum, part| sum.checked_add(part.len()));
        let len = len.and_then(|len| u32::try_from(len).ok()).filter(|len| *len <= self.limit);
        let Some(len) = len.filter(|_| kind != 0) else {
            let detail = format!("a frame of kind {kind} has no or too many bytes to be sent");
            return Err(internal(detail));
        };
        self.begin()?;
        let [a, b, c, d] = len.to_le_bytes();
        let head: [u8; HEADER] = [a, b, c, d, kind];
        self.inner.write_all(&head).await.map_err(broken)?;
        for part in parts {
            self.inner.write_all(part).await.map_err(broken)?;
        }
        self.torn = false;
        self.bytes = self.bytes.saturating_add(4 + u64::from(len));
        Ok(())
    }

    /// Hands what was gathered to the stream, and the stream's to the network.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` when the connection breaks; `Internal` after a call that did not end.
    pub async fn flush(&mut self) -> Result<()> {
        if self.torn {
            return Err(torn());
        }
        self.inner.flush().await.map_err(broken)
    }

    /// Flushes and says that nothing more comes.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn close(mut self) -> Result<()> {
        self.end().await
    }

    /// As [`Self::close`], for a writer that others hold too. Nothing can be sent afterwards.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn end(&mut self) -> Result<()> {
        self.flush().await?;
        self.torn = true;
        self.inner.shutdown().await.map_err(broken)
    }

    fn begin(&mut self) -> Result<()> {
        if self.torn {
            return Err(torn());
        }
        self.torn = true;
        Ok(())
    }
}

fn torn() -> Error {
    internal("an earlier frame was not written to its end".to_owned())
}

fn internal(detail: String) -> Error {
    Error::new(Kind::Internal, detail).during("write a frame")
}

fn broken(cause: std::io::Error) -> Error {
    Error::new(Kind::Unavailable, "the connection broke")
        .during("write a frame")
        .remedied_by("check the network; what was sent is kept")
        .caused_by(cause)
}
