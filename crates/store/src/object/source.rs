//! An object as a source: every byte comes from the version that was opened, or there is an error.

use super::answer::BadAnswer;
use super::failure::{Again, Failure};
use super::handle::{Limits, ObjectStoreHandle};
use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, LocalRead, Placement, ReadHint, Source, SourceExt as _, Stamp,
};
use carreto_error::{Error, Kind, Result};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// What identifies a version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    size: u64,
    etag: Option<String>,
    /// Seconds since 1970; 0 when the server says nothing.
    modified: i64,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Result<Self, Failure> {
        if i64::try_from(meta.size).is_err() {
            let text = format!("the server claims a size of {} bytes", meta.size);
            return Err(Failure::new(
                Again::Few,
                Error::new(Kind::Unavailable, text),
            ));
        }
        Ok(Self {
            size: meta.size,
            etag: meta.e_tag.clone(),
            modified: meta.last_modified.timestamp(),
        })
    }

    /// An object without bytes has no range to ask for, hence no more to tell.
    fn empty() -> Self {
        Self {
            size: 0,
            etag: None,
            modified: 0,
        }
    }

    /// The tag to ask for; weak ones never match (RFC 9110, section 13.1.1).
    fn if_match(&self) -> Option<String> {
        self.etag.clone().filter(|etag| !etag.starts_with("W/"))
    }

    /// What tells that `now` is another version, if anything does.
    fn difference(&self, now: &Self) -> Option<String> {
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
}

fn shown(etag: &str) -> String {
    etag.chars().take(80).collect()
}

/// An object that is read by ranges.
///
/// Every request asks for the version that was opened, and every answer is checked to be it. A
/// body that breaks is resumed where it broke. Reads longer than the part size are split and made
/// in parallel.
pub struct ObjectSource {
    handle: ObjectStoreHandle,
    version: Version,
}

impl ObjectSource {
    pub(super) async fn open(handle: ObjectStoreHandle) -> Result<Self> {
        let look = look(&handle).await;
        let version = look.map_err(|error| handle.place(error, "open"))?;
        Ok(Self { handle, version })
    }

    /// The same text for the same object: its URL, free of secrets.
    pub fn identity(&self) -> &str {
        self.handle.name()
    }

    fn limits(&self) -> &Limits {
        &self.handle.bucket.limits
    }

    /// Fills `part`, which is one request if nothing breaks.
    async fn read_part(&self, offset: u64, part: &mut [u8]) -> Result<()> {
        let bucket = &*self.handle.bucket;
        let mut retry = self.handle.retry();
        let mut done = 0;
        loop {
            let at = offset + done as u64;
            let permit = bucket.permit().await?;
            let (bytes, outcome) = self.fetch(at, &mut part[done..]).await;
            drop(permit);
            done += bytes;
            let Err(failure) = outcome else {
                return Ok(());
            };
            if bytes as u64 >= self.limits().min_progress.max(1) {
                retry.progressed();
            }
            let pause = retry.pause(failure, bucket.contact.made()).await;
            let place = |error| self.handle.place(error, "read");
            pause.map_err(|error| place(error).offset(offset + done as u64))?;
        }
    }

    /// Makes one request. Returns how many bytes arrived, which are right also after a failure.
    async fn fetch(&self, offset: u64, buf: &mut [u8]) -> (usize, Result<(), Failure>) {
        let range = offset..offset + buf.len() as u64;
        match self.request(range).await {
            Ok(body) => receive(body, buf, self.limits(), &self.handle).await,
            Err(failure) => (0, Err(changed(failure))),
        }
    }

    async fn request(
        &self,
        range: std::ops::Range<u64>,
    ) -> Result<BoxStream<'static, object_store::Result<bytes::Bytes>>, Failure> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: self.version.if_match(),
            ..GetOptions::default()
        };
        let answer = get(&self.handle, options).await?;
        if let Some(difference) = self.version.difference(&Version::of(&answer.meta)?) {
            let text = format!("the object changed while it was read: {difference}");
            return Err(Failure::new(
                Again::Never,
                Error::new(Kind::SourceChanged, text),
            ));
        }
        if answer.range != range {
            let text = format!("the store answered {:?}, not {range:?}", answer.range);
            return Err(Failure::new(
                Again::Few,
                Error::new(Kind::Unavailable, text),
            ));
        }
        Ok(answer.into_stream())
    }
}

/// An object that was there when it was opened and is gone now has changed.
fn changed(failure: Failure) -> Failure {
    if failure.error.kind() != Kind::NotFound {
        return failure;
    }
    let error = Error::new(
        Kind::SourceChanged,
        "the object was removed while it was read",
    )
    .caused_by(failure.error);
    Failure::new(Again::Never, error)
}

