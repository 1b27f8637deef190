//! The cutover: hold still, send the rest, prove, commit; or thaw.

use super::config::After;
use super::link::{Link, unexpected};
use super::machine::Freezing;
use super::run::Engine;
use super::seal::Proof;
use crate::granule::{GRANULE, GranuleSet};
use crate::host;
use crate::state::{CutoverReport, State};
use crate::trust::hex;
use carreto_error::{Error, Kind, Result};
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rounds in which what still changes while everything is frozen may settle.
const ROUNDS: usize = 20;
/// Proofs that lost trust may ask for.
const PROOFS: usize = 3;
/// How long requests that are under way may take.
const SETTLE: Duration = Duration::from_secs(30);

/// A freeze that is renewed as long as the receiver is there.
pub(super) struct Held {
    freezing: Arc<Mutex<Box<dyn Freezing>>>,
    since: Instant,
    pub(super) at: Timestamp,
}

impl Held {
    /// What the freeze says, from a thread that may block.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Freezing) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let freezing = Arc::clone(&self.freezing);
        blocking(move || {
            let mut freezing = freezing.lock().unwrap_or_else(PoisonError::into_inner);
            work(freezing.as_mut())
        })
        .await
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| Error::new(Kind::Internal, format!("a thread died: {error}")))?
}

/// How long the steps took.
#[derive(Default)]
struct Steps {
    last: Option<Instant>,
    taken: Vec<(String, f64)>,
}

impl Steps {
    fn done(&mut self, name: &str) {
        if let Some(last) = self.last.replace(Instant::now()) {
            self.taken.push((name.to_owned(), last.elapsed().as_secs_f64()));
        }
    }
}

