//! One connection with many requests under way.
//!
//! A task writes requests and a task reads replies, so a caller that goes away in the middle
//! cannot leave half a request on the wire, and its reply is read and dropped.

use super::assembly::Assembly;
use super::handshake::{Agreed, Stream, lost};
use super::wire::{
    CMD_DISCONNECT, REPLY_DATA, REPLY_DONE, REPLY_ERROR, REPLY_HOLE, REPLY_NONE, REPLY_STATUS,
    REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC, refusal, violation,
};
use carreto_error::{Error, Kind, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, oneshot};

/// Requests that wait to be written.
const QUEUE: usize = 16;
/// The longest chunk without payload for a buffer: errors and block states.
const MAX_CHUNK: usize = 128 << 10;
/// A reply's payload may not be longer than any request's.
const CHUNK_HEAD: usize = 8;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: u16,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) payload: Vec<u8>,
    pub(super) wanted: Assembly,
}

/// A connection in the transmission phase.
#[derive(Debug)]
pub(super) struct Connection {
    requests: mpsc::Sender<(u64, Request)>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Waiting {
    assembly: Assembly,
    refusal: Option<Error>,
    done: oneshot::Sender<Result<Assembly>>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    state: Mutex<State>,
    interrupted: Arc<AtomicBool>,
    /// Changes went over this connection and were not flushed over it.
    unflushed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<u64, Waiting>,
    /// Why the connection is of no use any more.
    broken: Option<String>,
    /// It was ended on purpose, with nothing under way.
    retired: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, cookie: u64, waiting: Waiting) -> Result<()> {
        let mut state = self.lock();
        if let Some(reason) = &state.broken {
            return Err(broken(reason));
        }
        state.waiting.insert(cookie, waiting);
        Ok(())
    }

    /// Ends the connection for everybody who waits.
    fn fail(&self, error: &Error) {
        let reason = with_causes(error);
        let waiting = {
            let mut state = self.lock();
            if !state.retired {
                self.interrupted.store(true, Ordering::Release);
            }
            state.broken.get_or_insert_with(|| reason.clone());
            std::mem::take(&mut state.waiting)
        };
        for waiting in waiting.into_values() {
            // Whoever asked may be gone.
            let _gone = waiting.done.send(Err(broken(&reason)));
        }
    }
}

/// An error with its causes, on one line.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn broken(reason: &str) -> Error {
    Error::new(Kind::Unavailable, reason.to_owned())
}

impl Connection {
    /// Takes over a stream that was negotiated; `interrupted` is set when it fails.
    pub(super) fn start(
        stream: Box<dyn Stream>,
        agreed: &Agreed,
        interrupted: Arc<AtomicBool>,
    ) -> Self {
        let shared = Arc::new(Shared { interrupted, ..Shared::default() });
        let (requests, queue) = mpsc::channel(QUEUE);
        let (reader, writer) = split(stream);
        let (at_reader, at_writer) = (Arc::clone(&shared), Arc::clone(&shared));
        let structured = agreed.structured;
        tokio::spawn(async move {
            let mut reader = BufReader::with_capacity(64 << 10, reader);
            let error = loop {
                if let Err(error) = receive(&mut reader, &at_reader, structured).await {
                    break error;
                }
            };
            at_reader.fail(&error);
        });
        tokio::spawn(async move {
            if let Err(error) = send_all(writer, queue).await {
                at_writer.fail(&error);
            }
        });
        Self { requests, shared }
    }

    /// Ends the connection on purpose, unless requests are under way.
    pub(super) fn retire(&self) -> bool {
        let mut state = self.shared.lock();
        if state.broken.is_some() || !state.waiting.is_empty() {
            return false;
        }
        state.broken = Some("the connection to the NBD server was ended".to_owned());
        state.retired = true;
        true
    }

    /// Notes that the server answered a change that is not flushed yet.
    pub(super) fn changed(&self) {
        self.shared.unflushed.store(true, Ordering::Release);
    }

    /// Whether changes were answered since this was asked last.
    pub(super) fn take_changed(&self) -> bool {
        self.shared.unflushed.swap(false, Ordering::AcqRel)
    }

    /// Whether the connection has failed.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.lock().broken.is_some()
    }

    /// Makes a request and waits for its reply.
    ///
    /// Cancel safe, except that the server may carry the request out.
    ///
    /// # Errors
    /// `Unavailable` when the connection fails or `patience` ends; what the server refuses.
    pub(super) async fn call(&self, request: Request, patience: Duration) -> Result<Assembly> {
        let mut request = request;
        let cookie = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let assembly = std::mem::replace(&mut request.wanted, Assembly::Nothing);
        let (done, answer) = oneshot::channel();
        self.shared.register(cookie, Waiting { assembly, refusal: None, done })?;
        let exchange = async {
            let closed = || broken("the connection to the NBD server was closed");
            self.requests.send((cookie, request)).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        };
        if let Ok(outcome) = tokio::time::timeout(patience, exchange).await {
            return outcome;
        }
        let seconds = patience.as_secs();
        let error = broken(&format!("the NBD server has not answered for {seconds} s"));
        self.shared.fail(&error);
        Err(error)
    }
}

