//! A bucket, or a folder of it, as the place of administration: what is under way there and what
//! the server can do.

use super::answer::StatusAnswer;
use super::event::StoreObserver;
use super::failure::{Again, Failure};
use super::handle::Bucket;
use super::raw::{Answer, Ask, Raw};
use super::retry::{Retry, Shared};
use super::stores::ObjectStores;
use crate::url::{Location, ObjectUrl, Scheme};
use carreto_error::{Error, Kind, Result};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A bucket, or the folder of a bucket: `s3://bucket` or `s3://bucket/folder`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePlace {
    /// An object in it, which need not exist.
    object: ObjectUrl,
    /// Without slashes at its ends; empty for the whole bucket.
    folder: String,
}

impl StorePlace {
    /// The folder in the bucket, without a slash at its end; empty for the whole bucket.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Whether both are in the same bucket.
    pub fn is_in_bucket_of(&self, other: &Self) -> bool {
        let place = |place: &Self| (place.object.scheme(), place.object.bucket().to_owned());
        place(self) == place(other)
    }

    /// Whether `key` is the folder's own name or lies in it.
    pub fn holds(&self, key: &str) -> bool {
        match key.strip_prefix(self.folder.as_str()) {
            Some(rest) => self.folder.is_empty() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// The key of an object that is to lie in the folder.
    pub(super) fn below(&self, name: &str) -> String {
        match self.folder.as_str() {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        }
    }
}

impl FromStr for StorePlace {
    type Err = Error;

    /// Parses the URL of a bucket, a folder or an object, with or without a slash at its end.
    ///
    /// # Errors
    /// `Usage` for paths and for what is no URL of a store.
    fn from_str(text: &str) -> Result<Self> {
        let trimmed = text.trim_end_matches('/');
        let path = trimmed.split_once("://").map_or("", |(_, path)| path);
        let whole = !path.contains('/');
        let location = if whole { format!("{trimmed}/-").parse()? } else { trimmed.parse()? };
        match location {
            Location::Object(object) => {
                let folder = if whole { String::new() } else { object.key().to_owned() };
                Ok(Self { object, folder })
            }
            Location::File(_) | Location::Nbd(_) => {
                let text = "paths and exports are no places in a store";
                Err(Error::new(Kind::Usage, text)
                    .remedied_by("name a bucket or a folder of one: s3://bucket/folder"))
            }
        }
    }
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.object.scheme().is_web() {
            return self.object.fmt(f);
        }
        write!(f, "{}://{}", self.object.scheme(), self.object.bucket())?;
        match self.folder.as_str() {
            "" => Ok(()),
            folder => write!(f, "/{folder}"),
        }
    }
}

/// Looks after a place in a store that speaks S3. Cheap to clone.
#[derive(Clone)]
pub struct StoreAdmin {
    bucket: Arc<Bucket>,
    place: Arc<StorePlace>,
    name: Arc<str>,
    retry_for: Duration,
}

/// What became of a request that was answered.
#[derive(Debug)]
pub(super) enum Reply {
    Done(Answer),
    /// An answer that asking again does not change.
    Refused(Box<Failure>),
}

impl Reply {
    /// The answer.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn done(self) -> Result<Answer> {
        match self {
            Self::Done(answer) => Ok(answer),
            Self::Refused(failure) => Err(failure.error),
        }
    }
}

impl ObjectStores {
    /// Binds `place` to its store. Makes no request.
    ///
    /// # Errors
    /// `Unsupported` for stores that do not speak S3; else as [`Self::handle`].
    pub fn admin(&self, place: &StorePlace) -> Result<StoreAdmin> {
        let scheme = place.object.scheme();
        if let Some((text, remedy)) = foreign(scheme) {
            let error = Error::new(Kind::Unsupported, text).remedied_by(remedy);
            return Err(error.path(place.to_string()));
        }
        let bucket = self.handle(&place.object)?.bucket;
        Ok(StoreAdmin {
            retry_for: bucket.limits.retry_for,
            bucket,
            place: Arc::new(place.clone()),
            name: place.to_string().into(),
        })
    }
}

/// Why a store that does not speak S3 is not looked after, and what to do instead ("Lifecycle
/// conditions", Google Cloud Storage documentation; "Put Block", Azure Storage documentation).
fn foreign(scheme: Scheme) -> Option<(&'static str, &'static str)> {
    match scheme {
        Scheme::S3 | Scheme::Cos => None,
        Scheme::Gs => Some((
            "the uploads of Google Cloud Storage cannot be listed or probed by this version",
            "let the bucket clean up itself: a lifecycle rule with the action \
             AbortIncompleteMultipartUpload; resumable sessions end after a week on their own",
        )),
        Scheme::Az => Some((
            "Azure has no list of unfinished uploads, and cannot be probed by this version",
            "nothing has to be done: Azure drops blocks that belong to no blob after a week",
        )),
        Scheme::Http | Scheme::Https => Some((
            "a web server takes no uploads",
            "name a bucket of S3 or COS: s3://bucket, with the server as its endpoint",
        )),
        Scheme::Memory => Some(("memory has no uploads", "name a bucket of S3 or COS")),
    }
}

