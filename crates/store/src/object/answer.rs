//! What a server answered when it did not answer with the bytes.
//!
//! `object_store` hides the status of a failed request and would read an error page of any length
//! into memory. The transport turns such answers into these two errors instead; the mapping in
//! `failure` finds them again in the chain of causes.

use http::{HeaderMap, StatusCode, header};
use std::fmt;
use std::time::Duration;

/// An answer with a status that is not a success.
#[derive(Debug, Clone)]
pub(super) struct StatusAnswer {
    pub(super) status: StatusCode,
    /// The error code in the body, as S3, COS, Google and Azure send it.
    pub(super) code: Option<String>,
    /// The sentence in the body.
    pub(super) message: Option<String>,
    /// How long the server asks to wait.
    pub(super) retry_after: Option<Duration>,
    /// How far this machine's clock is ahead of the server's, in seconds.
    pub(super) clock_ahead: Option<i64>,
    /// The region that the bucket is really in.
    pub(super) region: Option<String>,
    /// The host that a redirect points to.
    pub(super) redirect: Option<String>,
    /// The size of the object, when the range lay outside it.
    pub(super) size: Option<u64>,
}

impl StatusAnswer {
    /// Reads what the head of the answer and the text of an error body (possibly cut) say.
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: &str) -> Self {
        Self {
            status,
            code: element(body, "Code").or_else(|| text(headers, "x-ms-error-code")),
            message: element(body, "Message"),
            retry_after: retry_after(headers),
            clock_ahead: clock_ahead(headers),
            region: text(headers, "x-amz-bucket-region").or_else(|| element(body, "Region")),
            redirect: redirect(headers).or_else(|| element(body, "Endpoint")),
            size: text(headers, header::CONTENT_RANGE.as_str())
                .and_then(|range| range.strip_prefix("bytes */")?.parse().ok()),
        }
    }

    /// Whether the error code is `code`.
    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl fmt::Display for StatusAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status.as_u16())?;
        if let Some(reason) = self.status.canonical_reason() {
            write!(f, " {reason}")?;
        }
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => write!(f, " ({code}: {message})"),
            (Some(text), None) | (None, Some(text)) => write!(f, " ({text})"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for StatusAnswer {}

/// An answer that claims success and cannot be right.
#[derive(Debug, Clone)]
pub(super) enum BadAnswer {
    /// The whole file came instead of the range that was asked for.
    NotPartial {
        /// The length of the whole file, where it was said.
        length: Option<u64>,
    },
    /// The range in the head is missing, cannot be read, or is another one.
    WrongRange {
        /// What was asked for: the text of the request's header.
        asked: String,
        /// What the head says.
        found: String,
    },
    /// The head says another length than the range has.
    WrongLength {
        /// The bytes of the range.
        wanted: u64,
        /// What the head says.
        found: u64,
    },
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPartial { .. } => {
                f.write_str("the server answered a range request with the whole file")
            }
            Self::WrongRange { asked, found } => {
                write!(f, "the server answered with the range {found:?}, {asked:?} was asked for")
            }
            Self::WrongLength { wanted, found } => {
                write!(f, "the server answered with {found} bytes, the range has {wanted}")
            }
        }
    }
}

impl std::error::Error for BadAnswer {}

/// The first and last byte and the whole size in a `Content-Range` (RFC 9110, section 14.4).
pub(super) fn content_range(value: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let (first, last, size) = (number(first)?, number(last)?, number(size)?);
    (first <= last && last < size && i64::try_from(size).is_ok()).then_some((first, last, size))
}

/// The text of a header, bounded.
pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.chars().take(200).collect())
}

/// The text of the first XML element of that name, with the predefined entities resolved.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    let plain: String = content.chars().take(400).collect();
    let plain = plain
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&");
    (!plain.trim().is_empty()).then(|| plain.trim().to_owned())
}

/// Seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, header::RETRY_AFTER.as_str())?;
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value.trim()).ok()?;
    Some(date.duration_since(super::clock::now()).unwrap_or_default())
}

fn clock_ahead(headers: &HeaderMap) -> Option<i64> {
    let date = httpdate::parse_http_date(&text(headers, header::DATE.as_str())?).ok()?;
    match super::clock::now().duration_since(date) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).ok(),
        Err(behind) => i64::try_from(behind.duration().as_secs()).ok().map(|s| -s),
    }
}

fn redirect(headers: &HeaderMap) -> Option<String> {
    let address = text(headers, header::LOCATION.as_str())?;
    let url = url::Url::parse(&address).ok()?;
    url.host_str().map(str::to_owned)
}
