//! What the operator sees: the state and everything about it, at any moment.

use super::disk::DiskSync;
use super::meter::{Forecast, Meter, Rate};
use crate::granule::GRANULE;
use crate::state::{CutoverReport, DiskReport, Report, State};
use crate::wire::Failed;
use carreto_error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Seconds; what would take longer stands still.
const FORESEEABLE: f64 = 1e7;

/// Hears every change of the state. Called by the engine; must return quickly and never block.
pub trait AgentObserver: Send + Sync + std::fmt::Debug {
    /// The state, or something worth telling about it, changed.
    fn changed(&self, report: &Report);

    /// Something happened that is no change of the state.
    fn note(&self, text: &str);
}

/// The present state. Clones are the same board.
#[derive(Debug, Clone)]
pub(super) struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    meter: Arc<Meter>,
    observer: Arc<dyn AgentObserver>,
    begun: Instant,
    /// Bytes over the present link.
    wire: AtomicU64,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Shown {
    report: Report,
    confirmed: Rate,
    /// The backlog when it was counted last, and what was confirmed by then.
    counted: (u64, u64),
    /// When the oldest change was seen that the receiver does not have.
    behind_since: Option<Instant>,
    /// What stands in the way of a cutover.
    warning: Option<String>,
}

impl Board {
    pub(super) fn new(server: &str, meter: Arc<Meter>, observer: Arc<dyn AgentObserver>) -> Self {
        let report = Report {
            schema_version: 1,
            server: server.to_owned(),
            migration: String::new(),
            state: State::Registered,
            next_action: State::Registered.next_action().to_owned(),
            agent_running: None,
            running_seconds: 0.0,
            backlog_bytes: 0,
            lag_seconds: 0.0,
            rate: 0.0,
            change_rate: 0.0,
            eta_seconds: None,
            predicted_pause_seconds: None,
            totals: crate::state::Totals::default(),
            disks: Vec::new(),
            preparing: None,
            cutover: None,
            error: None,
        };
        let shown = Mutex::new(Shown {
            report,
            confirmed: Rate::new(),
            behind_since: None,
            counted: (0, 0),
            warning: None,
        });
        let wire = AtomicU64::new(0);
        Self(Arc::new(Inner { meter, observer, begun: Instant::now(), wire, shown }))
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything, now.
    pub(super) fn report(&self) -> Report {
        let now = Instant::now();
        let mut shown = self.shown();
        shown.confirmed.at(now, self.0.meter.confirmed());
        let (rate, behind) = (shown.confirmed.value(), shown.behind_since);
        let backlog = shown.backlog_at(self.0.meter.confirmed());
        let next = shown.next_action();
        let report = &mut shown.report;
        report.next_action = next;
        report.backlog_bytes = backlog;
        report.eta_seconds = eta(report.state, backlog, rate, report.change_rate);
        report.totals = self.0.meter.totals(self.0.wire.load(Ordering::Relaxed));
        report.running_seconds = self.0.begun.elapsed().as_secs_f64();
        report.rate = rate;
        report.lag_seconds = behind.map_or(0.0, |since| (now - since).as_secs_f64());
        report.clone()
    }

    pub(super) fn state(&self) -> State {
        self.shown().report.state
    }

    /// The state is `state` from now on.
    pub(super) fn enter(&self, state: State) {
        {
            let mut shown = self.shown();
            if shown.report.state == state {
                return;
            }
            shown.report.state = state;
        }
        self.0.observer.changed(&self.report());
    }

    pub(super) fn note(&self, text: &str) {
        self.0.observer.note(text);
    }

    /// Why the state is what it is; `None` once that is over.
    pub(super) fn explain(&self, error: Option<&Error>) {
        self.shown().report.error = error.map(Failed::of);
    }

    pub(super) fn migration(&self, name: &str) {
        name.clone_into(&mut self.shown().report.migration);
    }

    pub(super) fn wire(&self, bytes: u64) {
        self.0.wire.store(bytes, Ordering::Relaxed);
    }

    /// What is done before a cutover freezes anything; `None` once that is over.
    pub(super) fn prepare(&self, what: Option<String>) {
        self.shown().report.preparing = what;
    }

    /// Whether the operator is told all the time why a cutover would be refused.
    pub(super) fn is_warned(&self) -> bool {
        self.shown().warning.is_some()
    }

    /// What stands in the way of a cutover; told once.
    pub(super) fn warn(&self, warning: Option<String>) {
        let news = {
            let mut shown = self.shown();
            let is_news = shown.warning != warning;
            shown.warning.clone_from(&warning);
            warning.filter(|_| is_news)
        };
        if let Some(text) = news {
            self.note(&text);
        }
    }

    pub(super) fn cutover(&self, cutover: CutoverReport) {
        self.shown().report.cutover = Some(cutover);
    }

    /// Takes over what is to be sent of `disks`.
    pub(super) fn disks(&self, disks: &[DiskSync]) {
        let told: Vec<DiskReport> = disks.iter().map(describe).collect();
        let backlog: u64 = told.iter().map(|disk| disk.backlog_bytes).sum();
        let mut shown = self.shown();
        shown.report.disks = told;
        shown.report.backlog_bytes = backlog;
        shown.counted = (backlog, self.0.meter.confirmed());
        shown.behind_since = match shown.behind_since {
            _ if backlog == 0 => None,
            None => Some(Instant::now()),
            since => since,
        };
    }

    pub(super) fn forecast(&self, forecast: &Forecast) {
        let mut shown = self.shown();
        shown.report.change_rate = forecast.change_rate;
        shown.report.predicted_pause_seconds = forecast.pause();
    }
}

/// Seconds until the target follows closely, when so many bytes are confirmed and change each second;
/// `None` where nothing is known to come near.
fn eta(state: State, backlog: u64, confirmed: f64, changed: f64) -> Option<f64> {
    // The first pass reads every place once, whatever changes meanwhile.
    let net = match state {
        State::InitialSync => confirmed,
        State::CatchingUp | State::Rescan | State::NotConverging => confirmed - changed,
        State::Continuous | State::Ready => return Some(0.0),
        state if state.is_cutover() => return Some(0.0),
        _ => return None,
    };
    (net > 0.0).then(|| backlog as f64 / net).filter(|seconds| *seconds < FORESEEABLE)
}

impl Shown {
    fn next_action(&self) -> String {
        let state = self.report.state;
        match (&self.report.preparing, &self.warning) {
            (Some(what), _) if !state.is_cutover() => {
                format!("wait: {what}; `carreto agent abort` gives the cutover up")
            }
            (_, Some(warning)) if state.is_following() => warning.clone(),
            _ => state.next_action().to_owned(),
        }
    }

