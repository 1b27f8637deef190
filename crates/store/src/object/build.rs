//! Settings and a URL become a store.

use super::failure;
use super::keys::Keys;
use super::raw::Raw;
use super::redact::Redactor;
use super::transport::{self, Connector, Contact};
use crate::config::{Checksum, Credentials, StoreSettings};
use crate::url::{ObjectUrl, Scheme};
use carreto_error::{Error, Kind, Result};
use object_store::aws::{AmazonS3Builder, Checksum as Algorithm};
use object_store::azure::{AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::client::HttpConnector as _;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::http::HttpBuilder;
use object_store::multipart::MultipartStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider};
use std::sync::Arc;
use url::{Host, Url};

/// A store, as what reads and as what takes uploads in parts.
pub(super) struct Built {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) multipart: Option<Arc<dyn MultipartStore>>,
    /// The same store for uploads whose parts carry a checksum.
    pub(super) summed: Vec<(Checksum, Arc<dyn MultipartStore>)>,
    /// The bucket for requests that `object_store` does not make.
    pub(super) raw: Option<Raw>,
}

impl Built {
    pub(super) fn both<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Self {
        let multipart = Some(Arc::clone(&store) as _);
        Self { store, multipart, summed: Vec::new(), raw: None }
    }
}

/// Builds the store of `url`. Makes no request.
pub(super) fn store(
    url: &ObjectUrl,
    settings: &StoreSettings,
    contact: &Arc<Contact>,
    redactor: &Redactor,
    keys: Option<&Arc<Keys>>,
) -> Result<Built> {
    let parts = Parts { url, settings, contact, redactor, keys };
    if let Some(credentials) = parts.credentials() {
        credentials.check().map_err(|error| error.path(url.to_string()))?;
    }
    match url.scheme() {
        Scheme::S3 | Scheme::Cos => parts.s3(),
        Scheme::Gs => parts.google(),
        Scheme::Az => parts.azure(),
        Scheme::Http | Scheme::Https => parts.web(),
        Scheme::Memory => Err(Error::new(Kind::Internal, "memory needs no connection")),
    }
}

struct Parts<'a> {
    url: &'a ObjectUrl,
    settings: &'a StoreSettings,
    contact: &'a Arc<Contact>,
    redactor: &'a Redactor,
    keys: Option<&'a Arc<Keys>>,
}

