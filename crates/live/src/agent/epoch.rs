//! One round: what changed is read, compared and sent.

use super::disk::DiskSync;
use super::link::Link;
use super::meter::{Forecast, Rate, TELLING};
use super::pass::Passed;
use super::reading_back::ReadingBack;
use super::run::Engine;
use crate::granule::{GRANULE, GranuleSet};
use crate::state::State;
use carreto_error::Result;
use futures_util::future::try_join_all;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Whole passes in a row that an audit may ask for before tracking is given up for the cutover.
const VAIN_RESCANS: u32 = 2;
/// Epochs without complaint after which rescans may be asked for again.
const CALM: u32 = 20;
/// An epoch that takes less is close behind.
const CLOSE: Duration = Duration::from_secs(5);
/// An epoch that takes less than this of the one before brings the target nearer.
pub(super) const SHRINKS: f64 = 0.95;

/// What the engine remembers from epoch to epoch.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) change: Rate,
    marked: u64,
    /// Bytes per second that are read, compared and sent, where most of it is sent.
    pub(super) send_rate: f64,
    /// Whether it was learned from what was sent.
    knows_line: bool,
    /// Bytes per second that are read and compared, where hardly anything is sent.
    pub(super) read_rate: f64,
    /// Bytes per second that the receiver reads back.
    pub(super) check_rate: f64,
    /// Seconds for which what is sent in the last epoch kept the line busy.
    pub(super) lag: f64,
    /// Seconds that it took.
    pub(super) took: f64,
    /// Epochs in a row in which as much changed as was sent.
    losing: u32,
    calm: u32,
    /// Every disk was read once.
    pub(super) complete: bool,
    /// Granules that the receiver has not read back since they were written, at most.
    pub(super) unchecked: u64,
    pub(super) reading_back: ReadingBack,
    /// Before this, nothing is cut over that nobody ordered.
    pub(super) put_off: Option<Instant>,
    /// No cutover begins that nobody orders: the operator gave one up.
    pub(super) is_held_back: bool,
    /// When the source's disks were looked for.
    pub(super) looked: Option<Instant>,
}

impl Course {
    pub(super) const fn new() -> Self {
        Self {
            change: Rate::new(),
            marked: 0,
            send_rate: 0.0,
            knows_line: false,
            read_rate: 0.0,
            check_rate: 0.0,
            lag: 0.0,
            took: 0.0,
            losing: 0,
            calm: 0,
            complete: false,
            unchecked: 0,
            reading_back: ReadingBack::new(),
            put_off: None,
            is_held_back: false,
            looked: None,
        }
    }
}

/// What one epoch did.
#[derive(Debug, Default)]
pub(super) struct Epoch {
    pub(super) marked: u64,
    pub(super) sent: u64,
    pub(super) took: Duration,
    pub(super) stopped: bool,
}

impl Engine {
    /// Drains the trackers and sends what changed.
    pub(super) async fn epoch(&mut self, link: &Link) -> Result<Epoch> {
        let begun = Instant::now();
        let mut marked = self.drain()?;
        let share = self.sweep_share();
        self.disks.iter_mut().for_each(|disk| disk.sweep_on(share));
        self.board.disks(&self.disks);
        self.enter_sending_state();
        let before = self.sender.meter.read.load(Ordering::Relaxed);
        let interrupt = self.orders.interrupt();
        let backlog: u64 = self.disks.iter().map(|disk| disk.dirty.len()).sum();
        let passed = self.pass(link, &interrupt).await?;
        let took = begun.elapsed();
        if self.course.complete {
            // Everything is marked where nothing is followed; what changed shows when it is read.
            let blind = self.disks.iter().zip(&passed).filter(|(disk, _)| disk.is_blind());
            marked += blind.map(|(_, passed)| passed.sent).sum::<u64>();
        }
        let epoch = Epoch {
            marked,
            sent: passed.iter().map(|passed| passed.sent).sum(),
            stopped: passed.iter().any(|passed| passed.stopped),
            took,
        };
        self.course.unchecked = (self.course.unchecked + epoch.sent).min(self.granules());
        let read = self.sender.meter.read.load(Ordering::Relaxed) - before;
        self.learn(&epoch, backlog, read);
        self.board.wire(link.sent());
        self.board.disks(&self.disks);
        Ok(epoch)
    }

