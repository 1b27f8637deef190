//! An export: its connections, and what happens when one of them breaks.

use super::address::{NbdAddress, Place};
use super::assembly::Assembly;
use super::connection::{Connection, Request, with_causes};
use super::handshake::{Agreed, Stream, negotiate};
use crate::{StoreEvent, StoreObserver};
use carreto_block::ByteRange;
use carreto_error::{Error, Kind, Result};
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How to talk to a server.
#[derive(Debug, Clone, Copy)]
pub struct NbdOptions {
    /// Connections where the server allows more than one.
    pub connections: usize,
    /// How long connecting and negotiating may take.
    pub connect_timeout: Duration,
    /// How long a connection may stay still while a read or a write waits for its answer; ten
    /// times as long for a flush and for zeroing.
    pub answer_timeout: Duration,
    /// How long a source waits for a server that went away.
    pub retry_for: Duration,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            connections: 4,
            connect_timeout: Duration::from_secs(20),
            answer_timeout: Duration::from_mins(2),
            retry_for: Duration::from_hours(1),
        }
    }
}

/// The first pause before connecting again, and the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An opened export.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) address: NbdAddress,
    pub(super) name: String,
    pub(super) options: NbdOptions,
    pub(super) agreed: Agreed,
    observer: Arc<dyn StoreObserver>,
    slots: Vec<Mutex<Option<Arc<Connection>>>>,
    next: AtomicUsize,
    /// A connection broke: what was not flushed before may be lost.
    interrupted: Arc<AtomicBool>,
}

impl Export {
    /// Connects once, to learn what there is.
    ///
    /// # Errors
    /// What connecting and negotiating meet.
    pub(super) async fn open(
        address: NbdAddress,
        options: NbdOptions,
        observer: Arc<dyn StoreObserver>,
    ) -> Result<Self> {
        let name = address.to_string();
        let interrupted = Arc::new(AtomicBool::new(false));
        let opened = dial(&address, &options, &interrupted).await;
        let connection = opened.map_err(|e| e.during("connect").or_path(&name))?;
        let agreed = connection.agreed.clone();
        let count = if agreed.can_multiply() { options.connections.max(1) } else { 1 };
        let mut slots: Vec<_> = (1..count).map(|_| Mutex::new(None)).collect();
        slots.push(Mutex::new(Some(Arc::new(connection))));
        let next = AtomicUsize::new(count - 1);
        Ok(Self { address, name, options, agreed, observer, slots, next, interrupted })
    }

    /// The same export, with connections of its own.
    ///
    /// # Errors
    /// As [`Self::open`]; `SourceChanged` when another disk is exported now.
    pub(super) async fn again(&self) -> Result<Self> {
        let observer = Arc::clone(&self.observer);
        let again = Self::open(self.address.clone(), self.options, observer).await;
        let again = again.map_err(|error| self.away(error))?;
        self.expect_same(&again.agreed)?;
        Ok(again)
    }

    /// What everybody has relied on since the export was opened has to hold for every connection.
    fn expect_same(&self, now: &Agreed) -> Result<()> {
        let was = &self.agreed;
        let text = if now.size != was.size {
            format!("the export had {} bytes and has {} now", was.size, now.size)
        } else if (now.min_block, now.max_block) != (was.min_block, was.max_block) {
            let blocks = |of: &Agreed| format!("{} to {} bytes", of.min_block, of.max_block);
            format!("the export took blocks of {} and takes {} now", blocks(was), blocks(now))
        } else {
            return Ok(());
        };
        Err(Error::new(Kind::SourceChanged, text).path(&self.name))
    }

