//! Requests to S3 that `object_store` cannot make: what is under way in a bucket, and whether the
//! server keeps its promises.
//!
//! They are signed by `object_store`'s own signer and go through the same client as all others, so
//! that what holds for those holds for them; trying again is left to the caller, as there.

use super::clock;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpRequestBody};
use std::fmt::{self, Write as _};
use std::time::SystemTime;

/// Bytes of an answer that are read; a page of 1,000 keys of 1,024 bytes, each of them escaped.
const MAX_BODY: usize = 8 << 20;

/// A bucket, and how requests to it are signed.
pub(super) struct Raw {
    pub(super) client: HttpClient,
    /// The address of the bucket, without a slash at its end.
    pub(super) base: String,
    pub(super) region: String,
    /// `None` leaves requests unsigned.
    pub(super) credentials: Option<AwsCredentialProvider>,
    pub(super) sign_payload: bool,
    /// Headers of every request.
    pub(super) headers: HeaderMap,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    method: Method,
    key: Option<String>,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

impl Ask {
    /// About the bucket.
    pub(super) fn bucket(method: Method) -> Self {
        Self { method, key: None, query: Vec::new(), headers: Vec::new(), body: Bytes::new() }
    }

    /// About an object.
    pub(super) fn object(method: Method, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..Self::bucket(method) }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The key of the object that the request may make.
    pub(super) fn writes(&self) -> Option<&str> {
        let completes =
            self.method == Method::POST && self.query.iter().all(|(n, _)| *n == "uploadId");
        let puts = self.method == Method::PUT && self.query.is_empty();
        self.key.as_deref().filter(|_| completes || puts)
    }

    pub(super) fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }
}

/// A successful answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// When its head came.
    pub(super) received: SystemTime,
}

impl Answer {
    /// The text of a header, bounded.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        super::answer::text(&self.headers, name)
    }

    /// The server's time.
    pub(super) fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(&self.header("date")?).ok()
    }
}

/// What this module finds wrong, as a cause.
#[derive(Debug)]
struct Wrong(&'static str);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Wrong {}

/// An error of `object_store`'s, which is what failures are made of.
pub(super) fn generic(
    source: impl std::error::Error + Send + Sync + 'static,
) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: Box::new(source) }
}

impl Raw {
    /// Makes one request and reads the answer. A refusal is an error that holds a `StatusAnswer`.
    pub(super) async fn send(&self, ask: &Ask) -> object_store::Result<Answer> {
        let request = http::Request::builder().method(ask.method.clone()).uri(self.address(ask));
        let body = HttpRequestBody::from(ask.body.clone());
        let mut request = request.body(body).map_err(generic)?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        for (name, value) in &ask.headers {
            let value = HeaderValue::from_str(value).map_err(generic)?;
            headers.insert(HeaderName::from_static(name), value);
        }
        if let Some(provider) = &self.credentials {
            let credential = provider.get_credential().await?;
            AwsAuthorizer::new(&credential, "s3", &self.region)
                .with_sign_payload(self.sign_payload)
                .try_authorize(&mut request, None)?;
        }
        let answer = self.client.execute(request).await.map_err(generic)?;
        let received = clock::now();
        let (parts, body) = answer.into_parts();
        let mut bytes = Vec::new();
        let mut stream = body.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(generic)?;
            if bytes.len() + chunk.len() > MAX_BODY {
                return Err(generic(Wrong("the answer is too long")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer { headers: parts.headers, body: bytes.into(), received })
    }

    fn address(&self, ask: &Ask) -> String {
        let mut address = self.base.clone();
        let has_path = address.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        if ask.key.is_some() || !has_path {
            address.push('/');
        }
        encode(ask.key.as_deref().unwrap_or_default(), b"/", &mut address);
        for (index, (name, value)) in ask.query.iter().enumerate() {
            address.push(if index == 0 { '?' } else { '&' });
            encode(name, b"", &mut address);
            address.push('=');
            encode(value, b"", &mut address);
        }
        address
    }
}

/// Escapes everything but the unreserved characters (RFC 3986, section 2.3) and `plain`.
fn encode(text: &str, plain: &[u8], into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || plain.contains(&byte) {
            into.push(char::from(byte));
        } else {
            let _infallible = write!(into, "%{byte:02X}");
        }
    }
}

/// Whether an address can hold `key`: the segments `.` and `..` are resolved on the way.
pub(super) fn is_addressable(key: &str) -> bool {
    !key.is_empty() && !key.split('/').any(|part| matches!(part, "." | ".."))
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({})", self.base)
    }
}