impl Engine {
    /// Cuts over and gives the certificate's place. `None`, with nothing frozen, when nobody ordered
    /// it and the pause would be longer than is allowed.
    ///
    /// # Errors
    /// Whatever stood in the way; the source works as before then.
    pub(super) async fn cutover(&mut self, link: &Link) -> Result<Option<PathBuf>> {
        let approached = self.approach(link, self.is_strict()).await;
        self.board.prepare(None);
        approached?;
        // What was ordered meanwhile counts; from this state on, orders that come too late are refused.
        if self.orders.wishes().cutover.is_none() && !self.would_be_short() {
            return Ok(None);
        }
        self.board.enter(State::Quiescing);
        let strict = self.is_strict();
        self.state.quiesced = true;
        self.save();
        let quiet = self.hooks("before", self.config.hooks.before.clone()).await;
        let outcome = match quiet.and(self.give_up_if_asked()) {
            Ok(()) => match self.freeze().await {
                Ok(held) => self.frozen(link, strict, held).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if outcome.is_err() || self.config.cutover.after == After::Thaw {
            self.work_again().await;
        }
        outcome.map(Some)
    }

    /// Whether everything is to be read while it stands still.
    fn is_strict(&self) -> bool {
        self.orders.wishes().cutover.unwrap_or(false) || self.config.cutover.strict
    }

    /// Runs the hooks after a thaw. A failure is told, and changes nothing.
    pub(super) async fn work_again(&mut self) {
        let after = self.hooks("after", self.config.hooks.after.clone()).await;
        if let Err(error) = after {
            self.board.note(&format!("a hook failed: {}", carreto_error::chain_text(&error)));
        }
        self.state.quiesced = false;
        self.save();
    }

    pub(super) fn give_up_if_asked(&self) -> Result<()> {
        let wishes = self.orders.wishes();
        if wishes.abort || wishes.stop || wishes.paused {
            return Err(given_up());
        }
        Ok(())
    }

    async fn hooks(&self, stage: &'static str, commands: Vec<String>) -> Result<()> {
        let limit = Duration::from_secs(self.config.hooks.limit_seconds);
        blocking(move || host::run_hooks(stage, &commands, limit)).await.map(|_| ())
    }

    async fn freeze(&self) -> Result<Held> {
        let (machine, lease) = (Arc::clone(&self.machine), self.config.lease());
        let disks: Vec<_> = self.disks.iter().map(|disk| disk.machine.clone()).collect();
        let mut freezing = blocking(move || machine.prepare_freeze(&disks, lease)).await?;
        let (since, at) = (Instant::now(), Timestamp::now());
        let freezing = blocking(move || freezing.freeze().map(|()| freezing)).await?;
        Ok(Held { freezing: Arc::new(Mutex::new(freezing)), since, at })
    }

    /// Everything that happens while the source stands still. Thaws, unless it is committed and
    /// should stay frozen.
    async fn frozen(&mut self, link: &Link, strict: bool, held: Held) -> Result<PathBuf> {
        let lease = self.config.lease();
        let renewing = renew(link, Arc::clone(&held.freezing), lease);
        let proving = async {
            let outcome = self.prove_and_commit(link, strict, &held).await;
            (outcome, self)
        };
        let (outcome, engine) = tokio::select! {
            (outcome, engine) = proving => (outcome, engine),
            never = renewing => match never {},
        };
        engine.let_go(held, outcome).await
    }

    async fn prove_and_commit(
        &mut self,
        link: &Link,
        strict: bool,
        held: &Held,
    ) -> Result<(PathBuf, CutoverReport)> {
        let mut steps = Steps { last: Some(held.since), taken: Vec::new() };
        steps.done("freeze");
        self.board.enter(State::FinalSync);
        let volatile = self.volatile();
        let mut proof = Proof {
            strict,
            rehashed: vec![0; self.disks.len()],
            sent: vec![0; self.disks.len()],
            unfrozen: held.with(|freezing| Ok(tellable(&freezing.unfrozen()))).await?,
        };
        self.settle_down(link, &volatile, &mut proof).await?;
        steps.done("drain");
        self.board.enter(State::Verifying);
        let mut missed = self.prove(link, &volatile, &mut proof).await?;
        steps.done("hash");
        missed += self.check_while_still(link, strict, &volatile, &mut proof).await?;
        steps.done("check");
        held.with(|freezing| freezing.renew()).await?;
        self.give_up_if_asked()?;
        let certificate = self.certificate(&proof, held.at, held.since.elapsed())?;
        let path = self.commit(link, &certificate).await?;
        steps.done("commit");
        // What cannot be frozen may have been written while the receiver completed its disks.
        match self.stood_still(&volatile).await {
            Ok(true) => {}
            Ok(false) => return Err(self.parted(held.at)),
            Err(error) => return Err(self.parted(held.at).caused_by(error)),
        }
        let report = CutoverReport {
            pause_seconds: held.since.elapsed().as_secs_f64(),
            steps: steps.taken,
            compared_granules: proof.rehashed.iter().sum(),
            sent_granules: proof.sent.iter().sum(),
            missed_granules: missed,
            strict: proof.strict,
            unfrozen: proof.unfrozen,
            certificate: Some(path.display().to_string()),
        };
        Ok((path, report))
    }

    /// Reads again what may differ until nothing new is known to be written, and says how much of
    /// it the tracker had missed.
    async fn prove(
        &mut self,
        link: &Link,
        volatile: &[GranuleSet],
        proof: &mut Proof,
    ) -> Result<u64> {
        let mut missed = 0;
        for _ in 0..PROOFS {
            self.disks.iter_mut().for_each(super::disk::DiskSync::begin_proof);
            let trusted: Vec<bool> =
                self.disks.iter().map(super::disk::DiskSync::is_proved_by_tracking).collect();
            missed += self.rehash(link, volatile, proof).await?;
            self.settle_down(link, volatile, proof).await?;
            // Trust that was lost meanwhile asks for the whole disk.
            let lost = |(disk, was): (&super::disk::DiskSync, &bool)| {
                *was && !disk.is_proved_by_tracking()
            };
            if !self.disks.iter().zip(&trusted).any(lost) {
                return Ok(missed);
            }
        }
        let text = "tracking loses something although every file system is frozen";
        Err(Error::new(Kind::SourceChanged, text)
            .remedied_by("stop what writes to the disks directly, then cut over again"))
    }

    /// Has the receiver read back what it has not yet, or everything, and compares, until nothing was
    /// written to the source meanwhile. Says how much the tracker had missed.
    async fn check_while_still(
        &mut self,
        link: &Link,
        mut everything: bool,
        volatile: &[GranuleSet],
        proof: &mut Proof,
    ) -> Result<u64> {
        let mut missed = 0;
        for _ in 0..PROOFS {
            let theirs = self.check_targets(link, everything, None).await?;
            self.compare(&theirs).await?;
            if self.stood_still(volatile).await? {
                return Ok(missed);
            }
            // What was read back counts until it is written again.
            everything = false;
            missed += self.prove(link, volatile, proof).await?;
        }
        Err(still_written())
    }

    /// Whether nothing was written to the source since it was read for the proof, or since this was
    /// asked last.
    async fn stood_still(&mut self, volatile: &[GranuleSet]) -> Result<bool> {
        self.wait_for_requests(volatile).await?;
        let mut still = true;
        for (disk, volatile) in self.disks.iter_mut().zip(volatile) {
            still &= disk.stood_still(volatile)?;
        }
        Ok(still)
    }

    /// A disk that came, went or grew since the start is not what was agreed on.
    pub(super) async fn expect_same_disks(&self) -> Result<()> {
        let (machine, wished) = (Arc::clone(&self.machine), self.config.disks.clone());
        let now = blocking(move || machine.disks(&wished)).await?;
        let mut before: Vec<_> = self.disks.iter().map(|disk| describe(&disk.machine)).collect();
        let mut now: Vec<_> = now.iter().map(describe).collect();
        before.sort();
        now.sort();
        if before == now {
            return Ok(());
        }
        let text = format!("the disks were {} and are {}", before.join(", "), now.join(", "));
        Err(Error::new(Kind::SourceChanged, text).remedied_by(format!(
            "name the disks in the configuration; or, if the change is meant, give the new disks \
             targets, and {}",
            crate::remedy::BEGIN_ANEW
        )))
    }

    /// What the agent writes while everything is frozen must not be on what is frozen.
    pub(super) async fn expect_free_run_folder(&self) -> Result<()> {
        let (machine, folder) = (Arc::clone(&self.machine), self.folder.path().to_owned());
        let disks: Vec<_> = self.disks.iter().map(|disk| disk.machine.clone()).collect();
        let name = folder.display().to_string();
        if !blocking(move || machine.would_freeze(&disks, &folder)).await? {
            return Ok(());
        }
        let text = "it would be frozen, and the agent writes there meanwhile";
        Err(Error::new(Kind::Usage, text)
            .path(name)
            .remedied_by("set `run` to a folder in memory, such as /run/carreto"))
    }

    /// Granules of swap, of each disk: they change although everything is frozen, and nobody needs
    /// them.
    fn volatile(&self) -> Vec<GranuleSet> {
        let disks: Vec<_> = self.disks.iter().map(|disk| disk.machine.clone()).collect();
        let ranges = self.machine.volatile(&disks);
        let of = |disk: &super::disk::DiskSync| {
            let mut set = GranuleSet::empty(disk.granules());
            for (_, range) in ranges.iter().filter(|(name, _)| name == disk.name()) {
                set.insert_range(range.start().div_ceil(GRANULE), range.end() / GRANULE);
            }
            set
        };
        self.disks.iter().map(of).collect()
    }

    /// Sends what is still being written, until nothing is.
    async fn settle_down(
        &mut self,
        link: &Link,
        volatile: &[GranuleSet],
        proof: &mut Proof,
    ) -> Result<()> {
        self.wait_for_requests(volatile).await?;
        for _ in 0..ROUNDS {
            self.give_up_if_asked()?;
            let mut suspects = Vec::new();
            for disk in &mut self.disks {
                // A blind one is read as a whole afterwards, which says the same once.
                let drain = if disk.is_blind() { disk.look()? } else { disk.drain()? };
                if let Some(reason) = drain.suspect {
                    suspects.push(format!("{}: {reason}", disk.name()));
                    disk.doubt(reason);
                }
            }
            self.sender.meter.counts().suspect_epochs += suspects.len() as u64;
            let is_quiet = self.disks.iter().zip(volatile).all(|(disk, volatile)| {
                let mut rest = disk.dirty.clone();
                rest.subtract(volatile);
                rest.is_empty()
            });
            let interrupt = self.orders.interrupt();
            let passed = self.pass(link, &interrupt).await?;
            for (sum, passed) in proof.sent.iter_mut().zip(&passed) {
                *sum += passed.sent;
            }
            if is_quiet {
                return Ok(());
            }
        }
        Err(still_written())
    }

    /// Waits until no write is under way: it could end after its place was read. Those of a disk
    /// with swap, of which there may always be some, are waited for and not insisted on.
    async fn wait_for_requests(&mut self, volatile: &[GranuleSet]) -> Result<()> {
        let begun = Instant::now();
        loop {
            let (mut in_flight, mut stuck) = (0, None);
            for (disk, volatile) in self.disks.iter_mut().zip(volatile) {
                let writes = disk.in_flight()?;
                in_flight += writes;
                if writes > 0 && volatile.is_empty() {
                    stuck = Some(format!("{}: {writes} writes are still under way", disk.name()));
                }
            }
            if in_flight == 0 {
                return Ok(());
            }
            if begun.elapsed() > SETTLE {
                return stuck.map_or(Ok(()), |text| {
                    Err(Error::new(Kind::Timeout, text)
                        .remedied_by("see whether the disk works, then cut over again"))
                });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Reads again what was written since the last whole pass, or everything, and says how much of
    /// it the tracker had missed.
    async fn rehash(
        &mut self,
        link: &Link,
        volatile: &[GranuleSet],
        proof: &mut Proof,
    ) -> Result<u64> {
        let strict = proof.strict;
        let is_whole = |disk: &super::disk::DiskSync| strict || !disk.is_proved_by_tracking();
        proof.strict = self.disks.iter().all(is_whole);
        let all = |disk: &super::disk::DiskSync| GranuleSet::full(disk.granules());
        let set = |disk| if is_whole(disk) { all(disk) } else { disk.touched.clone() };
        let sets: Vec<GranuleSet> = self.disks.iter().map(set).collect();
        let passed = self.pass_over(link, &sets).await?;
        if passed.iter().any(|passed| passed.stopped) {
            return Err(given_up());
        }
        let mut missed = 0;
        for (index, passed) in passed.iter().enumerate() {
            proof.rehashed[index] += passed.done.len();
            proof.sent[index] += passed.sent;
            if volatile[index].is_empty() && !self.disks[index].is_blind() {
                missed += passed.changed;
            }
        }
        self.sender.meter.counts().missed_granules += missed;
        Ok(missed)
    }

    /// What the receiver has according to this side.
    pub(super) async fn roots(&self) -> Result<Vec<Option<String>>> {
        let disks: Vec<_> = self.disks.iter().map(|disk| Arc::clone(&disk.shared)).collect();
        let root = |disk: &Arc<super::disk::Shared>| Some(hex::encode(&disk.compute_root()?));
        blocking(move || Ok(disks.iter().map(root).collect())).await
    }

    async fn compare(&self, theirs: &[String]) -> Result<()> {
        let ours = self.roots().await?;
        if theirs.len() != ours.len() {
            return Err(unexpected("the roots of other disks"));
        }
        for ((disk, ours), theirs) in self.disks.iter().zip(ours).zip(theirs) {
            if ours.as_ref() != Some(theirs) {
                let ours = ours.unwrap_or_else(|| "unknown".to_owned());
                let text = format!("the source's BLAKE3 is {ours}, the target's is {theirs}");
                return Err(Error::new(Kind::Mismatch, text)
                    .path(disk.name().to_owned())
                    .remedied_by("cut over again with --strict"));
            }
        }
        Ok(())
    }
}

fn still_written() -> Error {
    let text = "the disks are still written although every file system is frozen";
    Error::new(Kind::SourceChanged, text).remedied_by(
        "stop what writes to the disks directly, and swap to no file or volume on them (swapoff \
         in hooks.before), then cut over again",
    )
}

pub(super) fn given_up() -> Error {
    Error::new(Kind::Cancelled, "the cutover was given up by the operator")
}

/// Mount points, as they may stand in a certificate: bounded, and safe on a terminal.
fn tellable(mounts: &[String]) -> Vec<String> {
    let tell = |mount: &String| mount.chars().flat_map(char::escape_debug).take(250).collect();
    mounts.iter().map(tell).take(1000).collect()
}

fn describe(disk: &super::machine::MachineDisk) -> String {
    format!("{} ({}, {} bytes)", disk.tracked.name, disk.identity, disk.tracked.size)
}

/// Renews the lease while the receiver gives signs of life. Never ends by itself: a lease that is
/// not renewed thaws the source.
async fn renew(
    link: &Link,
    freezing: Arc<Mutex<Box<dyn Freezing>>>,
    lease: Duration,
) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(lease / 8).await;
        if link.silence() < lease / 3 {
            let freezing = Arc::clone(&freezing);
            let renewed =
                blocking(move || freezing.lock().unwrap_or_else(PoisonError::into_inner).renew());
            // A freeze that is lost is found before the commit.
            let _ = renewed.await;
        }
    }
}
