//! The connections to the receiver.

use crate::frame::{self, CONTROL_LIMIT, DATA_LIMIT, Frame, FrameReader, FrameWriter};
use crate::trust::{Dialer, TlsStream};
use crate::wire::{
    Answer, Attach, Control, Hello, LedgerPage, MAX_STREAMS, PROTOCOL, PageValues, Welcome, kind,
};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How long a connection may take to be made.
const DIAL: Duration = Duration::from_secs(20);
/// Frames of one data connection that are not answered yet.
const UNANSWERED: usize = 8;
/// How long the last words may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// Between two signs of life.
const PING: Duration = Duration::from_secs(5);
/// A receiver that says nothing for so long is not there, whatever a proxy on the way says.
const SILENCE: Duration = Duration::from_mins(1);

/// A message from the receiver.
#[derive(Debug)]
pub(super) enum Heard {
    Control(Control),
    Page(LedgerPage),
    Values(PageValues),
}

impl Heard {
    /// What it is called, for errors.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Control(message) => message.name(),
            Self::Page(_) => "a page",
            Self::Values(_) => "the values of pages",
        }
    }
}

struct Outgoing {
    kind: u8,
    sequence: u64,
    head: Vec<u8>,
    payload: Vec<u8>,
    answer: oneshot::Sender<Answer>,
}

/// What all tasks of a link share.
#[derive(Debug)]
struct Common {
    broken: CancellationToken,
    why: OnceLock<Error>,
    begun: Instant,
    /// Milliseconds after `begun` at which the receiver was heard last.
    heard: AtomicU64,
    sent: AtomicU64,
}

impl Common {
    fn fail(&self, error: Error) {
        let error = match error.kind() {
            // Cut within a message.
            Kind::Truncated => Error::new(Kind::Unavailable, carreto_error::chain_text(&error)),
            _ => error,
        };
        let _first_wins = self.why.set(error);
        self.broken.cancel();
    }

    fn error(&self) -> Error {
        match self.why.get() {
            Some(error) => {
                let copy = Error::new(error.kind(), carreto_error::chain_text(error));
                copy.remedied_by(error.remedy().to_owned())
            }
            None => Error::new(Kind::Unavailable, "the connection was closed"),
        }
    }

    fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(heard)
    }

    fn heard_now(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }
}

type Speaker = tokio::sync::Mutex<FrameWriter<WriteHalf<TlsStream>>>;

/// One control connection and its data connections. Dropping it closes all.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) welcome: Welcome,
    common: Arc<Common>,
    control: Arc<Speaker>,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Heard>>,
    outgoing: mpsc::Sender<Outgoing>,
    sequence: AtomicU64,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.common.broken.cancel();
    }
}

