//! An object's name together with the store that it is in.

use super::event::StoreObserver;
use super::failure::{self, Failure};
use super::keys::Keys;
use super::raw::Raw;
use super::redact::Redactor;
use super::retry::{Retry, Shared};
use super::source::ObjectSource;
use super::throttle::Throttle;
use super::transport::Contact;
use crate::config::Checksum;
use crate::url::ObjectUrl;
use bytes::Bytes;
use carreto_error::{Error, Kind, Result};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// One bucket as all its readers share it.
pub(super) struct Bucket {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The same store for uploads in parts, where it takes them.
    pub(super) multipart: Option<Arc<dyn MultipartStore>>,
    /// The same store for uploads whose parts carry a checksum.
    pub(super) summed: Vec<(Checksum, Arc<dyn MultipartStore>)>,
    /// The bucket for requests that `object_store` does not make.
    pub(super) raw: Option<Raw>,
    /// With which checksum uploads are begun.
    pub(super) checksum: Checksum,
    pub(super) observer: Arc<dyn StoreObserver>,
    pub(super) redactor: Redactor,
    pub(super) contact: Arc<Contact>,
    pub(super) permits: Semaphore,
    pub(super) throttle: Throttle,
    /// The keys, if they can be renewed.
    pub(super) keys: Option<Arc<Keys>>,
    pub(super) limits: Limits,
    /// Whether requests carry credentials.
    pub(super) signed: bool,
}

/// The numbers in the settings, with their defaults.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) retry_for: Duration,
    pub(super) read_timeout: Duration,
    pub(super) min_progress: u64,
    pub(super) max_requests: usize,
    pub(super) part_size: usize,
    pub(super) accept_unversioned: bool,
}

impl Bucket {
    /// Waits for the right to make one request, and for the end of a pause that the store asked
    /// for.
    ///
    /// Cancel safe.
    pub(super) async fn permit(&self) -> Result<SemaphorePermit<'_>> {
        let permit =
            self.permits.acquire().await.map_err(|error| {
                Error::new(Kind::Internal, "the store was closed").caused_by(error)
            })?;
        self.throttle.wait().await;
        Ok(permit)
    }

    /// Maps an error of `object_store`.
    pub(super) fn failure(&self, error: &object_store::Error) -> Failure {
        let mut failure = failure::of_store(error, &self.redactor);
        let status = failure.answer.as_ref().map(|answer| answer.status.as_u16());
        if !self.signed && matches!(status, Some(401 | 403)) {
            failure.error = failure.error.remedied_by(
                "no credentials were given, so the request was not signed: name them in the \
                 environment or the configuration file",
            );
        }
        failure
    }
}

/// One object in a store, existing or not. Cheap to clone.
///
/// Handles of one [`super::ObjectStores`] share connections and the limit of requests per bucket.
#[derive(Clone)]
pub struct ObjectStoreHandle {
    pub(super) bucket: Arc<Bucket>,
    pub(super) name: Arc<str>,
    pub(super) identity: Arc<str>,
    pub(super) path: Path,
    pub(super) web: bool,
}

impl ObjectStoreHandle {
    pub(super) fn new(bucket: Arc<Bucket>, url: &ObjectUrl) -> Result<Self> {
        let web = url.scheme().is_web();
        let path = if web {
            // The store was built for the whole address.
            Path::default()
        } else {
            Path::parse(url.key()).map_err(|_| {
                Error::new(Kind::Usage, "the key has a form that cannot be addressed")
                    .path(url.to_string())
            })?
        };
        let (name, identity) = (url.to_string().into(), url.identity().into());
        Ok(Self { bucket, name, identity, path, web })
    }

    /// The URL for messages, free of secrets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens the object for reading: learns its size, `ETag` and time of modification, which every
    /// read is then held to.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NotFound`; `Denied` for credentials, clock, region and redirects to other hosts;
    /// `Unsupported` when a web server cannot serve ranges, or the object has neither an `ETag` nor
    /// a time of modification and the settings do not accept that; `Unavailable` when the store did not
    /// answer within the retry budget.
    pub async fn open(&self) -> Result<ObjectSource> {
        ObjectSource::open(self.clone()).await
    }

    /// Writes the whole object in one request, replacing what was there.
    ///
    /// Not cancel safe: a dropped call may or may not have written the object. It never leaves a
    /// part of one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<()> {
        let bucket = &*self.bucket;
        let mut retry = self.retry();
        loop {
            let permit = bucket.permit().await?;
            let outcome = self.put_once(bytes.clone()).await;
            drop(permit);
            let Err(failure) = outcome else {
                return Ok(());
            };
            let pause = retry.pause(failure, bucket.contact.made()).await;
            pause.map_err(|error| self.place(error, "write"))?;
        }
    }

    async fn put_once(&self, bytes: Bytes) -> Result<(), Failure> {
        // Sending has no progress to watch, so a slow line gets time by the size: 16 KiB/s.
        let patience = self.bucket.limits.read_timeout;
        let patience = patience + Duration::from_secs(bytes.len() as u64 >> 14);
        let put = self.bucket.store.put(&self.path, PutPayload::from(bytes));
        match tokio::time::timeout(patience, put).await {
            Ok(outcome) => outcome.map(|_| ()).map_err(|error| self.bucket.failure(&error)),
            Err(_) => Err(Failure::stalled(patience, 0)),
        }
    }

    /// The failures of one request from now on.
    pub(super) fn retry(&self) -> Retry<'_> {
        let bucket = &*self.bucket;
        let shared = Shared {
            observer: &*bucket.observer,
            throttle: &bucket.throttle,
            keys: bucket.keys.as_deref(),
        };
        Retry::new(&self.name, shared, bucket.limits.retry_for)
    }

    /// Says what was being done, and to which object.
    pub(super) fn place(&self, error: Error, operation: &'static str) -> Error {
        error.during(operation).path(&*self.name)
    }
}

impl fmt::Debug for ObjectStoreHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectStoreHandle({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Location, ObjectStores, SilentObserver, StoreConfig};
    use carreto_block::SourceExt as _;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn every_request_waits_for_the_pause_of_the_store() {
        let stores = ObjectStores::new(StoreConfig::new(), Arc::new(SilentObserver));
        let Location::Object(url) = "memory:disk".parse().unwrap() else {
            panic!("not an object");
        };
        let handle = stores.handle(&url).unwrap();
        handle.put_bytes(vec![7; 100].into()).await.unwrap();
        let source = handle.open().await.unwrap();
        let pause = Duration::from_secs(50);
        let start = Instant::now();
        handle.bucket.throttle.hold(pause);
        assert_eq!(source.read_vec(0, 100).await.unwrap(), vec![7; 100]);
        assert!(start.elapsed() >= pause, "{:?}", start.elapsed());
    }
}
