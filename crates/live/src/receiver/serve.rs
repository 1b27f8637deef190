//! Listening, admitting, and what is kept for each server.

use super::config::{ReceiverConfig, ServerConfig};
use super::disk::{Disk, Look, Targets};
use super::opening;
use super::registry::{KnownDisk, Memory, Registry};
use super::session::{self, Line, Session};
use super::sessions::Sessions;
use super::shelf::{Open, Shelf};
use super::{data, room, violation};
use crate::frame::{self, CONTROL_LIMIT, DATA_LIMIT, FrameReader, FrameWriter, STRANGER_LIMIT};
use crate::remedy;
use crate::state::Report;
use crate::storage;
use crate::trust::{Doorman, Fingerprint, Identity, TlsStream};
use crate::wire::{Attach, Control, SourceDisk, kind};
use carreto_error::{Error, IoSide, Kind, Result};
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
/// How long a look at a target may take.
const LOOK: Duration = Duration::from_secs(5);
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
    /// A target cannot be used, or may not have the space for what comes.
    Unfit {
        /// The server.
        server: &'a str,
        /// The disk of the source that it is for.
        disk: &'a str,
        /// Why.
        error: &'a Error,
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
    pub(super) registry: Registry,
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

    /// Looks at `target`, for a moment only: an agent waits for the answer.
    pub(super) async fn look(&self, target: &str) -> Look {
        let looked = tokio::time::timeout(LOOK, self.targets.look(target)).await;
        looked.unwrap_or_else(|_| {
            let text = format!("the target did not answer within {} seconds", LOOK.as_secs());
            Look::failed(Error::new(Kind::Timeout, text).remedied_by(
                "look whether its server or storage works, and whether somebody else has it open",
            ))
        })
    }

    /// Looks at every target of a migration that is not over, and tells which ones cannot be used.
    ///
    /// Cancel safe.
    pub async fn survey(&self) {
        let open = self.servers.iter().filter(|(_, it)| it.memory().committed.is_none());
        let looks = open.flat_map(|(name, server)| {
            server.config.disks.iter().map(move |disk| async move {
                if let Some(error) = &self.look(&disk.target).await.problem {
                    self.tell(&ReceiverEvent::Unfit { server: name, disk: &disk.source, error });
                }
            })
        });
        futures_util::future::join_all(looks).await;
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

    /// Bytes that the state can hold for this server.
    pub(super) fn room(&self) -> Option<u64> {
        room::of(&self.registry, self.config.disks.len())
    }

    pub(super) fn report(&self) -> Option<Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn remember_report(&self, report: Report) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    /// Changes what `memory` holds, and on the disk first.
    pub(super) fn keep(&self, memory: &mut Memory, change: impl FnOnce(&mut Memory)) -> Result<()> {
        let mut changed = memory.clone();
        change(&mut changed);
        self.registry.save(&changed)?;
        *memory = changed;
        Ok(())
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
                .remedied_by(format!(
                    "start the target; or, to begin anew, {}",
                    remedy::BEGIN_ANEW
                )));
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
            self.keep(&mut memory, |memory| memory.disks = disks)?;
        }
        Ok(())
    }
}
