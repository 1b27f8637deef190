//! One connection with many requests under way.
//!
//! A task writes requests and a task reads replies, so a caller that goes away in the middle
//! cannot leave half a request on the wire, and its reply is read and dropped.

use super::assembly::Assembly;
use super::handshake::{Agreed, Stream, lost};
use super::moved::Counted;
use super::reply::{Chunk, Reply};
use super::wire::{CMD_DISCONNECT, REQUEST_MAGIC, violation};
use carreto_error::{Error, Kind, Result};
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that wait to be written.
const QUEUE: usize = 16;
/// How long a server may take to hang up after it was told that the client goes.
const FAREWELL: Duration = Duration::from_secs(2);

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
    /// What this connection agreed on: its numbers hold for no other.
    pub(super) agreed: Agreed,
    requests: mpsc::Sender<(u64, Request)>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Waiting {
    reply: Reply,
    done: oneshot::Sender<Result<Assembly>>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    state: Mutex<State>,
    interrupted: Arc<AtomicBool>,
    /// Changes went over this connection and were not flushed over it.
    unflushed: AtomicBool,
    /// Bytes that went either way.
    moved: Arc<AtomicU64>,
    /// Turns true when both tasks have to let go of the stream.
    ended: watch::Sender<bool>,
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

    /// Waits for a reply, unless the connection has failed.
    fn insert(&self, cookie: u64, waiting: Waiting) -> std::result::Result<(), Waiting> {
        let mut state = self.lock();
        if state.broken.is_some() {
            return Err(waiting);
        }
        state.waiting.insert(cookie, waiting);
        Ok(())
    }

    /// Waits on for more of a reply; if the connection has failed meanwhile, whoever asked is told.
    fn put_back(&self, cookie: u64, waiting: Waiting) {
        if let Err(waiting) = self.insert(cookie, waiting) {
            // Whoever asked may be gone.
            let _gone = waiting.done.send(Err(self.closed()));
        }
    }

    /// Why nothing can be asked any more.
    fn closed(&self) -> Error {
        let reason = self.lock().broken.clone();
        broken(&reason.unwrap_or_else(|| "the connection to the NBD server was closed".into()))
    }

    /// Waits until the stream has to be let go.
    async fn until_ended(&self) {
        // The sender lives as long as `self`.
        let _ended = self.ended.subscribe().wait_for(|ended| *ended).await.is_ok();
    }

    /// Ends the connection for everybody who waits, and closes it.
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
        self.ended.send_replace(true);
        for waiting in waiting.into_values() {
            // Whoever asked may be gone.
            let _gone = waiting.done.send(Err(broken(&reason)));
        }
    }
}

/// An error with its causes, on one line.
pub(super) fn with_causes(error: &Error) -> String {
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
        agreed: Agreed,
        interrupted: Arc<AtomicBool>,
    ) -> Self {
        let shared = Arc::new(Shared { interrupted, ..Shared::default() });
        let (requests, queue) = mpsc::channel(QUEUE);
        let (reader, writer) = split(Counted { inner: stream, moved: Arc::clone(&shared.moved) });
        let structured = agreed.structured;
        run(&shared, |shared| async move {
            let mut reader = BufReader::with_capacity(64 << 10, reader);
            loop {
                if let Err(error) = receive(&mut reader, &shared, structured).await {
                    return shared.fail(&error);
                }
            }
        });
        run(&shared, |shared| async move {
            match send_all(writer, queue).await {
                Ok(()) => tokio::time::sleep(FAREWELL).await,
                Err(error) => shared.fail(&error),
            }
            shared.ended.send_replace(true);
        });
        Self { agreed, requests, shared }
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

    /// Makes a request and waits for its reply, for as long as bytes move and `patience` after.
    ///
    /// Cancel safe, except that the server may carry the request out.
    ///
    /// # Errors
    /// `Unavailable` when the connection fails or `patience` ends; what the server refuses.
    pub(super) async fn call(&self, request: Request, patience: Duration) -> Result<Assembly> {
        let mut request = request;
        let mut assembly = std::mem::replace(&mut request.wanted, Assembly::Nothing);
        if let Assembly::Status { context, pieces } = &mut assembly {
            *context = self.agreed.allocation;
            if context.is_none() {
                pieces.push((u64::from(request.len), false));
                return Ok(assembly);
            }
        }
        let mut exchange = pin!(self.exchange(request, assembly));
        loop {
            let before = self.shared.moved.load(Ordering::Relaxed);
            if let Ok(outcome) = tokio::time::timeout(patience, exchange.as_mut()).await {
                return outcome;
            }
            if self.shared.moved.load(Ordering::Relaxed) == before {
                break;
            }
        }
        let seconds = patience.as_secs();
        let error = broken(&format!("the NBD server has not answered for {seconds} s"));
        self.shared.fail(&error);
        Err(error)
    }

    async fn exchange(&self, request: Request, assembly: Assembly) -> Result<Assembly> {
        // A caller that goes away while the queue is full leaves nothing behind: only a request
        // that is sent waits for a reply.
        let place = self.requests.reserve().await.map_err(|_| self.shared.closed())?;
        let cookie = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        let waiting = Waiting { reply: Reply::to(assembly), done };
        self.shared.insert(cookie, waiting).map_err(|_| self.shared.closed())?;
        place.send((cookie, request));
        answer.await.map_err(|_| self.shared.closed())?
    }
}

/// Runs a part of the connection until it ends, or the connection does.
fn run<F>(shared: &Arc<Shared>, part: impl FnOnce(Arc<Shared>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (part, shared) = (part(Arc::clone(shared)), Arc::clone(shared));
    tokio::spawn(async move {
        let ended = pin!(shared.until_ended());
        futures_util::future::select(pin!(part), ended).await;
    });
}

async fn send_all(
    mut writer: WriteHalf<Counted>,
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

type Reader = BufReader<ReadHalf<Counted>>;

/// Reads one reply, or one chunk of one.
async fn receive(reader: &mut Reader, shared: &Shared, structured: bool) -> Result<()> {
    let chunk = Chunk::head(reader, structured).await?;
    let taken = shared.lock().waiting.remove(&chunk.cookie);
    let Some(mut waiting) = taken else {
        return Err(violation(format!("a reply to request {} that is not open", chunk.cookie)));
    };
    let outcome = chunk.body(reader, &mut waiting.reply).await;
    if outcome.is_err() || !chunk.is_last() {
        shared.put_back(chunk.cookie, waiting);
        return outcome;
    }
    // Whoever asked may be gone.
    let _gone = waiting.done.send(waiting.reply.finish());
    Ok(())
}

#[cfg(test)]
mod tests;