impl Parts<'_> {
    fn s3(&self) -> Result<Built> {
        let region = self.region()?;
        let endpoint = match self.endpoint()? {
            Some(endpoint) => Some(endpoint),
            None if self.url.scheme() == Scheme::Cos => Some(cos_endpoint(region.as_deref())?),
            None => None,
        };
        let virtual_host = self.virtual_host(endpoint.as_ref());
        let region = region.as_deref().unwrap_or("us-east-1");
        let connector = self.connector(endpoint.as_ref())?;
        let client =
            connector.connect(&ClientOptions::new()).map_err(|error| self.wrong(&error))?;
        // TLS protects what is sent already; a second hash would cost half a core.
        let sign_payload = endpoint.as_ref().is_some_and(|url| url.scheme() == "http");
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(self.url.bucket())
            .with_region(region)
            .with_virtual_hosted_style_request(virtual_host)
            .with_retry(no_retries())
            .with_client_options(self.options()?)
            .with_http_connector(connector)
            .with_unsigned_payload(!sign_payload);
        let mut base = self.aws_base(region, virtual_host);
        if let Some(mut endpoint) = endpoint {
            if virtual_host {
                put_bucket_into_host(&mut endpoint, self.url.bucket())?;
            }
            let endpoint = endpoint.as_str().trim_end_matches('/');
            builder = builder.with_endpoint(endpoint);
            let below =
                if virtual_host { String::new() } else { format!("/{}", self.url.bucket()) };
            base = format!("{endpoint}{below}");
        }
        builder = match (self.credentials(), self.keys) {
            (None, _) => builder.with_skip_signature(true),
            (Some(Credentials::Provider(_)), Some(keys)) => {
                builder.with_credentials(Arc::clone(keys) as _)
            }
            (Some(Credentials::Key { id, secret, token }), _) => {
                let signed = builder.with_access_key_id(id).with_secret_access_key(secret.expose());
                match token {
                    Some(token) => signed.with_token(token.expose()),
                    None => signed,
                }
            }
            (Some(_), _) => return Err(self.wrong_credentials("an access key and its secret")),
        };
        let store = builder.clone().build().map_err(|error| self.wrong(&error))?;
        let raw = Raw {
            client,
            base,
            region: region.to_owned(),
            credentials: self.credentials().map(|_| Arc::clone(store.credentials())),
            sign_payload,
            headers: transport::headers(self.settings)?,
        };
        let mut summed = Vec::new();
        let algorithms =
            [(Checksum::Crc64Nvme, Algorithm::CRC64NVME), (Checksum::Sha256, Algorithm::SHA256)];
        for (checksum, algorithm) in algorithms {
            let store = builder.clone().with_checksum_algorithm(algorithm).build();
            let store = store.map_err(|error| self.wrong(&error))?;
            summed.push((checksum, Arc::new(store) as _));
        }
        Ok(Built { summed, raw: Some(raw), ..Built::both(Arc::new(store)) })
    }

    /// The address of the bucket at Amazon ("Methods for accessing a general purpose bucket",
    /// Amazon S3 user guide).
    fn aws_base(&self, region: &str, virtual_host: bool) -> String {
        let bucket = self.url.bucket();
        if virtual_host {
            format!("https://{bucket}.s3.{region}.amazonaws.com")
        } else {
            format!("https://s3.{region}.amazonaws.com/{bucket}")
        }
    }

    fn google(&self) -> Result<Built> {
        let endpoint = self.endpoint()?;
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(self.url.bucket())
            .with_retry(no_retries())
            .with_client_options(self.options()?)
            .with_http_connector(self.connector(endpoint.as_ref())?);
        if let Some(endpoint) = endpoint {
            builder = builder.with_base_url(endpoint.as_str().trim_end_matches('/'));
        }
        let bearer = |text: &str| {
            let bearer = text.to_owned();
            Arc::new(StaticCredentialProvider::new(GcpCredential { bearer }))
        };
        builder = match self.credentials() {
            None => builder.with_credentials(bearer("")).with_skip_signature(true),
            Some(Credentials::Bearer(token)) => builder.with_credentials(bearer(token.expose())),
            Some(Credentials::ServiceAccountKey(key)) => {
                builder.with_service_account_key(key.expose())
            }
            Some(Credentials::ServiceAccountFile(path)) => {
                builder.with_service_account_path(path.to_string_lossy())
            }
            Some(Credentials::ApplicationFile(path)) => {
                builder.with_application_credentials(path.to_string_lossy())
            }
            Some(_) => return Err(self.wrong_credentials("a service account or a token")),
        };
        // The cause is left out: it quotes the file that it could not parse.
        let store = builder.build().map_err(|_| {
            let text = "the credentials of Google cannot be read or understood";
            Error::new(Kind::Usage, text).path(self.url.to_string())
        })?;
        Ok(Built::both(Arc::new(store)))
    }

    fn azure(&self) -> Result<Built> {
        let endpoint = self.endpoint()?;
        let account = self.settings.account.as_deref();
        let account = account.filter(|name| is_label(name)).ok_or_else(|| {
            Error::new(Kind::Usage, "the storage account of Azure is not named")
                .path(self.url.to_string())
                .remedied_by("set AZURE_STORAGE_ACCOUNT_NAME, or account in [store.az]")
        })?;
        let mut builder = MicrosoftAzureBuilder::new()
            .with_container_name(self.url.bucket())
            .with_account(account)
            .with_retry(no_retries())
            .with_client_options(self.options()?)
            .with_http_connector(self.connector(endpoint.as_ref())?);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/').to_owned());
        }
        builder = match self.credentials() {
            None => {
                let nobody = AzureCredential::BearerToken(String::new());
                builder
                    .with_credentials(Arc::new(StaticCredentialProvider::new(nobody)))
                    .with_skip_signature(true)
            }
            Some(Credentials::AccountKey(key)) => builder.with_access_key(key.expose()),
            Some(Credentials::Bearer(token)) => {
                builder.with_bearer_token_authorization(token.expose())
            }
            Some(Credentials::SharedAccess(signature)) => {
                builder.with_config(AzureConfigKey::SasKey, signature.expose())
            }
            Some(_) => return Err(self.wrong_credentials("an account key or a signature")),
        };
        let store = builder.build().map_err(|error| self.wrong(&error))?;
        Ok(Built::both(Arc::new(store)))
    }

    fn web(&self) -> Result<Built> {
        let address = self
            .url
            .web()
            .ok_or_else(|| Error::new(Kind::Internal, "a web location without its address"))?;
        let plain = self.url.scheme() == Scheme::Http;
        let headers = transport::headers(self.settings)?;
        if plain && !headers.is_empty() {
            self.check_plain(address)?;
        }
        let contact = Arc::clone(self.contact);
        let connector = Connector::new(self.settings, plain, headers, contact)?;
        let store = HttpBuilder::new()
            .with_url(address.as_str())
            .with_retry(no_retries())
            .with_http_connector(connector)
            .build()
            .map_err(|error| self.wrong(&error))?;
        Ok(Built { store: Arc::new(store), multipart: None, summed: Vec::new(), raw: None })
    }

    /// The credentials, unless requests shall not be signed.
    fn credentials(&self) -> Option<&Credentials> {
        let anonymous = self.settings.anonymous.unwrap_or(false);
        self.settings.credentials.as_ref().filter(|_| !anonymous)
    }

    fn options(&self) -> Result<ClientOptions> {
        let headers = transport::headers(self.settings)?;
        Ok(ClientOptions::new().with_default_headers(headers))
    }

    fn connector(&self, endpoint: Option<&Url>) -> Result<Connector> {
        let plain = endpoint.is_some_and(|url| url.scheme() == "http");
        let contact = Arc::clone(self.contact);
        Connector::new(self.settings, plain, http::HeaderMap::new(), contact)
    }

    fn endpoint(&self) -> Result<Option<Url>> {
        let Some(text) = &self.settings.endpoint else {
            return Ok(None);
        };
        let wrong = |why: &str| {
            let text = format!("the endpoint {why}; it has the form https://host:port");
            Error::new(Kind::Usage, text).path(self.url.to_string())
        };
        let url = Url::parse(text).map_err(|_| wrong("cannot be understood"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(wrong("is not a web address"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong("carries a user name, a password or a query"));
        }
        if url.scheme() == "http" {
            self.check_plain(&url)?;
        }
        Ok(Some(url))
    }

    /// Plain HTTP shows every byte and signature to the network between.
    fn check_plain(&self, url: &Url) -> Result<()> {
        if is_this_machine(url) || self.settings.allow_http.unwrap_or(false) {
            return Ok(());
        }
        let text = "the address uses http without TLS, which is not allowed";
        Err(Error::new(Kind::Usage, text)
            .path(self.url.to_string())
            .remedied_by("use https, or allow plain HTTP: AWS_ALLOW_HTTP=true or allow_http"))
    }

    fn region(&self) -> Result<Option<String>> {
        match &self.settings.region {
            Some(region) if !is_label(region) => {
                Err(Error::new(Kind::Usage, "the region has characters that no region has"))
            }
            Some(region) => Ok(Some(region.clone())),
            None if self.url.scheme() == Scheme::Cos => {
                Ok(self.settings.endpoint.as_deref().and_then(cos_region).map(str::to_owned))
            }
            None => Ok(None),
        }
    }

    /// Clouds want the bucket in the host name; servers at an address or a test's localhost have
    /// no such names.
    fn virtual_host(&self, endpoint: Option<&Url>) -> bool {
        let fitting = match (self.url.scheme(), endpoint) {
            (_, None) => !self.url.bucket().contains('.'),
            (Scheme::Cos, Some(url)) => !is_this_machine(url) && url.domain().is_some(),
            _ => false,
        };
        self.settings.virtual_host.unwrap_or(fitting)
    }

    fn wrong_credentials(&self, wanted: &str) -> Error {
        let text = format!("the credentials do not fit the store, which wants {wanted}");
        Error::new(Kind::Usage, text).path(self.url.to_string())
    }

    fn wrong(&self, error: &object_store::Error) -> Error {
        let mapped = failure::of_store(error, self.redactor).error;
        Error::new(
            Kind::Usage,
            format!("the settings of the store do not fit: {}", mapped.detail()),
        )
        .path(self.url.to_string())
    }
}

/// Retries are made in one layer, which is not this one.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn is_label(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && text.len() <= 64 && text.chars().all(plain)
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The regional endpoint of COS ("Regions and access endpoints", Tencent Cloud documentation).
fn cos_endpoint(region: Option<&str>) -> Result<Url> {
    let region = region.ok_or_else(|| {
        Error::new(Kind::Usage, "the region of the COS bucket is not known")
            .remedied_by("set COS_REGION or TENCENTCLOUD_REGION, or region in [store.cos]")
    })?;
    Url::parse(&format!("https://cos.{region}.myqcloud.com"))
        .map_err(|_| Error::new(Kind::Usage, "the region does not fit into a host name"))
}

/// The region in a COS endpoint, with or without the bucket in front.
fn cos_region(endpoint: &str) -> Option<&str> {
    let host = endpoint.split("://").last()?;
    let mut labels = host.split('.').skip_while(|label| *label != "cos");
    labels.next()?;
    labels.next()
}

fn put_bucket_into_host(endpoint: &mut Url, bucket: &str) -> Result<()> {
    let wrong = || Error::new(Kind::Usage, "the bucket cannot be put into the endpoint's host");
    let host = endpoint.domain().ok_or_else(wrong)?;
    if host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.')) {
        return Ok(());
    }
    let host = format!("{bucket}.{host}");
    endpoint.set_host(Some(&host)).map_err(|_| wrong())
}
