//! A migration from the agent's side, from its start to its end.

use super::board::{AgentObserver, Board};
use super::config::{AgentConfig, When};
use super::disk::DiskSync;
use super::epoch::{Course, Epoch};
use super::files::{AgentState, Commit, RunFolder};
use super::link::Link;
use super::machine::Machine;
use super::meter::Meter;
use super::orders::Orders;
use super::pass::Sender;
use super::reading_back::ReadingBack;
use super::resume;
use crate::pace::Throttle;
use crate::state::State;
use crate::trust::{Dialer, Identity, JoinToken};
use crate::wire::{Control, Hello, PROTOCOL};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Shortest epoch.
const EPOCH: Duration = Duration::from_secs(1);
/// Between two attempts to reach the receiver, at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two reports to the receiver and into the run folder.
const REPORT: Duration = Duration::from_secs(3);
/// Seconds for which the receiver is waited for when the agent was told to end.
const LAST_WORDS: u32 = 5;
/// Between two automatic cutovers whose pause would have been too long.
const PUT_OFF: Duration = Duration::from_mins(1);
/// Automatic cutovers that may fail.
const ATTEMPTS: u32 = 3;
/// Between the first two of them; each further wait is so many times as long.
const RETRY: (Duration, u32) = (Duration::from_secs(3), 4);

/// How a run of the agent ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The targets are complete; the certificate lies there.
    Committed(PathBuf),
    /// The operator ended the migration.
    Cancelled,
    /// The process was asked to end; the next one goes on.
    Stopped,
}

/// The sending end of a migration.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    machine: Arc<dyn Machine>,
    observer: Arc<dyn AgentObserver>,
    token: JoinToken,
    identity: Identity,
    folder: RunFolder,
    /// Held while this process is the agent of its server.
    lock: std::fs::File,
}

/// What the parts of the engine share.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) config: AgentConfig,
    pub(super) machine: Arc<dyn Machine>,
    pub(super) identity: Identity,
    pub(super) token: JoinToken,
    pub(super) dialer: Dialer,
    pub(super) folder: RunFolder,
    pub(super) board: Board,
    pub(super) sender: Sender,
    pub(super) orders: Orders,
    pub(super) disks: Vec<DiskSync>,
    pub(super) course: Course,
    pub(super) state: AgentState,
    failed_cutovers: u32,
    /// The last error is the end, even if it is of a kind that passes.
    pub(super) gave_up: bool,
    /// The link was given up together with a cutover, whose error is the one to tell.
    rolled_back: bool,
    _lock: std::fs::File,
}

impl Agent {
    /// Reads the token, makes the agent's key the first time, and takes the run folder.
    ///
    /// # Errors
    /// `Usage` for a bad token; `Locked` when an agent of this server runs; what reading and
    /// writing the state meets.
    pub fn open(
        config: AgentConfig,
        machine: Arc<dyn Machine>,
        observer: Arc<dyn AgentObserver>,
    ) -> Result<Self> {
        let token = config.token()?;
        let identity = Identity::load_or_create(&config.state, "agent")?;
        let folder = RunFolder::at(config.run_folder(&token.server));
        folder.make()?;
        let lock = folder.take()?;
        Ok(Self { config, machine, observer, token, identity, folder, lock })
    }

    /// Migrates until the end, or until `stop`, after which another run goes on.
    ///
    /// # Errors
    /// What cannot be helped by trying again: refused by the receiver, a disk that cannot be read,
    /// a target that cannot be written. What was sent is kept.
    pub async fn run(self, stop: CancellationToken) -> Result<Outcome> {
        let meter = Arc::new(Meter::default());
        let board = Board::new(&self.token.server, Arc::clone(&meter), Arc::clone(&self.observer));
        let orders = Orders::default();
        let ended = CancellationToken::new();
        let answering = orders.clone().answer(self.folder.clone(), board.clone(), ended.clone());
        let noting = board.clone();
        let answering = tokio::spawn(async move {
            if let Err(error) = answering.await {
                let why = carreto_error::chain_text(&error);
                noting.note(&format!("no orders can be given: {why}"));
            }
        });
        let stopper = tokio::spawn(forward_stop(stop, orders.clone(), ended.clone()));
        let outcome = match self.engine(board.clone(), meter, orders) {
            Ok(mut engine) => {
                let outcome = engine.run().await;
                engine.end(&outcome);
                outcome
            }
            Err(error) => {
                board.explain(Some(&error));
                board.enter(State::Failed);
                Err(error)
            }
        };
        ended.cancel();
        let _ = (answering.await, stopper.await);
        outcome
    }

