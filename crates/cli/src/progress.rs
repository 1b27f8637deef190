//! Progress on stderr: a bar on a terminal, lines elsewhere, JSON for programs.

use crate::args::{Global, Output, ProgressStyle};
use crate::console;
use crate::quantity::{show_duration, show_size, whole};
use carreto_migrate::{Event, Observer, Phase, RunEvent, StoreEvent};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// Lines that come faster than this are of no use to anybody.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

const KNOWN_TOTAL: &str = "{prefix:7} {bar:30} {binary_bytes}/{binary_total_bytes} \
                           {binary_bytes_per_sec} ETA {eta}";
const UNKNOWN_TOTAL: &str = "{prefix:7} {binary_bytes} {binary_bytes_per_sec}";

/// Hears a run and shows it.
pub(crate) struct Progress {
    style: ProgressStyle,
    output: Output,
    /// What going through an image is called: a migration copies, other commands read.
    verb: &'static str,
    bar: ProgressBar,
    state: Mutex<State>,
    timer: Mutex<Option<AbortHandle>>,
}

/// Sizes are in bytes of data.
#[derive(Debug)]
struct State {
    begun: Instant,
    /// `None` until something moves.
    phase: Option<Phase>,
    /// What there is to do, where that is known.
    wanted: Option<u64>,
    resumed: u64,
    copied: u64,
    verified: u64,
    last_line: Instant,
    last_bytes: u64,
}

/// What a line says.
#[derive(Debug, PartialEq)]
struct Line {
    phase: Option<Phase>,
    done: u64,
    wanted: Option<u64>,
    rate: f64,
    elapsed: Duration,
}

impl State {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            phase: None,
            wanted: None,
            resumed: 0,
            copied: 0,
            verified: 0,
            last_line: now,
            last_bytes: 0,
        }
    }

    fn plan(&mut self, wanted: u64, resumed: u64) {
        (self.wanted, self.resumed) = (Some(wanted), resumed);
        self.enter(Phase::Copy);
    }

    /// Begins a phase; rates count from here on.
    fn enter(&mut self, phase: Phase) {
        self.phase = Some(phase);
        (self.last_line, self.last_bytes) = (Instant::now(), self.done());
    }

    /// Adds what was done; says whether a phase began.
    fn advance(&mut self, phase: Phase, data: u64) -> bool {
        let begins = self.phase != Some(phase);
        if begins {
            self.enter(phase);
        }
        match phase {
            Phase::Verify => self.verified += data,
            Phase::Copy | Phase::Finish => self.copied += data,
        }
        begins
    }

    /// What is done of the phase.
    fn done(&self) -> u64 {
        let done = match self.phase {
            Some(Phase::Verify) => self.verified,
            _ => self.resumed + self.copied,
        };
        done.min(self.wanted.unwrap_or(u64::MAX))
    }

    fn line(&mut self, now: Instant) -> Line {
        let done = self.done();
        let since = now.saturating_duration_since(self.last_line).as_secs_f64();
        let rate = done.saturating_sub(self.last_bytes) as f64 / since.max(1e-3);
        (self.last_line, self.last_bytes) = (now, done);
        let elapsed = now.saturating_duration_since(self.begun);
        Line { phase: self.phase, done, wanted: self.wanted, rate, elapsed }
    }
}

impl Line {
    fn eta(&self) -> Option<f64> {
        let left = self.wanted?.saturating_sub(self.done);
        (self.rate > 0.0).then(|| left as f64 / self.rate)
    }

    fn text(&self, phase: &str) -> String {
        let (done, rate) = (show_size(self.done), show_size(whole(self.rate)));
        let Some(wanted) = self.wanted else {
            return format!("{phase} {done} {rate}/s");
        };
        let percent = match wanted {
            0 => 100.0,
            wanted => self.done as f64 * 100.0 / wanted as f64,
        };
        let eta = self.eta().and_then(|left| Duration::try_from_secs_f64(left).ok());
        let eta = eta.map_or("?".into(), show_duration);
        format!("{phase} {percent:.0}% {done}/{} {rate}/s ETA {eta}", show_size(wanted))
    }

    fn json(&self, phase: &str) -> serde_json::Value {
        serde_json::json!({
            "type": "progress", "phase": phase, "done_bytes": self.done,
            "total_bytes": self.wanted, "bytes_per_second": self.rate,
            "elapsed_seconds": self.elapsed.as_secs_f64(), "eta_seconds": self.eta(),
        })
    }
}

