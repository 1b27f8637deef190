//! One control connection of one server.

use super::disk::{Disk, Look};
use super::opening;
use super::serve::{Receiver, ReceiverEvent, Server};
use super::{admission, check, commit, violation};
use crate::frame::{self, CONTROL_LIMIT, Frame, FrameReader, FrameWriter};
use crate::trust::{Fingerprint, Hidden, Secret, TlsStream};
use crate::wire::{
    Control, Failed, Hello, Knowledge, PROTOCOL, PageValues, Planned, SourceDisk, TargetDisk,
    Welcome, kind,
};
use carreto_error::{Error, Kind, Result};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, RwLock, RwLockReadGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Between two messages about a reading back.
const CHECKING: Duration = Duration::from_secs(2);

/// How long a peer that is told an error may take to hang up.
const LINGER: Duration = Duration::from_secs(2);

/// The open disks, in the order of their numbers.
pub(super) type Disks = Arc<[Arc<Disk>]>;

/// What control and data connections of a session share.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: u64,
    /// Hex; the agent's data connections show it.
    ticket: Hidden,
    /// The agent's key.
    peer: Fingerprint,
    disks: Mutex<Option<Disks>>,
    /// One for each data connection, held by it.
    seats: Vec<Arc<tokio::sync::Mutex<()>>>,
    pub(super) cancel: CancellationToken,
    /// Everything that may still write.
    pub(super) tasks: TaskTracker,
    /// Held for reading by everything that writes for the agent; `true` once the end has begun.
    closed: RwLock<bool>,
    /// What ended it first.
    why: OnceLock<Failed>,
}

impl Session {
    /// Session `number` of the agent with the key `peer`, which may have `streams` data connections.
    pub(super) fn new(number: u64, peer: Fingerprint, streams: u16) -> Result<Arc<Self>> {
        let ticket = Secret::random()?.to_text();
        let cancel = CancellationToken::new();
        Ok(Arc::new(Self {
            number,
            ticket,
            peer,
            disks: Mutex::default(),
            seats: (0..streams).map(|_| Arc::default()).collect(),
            cancel,
            tasks: TaskTracker::new(),
            closed: RwLock::new(false),
            why: OnceLock::new(),
        }))
    }

    /// Whether a data connection of `peer` that shows `ticket` belongs to the session. The ticket
    /// alone is not enough: who overheard it does not have the key.
    pub(super) fn is_open_to(&self, ticket: &Hidden, peer: Fingerprint) -> bool {
        self.peer == peer && self.ticket.expose() == ticket.expose()
    }

    /// Whether it is another key's than `peer`.
    pub(super) fn is_foreign_to(&self, peer: Fingerprint) -> bool {
        self.peer != peer
    }

    /// The place of data connection `stream`, to be held while it works. One that is just ending is
    /// waited for, for a moment: one that broke ends the session anyway.
    ///
    /// # Errors
    /// `Unavailable` when the session has no such data connection, or has it already.
    pub(super) async fn seat(&self, stream: u16) -> Result<OwnedMutexGuard<()>> {
        let seat = self.seats.get(usize::from(stream)).map(Arc::clone);
        let seat = seat.ok_or_else(|| {
            let most = self.seats.len();
            violation(format!("there is no data connection {stream}, {most} are allowed"))
        })?;
        let taken = tokio::time::timeout(LINGER, seat.lock_owned()).await;
        taken.map_err(|_| violation(format!("data connection {stream} is there already")))
    }

    /// Ends the session and waits until nothing of it writes any more or holds its disks.
    pub(super) async fn end(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.held().take();
    }

    /// Ends the session because of `error`, which every connection of it tells.
    pub(super) fn fail(&self, error: &Error) {
        let _first_wins = self.why.set(Failed::of(error));
        self.cancel.cancel();
    }

    /// Why the session ended.
    pub(super) fn reason(&self) -> Error {
        match self.why.get() {
            Some(why) => why.clone().into_error(),
            None => Error::new(Kind::Unavailable, "a newer connection took over"),
        }
    }

