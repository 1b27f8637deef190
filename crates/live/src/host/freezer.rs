//! Freezing all file systems under a lease.
//!
//! A second process holds the same open mount points and the lease; see [`super::watchdog_main`].
//! It is told before every call that freezes, so that nothing stays frozen whatever becomes of the
//! agent, and it is the one that thaws, so that the two never disagree about what was held.

use super::channel::{Answer, Question};
use super::file_systems::{FileSystem, Freezable};
use super::opened;
use super::session::{ANSWER, Session, WatchdogCommand, lost};
use super::thaw::{PATIENCE, Thawing, thaw_within};
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_kernel::freeze;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long it may take to thaw everything.
const THAW: Duration = Duration::from_mins(1);
/// How long a drop may wait for the watchdog, and then for itself.
const DROP: Duration = Duration::from_secs(3);

/// File systems that are open and watched, and not frozen yet.
#[derive(Debug)]
pub struct Freezer(Frozen);

/// File systems that are frozen. Dropping it thaws them, and waits for that a few seconds at most;
/// the watchdog goes on.
#[derive(Debug)]
pub struct Frozen {
    systems: Vec<Opened>,
    watchdog: Session,
    lease: Duration,
    since: Instant,
    unfrozen: Vec<FileSystem>,
    /// How the freeze was lost, once that was seen: looking freezes again what somebody thawed.
    lost: Option<String>,
    /// Whether nothing is left to thaw.
    over: bool,
}

#[derive(Debug)]
struct Opened {
    system: FileSystem,
    name: String,
    file: Arc<OwnedFd>,
    frozen: bool,
}

impl Freezer {
    /// Opens every mount point, starts the watchdog and gives it the open files. `systems` come in
    /// the order of [`super::file_systems`]. The lease begins with [`Self::freeze`].
    ///
    /// # Errors
    /// `SourceChanged` for a file system that is not mounted any more; `NotFound`, `Denied` or
    /// `Io` when the watchdog cannot be started.
    pub fn prepare(
        systems: &[FileSystem],
        lease: Duration,
        watchdog: &WatchdogCommand,
    ) -> Result<Self> {
        let systems: Vec<_> = systems.iter().map(Opened::new).collect::<Result<_>>()?;
        let mut watchdog = Session::start(watchdog)?;
        for system in &systems {
            let question = Question::System(system.name.clone());
            watchdog.ask(&question, Some(system.file.as_fd()), ANSWER)?;
        }
        let since = Instant::now();
        let unfrozen = Vec::new();
        Ok(Self(Frozen { systems, watchdog, lease, since, unfrozen, lost: None, over: true }))
    }

    /// Writes out what is dirty, begins the lease, and freezes one file system after another.
    /// What cannot be frozen is synced. On failure everything is thawed again, in reverse.
    ///
    /// # Errors
    /// `Locked` when somebody else has frozen a file system, which stays as it is; `Timeout` when
    /// the lease ran out meanwhile; `Denied`, `Io`.
    pub fn freeze(self) -> Result<Frozen> {
        let mut frozen = self.0;
        // What is written out now does not have to be while all stands still.
        for system in &frozen.systems {
            system.sync()?;
        }
        frozen.since = Instant::now();
        frozen.over = false;
        let result = frozen.freeze_all();
        result.map(|()| frozen)
    }
}

