//! Which version of an object there is, and how to tell it from another.

use super::answer::BadAnswer;
use super::failure::{Again, Failure};
use super::handle::ObjectStoreHandle;
use carreto_block::Stamp;
use carreto_error::{Error, Kind, Result};
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta};
use tokio::time::timeout;

/// What identifies a version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) size: u64,
    etag: Option<String>,
    /// Seconds since 1970.
    modified: Option<i64>,
}

impl Version {
    pub(super) fn of(meta: &ObjectMeta) -> Result<Self, Failure> {
        if i64::try_from(meta.size).is_err() {
            let text = format!("the server claims a size of {} bytes", meta.size);
            return Err(senseless(text));
        }
        // `object_store` says 1970 when the server says nothing.
        let modified = Some(meta.last_modified.timestamp()).filter(|time| *time != 0);
        Ok(Self { size: meta.size, etag: meta.e_tag.clone(), modified })
    }

    /// An object without bytes has no range to ask for, hence no more to tell.
    fn empty() -> Self {
        Self { size: 0, etag: None, modified: None }
    }

    /// Whether another version of the same size could be told from this one. An object without
    /// bytes has none.
    pub(super) fn is_recognisable(&self) -> bool {
        self.size == 0 || self.etag.is_some() || self.modified.is_some()
    }

    /// The tag to ask for; weak ones never match (RFC 9110, section 13.1.1).
    pub(super) fn if_match(&self) -> Option<String> {
        self.etag.clone().filter(|etag| is_strong(etag))
    }

    /// What tells that `now` may be another version, if anything does.
    ///
    /// A validator that comes or goes counts: whoever serves the answer without it does not know
    /// that it is the same object. Only a time may be missing beside one strong `ETag`, which
    /// stands for the bytes alone (RFC 9110, section 8.8.3).
    pub(super) fn difference(&self, now: &Self) -> Option<String> {
        if self.size != now.size {
            return Some(format!("it had {} bytes and has {}", self.size, now.size));
        }
        match (&self.etag, &now.etag) {
            (Some(old), Some(new)) if old != new => {
                return Some(format!("its ETag was {} and is {}", shown(old), shown(new)));
            }
            (Some(old), None) => {
                return Some(format!("its ETag was {} and is missing now", shown(old)));
            }
            (None, Some(new)) => {
                return Some(format!("it had no ETag and has {} now", shown(new)));
            }
            _ => {}
        }
        match (self.modified, now.modified) {
            (Some(old), Some(new)) if old != new => {
                Some("its time of modification is another".to_owned())
            }
            (Some(_), None) | (None, Some(_)) if !self.etag.as_deref().is_some_and(is_strong) => {
                Some("its time of modification came or went".to_owned())
            }
            _ => None,
        }
    }

    /// A text that is another one when the bytes may be others.
    pub(super) fn stamp(&self) -> Stamp {
        let modified = self.modified.map(|time| time.to_string()).unwrap_or_default();
        Stamp(format!("{}@{modified} {}", self.etag.as_deref().unwrap_or_default(), self.size))
    }
}

fn is_strong(etag: &str) -> bool {
    !etag.starts_with("W/")
}

fn senseless(text: String) -> Failure {
    Failure::new(Again::Few, Error::new(Kind::Unavailable, text))
}

fn shown(etag: &str) -> String {
    etag.chars().take(80).collect()
}

/// Makes one request and waits for the head of the answer.
pub(super) async fn get(
    handle: &ObjectStoreHandle,
    options: GetOptions,
) -> Result<GetResult, Failure> {
    let patience = handle.bucket.limits.read_timeout;
    let get = handle.bucket.store.get_opts(&handle.path, options);
    match timeout(patience, get).await {
        Ok(answer) => answer.map_err(|error| handle.bucket.failure(&error)),
        Err(_) => Err(Failure::stalled(patience, 0)),
    }
}

/// Asks for the version that the object has now.
pub(super) async fn look(handle: &ObjectStoreHandle) -> Result<Version> {
    let bucket = &*handle.bucket;
    let mut retry = handle.retry();
    loop {
        let permit = bucket.permit().await?;
        let outcome = look_once(handle).await;
        drop(permit);
        match outcome {
            Ok(version) => return Ok(version),
            Err(failure) => retry.pause(failure, bucket.contact.made()).await?,
        }
    }
}

async fn look_once(handle: &ObjectStoreHandle) -> Result<Version, Failure> {
    if handle.web {
        // Also tells whether the server can serve ranges, and works with presigned addresses,
        // which are good for one method only.
        return first_byte(handle).await;
    }
    let options = GetOptions { head: true, ..GetOptions::default() };
    let head = match get(handle, options).await {
        Ok(answer) => Version::of(&answer.meta)?,
        Err(failure) if is_mute_refusal(&failure) => return first_byte(handle).await,
        Err(failure) => return Err(failure),
    };
    if head.size > 0 && head.etag.is_some() {
        return Ok(head);
    }
    // Some servers and proxies answer HEAD with a length of 0, or without the tag that they send
    // with the bytes. Reads are held to what comes with the bytes.
    let first = match first_byte(handle).await {
        Err(failure) if head.size == 0 && has_no_byte(&failure) => return Ok(head),
        other => other?,
    };
    if first.size == 0 && head.size == 0 {
        return Ok(head);
    }
    if head.size > 0 && first.size != head.size {
        let text = format!("the server claims {} bytes to HEAD, {}", head.size, first.size);
        return Err(senseless(text + " to GET"));
    }
    Ok(first)
}

/// An answer to HEAD has no body, so a refusal does not say why; a GET does.
fn is_mute_refusal(failure: &Failure) -> bool {
    failure.answer.as_ref().is_some_and(|answer| {
        let status = answer.status.as_u16();
        answer.code.is_none() && matches!(status, 300..=399 | 400 | 401 | 403 | 404 | 405 | 501)
    })
}

/// Whether a request for the first byte was refused because there is none; S3 and others say the
/// size in the body only.
fn has_no_byte(failure: &Failure) -> bool {
    failure.answer.as_ref().is_some_and(|answer| {
        answer.status.as_u16() == 416 && answer.size.is_none_or(|size| size == 0)
    })
}

async fn first_byte(handle: &ObjectStoreHandle) -> Result<Version, Failure> {
    let options = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
    match get(handle, options).await {
        Ok(answer) => Version::of(&answer.meta),
        Err(failure) => match (failure.bad.as_deref(), &failure.answer) {
            (Some(BadAnswer::NotPartial { length: Some(0) }), _) => Ok(Version::empty()),
            (Some(BadAnswer::NotPartial { .. }), _) => {
                let text = "the server cannot serve parts of a file (HTTP ranges)";
                let remedy = "download the image first, or use a server that serves ranges";
                let error = Error::new(Kind::Unsupported, text).remedied_by(remedy);
                Err(Failure::new(Again::Never, error))
            }
            (_, Some(answer)) if answer.size == Some(0) => Ok(Version::empty()),
            _ => Err(failure),
        },
    }
}
