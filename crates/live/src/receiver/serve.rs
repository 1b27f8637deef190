//! Listening, admitting, and what is kept for each server.

use super::config::{ReceiverConfig, ServerConfig};
use super::disk::{Disk, Targets};
use super::opening;
use super::registry::{KnownDisk, Memory, Registry};
use super::session::{self, Line, Session};
use super::sessions::Sessions;
use super::shelf::{Open, Shelf};
use super::{data, violation};
use crate::frame::{self, CONTROL_LIMIT, DATA_LIMIT, FrameReader, FrameWriter, STRANGER_LIMIT};
use crate::state::Report;
use crate::storage;
use crate::trust::{Doorman, Fingerprint, Identity, Invitation, JoinToken, Secret, TlsStream, hex};
use crate::wire::{Attach, Control, Hello, SourceDisk, kind};
use carreto_error::{Error, IoSide, Kind, Result};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a stranger may take for a handshake and its first message.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections that may be strangers at a time.
const STRANGERS: usize = 64;

/// Before the next try to accept after one that failed.
pub(super) const BREATH: Duration = Duration::from_millis(50);

/// What happens at the receiver.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReceiverEvent<'a> {
    /// A server's agent connected.
    Connected {
        /// The server.
        server: &'a str,
        /// Its host name, as it says.
        host: &'a str,
        /// Its key.
        peer: Fingerprint,
    },
    /// Its control connection ended.
    Disconnected {
        /// The server.
        server: &'a str,
        /// Why, unless the agent closed it.
        error: Option<&'a Error>,
    },
    /// Its targets are complete.
    Committed {
        /// The server.
        server: &'a str,
    },
    /// Somebody was not let in.
    Refused {
        /// Where from.
        peer: SocketAddr,
        /// Why.
        error: &'a Error,
    },
}

/// Hears what happens. Called from the tasks that serve; must return quickly.
pub trait ReceiverObserver: Send + Sync + std::fmt::Debug {
    /// Something happened.
    fn event(&self, event: &ReceiverEvent<'_>);
}

/// A token that was made now.
#[derive(Debug)]
pub struct Invited {
    /// The server that it is for.
    pub server: String,
    /// The token; its text is a secret.
    pub token: JoinToken,
}

/// Serves agents.
#[derive(Debug)]
pub struct Receiver {
    pub(super) config: ReceiverConfig,
    pub(super) identity: Identity,
    pub(super) targets: Arc<dyn Targets>,
    observer: Arc<dyn ReceiverObserver>,
    pub(super) servers: BTreeMap<String, Arc<Server>>,
    /// Held while this process owns the state.
    _lock: std::fs::File,
}

/// What is kept for one server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) config: ServerConfig,
    registry: Registry,
    memory: Mutex<Memory>,
    report: Mutex<Option<Report>>,
    pub(super) sessions: Sessions,
    shelf: Shelf,
}

impl Receiver {
    /// Opens the state of every configured server; makes the receiver's key the first time.
    ///
    /// # Errors
    /// `Locked` when another receiver has the state; what reading and writing the state meets.
    pub fn open(
        config: ReceiverConfig,
        targets: Arc<dyn Targets>,
        observer: Arc<dyn ReceiverObserver>,
    ) -> Result<Self> {
        let state = &config.state;
        std::fs::create_dir_all(state).map_err(|e| {
            Error::io(IoSide::State, "make the folder", state.display().to_string(), e)
        })?;
        let lock = storage::lock(&state.join("lock"), "another receiver has this state folder")?;
        let identity = Identity::load_or_create(state, "receiver")?;
        let mut servers = BTreeMap::new();
        for server in &config.servers {
            let registry = Registry::open(state, &server.name)?;
            let memory = Mutex::new(registry.load()?);
            let kept = Server {
                config: server.clone(),
                registry,
                memory,
                report: Mutex::default(),
                sessions: Sessions::new(config.streams),
                shelf: Shelf::default(),
            };
            kept.show_certificate(&kept.memory());
            servers.insert(server.name.clone(), Arc::new(kept));
        }
        Ok(Self { identity, targets, observer, servers, _lock: lock, config })
    }