impl Progress {
    /// Shows nothing yet. `verb` names the phase of going through an image.
    pub(crate) fn new(global: &Global, verb: &'static str) -> Arc<Self> {
        let style = match global.progress {
            ProgressStyle::Auto if console::stderr_is_terminal() => ProgressStyle::Tty,
            ProgressStyle::Auto => ProgressStyle::Plain,
            chosen => chosen,
        };
        let target = match style {
            ProgressStyle::Tty => ProgressDrawTarget::stderr_with_hz(10),
            _ => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        draw_as(&bar, UNKNOWN_TOTAL);
        let (state, timer) = (Mutex::new(State::new()), Mutex::default());
        Arc::new(Self { style, output: global.output, verb, bar, state, timer })
    }

    /// Prints a line every `interval` from now on, where lines are wanted. Needs the runtime.
    pub(crate) fn start(self: &Arc<Self>, interval: Duration) {
        if !matches!(self.style, ProgressStyle::Plain | ProgressStyle::Json) {
            return;
        }
        let (progress, interval) = (Arc::clone(self), interval.max(MIN_INTERVAL));
        let timer = tokio::spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                progress.show_line();
            }
        });
        *self.timer.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer.abort_handle());
    }

    /// Takes the bar away and ends the lines.
    pub(crate) fn end(&self) {
        let timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner).take();
        timer.inspect(AbortHandle::abort);
        self.bar.finish_and_clear();
    }

    /// Prints how far it is, whatever the style.
    pub(crate) fn show_line(&self) {
        let line = self.state().line(Instant::now());
        let phase = self.phase_name(line.phase);
        match self.style {
            ProgressStyle::Json => console::tell_json(&line.json(phase)),
            _ => self.bar.suspend(|| console::tell(&line.text(phase))),
        }
    }

    /// Tells what somebody who just sent a signal waits to hear.
    pub(crate) fn answer(&self, text: &str) {
        match (self.style, self.output) {
            (ProgressStyle::None, Output::Text) => console::tell(&format!("carreto: {text}")),
            _ => self.note(text),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase_name(&self, phase: Option<Phase>) -> &'static str {
        match phase {
            None => "prepare",
            Some(Phase::Copy) => self.verb,
            Some(phase) => phase.name(),
        }
    }

    fn plan(&self, wanted: u64, resumed: u64) {
        self.state().plan(wanted, resumed);
        draw_as(&self.bar, KNOWN_TOTAL);
        self.bar.set_length(wanted);
        self.bar.set_prefix(self.verb);
        self.bar.set_position(resumed);
        self.bar.reset_eta();
    }

    fn advance(&self, phase: Phase, data: u64) {
        let mut state = self.state();
        let begins = state.advance(phase, data);
        let done = state.done();
        drop(state);
        if begins {
            self.bar.set_prefix(self.phase_name(Some(phase)));
        }
        self.bar.set_position(done);
    }

    fn note(&self, text: &str) {
        match self.style {
            ProgressStyle::None => {}
            ProgressStyle::Json => {
                console::tell_json(&serde_json::json!({"type": "note", "text": text}));
            }
            _ => self.bar.suspend(|| console::tell(&format!("carreto: {text}"))),
        }
    }
}

fn draw_as(bar: &ProgressBar, template: &str) {
    if let Ok(style) = BarStyle::with_template(template) {
        bar.set_style(style);
    }
}

impl Observer for Progress {
    fn event(&self, event: &RunEvent) {
        match event {
            RunEvent::Planned { data_size, resumed, .. } => self.plan(*data_size, *resumed),
            RunEvent::Engine(Event::Advanced { phase, data, .. }) => self.advance(*phase, *data),
            RunEvent::Note(text) => self.note(text),
            RunEvent::Store(event) => self.note(&describe(event)),
            _ => {}
        }
    }
}

fn describe(event: &StoreEvent) -> String {
    match event {
        StoreEvent::Retry { object, reason, delay, .. } => {
            format!("{object}: {reason}; asking again in {}", show_duration(*delay))
        }
        StoreEvent::Throttled { object, reason, delay, .. } => {
            format!("{object}: throttled ({reason}); going on in {}", show_duration(*delay))
        }
        _ => "the store reported something new".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_an_earlier_run_did_is_shown_but_is_no_speed() {
        let mut state = State::new();
        state.plan(10 * MIB, 6 * MIB);
        state.advance(Phase::Copy, 2 * MIB);
        let later = state.last_line + Duration::from_secs(1);
        let text = state.line(later).text("copy");
        assert_eq!(text, "copy 80% 8 MiB/10 MiB 2 MiB/s ETA 1.0s");
        assert!(state.advance(Phase::Verify, MIB));
        let later = state.last_line + Duration::from_secs(1);
        assert_eq!(state.line(later).text("verify"), "verify 10% 1 MiB/10 MiB 1 MiB/s ETA 9.0s");
    }

    #[test]
    fn without_a_total_there_is_no_percentage() {
        let mut state = State::new();
        assert!(state.advance(Phase::Copy, MIB));
        state.advance(Phase::Copy, MIB);
        let line = state.line(state.last_line + Duration::from_secs(2));
        assert_eq!(line.text("read"), "read 2 MiB 1 MiB/s");
        assert!(line.json("read")["total_bytes"].is_null());
    }

    #[test]
    fn a_disk_without_data_is_done() {
        let mut state = State::new();
        state.plan(0, 0);
        let line = state.line(state.last_line + Duration::from_secs(1));
        assert_eq!(line.text("copy"), "copy 100% 0 B/0 B 0 B/s ETA ?");
    }
}
