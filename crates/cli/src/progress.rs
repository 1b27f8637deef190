//! Progress on stderr: a bar on a terminal, lines elsewhere, JSON for programs.

use crate::args::{Global, ProgressStyle};
use crate::console;
use crate::quantity::{show_duration, show_size, whole};
use carreto_migrate::{Event, Observer, Phase, RunEvent, StoreEvent};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Hears a run and shows it.
pub(crate) struct Progress {
    style: ProgressStyle,
    totals: Totals,
    bar: ProgressBar,
    interval: Duration,
    clock: Mutex<Clock>,
}

/// What has been done, in bytes of data.
#[derive(Debug, Default)]
struct Totals {
    wanted: AtomicU64,
    resumed: AtomicU64,
    copied: AtomicU64,
    verified: AtomicU64,
}

#[derive(Debug)]
struct Clock {
    begun: Instant,
    last_line: Instant,
    last_bytes: u64,
    phase: Phase,
}

impl Progress {
    pub(crate) fn new(global: &Global) -> Arc<Self> {
        let style = match global.progress {
            ProgressStyle::Auto if console::stderr_is_terminal() => ProgressStyle::Tty,
            ProgressStyle::Auto => ProgressStyle::Plain,
            chosen => chosen,
        };
        let target = match style {
            ProgressStyle::Tty => ProgressDrawTarget::stderr_with_hz(10),
            _ => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let template = "{prefix:7} {bar:30} {binary_bytes}/{binary_total_bytes} \
                        {binary_bytes_per_sec} ETA {eta}";
        if let Ok(drawn) = BarStyle::with_template(template) {
            bar.set_style(drawn);
        }
        let now = Instant::now();
        let clock = Clock { begun: now, last_line: now, last_bytes: 0, phase: Phase::Copy };
        let interval = global.progress_interval;
        Arc::new(Self { style, totals: Totals::default(), bar, interval, clock: Mutex::new(clock) })
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn advance(&self, phase: Phase, data: u64) {
        let counter = match phase {
            Phase::Verify => &self.totals.verified,
            Phase::Copy | Phase::Finish => &self.totals.copied,
        };
        let done = counter.fetch_add(data, Ordering::Relaxed) + data;
        let resumed = self.totals.resumed.load(Ordering::Relaxed);
        let shown = if phase == Phase::Verify { done } else { done + resumed };
        self.bar.set_position(shown.min(self.totals.wanted.load(Ordering::Relaxed)));
        self.tick(phase, shown);
    }

    /// Prints a line when the interval is over or the phase changed.
    fn tick(&self, phase: Phase, shown: u64) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if clock.phase != phase {
            clock.phase = phase;
            clock.last_bytes = 0;
            self.bar.set_prefix(phase.name());
        }
        let since = clock.last_line.elapsed();
        if since < self.interval {
            return;
        }
        let rate = shown.saturating_sub(clock.last_bytes) as f64 / since.as_secs_f64();
        (clock.last_line, clock.last_bytes) = (Instant::now(), shown);
        let begun = clock.begun;
        drop(clock);
        self.print_line(phase, shown, rate, begun.elapsed());
    }

    fn print_line(&self, phase: Phase, shown: u64, rate: f64, elapsed: Duration) {
        let wanted = self.totals.wanted.load(Ordering::Relaxed);
        let shown = shown.min(wanted);
        let left = (rate > 0.0).then(|| (wanted - shown) as f64 / rate);
        match self.style {
            ProgressStyle::Plain => {
                let percent = shown as f64 * 100.0 / wanted.max(1) as f64;
                let eta = left.and_then(|left| Duration::try_from_secs_f64(left).ok());
                let eta = eta.map_or("?".into(), show_duration);
                console::tell(&format!(
                    "{} {percent:.0}% {}/{} {}/s ETA {eta}",
                    phase.name(),
                    show_size(shown),
                    show_size(wanted),
                    show_size(whole(rate)),
                ));
            }
            ProgressStyle::Json => console::tell_json(&serde_json::json!({
                "type": "progress", "phase": phase.name(), "done_bytes": shown,
                "total_bytes": wanted, "bytes_per_second": rate,
                "elapsed_seconds": elapsed.as_secs_f64(), "eta_seconds": left,
            })),
            _ => {}
        }
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

impl Observer for Progress {
    fn event(&self, event: &RunEvent) {
        match event {
            RunEvent::Planned { data_size, resumed, .. } => {
                self.totals.wanted.store(*data_size, Ordering::Relaxed);
                self.totals.resumed.store(*resumed, Ordering::Relaxed);
                self.bar.set_length(*data_size);
                self.bar.set_prefix(Phase::Copy.name());
            }
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
