//! What a cutover needs and can be done before it, so that little is left for the pause.
//!
//! The source is read as a whole, some of it with each epoch ([`DiskSync::begin_sweep`]); the
//! receiver reads back what it wrote, some of it between two epochs. What remains is the forecast.

use super::disk::DiskSync;
use super::epoch::{SHRINKS, follow};
use super::link::{Heard, Link, unexpected};
use super::meter::{Forecast, TELLING, USUAL_READ_RATE, USUAL_SEND_RATE};
use super::run::Engine;
use super::sweeping::PassFacts;
use crate::granule::GRANULE;
use crate::wire::Control;
use carreto_error::{Error, Kind, Result};
use std::time::{Duration, Instant};

/// Seconds that the receiver may read back before the next epoch.
const SLICE: f64 = 5.0;
/// Seconds that a sweep may add to an epoch.
const SWEEP: f64 = 1.0;
/// Epochs that make the rest small before a freeze: so many in any case, and so many at most.
const EPOCHS: (usize, usize) = (3, 20);
/// How often the receiver reads back and the rest is made small, at most.
const ROUNDS: usize = 4;
/// Between two looks at which disks the source has.
const LOOK: Duration = Duration::from_secs(20);
/// How long the receiver may take to end what nobody waits for any more.
const GRACE: Duration = Duration::from_secs(5);

fn bytes(granules: u64) -> f64 {
    granules as f64 * GRANULE as f64
}

/// Granules that take `seconds` at `rate`.
fn granules_within(seconds: f64, rate: f64) -> u64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what a u64 holds"
    )]
    let granules = (seconds * rate / bytes(1)).clamp(16.0, 1e9) as u64;
    granules
}

fn known_or_usual(rate: f64) -> f64 {
    if rate > 0.0 { rate } else { USUAL_READ_RATE }
}

impl Engine {
    fn read_rate(&self) -> f64 {
        known_or_usual(self.course.read_rate)
    }

    fn check_rate(&self) -> f64 {
        known_or_usual(self.course.check_rate)
    }

    /// Where all was sent by an earlier process, nobody knows how fast.
    fn send_rate(&self) -> f64 {
        let is_unknown = self.course.send_rate <= 0.0 && self.course.complete;
        if is_unknown { USUAL_SEND_RATE } else { self.course.send_rate }
    }

    /// Seconds that the receiver takes to read back all it has not since it was written.
    fn check_takes(&self) -> f64 {
        bytes(self.course.unchecked) / self.check_rate()
    }

    /// Granules that the sweep of one disk may add to an epoch.
    pub(super) fn sweep_share(&self) -> u64 {
        let sweeping = self.disks.iter().filter(|disk| disk.is_sweeping()).count() as u64;
        granules_within(SWEEP, self.read_rate()).div_ceil(sweeping.max(1))
    }

    /// Whether all of `disk` is read while everything stands still.
    fn is_read_whole(&self, disk: &DiskSync) -> bool {
        self.config.cutover.strict || disk.is_blind() || disk.distrust.is_some()
    }

    fn pass_facts(&self, disk: &DiskSync) -> PassFacts {
        let read_again = self.disks.iter().filter(|disk| !self.is_read_whole(disk)).count();
        PassFacts {
            size: bytes(disk.granules()),
            touched: bytes(disk.touched.len()),
            is_everywhere: disk.is_touched_everywhere(),
            since: disk.touched_for(),
            left: disk.left_by_sweep.map(bytes),
            change_rate: self.course.change.value(),
            read_rate: self.read_rate(),
            share: self.config.cutover.max_pause_seconds / 2.0 / read_again.max(1) as f64,
        }
    }

    /// Whether `disk` is read as a whole ahead, from now on.
    fn wants_sweep(&self, disk: &DiskSync) -> bool {
        !self.is_read_whole(disk)
            && !disk.is_sweeping()
            && self.pass_facts(disk).wants_sweep()
            && !disk.is_under_way_everywhere()
    }

    /// What a cutover would take that is ordered now.
    pub(super) fn forecast(&self) -> Forecast {
        self.foresee(false)
    }

