//! All stores of a run: one per bucket, made when first needed.

use super::build::{self, Built};
use super::event::StoreObserver;
use super::handle::{Bucket, Limits, ObjectStoreHandle};
use super::keys::Keys;
use super::redact::Redactor;
use super::source::ObjectSource;
use super::throttle::Throttle;
use super::transport::Contact;
use crate::config::{Credentials, StoreConfig, StoreSettings};
use crate::url::{ObjectUrl, Scheme};
use carreto_error::{Error, Kind, Result};
use object_store::memory::InMemory;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Opens objects by URL.
///
/// ```
/// # async fn example() -> carreto_error::Result<()> {
/// use carreto_block::SourceExt as _;
/// use carreto_store::{Location, ObjectStores, SilentObserver, StoreConfig};
/// use std::sync::Arc;
///
/// let stores = ObjectStores::new(StoreConfig::new(), Arc::new(SilentObserver));
/// if let Location::Object(url) = "s3://images/disk.qcow2".parse()? {
///     let disk = stores.open(&url).await?;
///     let header = disk.read_vec(0, 512).await?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct ObjectStores {
    config: StoreConfig,
    observer: Arc<dyn StoreObserver>,
    memory: Arc<InMemory>,
    /// By scheme and bucket, and by whole address for the web. Some keys hold signatures.
    buckets: Mutex<HashMap<(Scheme, String), Arc<Bucket>>>,
}

impl ObjectStores {
    /// Stores that are used by `config` and tell `observer` what happens. Makes no request.
    pub fn new(config: StoreConfig, observer: Arc<dyn StoreObserver>) -> Self {
        Self { config, observer, memory: Arc::new(InMemory::new()), buckets: Mutex::default() }
    }

    /// Binds `url` to its store. Makes no request.
    ///
    /// # Errors
    /// `Usage` when the settings are incomplete or do not fit the store.
    pub fn handle(&self, url: &ObjectUrl) -> Result<ObjectStoreHandle> {
        let place = match url.web() {
            Some(address) => address.to_string(),
            None => url.bucket().to_owned(),
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = match buckets.entry((url.scheme(), place)) {
            std::collections::hash_map::Entry::Occupied(found) => Arc::clone(found.get()),
            std::collections::hash_map::Entry::Vacant(free) => {
                Arc::clone(free.insert(Arc::new(self.bucket(url)?)))
            }
        };
        ObjectStoreHandle::new(bucket, url)
    }

    /// Opens the object at `url` for reading.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Self::handle`] and [`ObjectStoreHandle::open`].
    pub async fn open(&self, url: &ObjectUrl) -> Result<ObjectSource> {
        self.handle(url)?.open().await
    }

    fn bucket(&self, url: &ObjectUrl) -> Result<Bucket> {
        let settings = self.config.settings(url);
        if settings.read_timeout().is_zero() {
            return Err(Error::new(Kind::Usage, "the read timeout is zero"));
        }
        let redactor = redactor(url, &settings);
        let contact = Arc::new(Contact::default());
        let keys = match &settings.credentials {
            Some(Credentials::Provider(provider)) => {
                Some(Arc::new(Keys::new(provider.clone(), redactor.clone())))
            }
            _ => None,
        };
        let Built { store, multipart, summed, raw } = match url.scheme() {
            Scheme::Memory => Built::both(Arc::clone(&self.memory)),
            _ => build::store(url, &settings, &contact, &redactor, keys.as_ref())?,
        };
        Ok(Bucket {
            store,
            multipart,
            summed,
            raw,
            checksum: settings.checksum.unwrap_or_default(),
            observer: Arc::clone(&self.observer),
            redactor,
            contact,
            signed: settings.credentials.is_some() && !settings.anonymous.unwrap_or(false),
            throttle: Throttle::default(),
            keys,
            permits: Semaphore::new(settings.max_requests()),
            limits: Limits {
                retry_for: settings.retry_for(),
                read_timeout: settings.read_timeout(),
                min_progress: settings.min_progress(),
                max_requests: settings.max_requests(),
                part_size: settings.part_size(),
                accept_unversioned: settings.accept_unversioned.unwrap_or(false),
            },
        })
    }
}

/// Knows every secret that a request to `url` carries, also as parts of longer texts and without
/// the escaping of URLs, as servers repeat them.
fn redactor(url: &ObjectUrl, settings: &StoreSettings) -> Redactor {
    let proxy = settings.proxy.as_ref();
    let proxy = proxy.and_then(|proxy| url::Url::parse(proxy.expose()).ok());
    let password = proxy.as_ref().and_then(url::Url::password);
    let query = url.web().and_then(url::Url::query).unwrap_or_default();
    let access = match &settings.credentials {
        Some(Credentials::SharedAccess(query)) => query.expose().trim_start_matches('?'),
        _ => "",
    };
    // Of a shared access signature the other parameters are dates and permissions.
    let signature = |pair: &&str| pair.starts_with("sig=");
    let pairs = query.split('&').chain(access.split('&').filter(signature));
    let values = pairs.filter_map(|pair| Some(pair.split_once('=')?.1));
    let texts: Vec<&str> =
        settings.secrets().into_iter().chain(password).chain([query]).chain(values).collect();
    let decoded: Vec<String> = texts.iter().flat_map(|text| decoded(text)).collect();
    Redactor::new(texts.into_iter().chain(decoded.iter().map(String::as_str)))
}

/// What `text` stands for in a URL: with a plus sign as it is, and as a space.
fn decoded(text: &str) -> Vec<String> {
    if !text.contains(['%', '+']) {
        return Vec::new();
    }
    let plain = text.replace('&', "%26").replace('=', "%3D");
    let decode = |text: &str| {
        url::form_urlencoded::parse(text.as_bytes()).map(|(name, _)| name.into_owned()).next()
    };
    [decode(&plain), decode(&plain.replace('+', "%2B"))].into_iter().flatten().collect()
}

impl fmt::Debug for ObjectStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStores").field("config", &self.config).finish_non_exhaustive()
    }
}
