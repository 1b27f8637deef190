//! The one place that says what an error of `object_store` means, and whether trying again helps.

use super::answer::{BadAnswer, StatusAnswer};
use super::redact::Redactor;
use carreto_error::{Error, Kind};
use http::StatusCode;
use object_store::Error as E;
use object_store::client::{HttpError, HttpErrorKind};
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// Whether making the same request again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// No.
    Never,
    /// The keys have expired; with other keys.
    Expired,
    /// The answer made no sense; a few times, in case a proxy or a lost packet is to blame.
    Few,
    /// No connection could be made.
    Connect,
    /// The connection or the server failed; for as long as the budget lasts.
    Later,
    /// The server asked for fewer requests.
    Throttled(Option<Duration>),
}

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
    /// The answer, when there was one with a status.
    pub(super) answer: Option<Box<StatusAnswer>>,
    /// The answer that cannot be right.
    pub(super) bad: Option<Box<BadAnswer>>,
}

impl Failure {
    pub(super) fn new(again: Again, error: Error) -> Self {
        Self { error, again, answer: None, bad: None }
    }

    /// Nothing, or too little, arrived in time.
    pub(super) fn stalled(patience: Duration, bytes: u64) -> Self {
        let text =
            format!("{bytes} bytes arrived in {} s, which is no progress", patience.as_secs_f32());
        Self::new(Again::Later, Error::new(Kind::Unavailable, text))
    }
}

/// What a foreign error said, cleaned; the original may hold addresses with signatures.
#[derive(Debug)]
struct Foreign(String);

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Foreign {}

/// Maps what `object_store` returned.
pub(super) fn of_store(error: &object_store::Error, redactor: &Redactor) -> Failure {
    let links = || carreto_error::Chain::new(error);
    if let Some(answer) = links().find_map(|link| link.downcast_ref::<StatusAnswer>()) {
        return of_status(answer, redactor);
    }
    if let Some(bad) = links().find_map(|link| link.downcast_ref::<BadAnswer>()) {
        return of_bad_answer(bad, redactor);
    }
    if let Some(http) = links().find_map(|link| link.downcast_ref::<HttpError>()) {
        return of_transport(http, redactor);
    }
    if let Some(own) = links().find_map(|link| link.downcast_ref::<Error>()) {
        let text = redactor.clean(&carreto_error::chain_text(own));
        let error = Error::new(own.kind(), text).remedied_by(own.remedy().to_owned());
        return Failure::new(Again::Never, error);
    }
    let text = leaf_text(error, redactor);
    let (kind, again) = match error {
        E::NotFound { .. } => (Kind::NotFound, Again::Never),
        E::Precondition { .. } | E::NotModified { .. } => (Kind::SourceChanged, Again::Never),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => (Kind::Denied, Again::Never),
        E::InvalidPath { .. } => (Kind::Usage, Again::Never),
        E::NotSupported { .. } | E::NotImplemented { .. } => (Kind::Unsupported, Again::Never),
        E::Generic { .. } => (Kind::Unavailable, Again::Few),
        _ => (Kind::Internal, Again::Never),
    };
    let detail = match kind {
        Kind::NotFound => "there is no such object".to_owned(),
        _ => format!("the store says: {text}"),
    };
    Failure::new(again, Error::new(kind, detail))
}

fn of_transport(error: &HttpError, redactor: &Redactor) -> Failure {
    let cause = Foreign(transport_text(error, redactor));
    // A certificate does not become valid by asking again.
    if cause.0.contains("certificate") {
        let error = Error::new(Kind::Denied, "the server's identity cannot be checked")
            .remedied_by("check the endpoint's name and the certificates of this system")
            .caused_by(cause);
        return Failure::new(Again::Never, error);
    }
    let (again, text) = match error.kind() {
        HttpErrorKind::Connect => (Again::Connect, "no connection can be made"),
        HttpErrorKind::Timeout => (Again::Later, "the server did not answer in time"),
        HttpErrorKind::Request | HttpErrorKind::Interrupted => {
            (Again::Later, "the connection broke")
        }
        HttpErrorKind::Decode => (Again::Later, "the answer ended early"),
        // A broken proxy or a server that starts sends such things for a while.
        _ => (Again::Later, "the server's answer cannot be understood"),
    };
    Failure::new(again, Error::new(Kind::Unavailable, text).caused_by(cause))
}

fn of_bad_answer(bad: &BadAnswer, redactor: &Redactor) -> Failure {
    let text = redactor.clean(&bad.to_string());
    let mut failure = Failure::new(Again::Few, Error::new(Kind::Unavailable, text));
    failure.bad = Some(Box::new(bad.clone()));
    failure
}

fn of_status(answer: &StatusAnswer, redactor: &Redactor) -> Failure {
    let (kind, again) = verdict(answer);
    let mut error = Error::new(kind, explain(answer, kind, redactor));
    if let Some(remedy) = remedy(answer, kind) {
        error = error.remedied_by(redactor.clean(&remedy));
    }
    Failure { error, again, answer: Some(Box::new(answer.clone())), bad: None }
}

