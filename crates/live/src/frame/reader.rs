//! Taking frames off a stream.

use super::{Frame, HEADER, LENGTH};
use bytes::{Buf as _, BytesMut};
use carreto_error::{Error, Kind, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes that are asked for at a time while a frame's length is not known.
const STEP: usize = 16 << 10;
/// Bytes that a frame's buffer grows by: a peer that announces much and sends little gets little.
const GROWTH: usize = 256 << 10;

/// Reads frames. What was read of a frame is kept between calls.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    limit: u32,
    buffer: BytesMut,
    bytes: u64,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `inner`; a frame may have `limit` bytes after its length.
    pub fn new(inner: R, limit: u32) -> Self {
        Self { inner, limit, buffer: BytesMut::new(), bytes: 0 }
    }

    /// Allows `limit` bytes from the next frame on: a stranger gets less than a friend.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Bytes taken off the stream so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next frame; `None` when the stream ends between two.
    ///
    /// Cancel safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// `Limit` when the frame is longer than the limit, `Corrupt` when it has no kind or the kind
    /// 0, `Truncated` when the stream ends inside it, `Unavailable` when the connection breaks.
    /// After the first two the stream cannot be read any further: the caller closes it.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            let wanted = match self.frame_length()? {
                Some(len) if self.buffer.len() >= LENGTH + len => return Ok(Some(self.take(len))),
                Some(len) => LENGTH + len - self.buffer.len(),
                None => 0,
            };
            self.buffer.reserve(wanted.clamp(STEP, GROWTH));
            let count = self.inner.read_buf(&mut self.buffer).await.map_err(broken)?;
            self.bytes = self.bytes.saturating_add(count as u64);
            if count == 0 {
                return self.end();
            }
        }
    }

    /// The length of the frame at the start of the buffer, as soon as it and the kind are there.
    fn frame_length(&self) -> Result<Option<usize>> {
        let Some(head) = self.buffer.first_chunk::<LENGTH>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head);
        if len > self.limit {
            let detail = format!("the length of a frame is {len}, at most {}", self.limit);
            return Err(error(Kind::Limit, detail));
        }
        if len == 0 {
            return Err(error(Kind::Corrupt, "the length of a frame is 0, at least 1".to_owned()));
        }
        if self.buffer.get(LENGTH) == Some(&0) {
            return Err(error(Kind::Corrupt, "the kind of a frame is 0, expected 1 to 255".into()));
        }
        let wide = || error(Kind::Limit, format!("the length of a frame is {len}"));
        usize::try_from(len).map(Some).map_err(|_| wide())
    }

    /// The frame whose `len` bytes are in the buffer after their length.
    fn take(&mut self, len: usize) -> Frame {
        self.buffer.advance(LENGTH);
        let mut frame = self.buffer.split_to(len);
        Frame { kind: frame.get_u8(), payload: frame.freeze() }
    }

    fn end(&self) -> Result<Option<Frame>> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let found = self.buffer.len();
        let wanted = self.frame_length()?.map_or(HEADER, |len| LENGTH + len);
        let detail = format!("the stream ends after {found} bytes of a frame of {wanted} or more");
        Err(error(Kind::Truncated, detail))
    }
}

fn broken(cause: std::io::Error) -> Error {
    if cause.kind() == std::io::ErrorKind::UnexpectedEof {
        // What TLS says about it names a page of its documentation, and nothing of use.
        return error(Kind::Unavailable, "the other side is gone without a word".to_owned());
    }
    error(Kind::Unavailable, "the connection broke".to_owned()).caused_by(cause)
}

fn error(kind: Kind, detail: String) -> Error {
    let error = Error::new(kind, detail).during("read a frame");
    match kind {
        Kind::Limit | Kind::Corrupt => error.remedied_by(
            "use the same version of carreto at both ends, and check that nothing else connects",
        ),
        _ => error.remedied_by("check the network; what was sent is kept"),
    }
}