impl Frozen {
    fn freeze_all(&mut self) -> Result<()> {
        self.watchdog.hold(&Question::Begin(self.lease))?;
        for index in 0..self.systems.len() {
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            let system = &mut self.systems[index];
            if let Freezable::No(_) = system.system.freezable {
                system.sync()?;
                self.unfrozen.push(system.system.clone());
                continue;
            }
            self.watchdog.hold(&Question::Freezing(number))?;
            let result = freeze::freeze(&system.file);
            system.frozen = result.is_ok();
            self.watchdog.hold(&Question::Settled(number, system.frozen))?;
            match result {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::NOTTY) => {
                    system.sync()?;
                    let reason = "the kernel cannot freeze this kind of file system".to_owned();
                    let freezable = Freezable::No(reason);
                    self.unfrozen.push(FileSystem { freezable, ..system.system.clone() });
                }
                Err(errno) => return Err(system.refusal(errno)),
            }
        }
        Ok(())
    }

    /// Makes sure that everything is still frozen, and begins the lease anew.
    ///
    /// # Errors
    /// `Timeout` when the freeze was lost: the lease ran out, somebody thawed, or the watchdog is
    /// gone. What was changed since is unknown; roll back. Once it was lost, every later call says
    /// so again.
    pub fn renew(&mut self) -> Result<()> {
        if let Some(why) = &self.lost {
            return Err(lost(why));
        }
        self.watchdog.hold(&Question::Renew)?;
        self.probe()
    }

    /// When the first file system began to stand still.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The lease that was asked for.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// The file systems that cannot be frozen: they were synced, and may change.
    pub fn unfrozen(&self) -> &[FileSystem] {
        &self.unfrozen
    }

    /// Makes sure that nothing was mounted between looking and freezing: `now` is what
    /// [`super::file_systems`] finds while all is frozen.
    ///
    /// # Errors
    /// `SourceChanged` when a file system that takes changes is not among the frozen ones.
    pub fn check_complete(&self, now: &[FileSystem]) -> Result<()> {
        let mut fresh = now.iter().filter(|system| {
            let known = |old: &Opened| old.system.devno == system.devno;
            !system.read_only && !self.systems.iter().any(known)
        });
        fresh.next().map_or(Ok(()), |system| {
            let text = "it was mounted while the others were being frozen";
            let name = system.mount_point.to_string_lossy().into_owned();
            Err(Error::new(Kind::SourceChanged, text)
                .path(name)
                .remedied_by("try the cutover again"))
        })
    }

    /// Thaws everything, in reverse, and says how long the first stood still.
    ///
    /// # Errors
    /// `Timeout` when the freeze was lost before; `Io` when a file system may still be frozen. All
    /// has been tried then.
    pub fn thaw(mut self) -> Result<Duration> {
        let answer = self.watchdog.ask(&Question::Thaw, None, THAW);
        let held = match answer {
            Ok(Answer::Thawed) => self.lost.as_deref().map_or(Ok(()), |why| Err(lost(why))),
            Ok(Answer::Lost(why)) => Err(lost(&why)),
            Ok(Answer::Held) | Err(_) => {
                self.watchdog.kill();
                self.thaw_alone(THAW)
            }
        };
        self.over = true;
        held.map(|()| self.since.elapsed())
    }

    /// Ends the lease and leaves everything frozen, so that a source that was moved never works
    /// beside its copy. [`super::thaw_all`] thaws later.
    ///
    /// # Errors
    /// `Timeout` as [`Self::renew`]; everything is thawed then.
    pub fn release_to_stay_frozen(mut self) -> Result<()> {
        self.renew()?;
        self.watchdog.hold(&Question::Release)?;
        self.over = true;
        Ok(())
    }

    /// The kernel refuses to freeze what is frozen. What it does freeze was thawed by somebody.
    fn probe(&mut self) -> Result<()> {
        for system in self.systems.iter().filter(|system| system.frozen) {
            match freeze::freeze(&system.file) {
                Err(Errno::BUSY) => {}
                Ok(()) => {
                    let why = format!("somebody else thawed {}", system.name);
                    return Err(lost(self.lost.insert(why)));
                }
                Err(errno) => return Err(system.failure("look at the freeze", errno)),
            }
        }
        Ok(())
    }

    /// Thaws without the watchdog, within about `limit`.
    fn thaw_alone(&mut self, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut result = Ok(());
        for system in self.systems.iter_mut().rev().filter(|system| system.frozen) {
            let rest = limit.saturating_sub(begun.elapsed()).min(PATIENCE);
            let outcome = thaw_within(&system.file, rest);
            system.frozen = false;
            let problem = match outcome {
                Thawing::Done => continue,
                Thawing::NotFrozen => lost(&format!("somebody else thawed {}", system.name)),
                Thawing::Failed(errno) => system.failure("thaw", errno),
                Thawing::Stuck => system.failure("thaw", Errno::TIMEDOUT),
            };
            result = result.and(Err(problem));
        }
        result
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let answer = self.watchdog.ask(&Question::Thaw, None, DROP);
        if !matches!(answer, Ok(Answer::Thawed | Answer::Lost(_))) {
            self.watchdog.kill();
            let _ = self.thaw_alone(DROP);
        }
    }
}

impl Opened {
    fn new(system: &FileSystem) -> Result<Self> {
        Ok(Self {
            file: Arc::new(opened::open(system)?),
            name: system.mount_point.to_string_lossy().into_owned(),
            system: system.clone(),
            frozen: false,
        })
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.file).map_err(|errno| self.failure("sync", errno))
    }

    fn failure(&self, operation: &'static str, errno: Errno) -> Error {
        Error::io(IoSide::Source, operation, &self.name, errno.into())
    }

    fn refusal(&self, errno: Errno) -> Error {
        if errno != Errno::BUSY {
            return self.failure("freeze", errno);
        }
        let text =
            "somebody else has frozen it, or it is busy with a change of its size or options";
        let remedy = format!(
            "wait for the snapshot or backup that froze it; if there is none: fsfreeze --unfreeze {}",
            self.name
        );
        Error::new(Kind::Locked, text).during("freeze").path(&self.name).remedied_by(remedy)
    }
}