    /// Makes tokens for the servers that have not joined and have none that is still good; with
    /// `renew` for all that have not joined. Tokens that are replaced are worth nothing from now on.
    ///
    /// # Errors
    /// `Usage` without an address to advertise; what writing the state meets.
    pub fn invite(&self, renew: bool) -> Result<Vec<Invited>> {
        let now = Timestamp::now();
        let mut invited = Vec::new();
        for (name, server) in &self.servers {
            let mut memory = server.memory();
            let is_good = memory.invitation.as_ref().is_some_and(|it| it.expires > now);
            if memory.agent.is_some() || (is_good && !renew) {
                continue;
            }
            let secret = Secret::random()?;
            let expires = now
                .checked_add(SignedDuration::from_hours(self.config.token_hours.into()))
                .map_err(|error| Error::new(Kind::Usage, format!("token_hours: {error}")))?;
            memory.invitation = Some(Invitation {
                server: name.clone(),
                secret: secret.digest(),
                expires,
                redeemed_by: None,
            });
            server.registry.save(&memory)?;
            let token = JoinToken {
                addresses: self.config.advertise.clone(),
                receiver: self.identity.fingerprint(),
                server: name.clone(),
                secret,
                expires: Some(expires),
            };
            token.check()?;
            invited.push(Invited { server: name.clone(), token });
        }
        Ok(invited)
    }

    /// The key that tokens name.
    pub fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    /// Listens where the configuration says.
    ///
    /// # Errors
    /// `Usage` or `Io` when it cannot.
    pub async fn bind(&self) -> Result<TcpListener> {
        let address = &self.config.listen;
        TcpListener::bind(address)
            .await
            .map_err(|error| Error::io(IoSide::State, "listen", address, error))
    }

    /// Serves until `stop`; then ends every session and waits for what it writes.
    ///
    /// # Errors
    /// `Internal` when TLS cannot be set up.
    pub async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<()> {
        let doorman = Doorman::new(&self.identity)?;
        let (tasks, strangers) =
            (TaskTracker::new(), Arc::new(tokio::sync::Semaphore::new(STRANGERS)));
        loop {
            let Ok((tcp, peer)) = (tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            }) else {
                // Out of descriptors, or a connection that ended before it was taken.
                tokio::time::sleep(BREATH).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&strangers).try_acquire_owned() else { continue };
            let (receiver, doorman, stop) = (Arc::clone(self), doorman.clone(), stop.clone());
            tasks.spawn(async move {
                let serving = async {
                    let visitor = receiver.meet(&doorman, tcp, permit).await?;
                    receiver.attend(visitor).await
                };
                if let Some(Err(error)) = &stop.run_until_cancelled(serving).await {
                    receiver.tell(&ReceiverEvent::Refused { peer, error });
                }
            });
        }
        // They end at once; what they began is what the sessions wait for.
        tasks.close();
        tasks.wait().await;
        for server in self.servers.values() {
            server.sessions.end().await;
            server.shelf.end().await;
        }
        Ok(())
    }

    pub(super) fn tell(&self, event: &ReceiverEvent<'_>) {
        self.observer.event(event);
    }

    /// A stranger shakes hands and says what for it came.
    async fn meet(
        &self,
        doorman: &Doorman,
        tcp: TcpStream,
        permit: OwnedSemaphorePermit,
    ) -> Result<Visitor> {
        let (stream, peer) = doorman.accept(tcp, PATIENCE).await?;
        let (reader, writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader, STRANGER_LIMIT);
        let first = tokio::time::timeout(PATIENCE, reader.next()).await;
        let first = first.map_err(|_| violation("the peer said nothing"))??;
        let first = first.ok_or_else(|| violation("the peer said nothing"))?;
        if first.kind != kind::CONTROL {
            return Err(violation(format!("the first frame is {}", first.kind)));
        }
        Ok(Visitor { reader, writer, peer, message: frame::decode(&first.payload)?, permit })
    }

    async fn attend(self: &Arc<Self>, visitor: Visitor) -> Result<()> {
        let Visitor { mut reader, writer, peer, message, permit } = visitor;
        match message {
            Control::Hello(hello) => {
                let line = Line::new(reader, FrameWriter::new(writer, CONTROL_LIMIT), permit);
                // What the session meets is told by its own events.
                let outcome = session::run(self, line, hello, peer).await;
                match outcome {
                    Err(error) if error.kind() == Kind::Denied => Err(error),
                    _ => Ok(()),
                }
            }
            Control::Attach(attach) => {
                let session = self.session_of(&attach, peer)?;
                let writer = FrameWriter::new(writer, CONTROL_LIMIT);
                let seat = match session.seat(attach.stream).await {
                    Ok(seat) => seat,
                    Err(error) => return Err(data::refuse(reader, writer, error).await),
                };
                drop(permit);
                reader.set_limit(DATA_LIMIT);
                match data::run(&session, seat, reader, writer).await {
                    // The control connection says the same, and better.
                    Err(error) if error.kind() == Kind::Unavailable => Ok(()),
                    outcome => outcome,
                }
            }
            other => Err(violation(format!("the first message is {}", other.name()))),
        }
    }

    /// The session whose ticket is shown, by the same key that it was given to.
    fn session_of(&self, attach: &Attach, peer: Fingerprint) -> Result<Arc<Session>> {
        let found =
            self.servers.values().find_map(|server| server.sessions.with(&attach.ticket, peer));
        found.ok_or_else(|| {
            Error::new(Kind::Denied, "no session has the ticket that a data connection shows")
        })
    }

    /// The server that `hello` is about, if the key `peer` may speak for it.
    pub(super) fn admit(&self, hello: &Hello, peer: Fingerprint) -> Result<Arc<Server>> {
        let denied = |text: String| {
            Error::new(Kind::Denied, text)
                .during("admit an agent")
                .remedied_by("print a new join token at the receiver and give it to the agent")
        };
        let server = self.servers.get(&hello.server);
        let server =
            server.ok_or_else(|| denied(format!("there is no server {}", hello.server)))?;
        let mut memory = server.memory();
        if memory.agent == Some(peer) {
            return Ok(Arc::clone(server));
        }
        let Some(invitation) = &mut memory.invitation else {
            return Err(denied(format!("the key {peer} is not known for {}", hello.server)));
        };
        let shown = hello.secret.as_ref().and_then(|secret| hex::decode(secret.expose()));
        let secret = shown
            .map(Secret::from_bytes)
            .ok_or_else(|| denied(format!("the key {peer} is not known and shows no token")))?;
        let mut tried = invitation.clone();
        tried.redeem(&secret, peer, Timestamp::now())?;
        if !hello.preflight {
            *invitation = tried;
            memory.agent = Some(peer);
            server.registry.save(&memory)?;
        }
        Ok(Arc::clone(server))
    }
}