/// The allow list of what is worth trying again, and the kinds of the rest.
fn verdict(answer: &StatusAnswer) -> (Kind, Again) {
    use StatusCode as S;
    match answer.status {
        // 509 is what hosters answer beyond the bandwidth that was paid for.
        status
            if matches!(status.as_u16(), 429 | 503 | 509)
                || answer.is("SlowDown")
                || answer.is("RequestLimitExceeded") =>
        {
            (Kind::Unavailable, Again::Throttled(answer.retry_after))
        }
        S::REQUEST_TIMEOUT | S::LOCKED | S::TOO_EARLY => (Kind::Unavailable, Again::Later),
        S::BAD_REQUEST if answer.is("RequestTimeout") => (Kind::Unavailable, Again::Later),
        S::BAD_REQUEST if is_about_digests(answer) => (Kind::Mismatch, Again::Few),
        _ if has_expired(answer) => (Kind::Denied, Again::Expired),
        S::BAD_REQUEST | S::NOT_FOUND if is_about_credentials(answer) => {
            (Kind::Denied, Again::Never)
        }
        S::UNAUTHORIZED | S::FORBIDDEN | S::PROXY_AUTHENTICATION_REQUIRED => {
            (Kind::Denied, Again::Never)
        }
        S::NOT_FOUND | S::GONE => (Kind::NotFound, Again::Never),
        S::PRECONDITION_FAILED | S::RANGE_NOT_SATISFIABLE => (Kind::SourceChanged, Again::Never),
        S::METHOD_NOT_ALLOWED | S::NOT_IMPLEMENTED => (Kind::Unsupported, Again::Never),
        status if status.is_redirection() => (Kind::Denied, Again::Never),
        status if status.is_server_error() => (Kind::Unavailable, Again::Later),
        _ => (Kind::Usage, Again::Never),
    }
}

/// Codes that S3 sends with 400 although the credentials or the region are wrong ("List of error
/// codes", Amazon S3 API reference), and the one of versitygw for an unknown key, sent with 404.
fn is_about_credentials(answer: &StatusAnswer) -> bool {
    const CODES: [&str; 5] = [
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
        "InvalidToken",
        "AccessDenied",
        "XAdminUserNotFound",
    ];
    CODES.iter().any(|code| answer.is(code))
}

/// Codes for bytes that are not the ones that their checksum was made of (same source).
fn is_about_digests(answer: &StatusAnswer) -> bool {
    const CODES: [&str; 3] =
        ["BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"];
    CODES.iter().any(|code| answer.is(code))
}

fn has_expired(answer: &StatusAnswer) -> bool {
    answer.is("ExpiredToken") || answer.is("TokenRefreshRequired")
}

/// What happened, in this project's words first and the server's after.
fn explain(answer: &StatusAnswer, kind: Kind, redactor: &Redactor) -> String {
    let said = redactor.clean(&answer.to_string());
    let clock = clock_text(answer).unwrap_or_default();
    if has_expired(answer) {
        return format!("the session token has expired: {said}{clock}");
    }
    if let Some(host) = &answer.redirect
        && answer.status.is_redirection()
    {
        let host = redactor.clean(host);
        return format!("the server redirects to {host}, which is not followed: {said}");
    }
    if let Some(region) = &answer.region
        && (answer.status.is_redirection() || answer.status == StatusCode::BAD_REQUEST)
    {
        let region = redactor.clean(region);
        return format!("the bucket is in the region {region:?}, not in the one asked: {said}");
    }
    match kind {
        Kind::NotFound if answer.is("NoSuchBucket") => format!("there is no such bucket: {said}"),
        Kind::NotFound => format!("there is no such object: {said}"),
        Kind::Denied => format!("access is denied: {said}{clock}"),
        Kind::Mismatch => format!("the bytes did not arrive as they were sent: {said}"),
        Kind::SourceChanged => format!("the object is not the one that was opened: {said}"),
        _ => format!("{said}{clock}"),
    }
}

fn remedy(answer: &StatusAnswer, kind: Kind) -> Option<String> {
    if has_expired(answer) {
        return Some(
            "get new temporary credentials, then run the same command again; credentials in a \
             file of profiles, unlike those in the environment, are read anew while a run goes on"
                .to_owned(),
        );
    }
    if kind == Kind::Mismatch {
        return Some(
            "check the memory and the network between here and the store; if every upload fails \
             like this, the store computes checksums wrongly: set checksum = \"none\" for it"
                .to_owned(),
        );
    }
    if answer.status.is_redirection() || answer.status == StatusCode::BAD_REQUEST {
        if let Some(region) = &answer.region {
            return Some(format!("set the region to {region:?}"));
        }
        return answer.status.is_redirection().then(|| {
            "check the endpoint and the region, or name the final address yourself".to_owned()
        });
    }
    let skewed = kind == Kind::Denied && clock_text(answer).is_some();
    skewed.then(|| "set this machine's clock, then run the same command again".to_owned())
}

/// The measured offset, when it matters: S3 refuses from 15 minutes on, so a third of that is
/// worth a word.
fn clock_text(answer: &StatusAnswer) -> Option<String> {
    const NOTABLE: i64 = 300;
    let ahead = answer.clock_ahead?;
    if ahead.abs() < NOTABLE && !answer.is("RequestTimeTooSkewed") {
        return None;
    }
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    let seconds = ahead.unsigned_abs();
    Some(format!("; this machine's clock is {seconds} s {side} the server's"))
}

/// What the transport said, without its outer sentences, which repeat the inner ones.
fn transport_text(error: &HttpError, redactor: &Redactor) -> String {
    let text = error.source().map(carreto_error::chain_text).unwrap_or_default();
    redactor.clean(&text)
}

/// The innermost text, the only one that does not repeat the others.
fn leaf_text(error: &object_store::Error, redactor: &Redactor) -> String {
    let leaf = carreto_error::Chain::new(error).last();
    redactor.clean(&leaf.map(ToString::to_string).unwrap_or_default())
}

#[cfg(test)]
mod tests;