    /// Granules of all disks.
    pub(super) fn granules(&self) -> u64 {
        self.disks.iter().map(DiskSync::granules).sum()
    }

    /// Gives how many granules were marked.
    fn drain(&mut self) -> Result<u64> {
        let mut marked = 0;
        let mut complaints = Vec::new();
        for disk in &mut self.disks {
            let drain = disk.drain()?;
            marked += if disk.is_blind() { 0 } else { drain.marked };
            if let Some(reason) = drain.suspect {
                complaints.push(distrust(disk, reason, self.course.complete));
            }
            if disk.dirty.len() == disk.granules() && disk.distrust.is_none() {
                disk.begin_whole_pass();
            }
        }
        let mut counts = self.sender.meter.counts();
        counts.epochs += 1;
        counts.suspect_epochs += complaints.len() as u64;
        counts.rescans += complaints.iter().filter(|complaint| complaint.rescans).count() as u64;
        drop(counts);
        self.course.calm = if complaints.is_empty() { self.course.calm + 1 } else { 0 };
        if self.course.calm >= CALM {
            self.trust_again();
        }
        if complaints.iter().any(|complaint| complaint.rescans) && self.course.complete {
            self.board.enter(State::Rescan);
        }
        for complaint in &complaints {
            self.board.note(&complaint.text);
        }
        Ok(marked)
    }

    /// Tracking that told of no loss for long may be trusted, once the disk was read with it.
    fn trust_again(&mut self) {
        for disk in &mut self.disks {
            disk.vain_rescans = 0;
            if disk.distrust.is_some() && !disk.is_sweeping() && !disk.is_blind() {
                let name = disk.name();
                self.board
                    .note(&format!("{name}: tracking works again; the disk is read once more"));
                disk.begin_sweep();
            }
        }
    }

    /// Sends what is dirty, all disks at a time.
    pub(super) async fn pass(
        &mut self,
        link: &Link,
        interrupt: &CancellationToken,
    ) -> Result<Vec<Passed>> {
        let passes = self
            .disks
            .iter()
            .map(|disk| self.sender.pass(link, &disk.shared, &disk.dirty, interrupt));
        let passed = try_join_all(passes).await?;
        for (disk, passed) in self.disks.iter_mut().zip(&passed) {
            disk.settle(&passed.done)?;
        }
        Ok(passed)
    }

    /// Reads `sets` once more; what differs is sent.
    pub(super) async fn pass_over(
        &mut self,
        link: &Link,
        sets: &[GranuleSet],
    ) -> Result<Vec<Passed>> {
        let interrupt = self.orders.interrupt();
        let passes = self
            .disks
            .iter()
            .zip(sets)
            .map(|(disk, set)| self.sender.pass(link, &disk.shared, set, &interrupt));
        try_join_all(passes).await
    }

    fn enter_sending_state(&self) {
        let backlog: u64 = self.disks.iter().map(|disk| disk.dirty.len()).sum();
        if !self.course.complete {
            self.board.enter(State::InitialSync);
        } else if matches!(
            self.board.state(),
            State::Registered
                | State::Preflight
                | State::Stalled
                | State::Paused
                | State::RolledBack
        ) {
            self.board.enter(if backlog == 0 { State::Continuous } else { State::CatchingUp });
        }
    }

    /// Draws the conclusions from an epoch.
    fn learn(&mut self, epoch: &Epoch, backlog: u64, read: u64) {
        let (seconds, course) = (epoch.took.as_secs_f64().max(0.001), &mut self.course);
        course.marked += epoch.marked * GRANULE;
        course.change.at(Instant::now(), course.marked);
        // The line limits what is sent, and the disk what is only compared.
        if read >= TELLING * GRANULE && epoch.sent * GRANULE <= read / 8 {
            follow(&mut course.read_rate, read as f64 / seconds);
        }
        let is_sending = epoch.sent >= backlog / 2;
        let present = (backlog * GRANULE) as f64 / seconds;
        if backlog * GRANULE >= 1 << 20 && is_sending && course.knows_line {
            follow(&mut course.send_rate, present);
        } else if backlog * GRANULE >= 1 << 20 && (is_sending || course.send_rate == 0.0) {
            // What was only compared says something as long as nothing better is known.
            (course.send_rate, course.knows_line) = (present, is_sending);
        }
        if epoch.stopped {
            return;
        }
        let was_complete = std::mem::replace(&mut course.complete, true);
        let lag = course.lag_of(epoch, is_sending);
        let before = std::mem::replace(&mut course.lag, lag);
        course.took = epoch.took.as_secs_f64();
        let is_losing = was_complete && is_losing(before, course.lag, epoch.took);
        course.losing = if is_losing { course.losing + 1 } else { 0 };
        let forecast = self.forecast();
        self.board.forecast(&forecast);
        self.board.enter(self.following_state(&forecast));
    }

