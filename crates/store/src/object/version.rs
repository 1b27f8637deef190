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
    /// Seconds since 1970; 0 when the server says nothing.
    modified: i64,
}

impl Version {
    pub(super) fn of(meta: &ObjectMeta) -> Result<Self, Failure> {
        if i64::try_from(meta.size).is_err() {
            let text = format!("the server claims a size of {} bytes", meta.size);
            return Err(Failure::new(Again::Few, Error::new(Kind::Unavailable, text)));
        }
        Ok(Self {
            size: meta.size,
            etag: meta.e_tag.clone(),
            modified: meta.last_modified.timestamp(),
        })
    }

    /// An object without bytes has no range to ask for, hence no more to tell.
    fn empty() -> Self {
        Self { size: 0, etag: None, modified: 0 }
    }

    /// The tag to ask for; weak ones never match (RFC 9110, section 13.1.1).
    pub(super) fn if_match(&self) -> Option<String> {
        self.etag.clone().filter(|etag| !etag.starts_with("W/"))
    }

    /// What tells that `now` is another version, if anything does.
    pub(super) fn difference(&self, now: &Self) -> Option<String> {
        if self.size != now.size {
            return Some(format!("it had {} bytes and has {}", self.size, now.size));
        }
        match (&self.etag, &now.etag) {
            (Some(old), Some(new)) if old != new => {
                Some(format!("its ETag was {} and is {}", shown(old), shown(new)))
            }
            (None, None) if self.modified != now.modified => {
                Some("its time of modification is another".to_owned())
            }
            _ => None,
        }
    }

    /// A text that is another one when the bytes may be others.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp(match &self.etag {
            Some(etag) => format!("{etag} {}", self.size),
            None => format!("@{} {}", self.modified, self.size),
        })
    }
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
    match get(handle, options).await {
        Ok(answer) => Version::of(&answer.meta),
        Err(failure) if is_mute_refusal(&failure) => first_byte(handle).await,
        Err(failure) => Err(failure),
    }
}

/// An answer to HEAD has no body, so a refusal does not say why; a GET does.
fn is_mute_refusal(failure: &Failure) -> bool {
    failure.answer.as_ref().is_some_and(|answer| {
        let status = answer.status.as_u16();
        answer.code.is_none() && matches!(status, 300..=399 | 400 | 401 | 403 | 404 | 405 | 501)
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