    /// What is left of the backlog once `confirmed` bytes are.
    fn backlog_at(&self, confirmed: u64) -> u64 {
        let (backlog, before) = self.counted;
        backlog.saturating_sub(confirmed.saturating_sub(before))
    }
}

fn describe(disk: &DiskSync) -> DiskReport {
    DiskReport {
        name: disk.name().to_owned(),
        size: disk.size(),
        target: disk.target.clone(),
        tracker: disk.tracker.kind().name().to_owned(),
        refused_trackers: disk.refused.clone(),
        backlog_bytes: disk.dirty.len().saturating_mul(GRANULE).min(disk.size()),
        distrust: disk.distrust.clone(),
        root: disk.root.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_foreseen_only_where_it_comes_near() {
        let catching_up = |confirmed, changed| eta(State::CatchingUp, 1000, confirmed, changed);
        assert_eq!(catching_up(30.0, 10.0), Some(50.0));
        assert_eq!(catching_up(10.0, 10.0), None);
        assert_eq!(catching_up(5.0, 10.0), None);
        assert_eq!(catching_up(1e-7, 0.0), None, "a line that is cut");
        assert_eq!(eta(State::InitialSync, 1000, 20.0, 90.0), Some(50.0));
        assert_eq!(eta(State::Ready, 1000, 0.0, 0.0), Some(0.0));
        assert_eq!(eta(State::Stalled, 1000, 20.0, 0.0), None);
    }
}