    fn following_state(&self, forecast: &Forecast) -> State {
        let limit = self.config.cutover.max_pause_seconds;
        let is_short = forecast.pause().is_some_and(|pause| pause <= limit);
        if self.course.losing >= 3 {
            State::NotConverging
        } else if !self.is_close() {
            State::CatchingUp
        } else if is_short && self.is_prepared() {
            State::Ready
        } else {
            State::Continuous
        }
    }

    /// Whether the target was close behind when the last epoch ended.
    pub(super) fn is_close(&self) -> bool {
        self.course.lag <= CLOSE.as_secs_f64()
    }
}

impl Course {
    /// Seconds for which `epoch` kept the line busy. One that was mostly reading says little about
    /// how far the target is behind.
    fn lag_of(&self, epoch: &Epoch, is_sending: bool) -> f64 {
        let took = epoch.took.as_secs_f64();
        if is_sending || self.send_rate <= 0.0 {
            return took;
        }
        // What changed meanwhile is sent by the next one.
        let due = self.change.value() * took;
        took.min(((epoch.sent * GRANULE) as f64).max(due) / self.send_rate)
    }
}

/// Whether an epoch that kept the line busy for `lag` seconds of `took` has not become shorter than
/// the one `before`: as much comes as goes.
fn is_losing(before: f64, lag: f64, took: Duration) -> bool {
    lag > CLOSE.as_secs_f64() && lag > before * SHRINKS && lag >= took.as_secs_f64() / 2.0
}

/// Lets `rate` follow what it is at `present`.
pub(super) fn follow(rate: &mut f64, present: f64) {
    *rate = if *rate == 0.0 { present } else { *rate * 0.7 + present * 0.3 };
}

struct Complaint {
    text: String,
    rescans: bool,
}

fn distrust(disk: &mut DiskSync, reason: String, complete: bool) -> Complaint {
    let name = disk.name().to_owned();
    if disk.vain_rescans >= VAIN_RESCANS {
        let text = format!(
            "{name}: tracking lost something again ({reason}); the cutover will read the whole disk while it is frozen"
        );
        disk.doubt(reason);
        disk.forgive();
        return Complaint { text, rescans: false };
    }
    if complete {
        disk.vain_rescans += 1;
    }
    let text = format!("{name}: tracking lost something ({reason}); the disk is read again");
    disk.begin_whole_pass();
    Complaint { text, rescans: complete }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Epochs, in seconds, in the last three of which nothing was gained.
    fn loses(epochs: &[f64]) -> bool {
        let mut losing = 0;
        for pair in epochs.windows(2) {
            let took = Duration::from_secs_f64(pair[1]);
            losing = if is_losing(pair[0], pair[1], took) { losing + 1 } else { 0 };
        }
        losing >= 3
    }

    #[test]
    fn what_becomes_shorter_converges() {
        assert!(!loses(&[7200.0, 1440.0, 300.0, 60.0, 12.0]));
        assert!(!loses(&[1.0, 2.0, 3.0, 3.0, 3.0]), "close behind all the time");
        assert!(loses(&[100.0, 120.0, 144.0, 170.0]));
        assert!(loses(&[100.0, 99.0, 101.0, 99.0]));
    }

    #[test]
    fn reading_is_no_lag() {
        let course = Course { send_rate: 1e6, ..Course::new() };
        let minutes = Duration::from_mins(10);
        let epoch = Epoch { sent: 16, took: minutes, ..Epoch::default() };
        let lag = course.lag_of(&epoch, false);
        assert!(lag < 2.0, "{lag}");
        assert!(!is_losing(lag, lag, minutes));
        assert!((course.lag_of(&epoch, true) - 600.0).abs() < 1e-9);
        let unknown = Course::new().lag_of(&epoch, false);
        assert!((unknown - 600.0).abs() < 1e-9);
        // Half of the time goes into sending: it is not only a long reading.
        assert!(is_losing(400.0, 400.0, minutes));
    }
}