    /// What a cutover takes; `prepared` if nothing is done before the freeze any more.
    fn foresee(&self, prepared: bool) -> Forecast {
        let strict = self.config.cutover.strict;
        let all = self.granules();
        let (mut left, mut to_read) = (0, 0.0);
        for disk in &self.disks {
            // What a blind one sends is known only once it is read.
            left += if disk.is_blind() { 0 } else { disk.dirty.len() };
            let facts = self.pass_facts(disk);
            to_read += if self.is_read_whole(disk) {
                facts.size
            } else if !prepared && facts.needs_pass() {
                facts.touched.min(facts.after_a_pass())
            } else {
                facts.touched
            };
        }
        // What changes while a blind disk is read is found only when it is read again.
        let is_blind = self.disks.iter().any(DiskSync::is_blind);
        let (change_rate, check_rate) = (self.course.change.value(), self.check_rate());
        // The rest is read back before the freeze, and what is sent meanwhile during it.
        let unchecked = bytes(self.course.unchecked);
        let meanwhile = change_rate * (unchecked / check_rate).min(SLICE);
        let to_check = if prepared { unchecked } else { unchecked.min(meanwhile) };
        Forecast {
            backlog: bytes(left),
            change_rate,
            send_rate: self.send_rate(),
            epoch: if is_blind { self.course.took } else { self.course.lag },
            to_read,
            read_rate: self.read_rate(),
            to_check: if strict { bytes(all) } else { to_check },
            check_rate,
        }
    }

    /// Whether hardly anything is to be done between the order to cut over and the freeze.
    pub(super) fn is_prepared(&self) -> bool {
        let limit = self.config.cutover.max_pause_seconds;
        let reads = self
            .disks
            .iter()
            .any(|disk| !self.is_read_whole(disk) && self.pass_facts(disk).is_helped());
        !reads && self.check_takes() <= limit
    }

    /// Does some of what a cutover would have to do first.
    pub(super) async fn work_ahead(&mut self, link: &Link) -> Result<()> {
        for index in 0..self.disks.len() {
            if self.wants_sweep(&self.disks[index]) {
                let name = self.disks[index].name().to_owned();
                self.board.note(&format!("{name}: the disk is read once more, ahead of a cutover"));
                self.disks[index].begin_sweep();
            }
        }
        let limit = self.config.cutover.max_pause_seconds;
        if self.course.reading_back.begin_if_due(self.check_takes(), limit) {
            self.board.note("the receiver reads back what it wrote, ahead of a cutover");
        }
        if !self.course.reading_back.is_active() {
            return Ok(());
        }
        let outcome = self.read_back(link).await;
        let takes = self.check_takes();
        self.course.reading_back.did_some(takes, limit);
        match outcome {
            // Whoever asked for it is answered by the next round.
            Err(error) if error.kind() == Kind::Cancelled => link.check(),
            outcome => outcome,
        }
    }

    /// Makes what is left for the freeze small, while the source works.
    pub(super) async fn approach(&mut self, link: &Link, strict: bool) -> Result<()> {
        self.board.note("a cutover is being prepared");
        self.preparing("what changed is sent");
        self.look_at_disks().await?;
        self.expect_free_run_folder().await?;
        self.disks.iter_mut().try_for_each(DiskSync::expect_counters)?;
        self.begin_passes(strict);
        self.epoch(link).await?;
        let mut before = f64::INFINITY;
        for _ in 0..ROUNDS {
            self.read_all_back(link).await?;
            // What is computed now need not be while everything stands still.
            self.roots().await?;
            self.run_down(link).await?;
            let pause = self.foresee(true).pause().unwrap_or(f64::INFINITY);
            if pause <= self.config.cutover.max_pause_seconds || pause > before * SHRINKS {
                break;
            }
            before = pause;
        }
        self.give_up_if_asked()
    }

    /// Whether the pause of a cutover would be as short as it has to be.
    pub(super) fn would_be_short(&self) -> bool {
        let limit = self.config.cutover.max_pause_seconds;
        self.foresee(true).pause().is_some_and(|pause| pause <= limit)
    }

    fn preparing(&self, what: &str) {
        self.board.prepare(Some(format!("a cutover is being prepared: {what}")));
    }

