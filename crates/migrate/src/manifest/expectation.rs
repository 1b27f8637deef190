//! What a manifest says that a disk has to read as.

use super::document::{Manifest, parse_hash};
use super::{Found, facts, find};
use crate::inspect::{ImageFacts, WarningFacts};
use crate::{ImageSpec, Setup, shown_location};
use carreto_block::{ByteRange, Source, SourceExt as _};
use carreto_error::{Error, Kind, Result, ResultExt as _, chain_text};
use carreto_transfer::{
    CHUNK, ChunkDigest, ContentDigest, Expected, LEAF, chunk_digests_of, is_zero,
};
use std::sync::Arc;

/// The content of a disk as it was when its image was uploaded.
#[derive(Debug)]
pub(crate) struct Expectation {
    /// The image, for messages.
    image: String,
    /// The size of the disk that was read; the image may round it up, with zeros.
    size: u64,
    root: ChunkDigest,
    chunks: Option<Arc<ContentDigest>>,
}

/// What the manifest beside an image says about it, if it is about this image at all, and
/// otherwise why not.
///
/// # Errors
/// `Mismatch` when the manifest is about this very object, and the object is another disk; what
/// reading the store meets.
pub(crate) async fn expectation(
    setup: &Setup,
    spec: &ImageSpec,
    image: &ImageFacts,
) -> Result<(Option<Expectation>, Option<WarningFacts>)> {
    if spec.snapshot.is_some() {
        return Ok((None, None));
    }
    let manifest = match find(setup, &spec.location).await? {
        Found::Nothing => return Ok((None, None)),
        Found::Unreadable(error) => return Ok((None, Some(unreadable(&error)))),
        Found::Manifest(manifest) => manifest,
    };
    let Some(digest) = &manifest.digest else {
        return Ok((None, None));
    };
    let object = facts(setup, &spec.location).await?;
    let is_bound = object.etag.is_some() && object.etag == manifest.etag;
    if let Some(difference) = difference(&manifest, image, object.size) {
        if !is_bound || spec.format.is_some_and(|format| format.name() != manifest.format) {
            let text = format!("the manifest beside the image is about another one: {difference}");
            return Ok((None, Some(warning("manifest_stale", text))));
        }
        let text = format!("the image is not what its manifest says: {difference}");
        return Err(mismatch(text, &shown_location(&spec.location)));
    }
    let read = || {
        let chunks = manifest.chunk_digests()?.map(Arc::new);
        Ok(Expectation {
            image: shown_location(&spec.location),
            size: manifest.content_size,
            root: parse_hash(digest)?,
            chunks,
        })
    };
    Ok(match read() {
        Ok(expectation) => (Some(expectation), None),
        Err(error) => (None, Some(unreadable(&error))),
    })
}

/// In what the manifest and the object differ, as far as can be seen at once.
fn difference(manifest: &Manifest, image: &ImageFacts, size: u64) -> Option<String> {
    let wrong = |what, found: &dyn std::fmt::Display, wanted: &dyn std::fmt::Display| {
        Some(format!("{what} is {found}, in the manifest {wanted}"))
    };
    let virtual_size = manifest.virtual_size.unwrap_or(manifest.content_size);
    if size != manifest.file_size {
        wrong("its size", &size, &manifest.file_size)
    } else if image.format != manifest.format {
        wrong("its format", &image.format, &manifest.format)
    } else if image.virtual_size != virtual_size || manifest.content_size > virtual_size {
        wrong("the size of the disk", &image.virtual_size, &virtual_size)
    } else {
        None
    }
}

impl Expectation {
    /// For a copy that compares while it reads.
    pub(crate) fn expected(&self, virtual_size: u64) -> Option<Expected> {
        let until = self.tail(virtual_size).map_or(u64::MAX, ByteRange::start);
        Some(Expected { chunks: Arc::clone(self.chunks.as_ref()?), until })
    }

    /// The last chunk, when the image rounds up the disk within a leaf: its digest is another
    /// than that of the disk.
    fn tail(&self, virtual_size: u64) -> Option<ByteRange> {
        let within = self.size < virtual_size && !self.size.is_multiple_of(LEAF as u64);
        let start = self.size / CHUNK * CHUNK;
        ByteRange::new(start, virtual_size.min(start + CHUNK)).filter(|_| within)
    }

    /// Holds the digests of all chunks of `image` to the manifest.
    ///
    /// # Errors
    /// `Mismatch`; what reading the last chunk meets.
    pub(crate) async fn check(&self, image: &dyn Source, found: &ContentDigest) -> Result<()> {
        let root = match self.tail(image.size()) {
            None => found.root(self.size),
            Some(tail) => {
                let len = usize::try_from(tail.len()).unwrap_or(usize::MAX);
                let bytes = image.read_vec(tail.start(), len).await;
                let bytes = bytes.wrap_err(|| "read the end of the disk".into())?;
                let size = usize::try_from(self.size - tail.start()).unwrap_or(len);
                let (own, padding) = bytes.split_at(size.min(len));
                if !is_zero(padding) {
                    return Err(mismatch("there is data behind the end of the disk", &self.image));
                }
                let kept = found.iter().filter(|(offset, _)| *offset != tail.start());
                let mut whole = ContentDigest::default();
                whole.extend(kept.chain(chunk_digests_of(tail.start(), own)));
                whole.root(self.size)
            }
        };
        if root == self.root {
            return Ok(());
        }
        let (found, wanted) = (root.to_hex(), blake3::Hash::from_bytes(self.root).to_hex());
        let text = format!("its content has the digest {found}, in its manifest it is {wanted}");
        Err(mismatch(text, &self.image))
    }

    /// Says what a difference found during a copy means.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let offset = error.nearest_offset().unwrap_or_default();
        let text = format!("the image is not what its manifest says: byte {offset} of the disk");
        mismatch(text, &self.image).offset(offset).caused_by(error)
    }
}

fn mismatch(text: impl Into<std::borrow::Cow<'static, str>>, image: &str) -> Error {
    Error::new(Kind::Mismatch, text)
        .during("compare the image with its manifest")
        .path(image)
        .remedied_by(
            "run the same command again in case a byte changed on the way; else the object is \
             damaged: upload the image again, or delete its .carreto.json if it was replaced on \
             purpose",
        )
}

fn unreadable(error: &Error) -> WarningFacts {
    let text = format!("the manifest beside the image cannot be read: {}", chain_text(error));
    warning("manifest_unreadable", text)
}

pub(super) fn warning(code: &'static str, text: String) -> WarningFacts {
    WarningFacts { code, text, offset: None }
}
