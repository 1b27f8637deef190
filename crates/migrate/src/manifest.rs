//! The manifest beside an uploaded object, `KEY.carreto.json`: what its content was when it was
//! read, for those who read it later.
//!
//! It is no proof against somebody who can write to the store. It finds what changed a byte on the
//! way there, in the store, or on the way back.

mod document;
mod expectation;

pub(crate) use document::{Manifest, Read, Written};
pub(crate) use expectation::{Expectation, expectation};

use crate::{Setup, image};
use bytes::Bytes;
use carreto_block::{Source as _, SourceExt as _};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use carreto_store::{Location, ObjectFacts, ObjectUrl};

/// The largest manifest that is read, in bytes; those that are written have a third of it at most.
const MAX_SIZE: u64 = 16 << 20;

/// The manifest of an object.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is none, or there can be none.
    Nothing,
    /// There is something that cannot be understood, for this reason.
    Unreadable(Error),
    Manifest(Box<Manifest>),
}

/// Looks for the manifest of the object at `location`. Cancel safe.
///
/// # Errors
/// `Unavailable` and the like; not that nothing is there, or that it may not be read: stores say
/// so of missing objects too, to those who may not list.
pub(crate) async fn find(setup: &Setup, location: &str) -> Result<Found> {
    let Some(url) = url_of(location) else {
        return Ok(Found::Nothing);
    };
    let source = match image::stores(setup).open(&url).await {
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Denied) => {
            return Ok(Found::Nothing);
        }
        opened => opened.wrap_err(|| "look for a manifest".into())?,
    };
    if source.size() > MAX_SIZE {
        let text = format!("it has {} bytes, at most {MAX_SIZE} are read", source.size());
        return Ok(Found::Unreadable(Error::new(Kind::Limit, text)));
    }
    let len = usize::try_from(source.size()).unwrap_or(usize::MAX);
    let json = source.read_vec(0, len).await.wrap_err(|| "read the manifest".into())?;
    Ok(match Manifest::parse(&json) {
        Ok(manifest) => Found::Manifest(Box::new(manifest)),
        Err(error) => Found::Unreadable(error),
    })
}

/// What the store has under the name of `location` now.
///
/// # Errors
/// As [`find`]; `NotFound`.
pub(crate) async fn facts(setup: &Setup, location: &str) -> Result<ObjectFacts> {
    let Location::Object(url) = location.parse()? else {
        return Err(Error::new(Kind::Internal, "only objects have manifests"));
    };
    let facts = image::stores(setup).handle(&url)?.facts().await?;
    facts.ok_or_else(|| Error::new(Kind::NotFound, "the object is gone").path(url.to_string()))
}

/// Writes the manifest of the object at `location`; gives false when its key leaves no room for
/// the ending.
///
/// # Errors
/// What writing an object meets.
pub(crate) async fn put(setup: &Setup, location: &str, manifest: &Manifest) -> Result<bool> {
    let Some(url) = url_of(location) else {
        return Ok(false);
    };
    let handle = image::stores(setup).handle(&url)?;
    let put = setup.stop.race(handle.put_bytes(Bytes::from(manifest.to_json()?))).await;
    put.wrap_err(|| "write the manifest".into()).map(|()| true)
}

/// Where the manifest lies. Addresses of web servers may be signed for one file only.
fn url_of(location: &str) -> Option<ObjectUrl> {
    match format!("{location}.carreto.json").parse() {
        Ok(Location::Object(url)) if !url.scheme().is_web() => Some(url),
        _ => None,
    }
}
