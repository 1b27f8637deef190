//! An object as a source: every byte comes from the version that was opened, or there is an error.

use super::body::{Body, receive};
use super::failure::{Again, Failure};
use super::handle::{Limits, ObjectStoreHandle};
use super::version::{Version, get, look};
use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, LocalRead, Placement, ReadHint, Source, SourceExt as _, Stamp,
};
use carreto_error::{Error, Kind, Result};
use futures_util::future::BoxFuture;
use futures_util::stream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::{GetOptions, GetRange};
use std::fmt;
use std::sync::Arc;

/// An object that is read by ranges.
///
/// Every request asks for the version that was opened, and every answer is checked to be it, by
/// its size, its `ETag` and its time of modification, and to have the marks that the first one
/// had. An object without any such mark is refused unless the settings accept it. A body that breaks is resumed where it broke. Reads longer than the part size are split and made
/// in parallel.
pub struct ObjectSource {
    handle: ObjectStoreHandle,
    version: Version,
}

impl ObjectSource {
    pub(super) async fn open(handle: ObjectStoreHandle) -> Result<Self> {
        let look = look(&handle).await;
        let version = look.map_err(|error| handle.place(error, "open"))?;
        if !version.is_recognisable() && !handle.bucket.limits.accept_unversioned {
            return Err(handle.place(unversioned(), "open"));
        }
        Ok(Self { handle, version })
    }

    /// The same text for the same object: [`crate::ObjectUrl::identity`].
    pub fn identity(&self) -> &str {
        &self.handle.identity
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

    async fn request(&self, range: std::ops::Range<u64>) -> Result<Body, Failure> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: self.version.if_match(),
            ..GetOptions::default()
        };
        let answer = get(&self.handle, options).await?;
        if let Some(difference) = self.version.difference(&Version::of(&answer.meta)?) {
            let text = format!("the object changed while it was read: {difference}");
            return Err(Failure::new(Again::Never, Error::new(Kind::SourceChanged, text)));
        }
        if answer.range != range {
            let text = format!("the store answered {:?}, not {range:?}", answer.range);
            return Err(Failure::new(Again::Few, Error::new(Kind::Unavailable, text)));
        }
        Ok(answer.into_stream())
    }
}

/// Without a mark of its version, a replaced object would be mixed with the one before.
fn unversioned() -> Error {
    let text = "the server sends neither an ETag nor a time of modification, so that a change of \
                the object while it is read would not be noticed";
    Error::new(Kind::Unsupported, text).remedied_by(
        "use a server that sends one of them, or set accept_unversioned = true for this store in \
         the configuration file when nobody changes the object",
    )
}

/// An object that was there when it was opened and is gone now has changed.
fn changed(failure: Failure) -> Failure {
    if failure.error.kind() != Kind::NotFound {
        return failure;
    }
    let error = Error::new(Kind::SourceChanged, "the object was removed while it was read")
        .caused_by(failure.error);
    Failure::new(Again::Never, error)
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
        stream::iter(parts).buffer_unordered(limits.max_requests).try_collect().await
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
        Ok(version.stamp())
    }
}

impl fmt::Debug for ObjectSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectSource({}, {} bytes)", self.name(), self.size())
    }
}