impl Link {
    /// Connects, says `hello` and opens up to `streams` data connections.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` when it may be tried again; `Denied`, `Unsupported` and the like when not.
    pub(super) async fn open(
        dialer: &Dialer,
        addresses: &[String],
        hello: Hello,
        streams: Option<u16>,
    ) -> Result<Self> {
        let (stream, _) = dialer.dial_any(addresses, DIAL).await?;
        let (reader, writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader, CONTROL_LIMIT);
        let mut writer = FrameWriter::new(writer, CONTROL_LIMIT);
        say(&mut writer, &Control::Hello(hello)).await?;
        let welcome = tokio::time::timeout(DIAL, welcome(&mut reader)).await;
        let welcome =
            welcome.map_err(|_| Error::new(Kind::Unavailable, "the receiver is silent"))??;
        let common = Arc::new(Common {
            broken: CancellationToken::new(),
            why: OnceLock::new(),
            begun: Instant::now(),
            heard: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        let (heard, incoming) = mpsc::channel(64);
        tokio::spawn(hear_all(reader, heard, Arc::clone(&common)));
        let (outgoing, queue) = mpsc::channel(1);
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        let most = welcome.streams.clamp(1, MAX_STREAMS);
        let count = streams.unwrap_or(most).clamp(1, most);
        for number in 0..count {
            let attach = Attach { ticket: welcome.ticket.clone(), stream: number };
            let opened = open_stream(dialer, addresses, attach).await;
            let (reader, writer) = opened.wrap_err(|| format!("open data connection {number}"))?;
            begin_stream(reader, writer, &queue, &common);
        }
        let control = Arc::new(Speaker::new(writer));
        tokio::spawn(keep_alive(Arc::clone(&control), Arc::clone(&common)));
        Ok(Self {
            welcome,
            common,
            control,
            incoming: tokio::sync::Mutex::new(incoming),
            outgoing,
            sequence: AtomicU64::new(1),
        })
    }

    /// Says `message` on the control connection.
    pub(super) async fn say(&self, message: &Control) -> Result<()> {
        let said = tokio::select! {
            biased;
            () = self.common.broken.cancelled() => return Err(self.common.error()),
            said = async { say(&mut *self.control.lock().await, message).await } => said,
        };
        said.map_err(|error| {
            self.common.fail(error);
            self.common.error()
        })
    }

    /// Ends when the link is broken.
    pub(super) async fn broken(&self) {
        self.common.broken.cancelled().await;
    }

    /// Why the link is broken, if it is.
    pub(super) fn check(&self) -> Result<()> {
        if self.common.broken.is_cancelled() {
            return Err(self.common.error());
        }
        Ok(())
    }

    /// Breaks the link: something was asked whose answer nobody waits for any more.
    pub(super) fn abandon(&self, why: &'static str) {
        self.common.fail(Error::new(Kind::Unavailable, why));
    }

    /// Says `last` and that nothing more comes. What cannot be said any more does not matter.
    pub(super) async fn end(&self, last: &Control) {
        let work = async {
            let mut control = self.control.lock().await;
            say(&mut control, last).await?;
            control.end().await
        };
        let _ = tokio::time::timeout(GOODBYE, work).await;
    }

    /// The next message of the receiver. Cancel safe.
    pub(super) async fn hear(&self) -> Result<Heard> {
        let mut incoming = self.incoming.lock().await;
        tokio::select! {
            biased;
            heard = incoming.recv() => heard.ok_or_else(|| self.common.error()),
            () = self.common.broken.cancelled() => Err(self.common.error()),
        }
    }

    /// The number of the next batch.
    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a frame on whichever data connection has room and waits for its answer.
    ///
    /// Not cancel safe: the frame may have been sent.
    pub(super) async fn send(
        &self,
        kind: u8,
        sequence: u64,
        head: Vec<u8>,
        payload: Vec<u8>,
    ) -> Result<Answer> {
        let (answer, answered) = oneshot::channel();
        let outgoing = Outgoing { kind, sequence, head, payload, answer };
        let work = async {
            if self.outgoing.send(outgoing).await.is_err() {
                return Err(self.common.error());
            }
            answered.await.map_err(|_| self.common.error())
        };
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.common.broken.cancelled() => Err(self.common.error()),
        }
    }

    /// Bytes written to the data connections.
    pub(super) fn sent(&self) -> u64 {
        self.common.sent.load(Ordering::Relaxed)
    }

    /// How long ago the receiver said something. Short while it is there: it is pinged.
    pub(super) fn silence(&self) -> Duration {
        self.common.silence()
    }
}

/// Pings the receiver until the link is dropped or breaks, and breaks it when there is silence.
async fn keep_alive(control: Arc<Speaker>, common: Arc<Common>) {
    let pinging = async {
        loop {
            tokio::time::sleep(PING).await;
            if let Err(error) = say(&mut *control.lock().await, &Control::Ping).await {
                return error;
            }
        }
    };
    let listening = async {
        while let Some(left) = SILENCE.checked_sub(common.silence()) {
            tokio::time::sleep(left + Duration::from_millis(1)).await;
        }
        let text = format!("the receiver said nothing for {} s", SILENCE.as_secs());
        Error::new(Kind::Unavailable, text)
    };
    let error = tokio::select! {
        () = common.broken.cancelled() => return,
        error = pinging => error,
        error = listening => error,
    };
    common.fail(error);
}

async fn say(writer: &mut FrameWriter<WriteHalf<TlsStream>>, message: &Control) -> Result<()> {
    writer.send(kind::CONTROL, &[&frame::encode(message)?]).await?;
    writer.flush().await
}

fn control(frame: &Frame) -> Result<Control> {
    match frame::decode(&frame.payload)? {
        Control::Failed(failed) => Err(failed.into_error()),
        message => Ok(message),
    }
}

/// The receiver said `what` where it has no place.
pub(super) fn unexpected(what: &str) -> Error {
    Error::new(Kind::Unavailable, format!("the receiver said {what} out of turn"))
        .remedied_by("use the same version of carreto on both sides")
}

async fn welcome(reader: &mut FrameReader<ReadHalf<TlsStream>>) -> Result<Welcome> {
    let closed = || Error::new(Kind::Unavailable, "the receiver closed the connection");
    let frame = reader.next().await?.ok_or_else(closed)?;
    match control(&frame)? {
        Control::Welcome(welcome) if welcome.protocol == PROTOCOL => Ok(welcome),
        other => Err(unexpected(other.name())),
    }
}

async fn hear_all(
    mut reader: FrameReader<ReadHalf<TlsStream>>,
    heard: mpsc::Sender<Heard>,
    common: Arc<Common>,
) {
    let work = async {
        while let Some(frame) = reader.next().await? {
            common.heard_now();
            let message = match frame.kind {
                kind::CONTROL => match control(&frame)? {
                    Control::Ping => continue,
                    message => Heard::Control(message),
                },
                kind::PAGE => Heard::Page(LedgerPage::decode(&frame.payload)?),
                kind::VALUES => Heard::Values(PageValues::decode(&frame.payload)?),
                other => return Err(unexpected(&format!("frame {other}"))),
            };
            if heard.send(message).await.is_err() {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Unavailable, "the receiver closed the connection"))
    };
    let outcome = tokio::select! {
        () = common.broken.cancelled() => Ok(()),
        outcome = work => outcome,
    };
    if let Err(error) = outcome {
        common.fail(error);
    }
}

type Halves = (FrameReader<ReadHalf<TlsStream>>, FrameWriter<WriteHalf<TlsStream>>);

async fn open_stream(dialer: &Dialer, addresses: &[String], attach: Attach) -> Result<Halves> {
    let (stream, _) = dialer.dial_any(addresses, DIAL).await?;
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, CONTROL_LIMIT);
    let mut writer = FrameWriter::new(writer, DATA_LIMIT);
    say(&mut writer, &Control::Attach(attach)).await?;
    let answer = tokio::time::timeout(DIAL, reader.next()).await;
    let answer = answer.map_err(|_| Error::new(Kind::Unavailable, "the receiver is silent"))??;
    let closed = || Error::new(Kind::Unavailable, "the receiver closed the connection");
    match control(&answer.ok_or_else(closed)?)? {
        Control::Attached => Ok((reader, writer)),
        other => Err(unexpected(other.name())),
    }
}

