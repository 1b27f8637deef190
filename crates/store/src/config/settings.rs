//! The settings of one store, and how two layers of them combine.

use super::{Checksum, Provider, Secret};
use carreto_error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The longest time that a setting can ask for; longer ones would overflow the clock.
pub(super) const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Who a request is made as. One value, so that no layer of configuration can pair its key with
/// the secret or the session of another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// An access key of S3 or COS.
    Key {
        /// The public half.
        id: String,
        /// The secret half.
        secret: Secret,
        /// The session of temporary credentials.
        token: Option<Secret>,
    },
    /// A bearer token of Google Cloud or Azure.
    Bearer(Secret),
    /// The JSON text of a Google service account.
    ServiceAccountKey(Secret),
    /// The path of the JSON file of a Google service account.
    ServiceAccountFile(PathBuf),
    /// The JSON file that `gcloud auth application-default login` writes.
    ApplicationFile(PathBuf),
    /// The key of an Azure storage account.
    AccountKey(Secret),
    /// A shared access signature of Azure: the query text.
    SharedAccess(Secret),
    /// Access keys of S3 or COS that can be renewed while a run is under way.
    Provider(Provider),
    /// Half of a key. An error for who needs the credentials, and for nobody else.
    Incomplete {
        /// Where the missing half was looked for, such as the name of a variable.
        missing: String,
    },
}

impl Credentials {
    /// The texts that must not appear anywhere.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        match self {
            Self::Key { secret, token, .. } => {
                let token = token.as_ref().map(Secret::expose);
                std::iter::once(secret.expose()).chain(token).collect()
            }
            Self::Bearer(text)
            | Self::ServiceAccountKey(text)
            | Self::AccountKey(text)
            | Self::SharedAccess(text) => vec![text.expose()],
            Self::ServiceAccountFile(_)
            | Self::ApplicationFile(_)
            | Self::Provider(_)
            | Self::Incomplete { .. } => Vec::new(),
        }
    }

    /// Refuses what cannot travel in a header.
    ///
    /// # Errors
    /// `Usage`, naming the part and not its content.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Incomplete { missing } => {
                Err(Error::new(Kind::Usage, format!("{missing} is not set, but its other half is")))
            }
            Self::Key { id, secret, token } => {
                check_text("access key", id)?;
                let token = token.iter().map(Secret::expose);
                std::iter::once(secret.expose())
                    .chain(token)
                    .try_for_each(|text| check_text("secret or token", text))
            }
            Self::ServiceAccountKey(_) => Ok(()),
            _ => {
                self.secrets().into_iter().try_for_each(|text| check_text("secret or token", text))
            }
        }
    }
}

fn check_text(what: &str, text: &str) -> Result<()> {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Usage,
        format!("the {what} is empty, or has spaces, line ends or other characters it cannot have"),
    ))
}

/// The settings of one store; what is `None` is left to the layer below and finally to the
/// default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreSettings {
    /// The server's address, without the bucket.
    pub endpoint: Option<String>,
    /// The region that requests are signed for, and that a default endpoint is made of.
    pub region: Option<String>,
    /// Who requests are made as. Without any, requests are not signed.
    pub credentials: Option<Credentials>,
    /// The storage account of Azure.
    pub account: Option<String>,
    /// Sends requests unsigned although there are credentials.
    pub anonymous: Option<bool>,
    /// Allows plain HTTP to a host that is not this machine.
    pub allow_http: Option<bool>,
    /// Puts the bucket into the host name instead of the path.
    pub virtual_host: Option<bool>,
    /// The proxy that requests go through. A secret, because it can carry a password.
    pub proxy: Option<Secret>,
    /// Hosts that are reached without the proxy, separated by commas.
    pub no_proxy: Option<String>,
    /// Further headers of every request.
    pub headers: BTreeMap<String, Secret>,
    /// How long a request is tried again before the store counts as unavailable.
    pub retry_for: Option<Duration>,
    /// How long a request may go without `min_progress` bytes arriving.
    pub read_timeout: Option<Duration>,
    /// How long a connection may take to be made.
    pub connect_timeout: Option<Duration>,
    /// Bytes that must arrive within each `read_timeout`.
    pub min_progress: Option<u64>,
    /// Requests under way at once, for all readers of a bucket together.
    pub max_requests: Option<usize>,
    /// Bytes of one range request; longer reads are split and made in parallel.
    pub part_size: Option<u64>,
    /// Reads objects that carry neither an `ETag` nor a time of modification. A change of such an
    /// object while it is read is noticed only when its size changes.
    pub accept_unversioned: Option<bool>,
    /// With which checksum the parts of an upload are sent; S3 and COS only.
    pub checksum: Option<Checksum>,
}

impl StoreSettings {
    /// Puts `over` on top: what it sets wins.
    #[must_use]
    pub fn overlaid(mut self, over: &Self) -> Self {
        /// Replaces every field that the upper layer has.
        macro_rules! take {
            ($($field:ident),*) => {
                $(if over.$field.is_some() {
                    self.$field.clone_from(&over.$field);
                })*
            };
        }
        take!(
            endpoint,
            region,
            credentials,
            account,
            anonymous,
            allow_http,
            virtual_host,
            proxy,
            no_proxy,
            retry_for,
            read_timeout,
            connect_timeout,
            min_progress,
            max_requests,
            part_size,
            accept_unversioned,
            checksum
        );
        let headers = over.headers.iter();
        self.headers.extend(headers.map(|(name, value)| (name.clone(), value.clone())));
        self
    }

    pub(crate) fn retry_for(&self) -> Duration {
        self.retry_for.unwrap_or(Duration::from_hours(1)).min(LONGEST)
    }

    pub(crate) fn read_timeout(&self) -> Duration {
        self.read_timeout.unwrap_or(Duration::from_secs(30)).min(LONGEST)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout.unwrap_or(Duration::from_secs(10)).min(LONGEST)
    }

    pub(crate) fn min_progress(&self) -> u64 {
        self.min_progress.unwrap_or(4096)
    }

    pub(crate) fn max_requests(&self) -> usize {
        self.max_requests.unwrap_or(16).clamp(1, 1024)
    }

    pub(crate) fn part_size(&self) -> usize {
        let bytes = self.part_size.unwrap_or(8 << 20).clamp(64 << 10, 1 << 30);
        usize::try_from(bytes).unwrap_or(8 << 20)
    }

    /// The texts that must not appear anywhere.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        let credentials = self.credentials.as_ref().map(Credentials::secrets);
        credentials
            .into_iter()
            .flatten()
            .chain(self.proxy.as_ref().map(Secret::expose))
            .chain(self.headers.values().map(Secret::expose))
            .collect()
    }
}