    fn engine(self, board: Board, meter: Arc<Meter>, orders: Orders) -> Result<Engine> {
        let throttle = Throttle::by_system_clock(self.config.bandwidth.clone());
        let sender = Sender::new(throttle, self.config.worker_count(), meter);
        let dialer = Dialer::new(&self.identity, self.token.receiver, self.config.proxy.clone())?;
        let before = self.folder.load();
        let pins = pins(&self.token.server);
        let mut disks = Vec::new();
        for (number, disk) in (0u16..).zip(self.machine.disks(&self.config.disks)?) {
            let attached = self.machine.attach(&disk.tracked, self.config.tracker(), &pins);
            let attached =
                attached.wrap_err(|| format!("follow the changes of {}", disk.tracked.name))?;
            let established =
                before.as_ref().and_then(|state| state.established.get(&disk.identity));
            disks.push(DiskSync::new(
                number,
                disk.clone(),
                attached,
                established.map(String::as_str),
            )?);
        }
        let mut course = Course::new();
        course.complete = disks.iter().all(DiskSync::is_resumed);
        let mut state = AgentState::after(before.as_ref());
        // Still so if this process ends before its first epoch does.
        for disk in disks.iter().filter(|disk| disk.is_resumed()) {
            state.establish(disk);
        }
        board.disks(&disks);
        Ok(Engine {
            config: self.config,
            machine: self.machine,
            identity: self.identity,
            token: self.token,
            dialer,
            folder: self.folder,
            board,
            sender,
            orders,
            disks,
            course,
            state,
            failed_cutovers: 0,
            gave_up: false,
            rolled_back: false,
            _lock: self.lock,
        })
    }
}

/// Where the trackers of `server` are pinned.
pub(super) fn pins(server: &str) -> PathBuf {
    // The kernel refuses names with dots there, and servers' names have no plus sign.
    Path::new("/sys/fs/bpf/carreto").join(server.replace('.', "+"))
}

async fn forward_stop(stop: CancellationToken, orders: Orders, ended: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => orders.change(|wishes| wishes.stop = true),
        () = ended.cancelled() => {}
    }
}