    /// The disks, for as long as the guard lives nothing is claimed about what they hold.
    ///
    /// # Errors
    /// `Unavailable` before the disks are open and after [`Self::close`].
    pub(super) fn to_be_written(&self) -> Result<(Disks, RwLockReadGuard<'_, bool>)> {
        // Not to be had while somebody waits to close it either.
        let open = self.closed.try_read().ok().filter(|closed| !**closed);
        let open = open.ok_or_else(|| violation("data came after the commit was asked for"))?;
        Ok((self.disks()?, open))
    }

    /// From now on nothing is written for the agent, and nothing is being written any more. It
    /// stays so: a commit that fails ends the session.
    pub(super) async fn close(&self) {
        *self.closed.write().await = true;
    }

    pub(super) fn disks(&self) -> Result<Disks> {
        let disks = self.held().clone();
        disks.ok_or_else(|| violation("nothing was opened before it was used"))
    }

    fn held(&self) -> MutexGuard<'_, Option<Disks>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the disks into use, once.
    fn hold(&self, disks: Disks) -> Result<()> {
        match self.held().replace(disks) {
            None => Ok(()),
            Some(_) => Err(violation("the disks were opened twice")),
        }
    }
}

/// Reads what still comes from a peer that was told an error: closing a connection with unread
/// bytes would take the message away from it.
pub(super) async fn linger(reader: &mut FrameReader<ReadHalf<TlsStream>>) {
    let rest = async { while let Ok(Some(_)) = reader.next().await {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// The control connection's two directions.
pub(super) struct Line {
    reader: FrameReader<ReadHalf<TlsStream>>,
    writer: FrameWriter<WriteHalf<TlsStream>>,
    /// Until it is known who is at the other end.
    stranger: Option<OwnedSemaphorePermit>,
}

impl Line {
    pub(super) fn new(
        reader: FrameReader<ReadHalf<TlsStream>>,
        writer: FrameWriter<WriteHalf<TlsStream>>,
        stranger: OwnedSemaphorePermit,
    ) -> Self {
        Self { reader, writer, stranger: Some(stranger) }
    }

    /// Makes room for the next stranger, and lets this one say more.
    fn admit(&mut self) {
        self.reader.set_limit(CONTROL_LIMIT);
        self.stranger = None;
    }

    pub(super) async fn say(&mut self, message: &Control) -> Result<()> {
        self.send(kind::CONTROL, &frame::encode(message)?).await
    }

    async fn send(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        self.writer.send(kind, &[payload]).await?;
        self.writer.flush().await
    }

    async fn hear(&mut self) -> Result<Option<Control>> {
        match self.reader.next().await? {
            None => Ok(None),
            Some(Frame { kind: kind::CONTROL, payload }) => frame::decode(&payload).map(Some),
            Some(other) => {
                Err(violation(format!("a control connection has no frame {}", other.kind)))
            }
        }
    }
}

/// For an agent whose key another one took the place of.
pub(super) fn replaced() -> Error {
    admission::denied("another agent took over this server with a new token".to_owned())
}

/// Answers a [`Hello`] and everything that follows. An error was told to the agent.
pub(super) async fn run(
    receiver: &Arc<Receiver>,
    mut line: Line,
    hello: Hello,
    peer: Fingerprint,
) -> Result<()> {
    let outcome = begin(receiver, &mut line, &hello, peer).await;
    if let Err(error) = &outcome {
        let failed = Control::Failed(Failed::of(error));
        if line.say(&failed).await.is_ok() {
            linger(&mut line.reader).await;
        }
    }
    outcome
}

async fn begin(
    receiver: &Arc<Receiver>,
    line: &mut Line,
    hello: &Hello,
    peer: Fingerprint,
) -> Result<()> {
    if hello.protocol != PROTOCOL {
        let text = format!("the agent speaks protocol {}, this is {PROTOCOL}", hello.protocol);
        return Err(Error::new(Kind::Unsupported, text)
            .remedied_by("use the same version of carreto on both sides"));
    }
    let server = receiver.admit(hello, peer)?;
    line.admit();
    let sessions = &server.sessions;
    let session =
        if hello.preflight { sessions.preview(peer)? } else { sessions.take_over(peer).await? };
    if !hello.preflight && server.memory().agent != Some(peer) {
        // Another key came while this one waited for its turn.
        session.fail(&replaced());
        return Err(replaced());
    }
    receiver.tell(&ReceiverEvent::Connected { server: &hello.server, host: &hello.host, peer });
    let worked = Conversation {
        receiver,
        server: &server,
        session: &session,
        line,
        peer,
        preflight: hello.preflight,
        planned: Vec::new(),
    };
    let cancel = session.cancel.clone();
    let tracked = session.tasks.token();
    let outcome = tokio::select! {
        () = cancel.cancelled() => Err(session.reason()),
        outcome = worked.run() => outcome,
    };
    match &outcome {
        Ok(()) => session.cancel.cancel(),
        Err(error) => session.fail(error),
    }
    drop(tracked);
    receiver.tell(&ReceiverEvent::Disconnected {
        server: &hello.server,
        error: outcome.as_ref().err(),
    });
    outcome
}

async fn welcome(receiver: &Receiver, server: &Server, session: &Session) -> Welcome {
    let is_over = server.memory().committed.is_some();
    let targets = futures_util::future::join_all(server.config.disks.iter().map(|disk| async {
        // What is complete is nobody's target any more, and may be in use.
        let Look { size, free, problem } =
            if is_over { Look::default() } else { receiver.look(&disk.target).await };
        let (source, target) = (disk.source.clone(), disk.target.clone());
        Planned { source, target, size, free, problem: problem.as_ref().map(Failed::of) }
    }));
    let targets = targets.await;
    let memory = server.memory();
    Welcome {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        migration: memory.migration.clone(),
        session: session.number,
        ticket: session.ticket.clone(),
        streams: receiver.config.streams,
        targets,
        clock: jiff::Timestamp::now().as_second(),
        committed: memory.committed.clone(),
        state_room: server.room(),
    }
}

struct Conversation<'a> {
    receiver: &'a Arc<Receiver>,
    server: &'a Arc<Server>,
    session: &'a Arc<Session>,
    line: &'a mut Line,
    peer: Fingerprint,
    preflight: bool,
    /// The targets as the agent was told of them.
    planned: Vec<Planned>,
}

impl Conversation<'_> {
    async fn run(mut self) -> Result<()> {
        let welcome = welcome(self.receiver, self.server, self.session).await;
        self.planned.clone_from(&welcome.targets);
        self.line.say(&Control::Welcome(welcome)).await?;
        while let Some(message) = self.line.hear().await? {
            self.answer(message).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, message: Control) -> Result<()> {
        match message {
            Control::Ping => self.line.say(&Control::Ping).await,
            Control::Status { report } => {
                self.server.remember_report(*report);
                Ok(())
            }
            _ if self.preflight => Err(violation("a preflight changes nothing")),
            Control::Open { disks } => self.open(&disks).await,
            Control::Want { disk, pages } => self.pages(disk, &pages).await,
            Control::Sync => {
                let disks = self.session.disks()?;
                let work = async {
                    for disk in disks.iter() {
                        disk.flush().await?;
                    }
                    Ok(())
                };
                with_signs_of_life(self.line, work, || Control::Ping).await?;
                self.line.say(&Control::Synced).await
            }
            Control::Check { everything, most } => self.check(everything, most).await,
            Control::Commit { certificate } => {
                let claim = commit::Claim { certificate, peer: self.peer };
                let work = commit::begin(self.receiver, self.server, self.session, claim);
                let answer = with_signs_of_life(self.line, work, || Control::Ping).await?;
                self.line.say(&answer).await
            }
            other => Err(violation(format!("the agent said {} out of turn", other.name()))),
        }
    }

    async fn open(&mut self, disks: &[SourceDisk]) -> Result<()> {
        let work = self.server.open(self.receiver, disks);
        let open = with_signs_of_life(self.line, work, || Control::Ping).await?;
        for disk in &open {
            self.warn_of_little_space(disk);
        }
        let told = open.iter().map(|disk| TargetDisk {
            target: disk.target_name.clone(),
            known: opening::knowledge_of(disk),
        });
        let opened = Control::Opened { disks: told.collect() };
        // The agent may send as soon as it has heard the last of what follows.
        self.session.hold(open.iter().cloned().collect())?;
        self.line.say(&opened).await?;
        for disk in &open {
            let owned = Arc::clone(disk);
            let work = blocking(move || owned.page_values());
            let values = with_signs_of_life(self.line, work, || Control::Ping).await?;
            for (number, values) in (0u64..).zip(values.chunks(PageValues::MAX)) {
                let first = number * PageValues::MAX as u64;
                let values = PageValues { disk: disk.number, first, values: values.to_vec() };
                self.line.send(kind::VALUES, &values.encode()).await?;
            }
        }
        Ok(())
    }

    /// Files are sparse, so whether the space will do shows only as they fill.
    fn warn_of_little_space(&self, disk: &Disk) {
        let planned = self.planned.iter().find(|planned| planned.target == disk.target_name);
        let Some((planned, free)) = planned.and_then(|it| Some((it, it.free?))) else { return };
        if free >= disk.size() || opening::knowledge_of(disk) == Knowledge::Kept {
            return;
        }
        let text = format!("its file system can take {free} bytes, the disk has {}", disk.size());
        let error = Error::new(Kind::TargetUnusable, text)
            .needed(disk.size())
            .remedied_by("make room there, or give the disk a target with more space");
        self.receiver.tell(&ReceiverEvent::Unfit {
            server: &self.server.config.name,
            disk: &planned.source,
            error: &error,
        });
    }

    async fn pages(&mut self, disk: u16, pages: &[u64]) -> Result<()> {
        let disks = self.session.disks()?;
        let found = disks.get(usize::from(disk)).cloned();
        let disk = found.ok_or_else(|| violation(format!("there is no disk {disk}")))?;
        for page in pages {
            self.line.send(kind::PAGE, &disk.page(*page)?.encode()).await?;
        }
        Ok(())
    }

    async fn check(&mut self, everything: bool, most: Option<u64>) -> Result<()> {
        let disks = self.session.disks()?;
        let progress = check::CheckProgress::default();
        let work = async {
            for disk in disks.iter() {
                disk.flush_for_reading().await?;
            }
            let (begun, mut read) = (Instant::now(), 0);
            for disk in disks.iter() {
                let room = most.unwrap_or(u64::MAX) - read;
                read += check::some(disk, everything, room, &progress).await?;
            }
            let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let left = disks.iter().map(|disk| disk.book().written.len()).sum();
            let roots = if left == 0 || most.is_none() {
                let disks = Arc::clone(&disks);
                blocking(move || commit::roots(&disks)).await?
            } else {
                Vec::new()
            };
            Ok(Control::Checked { roots, left, read, millis })
        };
        let told = || {
            use std::sync::atomic::Ordering::Relaxed;
            Control::Checking { done: progress.done.load(Relaxed), of: progress.of.load(Relaxed) }
        };
        let checked = with_signs_of_life(self.line, work, told).await?;
        self.line.say(&checked).await
    }
}

/// What takes the processor for long, on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| Error::new(Kind::Internal, format!("a thread died: {error}")))
}

/// Works, and says every two seconds that it still does.
async fn with_signs_of_life<T>(
    line: &mut Line,
    work: impl Future<Output = Result<T>>,
    sign: impl Fn() -> Control,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(CHECKING, &mut work).await {
            Ok(outcome) => return outcome,
            Err(_elapsed) => line.say(&sign()).await?,
        }
    }
}
