//! Uploads in parts that outlive the process that began them.
//!
//! The store names an upload and each of its parts; whoever knows the names goes on with it. What
//! becomes of the last request, which makes the object of its parts, is often unknown: its answer
//! gets lost, or a repetition is refused because the first one succeeded. So every failure of it
//! is settled by looking at the object.

use super::failure::{Again, Failure};
use super::handle::ObjectStoreHandle;
use super::proof::{Before, is_made_of};
use super::version::look;
use crate::config::Checksum;
use bytes::Bytes;
use carreto_error::{Error, Kind, Result};
use object_store::PutPayload;
use object_store::multipart::{MultipartStore, PartId};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The fewest bytes of a part that is not the last (Amazon S3 user guide, "Multipart upload
/// limits").
pub const MIN_PART: u64 = 5 << 20;
/// The most parts of an upload (same source).
pub const MAX_PARTS: u64 = 10_000;

/// What there is of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Its bytes.
    pub size: u64,
    /// Its `ETag`, where the store gives one.
    pub etag: Option<String>,
}

/// An upload in parts, begun in this process or another. Cheap to clone.
#[derive(Clone)]
pub struct ObjectUpload {
    handle: ObjectStoreHandle,
    /// Sends parts with the checksum of the upload, or without.
    store: Arc<dyn MultipartStore>,
    /// Sends parts without; `None` when `store` does, or must not be replaced.
    plain: Option<Arc<dyn MultipartStore>>,
    /// The store refused a part with a checksum and took it without.
    refused: Arc<AtomicBool>,
    /// As [`Self::id`] gives it.
    id: String,
    /// The store's own name.
    in_store: String,
}

impl ObjectStoreHandle {
    /// Begins an upload in parts. Nothing is visible under the object's name before
    /// [`ObjectUpload::complete`].
    ///
    /// Not cancel safe: a dropped call may leave an upload that nobody knows of.
    ///
    /// # Errors
    /// `Unsupported` for web servers; else as [`Self::open`].
    pub async fn begin_upload(&self) -> Result<ObjectUpload> {
        let wanted = match self.bucket.checksum {
            Checksum::Auto => Checksum::Crc64Nvme,
            other => other,
        };
        if self.summed(wanted).is_some() {
            match self.begin_with(wanted).await {
                Err(error) if self.may_go_without(&error) => {}
                outcome => return outcome.map_err(|e| self.place(e, "begin the upload")),
            }
        }
        let upload = self.begin_with(Checksum::None).await;
        upload.map_err(|error| self.place(error, "begin the upload"))
    }

    async fn begin_with(&self, checksum: Checksum) -> Result<ObjectUpload> {
        let store = match self.summed(checksum) {
            Some(store) => store,
            None => self.multipart()?,
        };
        let id = self.again(Duration::ZERO, || store.create_multipart(&self.path)).await?;
        self.upload_named(match checksum {
            Checksum::None => id,
            checksum => format!("{checksum}:{id}"),
        })
    }

    /// The upload that [`ObjectUpload::id`] names: the store's name for it, after the checksum
    /// that its parts carry.
    fn upload_named(&self, name: String) -> Result<ObjectUpload> {
        let multipart = self.multipart()?;
        let parts = name
            .split_once(':')
            .and_then(|(checksum, id)| Some((self.summed(checksum.parse().ok()?)?, id.to_owned())));
        let (store, plain, id) = match parts {
            Some((store, id)) if self.bucket.checksum == Checksum::Auto => {
                (store, Some(multipart), id)
            }
            Some((store, id)) => (store, None, id),
            None => (multipart, None, name.clone()),
        };
        Ok(ObjectUpload {
            handle: self.clone(),
            store,
            plain,
            refused: Arc::default(),
            id: name,
            in_store: id,
        })
    }

    /// The store that sends parts with that checksum.
    fn summed(&self, wanted: Checksum) -> Option<Arc<dyn MultipartStore>> {
        let mut stores = self.bucket.summed.iter();
        stores.find(|(checksum, _)| *checksum == wanted).map(|(_, store)| Arc::clone(store))
    }

