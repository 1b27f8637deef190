//! What the operations of a run share: options, budget, pacing, counters, the stop switch.

use crate::event::Waiting;
use crate::pace::Pacer;
use crate::{Budget, Counters, Event, Observer, Phase, Silent, Stop, Wait};
use carreto_block::{ByteRange, Target};
use carreto_error::Result;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

/// How to move data.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions {
    /// Bytes of memory for everything in flight.
    pub memory: u64,
    /// Threads that decode, hash and write; by default one a core.
    pub workers: Option<NonZero<usize>>,
    /// Bytes per second to read from the source at most.
    pub rate: Option<u64>,
    /// Compute chunk digests while copying, for verification.
    pub digest: bool,
    /// Time between checkpoints that survive a loss of power.
    pub flush_interval: Duration,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            workers: None,
            rate: None,
            digest: true,
            flush_interval: Duration::from_secs(10),
        }
    }
}

/// The shared state of a run. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Engine {
    pub(crate) options: CopyOptions,
    pub(crate) budget: Budget,
    pub(crate) pacer: Arc<Pacer>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) stop: Stop,
    pub(crate) cores: usize,
}

impl Engine {
    /// An engine that reports to nobody and is stopped by nobody.
    pub fn new(options: CopyOptions) -> Self {
        let available = || std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            budget: Budget::new(options.memory),
            pacer: Arc::new(Pacer::new(options.rate)),
            counters: Arc::default(),
            observer: Arc::new(Silent),
            stop: Stop::default(),
            cores: options.workers.map_or_else(available, NonZero::get),
            options,
        }
    }

    /// Reports to `observer`.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Ends when `stop` says so.
    #[must_use]
    pub fn stopped_by(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    /// The running totals.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The most bytes of memory that were lent at a time.
    pub fn peak_memory(&self) -> u64 {
        self.budget.peak()
    }

    /// Flushes `target` and tells about the wait.
    ///
    /// Not cancel safe: dropping the future leaves it unknown whether the flush will end well.
    ///
    /// # Errors
    /// What flushing meets.
    pub async fn flush(&self, target: &dyn Target) -> Result<()> {
        let _waiting = Waiting::begin(self.observer.as_ref(), Wait::Flush);
        target.flush().await
    }

    pub(crate) fn advanced(&self, phase: Phase, range: ByteRange, data: u64) {
        self.observer.event(&Event::Advanced { phase, range, data });
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", &self.options).finish_non_exhaustive()
    }
}
