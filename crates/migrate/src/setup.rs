//! What a front end hands in beside the job itself.

use carreto_store::{StoreConfig, StoreEvent};
use carreto_transfer::{CopyOptions, Engine, Event, Stop};
use std::sync::Arc;

/// Something that happened during a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RunEvent {
    /// A run begins: what it will move.
    Planned {
        /// Bytes of the disk.
        virtual_size: u64,
        /// Bytes that the image has data for.
        data_size: u64,
        /// Bytes of data that an earlier run has moved already.
        resumed: u64,
    },
    /// The engine moved on.
    Engine(Event),
    /// A store was slow, refused or failed, and is asked again.
    Store(StoreEvent),
    /// Something that the user should know, in a sentence.
    Note(String),
}

/// Hears events. Called from worker threads; must return quickly.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &RunEvent);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Observer for Quiet {
    fn event(&self, _event: &RunEvent) {}
}

/// Settings and channels of a front end.
#[derive(Clone)]
pub struct Setup {
    /// How to reach object stores.
    pub stores: StoreConfig,
    /// Hears what happens.
    pub observer: Arc<dyn Observer>,
    /// Ends a run early.
    pub stop: Stop,
}

impl Default for Setup {
    fn default() -> Self {
        Self { stores: StoreConfig::default(), observer: Arc::new(Quiet), stop: Stop::default() }
    }
}

impl Setup {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.observer.event(&RunEvent::Note(text.into()));
    }

    /// Tells that something moved.
    pub(crate) fn alive(&self) {
        self.observer.event(&RunEvent::Engine(Event::Alive));
    }

    pub(crate) fn engine(&self, options: CopyOptions) -> Engine {
        let observer = Arc::new(Forward(Arc::clone(&self.observer)));
        Engine::new(options).observed_by(observer).stopped_by(self.stop.clone())
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("stores", &self.stores).finish_non_exhaustive()
    }
}

/// Hands the engine's events to the front end.
struct Forward(Arc<dyn Observer>);

impl carreto_transfer::Observer for Forward {
    fn event(&self, event: &Event) {
        self.0.event(&RunEvent::Engine(event.clone()));
    }
}
