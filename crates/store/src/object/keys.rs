//! The keys that requests are signed with, when they can be renewed.

use super::redact::Redactor;
use crate::config::{Credentials, Provider};
use async_trait::async_trait;
use carreto_error::{Error, Kind, Result};
use object_store::aws::AwsCredential;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// Asks the provider for keys, once for all requests that need them.
#[derive(Debug)]
pub(super) struct Keys {
    provider: Provider,
    redactor: Redactor,
    current: Mutex<Option<Arc<AwsCredential>>>,
    /// How often the keys became others.
    generation: AtomicU64,
}

impl Keys {
    pub(super) fn new(provider: Provider, redactor: Redactor) -> Self {
        Self { provider, redactor, current: Mutex::default(), generation: AtomicU64::new(0) }
    }

    /// Tells keys from those before them.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Gets other keys than those of generation `used`, which have expired. Returns whether there
    /// are any.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// Those of the provider.
    pub(super) async fn renew(&self, used: u64) -> Result<bool> {
        let mut current = self.current.lock().await;
        if self.generation() != used {
            return Ok(true);
        }
        let new = Arc::new(self.ask().await?);
        Ok(self.replace(&mut current, &new))
    }

    /// Puts `new` in place; returns whether it is another.
    fn replace(&self, current: &mut Option<Arc<AwsCredential>>, new: &Arc<AwsCredential>) -> bool {
        let other = current.as_ref().is_none_or(|old| old != new);
        if other && current.replace(Arc::clone(new)).is_some() {
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
        other
    }

    async fn ask(&self) -> Result<AwsCredential> {
        let credentials = self.provider.0.credentials().await?;
        self.redactor.learn(credentials.secrets());
        credentials.check()?;
        match credentials {
            Credentials::Key { id, secret, token } => Ok(AwsCredential {
                key_id: id,
                secret_key: secret.expose().to_owned(),
                token: token.map(|token| token.expose().to_owned()),
            }),
            _ => Err(Error::new(Kind::Usage, "the provider of credentials handed out no key")),
        }
    }
}

#[async_trait]
impl object_store::CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut current = self.current.lock().await;
        let old = current.clone();
        if let Some(old) = &old
            && !self.provider.0.changed()
        {
            return Ok(Arc::clone(old));
        }
        match (self.ask().await, old) {
            (Ok(new), _) => {
                let new = Arc::new(new);
                self.replace(&mut current, &new);
                Ok(new)
            }
            // A file that is half written: the old keys may still do.
            (Err(_), Some(old)) => Ok(old),
            (Err(error), None) => {
                Err(object_store::Error::Generic { store: "keys", source: error.into() })
            }
        }
    }
}
