//! One round: what changed is read, compared and sent.

use super::disk::DiskSync;
use super::link::Link;
use super::meter::{Forecast, Rate};
use super::pass::Passed;
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

/// What the engine remembers from epoch to epoch.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) change: Rate,
    marked: u64,
    send_rate: f64,
    read_rate: f64,
    /// Epochs in a row in which more changed than was sent.
    losing: u32,
    calm: u32,
    /// Every disk was read once.
    pub(super) complete: bool,
    /// Granules sent since the receiver read its disks back.
    pub(super) unchecked: u64,
}

impl Course {
    pub(super) const fn new() -> Self {
        Self {
            change: Rate::new(),
            marked: 0,
            send_rate: 0.0,
            read_rate: 0.0,
            losing: 0,
            calm: 0,
            complete: false,
            unchecked: 0,
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
        let marked = self.drain()?;
        self.board.disks(&self.disks);
        self.enter_sending_state();
        let before = self.sender.meter.read.load(Ordering::Relaxed);
        let interrupt = self.orders.interrupt();
        let backlog: u64 = self.disks.iter().map(|disk| disk.dirty.len()).sum();
        let passed = self.pass(link, &interrupt).await?;
        let took = begun.elapsed();
        let epoch = Epoch {
            marked,
            sent: passed.iter().map(|passed| passed.sent).sum(),
            stopped: passed.iter().any(|passed| passed.stopped),
            took,
        };
        self.course.unchecked += epoch.sent;
        let read = self.sender.meter.read.load(Ordering::Relaxed) - before;
        self.learn(&epoch, backlog, read);
        self.board.wire(link.sent());
        self.board.disks(&self.disks);
        Ok(epoch)
    }

    /// Gives how many granules were marked.
    fn drain(&mut self) -> Result<u64> {
        let mut marked = 0;
        let mut complaints = Vec::new();
        for disk in &mut self.disks {
            let drain = disk.drain()?;
            marked += drain.marked;
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
        if self.course.calm == CALM {
            self.disks.iter_mut().for_each(|disk| disk.vain_rescans = 0);
        }
        if complaints.iter().any(|complaint| complaint.rescans) && self.course.complete {
            self.board.enter(State::Rescan);
        }
        for complaint in &complaints {
            self.board.note(&complaint.text);
        }
        Ok(marked)
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
        } else if self.board.state() == State::Registered
            || self.board.state() == State::Stalled
            || self.board.state() == State::Paused
        {
            self.board.enter(if backlog == 0 { State::Continuous } else { State::CatchingUp });
        }
    }

    /// Draws the conclusions from an epoch.
    fn learn(&mut self, epoch: &Epoch, backlog: u64, read: u64) {
        let (seconds, course) = (epoch.took.as_secs_f64().max(0.001), &mut self.course);
        course.marked += epoch.marked * GRANULE;
        course.change.at(Instant::now(), course.marked);
        let follow = |rate: &mut f64, present: f64| {
            *rate = if *rate == 0.0 { present } else { *rate * 0.7 + present * 0.3 };
        };
        if read >= 1 << 20 {
            follow(&mut course.read_rate, read as f64 / seconds);
        }
        if backlog * GRANULE >= 1 << 20 {
            follow(&mut course.send_rate, (backlog * GRANULE) as f64 / seconds);
        }
        if epoch.stopped {
            return;
        }
        let was_complete = std::mem::replace(&mut course.complete, true);
        let is_losing = was_complete && epoch.marked >= backlog && epoch.took > CLOSE;
        course.losing = if is_losing { course.losing + 1 } else { 0 };
        let forecast = self.forecast();
        self.board.forecast(&forecast);
        self.board.enter(self.following_state(epoch, &forecast));
    }

    fn forecast(&self) -> Forecast {
        let touched: u64 = self.disks.iter().map(|disk| disk.touched.len()).sum();
        let left: u64 = self.disks.iter().map(|disk| disk.dirty.len()).sum();
        Forecast {
            backlog: (left * GRANULE) as f64,
            change_rate: self.course.change.value(),
            send_rate: self.course.send_rate,
            to_prove: ((touched + self.course.unchecked) * GRANULE) as f64,
            read_rate: self.course.read_rate,
        }
    }

    fn following_state(&self, epoch: &Epoch, forecast: &Forecast) -> State {
        let pause = forecast.pause();
        if self.course.losing >= 3 {
            State::NotConverging
        } else if epoch.took > CLOSE {
            State::CatchingUp
        } else if pause.is_some_and(|pause| pause <= self.config.cutover.max_pause_seconds) {
            State::Ready
        } else {
            State::Continuous
        }
    }
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
        disk.distrust = Some(reason);
        return Complaint { text, rescans: false };
    }
    if complete {
        disk.vain_rescans += 1;
    }
    let text = format!("{name}: tracking lost something ({reason}); the disk is read again");
    disk.begin_whole_pass();
    Complaint { text, rescans: complete }
}
