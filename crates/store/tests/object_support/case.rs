//! One object on a misbehaving server, and the ways of bending an honest answer.

use super::faults::{FaultServer, Request, Step, honest};
use super::{Recorder, settings, url};
use carreto_block::SourceExt as _;
use carreto_error::{Kind, Result, chain_text};
use carreto_store::{ObjectSource, ObjectStores, SilentObserver, StoreConfig, StoreSettings};
use carreto_testkit::sparse_disk;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The size of the object of a [`Case`].
pub const SIZE: usize = 300_000;

/// The object of a [`Case`].
pub fn content() -> Vec<u8> {
    sparse_disk(SIZE, 42)
}

/// Stores that nobody listens to.
pub fn stores(flags: StoreSettings) -> ObjectStores {
    ObjectStores::new(StoreConfig::new().with_flags(flags), Arc::new(SilentObserver))
}

/// Settings for tests that expect no retry.
pub fn quick() -> StoreSettings {
    let mut flags = StoreSettings::default();
    flags.retry_for = Some(Duration::from_millis(50));
    flags
}

/// A server, its object once opened, and what was told.
pub struct Case {
    pub server: FaultServer,
    pub events: Arc<Recorder>,
    pub stores: ObjectStores,
}

impl Case {
    /// `script` sees only GET requests; HEAD is answered honestly.
    pub async fn new(
        script: impl Fn(usize, &Request, &[u8]) -> Option<Vec<Step>> + Send + Sync + 'static,
    ) -> Self {
        Self::with(|_| {}, script).await
    }

    pub async fn with(
        change: impl FnOnce(&mut StoreSettings),
        script: impl Fn(usize, &Request, &[u8]) -> Option<Vec<Step>> + Send + Sync + 'static,
    ) -> Self {
        let count = AtomicUsize::new(0);
        let bytes = content();
        let script = move |_, request: &Request| {
            if request.method == "HEAD" {
                return None;
            }
            script(count.fetch_add(1, Ordering::SeqCst), request, &bytes)
        };
        Self::raw(change, script).await
    }

    /// `script` sees every request.
    pub async fn raw(
        change: impl FnOnce(&mut StoreSettings),
        script: impl Fn(usize, &Request) -> Option<Vec<Step>> + Send + Sync + 'static,
    ) -> Self {
        let server = FaultServer::start(content(), script).await;
        let mut flags = settings(&server.endpoint);
        change(&mut flags);
        let events = Arc::new(Recorder::default());
        let config = StoreConfig::new().with_flags(flags);
        let stores = ObjectStores::new(config, Arc::clone(&events) as _);
        Self { server, events, stores }
    }

    pub async fn open(&self) -> Result<ObjectSource> {
        self.stores.open(&url("s3://images/disk")).await
    }

    pub async fn read(&self) -> Result<Vec<u8>> {
        self.open().await?.read_vec(0, SIZE).await
    }

    pub async fn reads_right(&self) {
        let bytes = self.read().await.expect("the read recovers");
        assert!(bytes == content(), "the bytes differ");
        assert!(!self.events.events().is_empty(), "nothing was told");
    }

    pub async fn fails(&self, kind: Kind, words: &str) {
        let error = self.read().await.expect_err("the read fails");
        let text = chain_text(&error);
        assert_eq!(error.kind(), kind, "{text}");
        assert!(text.contains(words), "{text:?} lacks {words:?}");
        assert_eq!(error.nearest_path(), Some("s3://images/disk"));
    }
}

/// The honest answer with its head changed.
pub fn bent(request: &Request, content: &[u8], from: &str, to: &str) -> Vec<Step> {
    let mut steps = honest(request, content);
    if let Some(Step::Send(bytes)) = steps.first_mut() {
        let end = bytes.windows(4).position(|b| b == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        assert!(head.contains(from), "{head:?} lacks {from:?}");
        let mut changed = head.replace(from, to).into_bytes();
        changed.extend_from_slice(&bytes[end..]);
        *bytes = changed;
    }
    steps
}

/// The honest answer up to `keep` bytes of its body, then `then`.
pub fn cut(request: &Request, content: &[u8], keep: usize, then: Step) -> Vec<Step> {
    let mut steps = honest(request, content);
    if let Some(Step::Send(bytes)) = steps.first_mut() {
        let head = bytes.windows(4).position(|b| b == b"\r\n\r\n").unwrap() + 4;
        bytes.truncate(head + keep);
    }
    steps.push(then);
    steps
}

/// The honest answer without the headers of these names.
pub fn without(request: &Request, content: &[u8], names: &[&str]) -> Vec<Step> {
    let mut steps = honest(request, content);
    if let Some(Step::Send(bytes)) = steps.first_mut() {
        let end = bytes.windows(4).position(|b| b == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let kept: Vec<&str> = head
            .split("\r\n")
            .filter(|line| !names.iter().any(|name| line.starts_with(name)))
            .collect();
        let mut changed = kept.join("\r\n").into_bytes();
        changed.extend_from_slice(&bytes[end..]);
        *bytes = changed;
    }
    steps
}