async fn send_all(
    mut writer: WriteHalf<Box<dyn Stream>>,
    mut queue: mpsc::Receiver<(u64, Request)>,
) -> Result<()> {
    while let Some((cookie, request)) = queue.recv().await {
        let head = head(&request, cookie);
        writer.write_all(&head).await.map_err(lost)?;
        writer.write_all(&request.payload).await.map_err(lost)?;
        if queue.is_empty() {
            writer.flush().await.map_err(lost)?;
        }
    }
    let end = Request {
        command: CMD_DISCONNECT,
        flags: 0,
        offset: 0,
        len: 0,
        payload: Vec::new(),
        wanted: Assembly::Nothing,
    };
    writer.write_all(&head(&end, 0)).await.map_err(lost)?;
    writer.shutdown().await.map_err(lost)
}

fn head(request: &Request, cookie: u64) -> [u8; 28] {
    let mut head = [0; 28];
    head[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    head[4..6].copy_from_slice(&request.flags.to_be_bytes());
    head[6..8].copy_from_slice(&request.command.to_be_bytes());
    head[8..16].copy_from_slice(&cookie.to_be_bytes());
    head[16..24].copy_from_slice(&request.offset.to_be_bytes());
    head[24..].copy_from_slice(&request.len.to_be_bytes());
    head
}

type Reader = BufReader<ReadHalf<Box<dyn Stream>>>;

/// Reads one reply, or one chunk of one.
async fn receive(reader: &mut Reader, shared: &Shared, structured: bool) -> Result<()> {
    let magic = reader.read_u32().await.map_err(lost)?;
    let chunk = match magic {
        SIMPLE_MAGIC => Chunk::simple(reader).await?,
        STRUCTURED_MAGIC if structured => Chunk::structured(reader).await?,
        _ => return Err(violation(format!("a reply starts with {magic:#010x}"))),
    };
    let taken = shared.lock().waiting.remove(&chunk.cookie);
    let Some(mut waiting) = taken else {
        return Err(violation(format!("a reply to request {} that is not open", chunk.cookie)));
    };
    let outcome = match chunk.body {
        Body::Simple(code) => simple(reader, code, &mut waiting).await,
        Body::Structured { kind, len, .. } => payload(reader, kind, len, &mut waiting).await,
    };
    if let Err(error) = outcome {
        shared.lock().waiting.insert(chunk.cookie, waiting);
        return Err(error);
    }
    if !chunk.is_last() {
        shared.lock().waiting.insert(chunk.cookie, waiting);
        return Ok(());
    }
    let result = match waiting.refusal {
        Some(refusal) => Err(refusal),
        None => waiting.assembly.finish(),
    };
    // Whoever asked may be gone.
    let _gone = waiting.done.send(result);
    Ok(())
}

struct Chunk {
    cookie: u64,
    body: Body,
}

enum Body {
    Simple(u32),
    Structured { flags: u16, kind: u16, len: usize },
}

impl Chunk {
    async fn simple(reader: &mut Reader) -> Result<Self> {
        let code = reader.read_u32().await.map_err(lost)?;
        let cookie = reader.read_u64().await.map_err(lost)?;
        Ok(Self { cookie, body: Body::Simple(code) })
    }

    async fn structured(reader: &mut Reader) -> Result<Self> {
        let flags = reader.read_u16().await.map_err(lost)?;
        let kind = reader.read_u16().await.map_err(lost)?;
        let cookie = reader.read_u64().await.map_err(lost)?;
        let len = reader.read_u32().await.map_err(lost)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        Ok(Self { cookie, body: Body::Structured { flags, kind, len } })
    }

    const fn is_last(&self) -> bool {
        match self.body {
            Body::Simple(_) => true,
            Body::Structured { flags, .. } => flags & REPLY_DONE != 0,
        }
    }
}

async fn simple(reader: &mut Reader, code: u32, waiting: &mut Waiting) -> Result<()> {
    if code != 0 {
        waiting.refusal = Some(refusal(code, ""));
        return Ok(());
    }
    if let Some((offset, len)) = waiting.assembly.payload().filter(|(_, len)| *len > 0) {
        let slot = waiting.assembly.slot(offset, len)?;
        reader.read_exact(slot).await.map_err(lost)?;
    }
    Ok(())
}

async fn payload(reader: &mut Reader, kind: u16, len: usize, waiting: &mut Waiting) -> Result<()> {
    match kind {
        REPLY_NONE if len == 0 => Ok(()),
        REPLY_DATA if len > CHUNK_HEAD => {
            let offset = reader.read_u64().await.map_err(lost)?;
            let slot = waiting.assembly.slot(offset, len - CHUNK_HEAD)?;
            reader.read_exact(slot).await.map(drop).map_err(lost)
        }
        REPLY_HOLE if len == CHUNK_HEAD + 4 => {
            let offset = reader.read_u64().await.map_err(lost)?;
            let hole = reader.read_u32().await.map_err(lost)?;
            // The buffer is zero from the start.
            let hole = usize::try_from(hole).unwrap_or(usize::MAX);
            waiting.assembly.slot(offset, hole).map(drop)
        }
        _ if len > MAX_CHUNK => Err(violation(format!("a chunk of type {kind} of {len} bytes"))),
        REPLY_STATUS => waiting.assembly.status(&chunk_bytes(reader, len).await?),
        kind if kind & REPLY_ERROR != 0 => {
            let bytes = chunk_bytes(reader, len).await?;
            waiting.refusal.get_or_insert(refused(&bytes)?);
            Ok(())
        }
        kind => Err(violation(format!("a chunk of type {kind} of {len} bytes"))),
    }
}

async fn chunk_bytes(reader: &mut Reader, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes).await.map_err(lost)?;
    Ok(bytes)
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