/// Copies a body into `buf` and holds it to exactly that length.
async fn receive(
    mut body: BoxStream<'static, object_store::Result<bytes::Bytes>>,
    buf: &mut [u8],
    limits: &Limits,
    handle: &ObjectStoreHandle,
) -> (usize, Result<(), Failure>) {
    let mut pace = Pace::new(limits);
    let mut done = 0;
    while done < buf.len() {
        let chunk = match timeout_at(pace.deadline, body.next()).await {
            Err(_) => return (done, Err(Failure::stalled(pace.patience, pace.bytes))),
            Ok(None) => return (done, Err(short(done, buf.len()))),
            Ok(Some(Err(error))) => return (done, Err(handle.bucket.failure(&error))),
            Ok(Some(Ok(chunk))) => chunk,
        };
        let Some(room) = buf.get_mut(done..done + chunk.len()) else {
            return (0, Err(excess()));
        };
        room.copy_from_slice(&chunk);
        done += chunk.len();
        pace.advance(chunk.len());
    }
    // What is there beyond the end shows at once; waiting for it would wait for an honest end.
    match body.next().now_or_never() {
        Some(Some(Ok(chunk))) if !chunk.is_empty() => (0, Err(excess())),
        _ => (done, Ok(())),
    }
}

fn short(done: usize, wanted: usize) -> Failure {
    let text = format!("the answer ended after {done} of {wanted} bytes");
    Failure::new(Again::Later, Error::new(Kind::Unavailable, text))
}

fn excess() -> Failure {
    let text = "the answer has more bytes than were asked for";
    Failure::new(Again::Few, Error::new(Kind::Unavailable, text))
}

/// Notices a body that stands still, or only trickles.
struct Pace {
    patience: Duration,
    needed: u64,
    deadline: Instant,
    bytes: u64,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self {
            patience: limits.read_timeout,
            needed: limits.min_progress.max(1),
            deadline: Instant::now() + limits.read_timeout,
            bytes: 0,
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes >= self.needed {
            self.bytes = 0;
            self.deadline = Instant::now() + self.patience;
        }
    }
}

async fn get(handle: &ObjectStoreHandle, options: GetOptions) -> Result<GetResult, Failure> {
    let patience = handle.bucket.limits.read_timeout;
    let get = handle.bucket.store.get_opts(&handle.path, options);
    match timeout(patience, get).await {
        Ok(answer) => answer.map_err(|error| handle.bucket.failure(&error)),
        Err(_) => Err(Failure::stalled(patience, 0)),
    }
}

/// Asks for the version that the object has now.
async fn look(handle: &ObjectStoreHandle) -> Result<Version> {
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
    let options = GetOptions {
        head: true,
        ..GetOptions::default()
    };
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
        answer.code.is_none() && matches!(status, 300..=399 | 400 | 401 | 403 | 405 | 501)
    })
}

async fn first_byte(handle: &ObjectStoreHandle) -> Result<Version, Failure> {
    let options = GetOptions {
        range: Some(GetRange::Bounded(0..1)),
        ..GetOptions::default()
    };
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

#[async_trait]
impl Source for ObjectSource {
    fn name(&self) -> &str {
        self.handle.name()
    }

    fn size(&self) -> u64 {
        self.version.size
    }

    async fn extents(&self, range: ByteRange, _limit: usize) -> Result<Vec<Extent>> {
        let range = self.check_range(range.start(), range.len())?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![Extent::new(range, Placement::Opaque)])
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        let limits = *self.limits();
        let parts: Vec<BoxFuture<'_, Result<()>>> = buf
            .chunks_mut(limits.part_size)
            .zip((offset..).step_by(limits.part_size))
            .map(|(part, at)| self.read_part(at, part).boxed())
            .collect();
        stream::iter(parts)
            .buffer_unordered(limits.max_requests)
            .try_collect()
            .await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &[]
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        None
    }

    fn hint(&self) -> ReadHint {
        ReadHint::REMOTE
    }

    async fn stamp(&self) -> Result<Stamp> {
        let look = look(&self.handle).await;
        let version = look.map_err(|error| self.handle.place(error, "check"))?;
        Ok(Stamp(match version.etag {
            Some(etag) => format!("{etag} {}", version.size),
            None => format!("@{} {}", version.modified, version.size),
        }))
    }
}

impl fmt::Debug for ObjectSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectSource({}, {} bytes)", self.name(), self.size())
    }
}