impl StoreAdmin {
    /// The place.
    pub fn place(&self) -> &StorePlace {
        &self.place
    }

    /// The same with another time that a request is tried again for.
    #[must_use]
    pub(super) fn patient_for(&self, retry_for: Duration) -> Self {
        Self { retry_for: retry_for.min(self.retry_for), ..self.clone() }
    }

    fn raw(&self) -> Result<&Raw> {
        let text = "the store has no requests of its own";
        self.bucket.raw.as_ref().ok_or_else(|| Error::new(Kind::Internal, text))
    }

    /// Makes a request until it is answered or trying again cannot help.
    ///
    /// # Errors
    /// When no answer came within the budget, or the request could not be made.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Reply> {
        let (bucket, raw) = (&*self.bucket, self.raw()?);
        let keys = bucket.keys.as_deref();
        let shared = Shared { observer: self.observer(), throttle: &bucket.throttle, keys };
        let mut retry = Retry::new(&self.name, shared, self.retry_for);
        // Sending has no progress to watch, so a slow line gets time by the size: 16 KiB/s.
        let patience = bucket.limits.read_timeout;
        let patience = patience + Duration::from_secs(ask.body.len() as u64 >> 14);
        loop {
            let permit = bucket.permit().await?;
            let outcome = tokio::time::timeout(patience, raw.send(ask)).await;
            drop(permit);
            let failure = match outcome {
                Ok(Ok(answer)) => return Ok(Reply::Done(answer)),
                Ok(Err(error)) => bucket.failure(&error),
                Err(_) => Failure::stalled(patience, 0),
            };
            if is_final(&failure) {
                return Ok(Reply::Refused(Box::new(failure)));
            }
            retry.pause(failure, bucket.contact.made()).await?;
        }
    }

    /// As [`Self::ask`]; a refusal is an error too.
    ///
    /// # Errors
    /// Also the refusal.
    pub(super) async fn demand(&self, ask: &Ask, doing: &'static str) -> Result<Answer> {
        let reply = self.ask(ask).await.and_then(Reply::done);
        reply.map_err(|error| self.place_error(error, doing))
    }

    /// Says what was being done, and where.
    pub(super) fn place_error(&self, error: Error, doing: &'static str) -> Error {
        error.during(doing).path(&*self.name)
    }

    /// An answer that makes no sense.
    pub(super) fn senseless(&self, text: impl Into<String>) -> Error {
        Error::new(Kind::Unavailable, self.bucket.redactor.clean(&text.into())).path(&*self.name)
    }

    /// What the server wrote, without secrets and on one line.
    pub(super) fn clean(&self, text: &str) -> String {
        self.bucket.redactor.clean(text)
    }

    fn observer(&self) -> &dyn StoreObserver {
        &*self.bucket.observer
    }
}

fn is_final(failure: &Failure) -> bool {
    let answered = failure.answer.is_some() || failure.bad.is_some();
    let settled = failure.again == Again::Never || failure.again == Again::Few;
    answered && settled
}

/// The status and the code of a refusal.
pub(super) fn shown(answer: &StatusAnswer) -> String {
    match &answer.code {
        Some(code) => format!("{} {code}", answer.status.as_u16()),
        None => answer.status.as_u16().to_string(),
    }
}

impl fmt::Debug for StoreAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreAdmin({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_or_a_folder() {
        for (text, shown, folder) in [
            ("s3://b", "s3://b", ""),
            ("s3://b/", "s3://b", ""),
            ("cos://b-1/a/b//", "cos://b-1/a/b", "a/b"),
            ("s3://b/a b?c", "s3://b/a b?c", "a b?c"),
        ] {
            let place: StorePlace = text.parse().unwrap();
            assert_eq!((place.to_string().as_str(), place.folder()), (shown, folder), "{text}");
        }
        for text in ["", "s3:", "s3://", "/tmp", "s3://b//a", "ftp://b/a", "file:///tmp/x"] {
            let error = text.parse::<StorePlace>().expect_err(text);
            assert_eq!(error.kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn a_folder_holds_its_own_and_no_neighbour() {
        let place: StorePlace = "s3://b/web".parse().unwrap();
        assert!(place.holds("web") && place.holds("web/1"));
        assert!(!place.holds("web01") && !place.holds("we") && !place.holds("a/web/1"));
        let whole: StorePlace = "s3://b".parse().unwrap();
        assert!(whole.holds("anything") && whole.holds("/odd"));
        assert_eq!((place.below("x"), whole.below("x")), ("web/x".to_owned(), "x".to_owned()));
    }
}
