//! Looking after a store: uploads that nobody finishes, and what the store can do.

use crate::{ErrorReport, Setup, image};
use carreto_error::{Error, IoSide, Result, chain_text};
use carreto_store::{ObjectUpload, PendingUpload, SentParts, StoreAdmin, StorePlace};
use carreto_transfer::{PartHeader, PartJournal};
use jiff::Timestamp;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Uploads that are looked into although they are not to be aborted: one request each.
const LOOKED_INTO: usize = 200;

/// Which uploads are to be aborted.
#[derive(Debug, Clone)]
pub struct GcSpec {
    /// The URL of a bucket or a folder of one.
    pub place: String,
    /// Uploads that nothing was sent for since then are abandoned.
    pub older_than: Duration,
    /// Aborts them; else they are only listed.
    pub abort: bool,
    /// Aborts also those that a checkpoint of this machine still needs.
    pub abort_needed: bool,
    /// Where checkpoints lie.
    pub state_dir: PathBuf,
}

/// What is to become, or became, of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UploadFate {
    /// It is younger than asked for, or its age is not known.
    Young,
    /// A checkpoint of this machine goes on with it.
    Needed,
    /// It would be aborted.
    Abandoned,
    /// It was aborted.
    Aborted,
    /// It was gone when it was to be aborted.
    Gone,
    /// It could not be aborted.
    Failed,
}

/// An upload that is neither completed nor aborted.
#[derive(Debug, Clone, Serialize)]
pub struct UploadEntry {
    /// The key of the object that it would become.
    pub key: String,
    /// The store's name for it.
    pub upload_id: String,
    /// When it began, in RFC 3339.
    pub begun: Option<String>,
    /// Seconds since something was last sent for it, as far as known, or since it began.
    pub age_seconds: Option<u64>,
    /// The parts that were sent; `None` when they were not counted.
    pub parts: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// What is to become, or became, of it.
    pub state: UploadFate,
    /// The job that still needs it.
    pub job: Option<String>,
    /// Why it could not be aborted.
    pub error: Option<ErrorReport>,
}

/// The uploads of a place.
#[derive(Debug, Clone, Serialize)]
pub struct GcReport {
    /// The version of this document.
    pub schema_version: u32,
    /// The place, free of secrets.
    pub store: String,
    /// The age from which uploads are abandoned.
    pub older_than_seconds: u64,
    /// In the order of their keys.
    pub uploads: Vec<UploadEntry>,
    /// Whether there are more than were listed.
    pub more: bool,
    /// Bytes of the uploads that were aborted, as far as they were counted.
    pub freed_bytes: u64,
}

/// Lists the uploads of a place that are under way and, if asked to, aborts the abandoned ones.
///
/// # Errors
/// `Usage` or `Unsupported` for the place; what the store says to the list. An upload that cannot
/// be aborted is an error after all others were tried; the report is there then.
pub async fn store_gc(setup: &Setup, spec: &GcSpec) -> Result<(GcReport, Result<()>)> {
    let place: StorePlace = spec.place.parse()?;
    let admin = image::stores(setup).admin(&place)?;
    let checkpoints = match checkpoints(setup, &spec.state_dir) {
        Err(error) if !spec.abort => {
            setup.note(chain_text(&error));
            Vec::new()
        }
        found => found?,
    };
    let keys: Vec<String> =
        checkpoints.iter().filter_map(|header| key_of(header, &place)).collect();
    let listed = setup.stop.race(admin.pending_uploads(&keys)).await?;
    let mut report = GcReport {
        schema_version: 1,
        store: place.to_string(),
        older_than_seconds: spec.older_than.as_secs(),
        uploads: Vec::new(),
        more: listed.more,
        freed_bytes: 0,
    };
    let mut outcome = Ok(());
    let run = Gc { setup, spec, admin: &admin, checkpoints: &checkpoints, now: listed.now };
    for (index, upload) in listed.uploads.into_iter().enumerate() {
        if let Err(error) = setup.stop.check() {
            return Ok((report, Err(error)));
        }
        let (entry, failed) = run.treat(upload, index < LOOKED_INTO).await;
        if entry.state == UploadFate::Aborted {
            report.freed_bytes += entry.bytes.unwrap_or_default();
        }
        report.uploads.push(entry);
        outcome = outcome.and(failed);
        setup.alive();
    }
    Ok((report, outcome))
}

