//! The HTTP client below `object_store`, and the checks between the two.
//!
//! `object_store` would build its own client, which follows redirects to other hosts (and takes
//! the session token there), obeys proxy variables of the environment, and hands on whatever
//! range the server claims: a `Content-Range` that ends at 2^64 − 1 overflows its arithmetic.

use super::answer::{BadAnswer, StatusAnswer, content_range, text};
use crate::config::StoreSettings;
use async_trait::async_trait;
use carreto_error::{Error, Kind, Result};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes of an error page that are read.
const MAX_ERROR_BODY: usize = 64 << 10;

/// What the transport learnt, shared with the handle it serves.
#[derive(Debug, Default)]
pub(super) struct Contact(AtomicBool);

impl Contact {
    /// Whether the server has answered anything yet.
    pub(super) fn made(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes the client that every request of one store goes through.
///
/// `Debug` prints nothing of it: the client would show the proxy with its password.
#[derive(Clone)]
pub(super) struct Connector {
    client: reqwest::Client,
    headers: HeaderMap,
    contact: Arc<Contact>,
    patience: Duration,
}

impl Connector {
    /// A client by `settings`; `plain` allows addresses without TLS, `headers` go with every
    /// request.
    pub(super) fn new(
        settings: &StoreSettings,
        plain: bool,
        headers: HeaderMap,
        contact: Arc<Contact>,
    ) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("carreto/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .connect_timeout(settings.connect_timeout())
            .https_only(!plain);
        if let Some(proxy) = &settings.proxy {
            builder = builder.proxy(proxy_of(proxy.expose(), settings.no_proxy.as_deref())?);
        }
        let client = builder.build().map_err(|_| {
            let text = "the TLS library or the system's certificates cannot be used";
            Error::new(Kind::Usage, text).during("prepare the connection")
        })?;
        Ok(Self { client, headers, contact, patience: settings.read_timeout() })
    }
}

fn proxy_of(address: &str, except: Option<&str>) -> Result<reqwest::Proxy> {
    // The cause would repeat the address, which may hold a password.
    let proxy = reqwest::Proxy::all(address)
        .map_err(|_| Error::new(Kind::Usage, "the address of the proxy cannot be understood"))?;
    Ok(proxy.no_proxy(except.and_then(reqwest::NoProxy::from_string)))
}

/// The headers of the settings, marked so that no `Debug` prints them.
pub(super) fn headers(settings: &StoreSettings) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in &settings.headers {
        let wrong = || Error::new(Kind::Usage, format!("the header {name:?} cannot be sent"));
        let key = HeaderName::from_str(name).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Guard(self.clone())))
    }
}

/// Lets through only what can be right.
#[derive(Debug)]
struct Guard(Connector);

#[async_trait]
impl HttpService for Guard {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        for (name, value) in &self.0.headers {
            request.headers_mut().entry(name).or_insert(value.clone());
        }
        let head = request.method() == Method::HEAD;
        let asked = text(request.headers(), header::RANGE.as_str());
        let answer = HttpService::call(&self.0.client, request).await?;
        self.0.contact.0.store(true, Ordering::Relaxed);
        if !answer.status().is_success() {
            return Err(refused(answer, head, self.0.patience).await);
        }
        match asked {
            Some(asked) => check_range(&asked, answer.status(), answer.headers())
                .map(|()| answer)
                .map_err(|bad| HttpError::new(HttpErrorKind::Decode, bad)),
            None => Ok(answer),
        }
    }
}

/// Reads an error page as far as it is worth, without waiting long for it.
async fn refused(answer: HttpResponse, head: bool, patience: Duration) -> HttpError {
    let (parts, body) = answer.into_parts();
    let mut page = Vec::new();
    if !head {
        let patience = patience.min(Duration::from_secs(10));
        // A page that does not come is not needed.
        let _ = tokio::time::timeout(patience, read_page(body, &mut page)).await;
    }
    let page = String::from_utf8_lossy(&page);
    HttpError::new(HttpErrorKind::Unknown, StatusAnswer::new(parts.status, &parts.headers, &page))
}

async fn read_page(body: HttpResponseBody, page: &mut Vec<u8>) {
    use futures_util::StreamExt as _;
    let mut stream = body.bytes_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        let room = MAX_ERROR_BODY - page.len();
        page.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if page.len() == MAX_ERROR_BODY {
            return;
        }
    }
}

/// Checks the head of a successful answer to a request for the range `asked`.
fn check_range(asked: &str, status: StatusCode, headers: &HeaderMap) -> Result<(), BadAnswer> {
    let length = text(headers, header::CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok());
    if status != StatusCode::PARTIAL_CONTENT {
        return Err(BadAnswer::NotPartial { length });
    }
    let found = text(headers, header::CONTENT_RANGE.as_str()).unwrap_or_default();
    let range = content_range(&found).filter(|(first, last, size)| {
        asked_for(asked, *size)
            .is_some_and(|(start, end)| *first == start && *last == end.min(size - 1))
    });
    let Some((first, last, _)) = range else {
        let asked = asked.to_owned();
        return Err(BadAnswer::WrongRange { asked, found });
    };
    let wanted = last - first + 1;
    match length {
        Some(found) if found != wanted => Err(BadAnswer::WrongLength { wanted, found }),
        _ => Ok(()),
    }
}

/// The first and the last byte of a `Range: bytes=a-b` or `bytes=-n` header that this crate sent.
fn asked_for(header: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        return Some((size.saturating_sub(last.parse().ok()?), size.saturating_sub(1)));
    }
    Some((first.parse().ok()?, last.parse().ok()?))
}