    /// Reads disks as a whole, of which too much would be read during the freeze.
    fn begin_passes(&mut self, strict: bool) {
        if strict {
            return;
        }
        for index in 0..self.disks.len() {
            let disk = &self.disks[index];
            let is_due = self.pass_facts(disk).needs_pass();
            let (is_sweeping, is_trusted) = (disk.is_sweeping(), disk.distrust.is_none());
            if disk.is_blind() || (is_trusted && !is_due) || !(is_sweeping || is_trusted) {
                continue;
            }
            self.preparing("the disks are read once more");
            let disk = &mut self.disks[index];
            if is_sweeping {
                disk.sweep_on(u64::MAX);
            } else {
                disk.begin_whole_pass();
            }
        }
    }

    /// Has the receiver read back what it wrote, and sends what changes meanwhile.
    async fn read_all_back(&mut self, link: &Link) -> Result<()> {
        let mut before = u64::MAX;
        loop {
            self.give_up_if_asked()?;
            let left = self.course.unchecked * GRANULE / 1_000_000;
            self.preparing(&format!("the receiver reads back what it wrote, {left} MB are left"));
            self.read_back(link).await?;
            if self.course.unchecked == 0 || self.course.unchecked >= before {
                return Ok(());
            }
            before = self.course.unchecked;
            self.epoch(link).await?;
        }
    }

    /// Epochs, each of which leaves less to the next.
    async fn run_down(&mut self, link: &Link) -> Result<()> {
        if self.disks.iter().all(DiskSync::is_blind) {
            return Ok(());
        }
        self.preparing("what changed is sent");
        let enough = self.config.cutover.max_pause_seconds / 4.0;
        let mut before = f64::INFINITY;
        for round in 1..=EPOCHS.1 {
            self.give_up_if_asked()?;
            let took = self.epoch(link).await?.took.as_secs_f64();
            let is_enough = took <= enough || took > before * SHRINKS;
            if took < 0.3 || (round >= EPOCHS.0 && is_enough) {
                break;
            }
            before = took;
        }
        Ok(())
    }

    /// Has the receiver read back some of what it has not yet.
    pub(super) async fn read_back(&mut self, link: &Link) -> Result<()> {
        // Enough to learn from, so that what was slow once is found to be fast again.
        let most = granules_within(SLICE, self.check_rate()).max(TELLING);
        self.check_targets(link, false, Some(most)).await.map(|_| ())
    }

    /// Lets the receiver read its disks back, `most` granules of what it has not yet, and gives
    /// their roots.
    pub(super) async fn check_targets(
        &mut self,
        link: &Link,
        everything: bool,
        most: Option<u64>,
    ) -> Result<Vec<String>> {
        let interrupt = self.orders.interrupt();
        link.say(&Control::Check { everything, most }).await?;
        // The source may stand still while all is read.
        let grace = if most.is_some() { GRACE } else { Duration::ZERO };
        let given_up = async {
            interrupt.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        let mut given_up = std::pin::pin!(given_up);
        loop {
            let heard = tokio::select! {
                heard = link.hear() => heard?,
                () = &mut given_up => {
                    // The only way to end what the receiver does.
                    link.abandon("the check of the targets was given up");
                    return Err(super::cutover::given_up());
                }
            };
            match heard {
                Heard::Control(Control::Ping | Control::Checking { .. }) => {}
                Heard::Control(Control::Checked { roots, left, read, millis }) => {
                    self.course.unchecked = left.min(self.granules());
                    if read >= TELLING {
                        let seconds = (millis as f64 / 1000.0).max(0.001);
                        follow(&mut self.course.check_rate, bytes(read) / seconds);
                    }
                    self.sender.blocks.flushed();
                    return Ok(roots);
                }
                other => return Err(unexpected(other.name())),
            }
        }
    }

    /// Tells at times when a disk comes, goes or grows, and not only when a cutover is refused.
    pub(super) async fn look_at_disks_at_times(&mut self) {
        if self.course.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            // It is shown, and refuses the cutover.
            let _ = self.look_at_disks().await;
        }
    }

    /// Shows whether a disk came, went or grew.
    ///
    /// # Errors
    /// That one did, for which a cutover is refused.
    async fn look_at_disks(&mut self) -> Result<()> {
        self.course.looked = Some(Instant::now());
        let outcome = self.expect_same_disks().await;
        self.board.warn(outcome.as_ref().err().map(refusal));
        outcome
    }
}

fn refusal(error: &Error) -> String {
    let why = carreto_error::chain_text(error);
    format!("a cutover would be refused: {why}; {}", error.remedy())
}