/// A peer that proved a key and said its first message.
struct Visitor {
    reader: FrameReader<tokio::io::ReadHalf<TlsStream>>,
    writer: tokio::io::WriteHalf<TlsStream>,
    peer: Fingerprint,
    message: Control,
    /// One of few, until the visitor is known.
    permit: OwnedSemaphorePermit,
}

impl Server {
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self) -> Option<Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn remember_report(&self, report: Report) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    /// Remembers that the migration is over.
    pub(super) fn seal(&self, certificate: &str) -> Result<()> {
        let mut memory = self.memory();
        let mut committed = memory.clone();
        committed.committed = Some(certificate.to_owned());
        if let Err(error) = self.registry.save(&committed) {
            // The new file may be in place although it is not known to be durable.
            let _ = self.registry.save(&memory);
            return Err(error);
        }
        *memory = committed;
        self.show_certificate(&memory);
        Ok(())
    }

    /// Puts the certificate where people find it. A failure changes nothing: it is remembered, and
    /// the next start of the receiver tries again.
    fn show_certificate(&self, memory: &Memory) {
        let Some(certificate) = &memory.committed else { return };
        let path = self.registry.file("certificate.json");
        if std::fs::read(&path).ok().as_deref() != Some(certificate.as_bytes()) {
            let _ = storage::write_whole(&path, certificate.as_bytes());
        }
    }

    /// The server's disks, opened once for the life of the process.
    ///
    /// Cancel safe: the work goes on, and the next call waits for it.
    pub(super) async fn open(
        self: &Arc<Self>,
        receiver: &Receiver,
        disks: &[SourceDisk],
    ) -> Result<Vec<Arc<Disk>>> {
        let memory = self.memory().clone();
        if memory.committed.is_some() {
            return Err(Error::new(Kind::SourceChanged, "the migration is committed already")
                .remedied_by("start the target, or move the server's folder away to begin anew"));
        }
        let planned = opening::plan(&memory, &self.config, disks)?;
        let (server, targets) = (Arc::clone(self), Arc::clone(&receiver.targets));
        let wanted = planned.clone();
        let begin = move |before: Option<Open>, stop: CancellationToken| async move {
            // Others may have been opened while these waited.
            opening::agree(&server.memory().disks, &wanted)?;
            if let Some(open) = before.filter(|open| opening::is_usable(open)) {
                opening::reuse(&open).await?;
                return Ok(open);
            }
            let (migration, registry) = (&memory.migration, &server.registry);
            let open = opening::open(targets.as_ref(), registry, migration, &wanted, &stop).await?;
            // Not before: targets that do not fit may be exchanged for others.
            server.remember_disks(wanted)?;
            Ok(open)
        };
        self.shelf.open(planned, begin).await
    }

    fn remember_disks(&self, disks: Vec<KnownDisk>) -> Result<()> {
        let mut memory = self.memory();
        if memory.disks.is_empty() {
            let mut known = memory.clone();
            known.disks = disks;
            self.registry.save(&known)?;
            *memory = known;
        }
        Ok(())
    }
}