    /// Makes a request that may be made again on a new connection.
    ///
    /// # Errors
    /// As [`Self::call`], `Unavailable` only when the server stays away, `SourceChanged` when
    /// another disk comes back.
    pub(super) async fn call_again(&self, make: impl Fn() -> Request + Send) -> Result<Assembly> {
        let begin = Instant::now();
        let mut pause = PAUSE;
        for attempt in 1.. {
            let error = match self.call(make()).await {
                Err(error) if error.kind() == Kind::Unavailable => error,
                outcome => return outcome,
            };
            if begin.elapsed() + pause > self.options.retry_for {
                return Err(error);
            }
            let reason = with_causes(&error);
            let object = self.name.clone();
            self.observer.observe(StoreEvent::Retry { object, reason, attempt, delay: pause });
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(Error::new(Kind::Internal, "attempts without end"))
    }

    /// Makes a request once, if no connection has ever broken: after that nobody knows which of
    /// the earlier writes are lost.
    ///
    /// # Errors
    /// As [`Self::call`], and `Unavailable` ever after a connection broke, or the server said that
    /// it goes away.
    pub(super) async fn call_unbroken(&self, request: Request) -> Result<Assembly> {
        self.expect_unbroken()?;
        let connection = self.connection().await?;
        let outcome = self.change_on(&connection, request).await?;
        connection.changed();
        Ok(outcome)
    }

    /// Flushes over every connection that carried changes: a server that was started anew in
    /// between answers on a new connection, and knows nothing of what the old one lost.
    ///
    /// # Errors
    /// As [`Self::call_unbroken`].
    pub(super) async fn flush(&self, make: impl Fn() -> Request + Send + Sync) -> Result<()> {
        self.expect_unbroken()?;
        let mut carried = Vec::new();
        for slot in &self.slots {
            let connection = slot.lock().await.clone();
            carried.extend(connection.filter(|connection| connection.take_changed()));
        }
        if carried.is_empty() {
            carried.push(self.connection().await?);
        }
        let flushes = carried.iter().map(|connection| self.change_on(connection, make()));
        for flushed in join_all(flushes).await {
            flushed?;
        }
        self.expect_unbroken()
    }

    fn expect_unbroken(&self) -> Result<()> {
        if !self.is_interrupted() {
            return Ok(());
        }
        let text = "the connection broke; what was not flushed before may be lost";
        Err(Error::new(Kind::Unavailable, text).path(&self.name))
    }

    async fn change_on(&self, connection: &Connection, request: Request) -> Result<Assembly> {
        self.expect_unbroken()?;
        let outcome = self.call_on(connection, request).await;
        if outcome.as_ref().is_err_and(|error| error.kind() == Kind::Unavailable) {
            self.interrupted.store(true, Ordering::Release);
        }
        outcome
    }

    /// Whether writes that were answered may be lost.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Ends all connections with nothing under way; the next request opens a new one. To be
    /// called when everything is flushed.
    pub(super) async fn release(&self) {
        for slot in &self.slots {
            let mut slot = slot.lock().await;
            if slot.as_ref().is_some_and(|connection| connection.retire()) {
                *slot = None;
            }
        }
    }

    /// Makes a request once.
    ///
    /// # Errors
    /// `Unavailable` when the connection fails; what the server refuses.
    async fn call(&self, request: Request) -> Result<Assembly> {
        let connection = self.connection().await?;
        self.call_on(&connection, request).await
    }

    async fn call_on(&self, connection: &Connection, request: Request) -> Result<Assembly> {
        let patience = match request.command {
            super::wire::CMD_READ | super::wire::CMD_WRITE => self.options.answer_timeout,
            _ => self.options.answer_timeout * 10,
        };
        let offset = request.offset;
        let outcome = connection.call(request, patience).await;
        outcome.map_err(|error| error.or_path(&self.name).offset(offset))
    }

    /// A connection that works, the next in turn.
    async fn connection(&self) -> Result<Arc<Connection>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let mut slot = self.slots[turn].lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_broken()) {
            return Ok(Arc::clone(connection));
        }
        // A server with one place for a client takes no other before the last is gone.
        *slot = None;
        let opened = dial(&self.address, &self.options, &self.interrupted).await;
        let connection = opened.map_err(|error| self.away(error))?;
        self.expect_same(&connection.agreed)?;
        let connection = Arc::new(connection);
        *slot = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// A server that was there and is not is being started anew, perhaps: its socket and its
    /// exports come back.
    fn away(&self, error: Error) -> Error {
        let error = error.during("connect").or_path(&self.name);
        match error.kind() {
            Kind::NotFound => Error::new(Kind::Unavailable, "the NBD server went away")
                .path(&self.name)
                .caused_by(error),
            _ => error,
        }
    }

    /// `range` cut where requests have to be cut.
    pub(super) fn pieces(&self, range: ByteRange) -> impl Iterator<Item = (u64, u32)> + use<> {
        let most = self.agreed.max_block;
        range
            .chunks(u64::from(most))
            .map(move |piece| (piece.start(), u32::try_from(piece.len()).unwrap_or(most)))
    }

    /// `range` grown to whole blocks of the server.
    pub(super) fn aligned(&self, range: ByteRange) -> ByteRange {
        let block = u64::from(self.agreed.min_block);
        let start = range.start() / block * block;
        let end = range.end().next_multiple_of(block).min(self.agreed.size);
        ByteRange::new(start, end.max(start)).unwrap_or(range)
    }
}

async fn dial(
    address: &NbdAddress,
    options: &NbdOptions,
    interrupted: &Arc<AtomicBool>,
) -> Result<Connection> {
    let open = async {
        let mut stream = connect(&address.place).await?;
        let agreed = negotiate(stream.as_mut(), &address.export).await?;
        Ok(Connection::start(stream, agreed, Arc::clone(interrupted)))
    };
    tokio::time::timeout(options.connect_timeout, open).await.unwrap_or_else(|_| {
        let seconds = options.connect_timeout.as_secs();
        Err(Error::new(Kind::Unavailable, format!("the NBD server is silent for {seconds} s")))
    })
}

async fn connect(place: &Place) -> Result<Box<dyn Stream>> {
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Unavailable,
        };
        Error::new(kind, "the NBD server cannot be reached").caused_by(error)
    };
    match place {
        Place::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            Ok(Box::new(stream))
        }
        Place::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
    }
}