impl Engine {
    async fn run(&mut self) -> Result<Outcome> {
        if self.state.quiesced && !self.state.frozen {
            self.board.note("an earlier agent ended in a cutover: the hooks after it are run now");
            self.work_again().await;
        }
        let mut wait = Duration::from_millis(500);
        let mut first_time = true;
        loop {
            let outcome = self.connected(&mut first_time, &mut wait).await;
            match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(_) if self.rolled_back => {}
                // What a target does not hold as it was written is sent again.
                Err(error)
                    if matches!(error.kind(), Kind::Unavailable | Kind::Mismatch)
                        && !self.gave_up =>
                {
                    self.stall(&error);
                }
                Err(error) => return Err(error),
            }
            if let Some(end) = self.end_asked_for() {
                return Ok(end);
            }
            self.orders.wait(wait).await;
            wait = (wait * 2).min(PATIENCE);
        }
    }

    fn stall(&mut self, error: &Error) {
        self.board.explain(Some(error));
        self.board.enter(State::Stalled);
        self.save();
    }

    fn end_asked_for(&mut self) -> Option<Outcome> {
        let wishes = self.orders.wishes();
        if wishes.abort && wishes.cutover.is_some() {
            self.board.note("the cutover that was asked for is given up");
            self.hold_back_if_aborted();
            self.orders.change(|wishes| (wishes.cutover, wishes.abort) = (None, false));
            self.sender.meter.counts().failed_cutovers += 1;
        } else if wishes.abort {
            return Some(Outcome::Cancelled);
        }
        wishes.stop.then_some(Outcome::Stopped)
    }

    /// Connects and migrates until the connection breaks.
    async fn connected(&mut self, first_time: &mut bool, wait: &mut Duration) -> Result<Outcome> {
        let link = match self.connect().await {
            Ok(link) => link,
            Err(error) => {
                self.rolled_back = false;
                return Err(error);
            }
        };
        *wait = Duration::from_millis(500);
        if self.state.migration != link.welcome.migration {
            self.state.commit = Commit::Never;
        }
        link.welcome.migration.clone_into(&mut self.state.migration);
        self.board.migration(&link.welcome.migration);
        if let Some(certificate) = link.welcome.committed.clone() {
            return self.already_committed(&certificate);
        }
        // Whatever was asked before, the receiver has not done it and will not.
        self.state.commit = Commit::Never;
        if !*first_time {
            self.sender.meter.counts().reconnects += 1;
        }
        self.board.enter(State::Preflight);
        resume::disks(&link, &mut self.disks, *first_time).await?;
        *first_time = false;
        // What the receiver did not read back in an earlier session, it has to in this one.
        self.course.unchecked = self.granules();
        self.course.reading_back = ReadingBack::new();
        if !std::mem::take(&mut self.rolled_back) {
            self.board.explain(None);
        }
        let outcome = self.follow(&link).await;
        let wire = &self.sender.meter.wire_before;
        wire.fetch_add(link.sent(), std::sync::atomic::Ordering::Relaxed);
        self.board.wire(0);
        let last = Control::Status { report: Box::new(self.board.report()) };
        link.end(&last).await;
        outcome
    }

    /// Connects, whatever is ordered meanwhile.
    pub(super) async fn dial(&self) -> Result<Link> {
        let hello = Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            server: self.token.server.clone(),
            secret: Some(self.token.secret.to_text()),
            host: crate::host::facts().host_name,
            preflight: false,
        };
        Link::open(&self.dialer, &self.token.addresses, hello, self.config.streams).await
    }

    /// Connects, unless an order ends the agent.
    async fn connect(&self) -> Result<Link> {
        let interrupt = self.orders.interrupt();
        tokio::select! {
            connected = self.dial() => connected,
            () = ended(&self.orders, &interrupt) => {
                Err(Error::new(Kind::Unavailable, "the agent was told to end"))
            }
        }
    }

    /// Epoch after epoch, until the cutover or an order ends it.
    async fn follow(&mut self, link: &Link) -> Result<Outcome> {
        let (reports, orders) = (self.board.clone(), self.orders.clone());
        let telling = async move {
            loop {
                reports.wire(link.sent());
                let report = Box::new(reports.report());
                if link.say(&Control::Status { report }).await.is_err() {
                    // The end of the link is no end of a cutover, which may be over at the receiver.
                    return std::future::pending::<std::convert::Infallible>().await;
                }
                tokio::time::sleep(REPORT).await;
            }
        };
        tokio::select! {
            outcome = self.epochs(link) => outcome,
            never = telling => match never {},
            never = hurry(&orders, link) => match never {},
        }
    }

    async fn epochs(&mut self, link: &Link) -> Result<Outcome> {
        loop {
            link.check()?;
            if let Some(end) = self.end_asked_for() {
                return Ok(end);
            }
            if self.orders.wishes().paused {
                self.board.enter(State::Paused);
                self.wait(link, Duration::from_mins(1)).await;
                continue;
            }
            let epoch = self.epoch(link).await?;
            if epoch.stopped {
                continue;
            }
            self.establish();
            self.look_at_disks_at_times().await;
            if self.wants_cutover() {
                if let Some(outcome) = self.try_cutover(link).await? {
                    return Ok(outcome);
                }
                continue;
            }
            if self.is_close() {
                self.work_ahead(link).await?;
            }
            self.rest(link, &epoch).await;
        }
    }

    /// Waits for an order, or for the end of the link, at most `limit`.
    async fn wait(&self, link: &Link, limit: Duration) {
        tokio::select! {
            () = self.orders.wait(limit) => {}
            () = link.broken() => {}
        }
    }

    async fn rest(&self, link: &Link, epoch: &Epoch) {
        // A tracker that always says everything would keep the disks busy for nothing.
        let is_blind = self.disks.iter().any(DiskSync::is_blind);
        let least = if is_blind { (epoch.took * 3).max(Duration::from_secs(10)) } else { EPOCH };
        self.wait(link, least.saturating_sub(epoch.took)).await;
    }

    fn wants_cutover(&self) -> bool {
        let wanted = self.orders.wishes().cutover.is_some();
        let automatic = self.config.cutover.when == When::Ready
            && self.board.state() == State::Ready
            && !self.course.is_held_back
            && !self.board.is_warned()
            && self.course.put_off.is_none_or(|until| until <= Instant::now())
            && self.failed_cutovers < ATTEMPTS;
        self.course.complete && (wanted || automatic)
    }

    /// `None` when it was given up and the source works as before.
    async fn try_cutover(&mut self, link: &Link) -> Result<Option<Outcome>> {
        let outcome = self.cutover(link).await;
        if matches!(outcome, Ok(None)) {
            self.board.note("the cutover is put off: it would pause longer than is allowed");
            self.course.put_off = Some(Instant::now() + PUT_OFF);
            return Ok(None);
        }
        self.hold_back_if_aborted();
        self.orders.change(|wishes| {
            wishes.cutover = None;
            wishes.abort = false;
        });
        match outcome {
            Ok(certificate) => Ok(certificate.map(Outcome::Committed)),
            Err(error) => self.cutover_failed(link, error).map(|()| None),
        }
    }

    /// # Errors
    /// `error` where no other cutover is to be tried; the end of the link.
    fn cutover_failed(&mut self, link: &Link, error: Error) -> Result<()> {
        // What the operator gave up is no failure, nor is what the state tells all the time.
        let is_failure = error.kind() != Kind::Cancelled && !self.board.is_warned();
        self.failed_cutovers += u32::from(is_failure);
        self.course.put_off = Some(Instant::now() + retry_after(self.failed_cutovers));
        self.board.explain(Some(&error));
        // Whoever waits for the end sees the reason with the count.
        self.sender.meter.counts().failed_cutovers += 1;
        self.board.enter(State::RolledBack);
        self.save();
        let is_last = is_failure
            && self.config.cutover.when == When::Ready
            && self.failed_cutovers >= ATTEMPTS;
        self.gave_up |= is_last && error.kind() != Kind::Unavailable;
        if self.gave_up {
            return Err(error);
        }
        if error.kind() != Kind::Cancelled && link.check().is_ok() {
            // What a pass had begun may still arrive, and what this end believes of the target may
            // be wrong: on a new link both find out.
            link.abandon("the cutover failed");
            self.rolled_back = true;
        }
        link.check()
    }

    /// After a cutover that was ordered to be given up none begins by itself, until one is ordered.
    fn hold_back_if_aborted(&mut self) {
        self.course.is_held_back = self.orders.wishes().abort;
        if self.course.is_held_back && self.config.cutover.when == When::Ready {
            self.board.note("no cutover begins by itself any more, until one is ordered");
        }
    }

    /// Every disk was read once since its tracker works: a later process may go on from here.
    fn establish(&mut self) {
        for disk in &self.disks {
            self.state.establish(disk);
        }
        self.save();
    }

    /// Leaves the present state in the run folder. A failure changes what a later process knows,
    /// never what is right.
    pub(super) fn save(&mut self) {
        self.state.report = Some(self.board.report());
        if let Err(error) = self.folder.save(&self.state) {
            self.board.note(&format!("the state cannot be kept: {error}"));
        }
    }

    /// The last state, and no tracker where nothing is left to be tracked.
    fn end(mut self, outcome: &Result<Outcome>) {
        match outcome {
            Ok(Outcome::Committed(_)) => self.board.enter(State::Committed),
            Ok(Outcome::Cancelled) => self.board.enter(State::Cancelled),
            Ok(Outcome::Stopped) => {}
            Err(error) => {
                self.board.explain(Some(error));
                self.board.enter(State::Failed);
            }
        }
        self.board.disks(&self.disks);
        self.save();
        if matches!(outcome, Ok(Outcome::Committed(_) | Outcome::Cancelled)) {
            for disk in self.disks {
                let name = disk.name().to_owned();
                if let Err(error) = disk.tracker.detach() {
                    self.board.note(&format!("{name}: the tracker could not be removed: {error}"));
                }
            }
        }
    }
}

/// How long none is tried by itself after so many `failed` ones.
fn retry_after(failed: u32) -> Duration {
    RETRY.0 * RETRY.1.pow(failed.clamp(1, ATTEMPTS) - 1)
}

/// Breaks the link when it keeps the agent from ending as it was told.
async fn hurry(orders: &Orders, link: &Link) -> std::convert::Infallible {
    let mut asked = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let wishes = orders.wishes();
        asked = if wishes.abort || wishes.stop { asked + 1 } else { 0 };
        if asked == LAST_WORDS {
            link.abandon("the receiver did not answer while the agent was told to end");
        }
    }
}

/// Ends when an order ends the agent; a pause does not.
async fn ended(orders: &Orders, interrupt: &CancellationToken) {
    interrupt.cancelled().await;
    while !(orders.wishes().abort || orders.wishes().stop) {
        orders.wait(Duration::from_secs(1)).await;
    }
}