    /// Whether a request may have been refused for its checksum, and may be made without.
    fn may_go_without(&self, error: &Error) -> bool {
        self.bucket.checksum == Checksum::Auto && is_refusal(error)
    }

    /// Goes on with an upload by its name. Makes no request.
    ///
    /// # Errors
    /// `Unsupported` for web servers.
    pub fn resume_upload(&self, id: impl Into<String>) -> Result<ObjectUpload> {
        self.upload_named(id.into())
    }

    /// What there is under the object's name, if anything.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Self::open`], except `NotFound`.
    pub async fn facts(&self) -> Result<Option<ObjectFacts>> {
        match look(self).await {
            Ok(version) => Ok(Some(version.facts())),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(self.place(error, "look at")),
        }
    }

    fn multipart(&self) -> Result<Arc<dyn MultipartStore>> {
        self.bucket.multipart.clone().ok_or_else(|| {
            let text = "a web server takes no uploads";
            Error::new(Kind::Unsupported, text).path(self.name())
        })
    }

    /// Makes a request until it succeeds or trying again cannot help; each try gets the read
    /// timeout and `extra`.
    async fn again<T, F>(&self, extra: Duration, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut retry = self.retry();
        loop {
            let permit = self.bucket.permit().await?;
            let outcome = self.once(extra, request()).await;
            drop(permit);
            let failure = match outcome {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            retry.pause(failure, self.bucket.contact.made()).await?;
        }
    }

    async fn once<T>(
        &self,
        extra: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failure> {
        let patience = self.bucket.limits.read_timeout + extra;
        match tokio::time::timeout(patience, request).await {
            Ok(outcome) => outcome.map_err(|error| self.bucket.failure(&error)),
            Err(_) => Err(Failure::stalled(patience, 0)),
        }
    }
}

impl ObjectUpload {
    /// What another process goes on with by [`ObjectStoreHandle::resume_upload`]: the store's name
    /// for the upload, after the checksum that its parts carry and a colon, if they carry one.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The store's own name for the upload that [`Self::id`] called `id`.
    pub fn id_in_store(id: &str) -> &str {
        match id.split_once(':') {
            Some((checksum, rest)) if checksum.parse::<Checksum>().is_ok() => rest,
            _ => id,
        }
    }

    /// Sends part `index`, counted from zero; gives the store's name for it. Sending a part again
    /// replaces it.
    ///
    /// Not cancel safe: a dropped call may or may not have stored the part.
    ///
    /// # Errors
    /// `NotFound` when the upload was completed, aborted or has expired; `Mismatch` when the store
    /// says again and again that other bytes arrived; else as [`ObjectStoreHandle::open`].
    pub async fn put_part(&self, index: usize, bytes: Bytes) -> Result<String> {
        // Sending has no progress to watch, so a slow line gets time by the size: 16 KiB/s.
        let extra = Duration::from_secs(bytes.len() as u64 >> 14);
        let put = |store: &Arc<dyn MultipartStore>| {
            let (store, payload) = (Arc::clone(store), PutPayload::from(bytes.clone()));
            async move { store.put_part(&self.handle.path, &self.in_store, index, payload).await }
        };
        let without = self.plain.as_ref();
        let known = without.filter(|_| self.refused.load(Ordering::Relaxed));
        let first = known.unwrap_or(&self.store);
        let part = match (self.handle.again(extra, || put(first)).await, without) {
            (Err(error), Some(plain)) if known.is_none() && is_refusal(&error) => {
                let part = self.handle.again(extra, || put(plain)).await;
                self.refused.fetch_or(part.is_ok(), Ordering::Relaxed);
                part
            }
            (part, _) => part,
        };
        part.map(|part| part.content_id).map_err(|error| self.handle.place(error, "upload a part"))
    }

    /// Makes the object of `size` bytes of its parts, in the order of their numbers. `replaced` is
    /// the `ETag` of what was under the name when the upload began.
    ///
    /// Not cancel safe: a dropped call may or may not have made the object.
    ///
    /// # Errors
    /// `NotFound` when the upload or a part of it is gone and the object was not made of them;
    /// `Mismatch` when the store has another object than it made; else as
    /// [`ObjectStoreHandle::open`].
    pub async fn complete(
        &self,
        parts: &[String],
        size: u64,
        replaced: Option<&str>,
    ) -> Result<ObjectFacts> {
        let place = |error| self.handle.place(error, "complete the upload");
        let mut retry = self.handle.retry();
        loop {
            let failure = match self.complete_once(parts).await.map_err(place)? {
                Ok(etag) => return self.expect(size, etag).await,
                Err(failure) => failure,
            };
            if failure.again == Again::Never {
                let made = self.made(parts, size, replaced).await?;
                return made.ok_or_else(|| place(lost_parts(failure)));
            }
            retry.pause(failure, self.handle.bucket.contact.made()).await.map_err(place)?;
        }
    }

    /// The object under the name, if it is the one that these parts make; see
    /// [`Self::complete`].
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`ObjectStoreHandle::facts`].
    pub async fn made(
        &self,
        parts: &[String],
        size: u64,
        replaced: Option<&str>,
    ) -> Result<Option<ObjectFacts>> {
        let found = self.handle.facts().await?;
        Ok(found.filter(|found| is_made_of(found, parts, size, Before(replaced))))
    }

    /// Gives the `ETag` of the object that the store says it made.
    async fn complete_once(&self, parts: &[String]) -> Result<Result<Option<String>, Failure>> {
        let _permit = self.handle.bucket.permit().await?;
        let part = |id: &String| PartId { content_id: id.clone() };
        let parts = parts.iter().map(part).collect();
        let complete = self.store.complete_multipart(&self.handle.path, &self.in_store, parts);
        // Stores put large objects together for minutes.
        let extra = Duration::from_mins(10);
        Ok(self.handle.once(extra, complete).await.map(|made| made.e_tag))
    }

    /// Makes sure that the object that the store says it made is there.
    async fn expect(&self, size: u64, etag: Option<String>) -> Result<ObjectFacts> {
        let mut found = self.handle.facts().await?;
        for wait in APPEARING {
            if found.is_some() {
                break;
            }
            tokio::time::sleep(wait).await;
            found = self.handle.facts().await?;
        }
        let is_same = |found: &ObjectFacts| match (&etag, &found.etag) {
            (Some(made), Some(found)) => made.trim_matches('"') == found.trim_matches('"'),
            _ => true,
        };
        let text = match found {
            Some(facts) if facts.size == size && is_same(&facts) => return Ok(facts),
            Some(facts) if facts.size == size => "another writer's object is in its place".into(),
            Some(facts) => format!("there is one of {} bytes", facts.size),
            None => "there is none".to_owned(),
        };
        let text = format!("the store said that it made an object of {size} bytes, but {text}");
        Err(self.handle.place(Error::new(Kind::Mismatch, text), "complete the upload"))
    }

    /// Gives up the upload and frees what was sent. An upload that is gone already is no error.
    ///
    /// # Errors
    /// As [`ObjectStoreHandle::open`], except `NotFound`.
    pub async fn abort(&self) -> Result<()> {
        let abort = || self.store.abort_multipart(&self.handle.path, &self.in_store);
        match self.handle.again(Duration::ZERO, abort).await {
            Err(error) if error.kind() != Kind::NotFound => {
                Err(self.handle.place(error, "abort the upload"))
            }
            _ => Ok(()),
        }
    }
}

/// What an object that was made may take to appear: versitygw takes the name away for a moment when
/// the same upload is completed twice at once, as a rerun does while the store still works on the
/// request of the run before.
const APPEARING: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Whether the store understood a request and does not do what it asks for.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), Kind::Usage | Kind::Unsupported)
}

/// A store that misses parts has lost what was sent, as one that misses the upload has (Amazon S3
/// API reference, `CompleteMultipartUpload`, errors; Azure "Put Block List", `InvalidBlockList`).
fn lost_parts(failure: Failure) -> Error {
    let code = failure.answer.as_ref().and_then(|answer| answer.code.as_deref());
    match code {
        Some("InvalidPart" | "InvalidBlockList") => {
            let text = "the store has lost parts of the upload";
            Error::new(Kind::NotFound, text).caused_by(failure.error)
        }
        _ => failure.error,
    }
}

impl fmt::Debug for ObjectUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectUpload({} of {})", self.id, self.handle.name())
    }
}