struct Gc<'g> {
    setup: &'g Setup,
    spec: &'g GcSpec,
    admin: &'g StoreAdmin,
    checkpoints: &'g [PartHeader],
    now: SystemTime,
}

impl Gc<'_> {
    async fn treat(&self, upload: PendingUpload, look: bool) -> (UploadEntry, Result<()>) {
        // What comes in during the run is younger than its list: no age at all, not an unknown one.
        let age = |time: Option<SystemTime>| {
            time.map(|time| self.now.duration_since(time).unwrap_or_default())
        };
        let old = |age: Option<Duration>| age.is_some_and(|age| age >= self.spec.older_than);
        let mut last = age(upload.begun);
        let mut sent = None;
        if look || old(last) {
            match self.setup.stop.race(self.admin.sent_parts(&upload)).await {
                Ok(found) => sent = found,
                Err(error) => self.note(&upload.key, &error),
            }
            last = sent
                .and_then(|sent: SentParts| age(sent.last))
                .map_or(last, |sent| last.map(|begun| begun.min(sent)));
        }
        let job = self
            .checkpoints
            .iter()
            .find(|header| ObjectUpload::id_in_store(&header.upload) == upload.id);
        let mut entry = UploadEntry {
            begun: upload.begun.and_then(shown_time),
            age_seconds: last.map(|age| age.as_secs()),
            parts: sent.map(|sent| sent.parts),
            bytes: sent.map(|sent| sent.bytes),
            state: UploadFate::Young,
            job: job.map(|header| header.job.clone()),
            error: None,
            key: upload.key.clone(),
            upload_id: upload.id.clone(),
        };
        let failed = if job.is_some() && !self.spec.abort_needed {
            entry.state = UploadFate::Needed;
            Ok(())
        } else if old(last) {
            self.abort(&upload, &mut entry).await
        } else {
            Ok(())
        };
        (entry, failed)
    }

    async fn abort(&self, upload: &PendingUpload, entry: &mut UploadEntry) -> Result<()> {
        entry.state = UploadFate::Abandoned;
        if !self.spec.abort {
            return Ok(());
        }
        match self.admin.abort_upload(upload).await {
            Ok(true) => entry.state = UploadFate::Aborted,
            Ok(false) => entry.state = UploadFate::Gone,
            Err(error) => {
                entry.state = UploadFate::Failed;
                entry.error = Some(ErrorReport::from(&error));
                return Err(error);
            }
        }
        Ok(())
    }

    fn note(&self, key: &str, error: &Error) {
        let text = chain_text(error);
        self.setup.note(format!("the parts of the upload of {key} cannot be listed: {text}"));
    }
}

/// The checkpoints that can be read; the others are told of.
fn checkpoints(setup: &Setup, state: &Path) -> Result<Vec<PartHeader>> {
    let jobs = state.join("jobs");
    let unread = |error| {
        let text = jobs.display().to_string();
        Error::io(IoSide::State, "read the checkpoints", text, error)
    };
    let entries = match std::fs::read_dir(&jobs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let text = "the uploads that they need cannot be told from abandoned ones";
            return Err(unread(error).wrap(text));
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(unread)?.path();
        if path.extension().is_none_or(|end| end != "parts") {
            continue;
        }
        match PartJournal::peek(&path) {
            Ok(header) => found.extend(header),
            Err(error) => setup.note(format!("a checkpoint is not read: {}", chain_text(&error))),
        }
    }
    Ok(found)
}

/// The key that the job of a checkpoint writes to, when it lies in `place`.
fn key_of(header: &PartHeader, place: &StorePlace) -> Option<String> {
    let target = header.job.rsplit_once(" to ")?.1.split('|').next()?;
    let whole: StorePlace = target.parse().ok()?;
    let key = whole.folder().to_owned();
    (!key.is_empty() && whole.is_in_bucket_of(place) && place.holds(&key)).then_some(key)
}

fn shown_time(time: SystemTime) -> Option<String> {
    let time = Timestamp::try_from(time).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
