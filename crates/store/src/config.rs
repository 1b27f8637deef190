//! Which settings a store is used with, and where they come from.
//!
//! This crate reads no environment and no file on its own: the front end hands in texts. The one
//! exception is a file of profiles that the front end names to be read again, because its keys
//! are renewed while a run is under way. Three
//! layers combine, field by field: flags over the environment over the configuration file; a
//! shared credentials file of the AWS tools lies between the last two. Credentials are one field,
//! so a key never meets the secret of another layer.

mod checksum;
mod env;
mod file;
mod profile;
mod provider;
mod secret;
mod settings;

pub use checksum::Checksum;
pub use provider::{CredentialProvider, Provider};
pub use secret::Secret;
pub use settings::{Credentials, StoreSettings};

use crate::url::{ObjectUrl, Scheme};
use carreto_error::Result;
use file::FileSettings;
use std::collections::BTreeMap;
use std::path::Path;

/// The settings of all stores, before one is chosen.
///
/// ```
/// use carreto_store::StoreConfig;
///
/// let file = r#"
///     [store]
///     retry_for = "10m"
///     [store.s3]
///     endpoint = "https://minio.example.org:9000"
/// "#;
/// let environment = [("AWS_REGION", "eu-central-1")];
/// let config = StoreConfig::new().with_file(file)?.with_env(environment)?;
/// # Ok::<(), carreto_error::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// The one that wins last.
    files: Vec<FileSettings>,
    profile: StoreSettings,
    env: BTreeMap<Scheme, StoreSettings>,
    flags: StoreSettings,
}

impl StoreConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the `[store]` tables of the text of a configuration file; other tables are left to
    /// their owners.
    ///
    /// `[store]` holds for every store, `[store.s3]` for a scheme (`s3`, `cos`, `gs`, `az`,
    /// `http` for both web schemes) and `[store.s3.buckets.NAME]` for a bucket or host.
    ///
    /// May be called for several files, such as the system's and then the user's: a later one
    /// goes over the earlier ones, field by field.
    ///
    /// # Errors
    /// `Usage`, naming the line or the key, never a value.
    pub fn with_file(mut self, text: &str) -> Result<Self> {
        self.files.push(file::parse(text)?);
        Ok(self)
    }

    /// Takes one profile out of the text of a credentials or config file of the AWS tools; may be
    /// called for both, the later one wins.
    ///
    /// # Errors
    /// `Usage` when the profile has half a key. A profile that is not there changes nothing.
    pub fn with_aws_profile(mut self, text: &str, profile: &str) -> Result<Self> {
        let settings = profile::parse(text, profile)?;
        self.profile = std::mem::take(&mut self.profile).overlaid(&settings);
        Ok(self)
    }

    /// As [`Self::with_aws_profile`] with the text of the file at `path`, whose keys are read anew
    /// when the file was changed and when the store says that they have expired.
    ///
    /// # Errors
    /// As [`Self::with_aws_profile`]; `NotFound`, `Denied` or `Io` when the file cannot be read.
    pub fn with_aws_profile_file(self, path: impl AsRef<Path>, profile: &str) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let text = provider::read(path)?;
        let mut settings = profile::parse(&text, profile).map_err(|error| error.path(name))?;
        if let Some(Credentials::Key { .. }) = settings.credentials {
            let file = provider::ProfileFile::new(path, profile);
            settings.credentials = Some(Credentials::Provider(Provider::new(file)));
        }
        Ok(Self { profile: self.profile.clone().overlaid(&settings), ..self })
    }

    /// Takes the standard variables out of the environment: `AWS_*`, `COS_*`, `TENCENTCLOUD_*`,
    /// `GOOGLE_*`, `AZURE_*`, `HTTPS_PROXY`, `NO_PROXY`. Others are ignored, empty ones count as
    /// not set.
    ///
    /// # Errors
    /// `Usage`, naming the variable, never its value. Half of a key is an error of the first use
    /// of the store, because a run over local files does not need it.
    pub fn with_env<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Result<Self>
    where
        N: AsRef<str>,
        V: AsRef<str>,
    {
        self.env = env::parse(variables)?;
        Ok(self)
    }

    /// Puts explicit settings over everything.
    #[must_use]
    pub fn with_flags(mut self, flags: StoreSettings) -> Self {
        self.flags = flags;
        self
    }

    /// The settings for one object's store.
    pub fn settings(&self, url: &ObjectUrl) -> StoreSettings {
        let scheme = match url.scheme() {
            Scheme::Https => Scheme::Http,
            other => other,
        };
        let mut settings = StoreSettings::default();
        for file in &self.files {
            settings = settings.overlaid(&file.settings(scheme, url.bucket()));
        }
        if scheme == Scheme::S3 {
            settings = settings.overlaid(&self.profile);
        }
        if let Some(env) = self.env.get(&scheme) {
            settings = settings.overlaid(env);
        }
        settings.overlaid(&self.flags)
    }
}