/// By number, in the order of sending: frames that measure the line all have the number 0.
type Waiting = Arc<Mutex<HashMap<u64, VecDeque<oneshot::Sender<Answer>>>>>;
type Queue = Arc<tokio::sync::Mutex<mpsc::Receiver<Outgoing>>>;

fn begin_stream(
    reader: FrameReader<ReadHalf<TlsStream>>,
    writer: FrameWriter<WriteHalf<TlsStream>>,
    queue: &Queue,
    common: &Arc<Common>,
) {
    let waiting: Waiting = Arc::default();
    let room = Arc::new(Semaphore::new(UNANSWERED));
    tokio::spawn(write_all(
        writer,
        Arc::clone(queue),
        waiting.clone(),
        room.clone(),
        Arc::clone(common),
    ));
    tokio::spawn(read_all(reader, waiting, room, Arc::clone(common)));
}

async fn write_all(
    mut writer: FrameWriter<WriteHalf<TlsStream>>,
    queue: Queue,
    waiting: Waiting,
    room: Arc<Semaphore>,
    common: Arc<Common>,
) {
    let work = async {
        loop {
            let Ok(permit) = room.acquire().await else { return Ok(()) };
            let Some(next) = queue.lock().await.recv().await else { return Ok(()) };
            permit.forget();
            let before = writer.bytes();
            lock(&waiting).entry(next.sequence).or_default().push_back(next.answer);
            writer.send(next.kind, &[&next.head, &next.payload]).await?;
            writer.flush().await?;
            common.sent.fetch_add(writer.bytes() - before, Ordering::Relaxed);
        }
    };
    let outcome: Result<()> = tokio::select! {
        () = common.broken.cancelled() => Ok(()),
        outcome = work => outcome,
    };
    if let Err(error) = outcome {
        common.fail(error);
    }
}

async fn read_all(
    mut reader: FrameReader<ReadHalf<TlsStream>>,
    waiting: Waiting,
    room: Arc<Semaphore>,
    common: Arc<Common>,
) {
    let work = async {
        while let Some(frame) = reader.next().await? {
            common.heard_now();
            if frame.kind != kind::ANSWER {
                return Err(unexpected(control(&frame)?.name()));
            }
            let answer = Answer::decode(&frame.payload)?;
            if let Some(waiter) = answered(&waiting, answer.sequence) {
                room.add_permits(1);
                let _ = waiter.send(answer);
            }
        }
        Err(Error::new(Kind::Unavailable, "the receiver closed a data connection"))
    };
    let outcome = tokio::select! {
        () = common.broken.cancelled() => Ok(()),
        outcome = work => outcome,
    };
    if let Err(error) = outcome {
        common.fail(error);
    }
}

/// Who waits longest for the answer to `sequence`.
fn answered(waiting: &Waiting, sequence: u64) -> Option<oneshot::Sender<Answer>> {
    let mut waiting = lock(waiting);
    let waiters = waiting.get_mut(&sequence)?;
    let first = waiters.pop_front();
    if waiters.is_empty() {
        waiting.remove(&sequence);
    }
    first
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
