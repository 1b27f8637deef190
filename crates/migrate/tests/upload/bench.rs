//! A disk, a store, and the run between them.

use carreto_error::{Kind, Result};
use carreto_migrate::{
    EncodeReport, EncodeSpec, Event, ImageSpec, Observer, OutputFormat, RunEvent, Setup, Stop,
    StopReason, WriteOptions, encode,
};
use carreto_store::{Credentials, StoreConfig, StoreSettings};
use carreto_testkit::{Asked, Bucket, Reply, Rng};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const PART: u64 = 5 << 20;
pub(crate) const KEY: &str = "images/made";
/// Three parts, the last one short.
pub(crate) const SIZE: usize = (11 << 20) + 512;

pub(crate) struct Bench {
    pub(crate) directory: TempDir,
    pub(crate) disk: Vec<u8>,
    pub(crate) bucket: Bucket,
}

/// Dense data that does not compress.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::new(seed).fill(&mut bytes);
    bytes
}

impl Bench {
    pub(crate) fn new(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let (directory, disk) = (tempfile::tempdir().unwrap(), noise(SIZE, 1));
        std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
        Self { directory, disk, bucket: Bucket::start(script) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn settings(&self) -> StoreSettings {
        let mut settings = StoreSettings::default();
        settings.endpoint = Some(self.bucket.endpoint.clone());
        let (id, secret) = ("AKIDtest".to_owned(), "secret".into());
        settings.credentials = Some(Credentials::Key { id, secret, token: None });
        settings.retry_for = Some(Duration::from_secs(20));
        settings
    }

    pub(crate) fn setup(&self, ears: &Arc<Ears>) -> Setup {
        Setup {
            stores: StoreConfig::new().with_flags(self.settings()),
            observer: Arc::clone(ears) as _,
            stop: ears.stop.clone(),
        }
    }

    /// The disk as a raw object, which is byte for byte the disk.
    pub(crate) fn spec(&self) -> EncodeSpec {
        EncodeSpec {
            image: ImageSpec {
                format: Some("raw".parse().unwrap()),
                ..ImageSpec::at(self.path("disk.raw").display().to_string())
            },
            target: format!("s3://{KEY}"),
            output: WriteOptions::new(OutputFormat::Raw),
            as_is: false,
            replace: false,
            part_size: Some(PART),
            read_back: false,
            timeout: None,
            stall_timeout: None,
            memory: 64 << 20,
            limit_rate: None,
            state_dir: self.path("state"),
            restart: false,
        }
    }

    pub(crate) async fn run(&self, ears: &Arc<Ears>) -> (EncodeReport, Result<()>) {
        encode(&self.setup(ears), &self.spec()).await
    }

    pub(crate) async fn done(&self) -> (EncodeReport, Vec<RunEvent>) {
        let ears = Arc::default();
        let (report, outcome) = self.run(&ears).await;
        outcome.unwrap();
        (report, ears.events())
    }

    pub(crate) async fn kind(&self) -> Kind {
        self.run(&Arc::default()).await.1.unwrap_err().kind()
    }

    /// There is the object, it is the disk, and nothing else is there but its manifest.
    pub(crate) fn holds_the_disk(&self) {
        let keys = self.bucket.keys();
        assert_eq!(keys, [KEY.to_owned(), format!("{KEY}.carreto.json")]);
        assert!(self.bucket.object(KEY).unwrap().bytes == self.disk, "other bytes");
        assert_eq!(self.checkpoints(), 0, "the checkpoint is gone");
    }

    pub(crate) fn checkpoints(&self) -> usize {
        let files = std::fs::read_dir(self.path("state/jobs")).unwrap();
        files.filter(|f| f.as_ref().unwrap().path().to_string_lossy().ends_with(".parts")).count()
    }
}

type Act = Box<dyn Fn(u64) + Send + Sync>;

/// Remembers what is told, and acts when items have been read.
#[derive(Default)]
pub(crate) struct Ears {
    heard: Mutex<Vec<RunEvent>>,
    items: Mutex<u64>,
    act: Option<Act>,
    pub(crate) stop: Stop,
}

impl Ears {
    /// Calls `act` with the number of each item that was read.
    pub(crate) fn acting(act: impl Fn(u64) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { act: Some(Box::new(act)), ..Self::default() })
    }

    /// Stops the run after so many items.
    pub(crate) fn stopping(after: u64) -> Arc<Self> {
        let stop = Stop::default();
        let own = stop.clone();
        let act = move |items| {
            if items == after {
                own.request(StopReason::Cancelled);
            }
        };
        Arc::new(Self { act: Some(Box::new(act)), stop, ..Self::default() })
    }

    pub(crate) fn events(&self) -> Vec<RunEvent> {
        self.heard.lock().unwrap().clone()
    }
}

impl Observer for Ears {
    fn event(&self, event: &RunEvent) {
        self.heard.lock().unwrap().push(event.clone());
        if let RunEvent::Engine(Event::Advanced { .. }) = event {
            let items = {
                let mut items = self.items.lock().unwrap();
                *items += 1;
                *items
            };
            if let Some(act) = &self.act {
                act(items);
            }
        }
    }
}

/// Whether a note says `words`.
pub(crate) fn noted(events: &[RunEvent], words: &str) -> bool {
    events.iter().any(|event| matches!(event, RunEvent::Note(text) if text.contains(words)))
}
