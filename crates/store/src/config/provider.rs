//! Keys that can be renewed while a run is under way, because temporary ones expire before a large
//! disk is copied.

use super::{Credentials, profile};
use async_trait::async_trait;
use carreto_error::{Error, IoSide, Kind, Result};
use std::fmt::{self, Debug};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Where a run gets keys from, and new ones when the store says that those have expired.
///
/// `Debug` must not print them.
#[async_trait]
pub trait CredentialProvider: Send + Sync + Debug {
    /// The keys that are good now: [`Credentials::Key`]. Asked before the first request, when
    /// [`Self::changed`] says so, and once for a request that was refused because its keys have
    /// expired.
    ///
    /// # Errors
    /// `Denied` or what fits, free of secrets.
    async fn credentials(&self) -> Result<Credentials>;

    /// Whether there may be other keys than those last handed out. Asked before every request, so
    /// it must be quick.
    fn changed(&self) -> bool {
        false
    }
}

/// A [`CredentialProvider`] as a value of the settings. Equal to its clones only.
#[derive(Clone)]
pub struct Provider(pub(crate) Arc<dyn CredentialProvider>);

impl Provider {
    /// Wraps `provider`.
    pub fn new(provider: impl CredentialProvider + 'static) -> Self {
        Self(Arc::new(provider))
    }
}

impl Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.0, f)
    }
}

impl PartialEq for Provider {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Provider {}

/// A profile in a file that some other program writes new keys to.
#[derive(Debug)]
pub(super) struct ProfileFile {
    path: PathBuf,
    profile: String,
    /// When the file was last changed, as of the last reading.
    read: Mutex<Option<SystemTime>>,
}

impl ProfileFile {
    pub(super) fn new(path: &Path, profile: &str) -> Self {
        Self { path: path.to_owned(), profile: profile.to_owned(), read: Mutex::default() }
    }

    fn modified(&self) -> Option<SystemTime> {
        std::fs::metadata(&self.path).and_then(|file| file.modified()).ok()
    }
}

#[async_trait]
impl CredentialProvider for ProfileFile {
    async fn credentials(&self) -> Result<Credentials> {
        // Before the reading, so that a change in between is seen by the next look.
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = self.modified();
        let name = self.path.display().to_string();
        let text = read(&self.path)?;
        let settings = profile::parse(&text, &self.profile).map_err(|error| error.path(&*name))?;
        settings.credentials.ok_or_else(|| {
            let text = format!("the profile {:?} has no keys any more", self.profile);
            Error::new(Kind::Denied, text).path(name)
        })
    }

    fn changed(&self) -> bool {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) != self.modified()
    }
}

/// The text of a small file of settings.
pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        Error::io(IoSide::State, "read the credentials", path.display().to_string(), error)
    })
}
