//! What is known about a file that is moved as it is: the disk in it, and what an earlier upload
//! wrote down about its bytes.

use super::spec::{EncodeReport, EncodeSpec};
use crate::image::{self, Opened};
use crate::inspect::{self, ImageFacts};
use crate::manifest::{self, Found};
use crate::{ImageSpec, Setup, shown_location};
use carreto_error::{Error, Kind, Result, chain_text};
use carreto_formats::Format;
use carreto_transfer::ChunkDigest;
use std::sync::Arc;

/// The disk in a file that goes as it is.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) opened: Opened,
    pub(super) facts: ImageFacts,
}

/// Opens the disk in the file, if it is the image of one. A damaged image is moved like any other
/// file, but not without a word.
///
/// # Errors
/// What opening the image meets, when the user said what it is.
pub(super) async fn guest(
    setup: &Setup,
    spec: &EncodeSpec,
    report: &mut EncodeReport,
) -> Result<Option<Guest>> {
    let open = async {
        let opened = image::open(setup, &spec.image).await?;
        let facts = inspect::facts(setup, &spec.image.location, opened.image.as_ref()).await?;
        Ok(Guest { opened, facts })
    };
    match setup.stop.race(open).await {
        Ok(guest) => {
            report.learn(&guest.facts);
            let files = guest.opened.files().len();
            if files == 1 {
                return Ok(Some(guest));
            }
            let text = format!(
                "the image has {files} files, and only the one that was named is moved: use \
                 --as to make one of them"
            );
            setup.note(&text);
            report.warn("other_files_needed", text);
            Ok(None)
        }
        Err(error) if is_about_the_image(&error) && is_anything(&spec.image) => {
            let text = format!("the file cannot be read as an image: {}", chain_text(&error));
            setup.note(&text);
            report.warn("no_readable_image", text);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_anything(image: &ImageSpec) -> bool {
    image.format.is_none() && image.allow_formats.is_empty()
}

fn is_about_the_image(error: &Error) -> bool {
    use Kind::{Corrupt, Encrypted, Limit, NotFound, Truncated, Unsafe, Unsupported};
    matches!(
        error.kind(),
        Corrupt | Encrypted | Limit | NotFound | Truncated | Unsafe | Unsupported
    )
}

/// How to read the bytes of the file that `spec` moves as it is.
pub(super) fn as_bytes(spec: &ImageSpec) -> ImageSpec {
    ImageSpec { format: Some(Format::Raw), ..ImageSpec::at(&spec.location) }
}

/// The digests of an object's parts, by its manifest.
#[derive(Debug, Clone)]
pub(super) struct ExpectedParts {
    object: Arc<str>,
    pub(super) part_size: u64,
    digests: Arc<[ChunkDigest]>,
}

impl ExpectedParts {
    /// What the manifest beside the source says about a file of `size` bytes; parts have `most`
    /// bytes, or the manifest is of no use.
    ///
    /// # Errors
    /// What looking for the manifest meets.
    pub(super) async fn find(
        setup: &Setup,
        spec: &EncodeSpec,
        size: u64,
        most: u64,
    ) -> Result<Option<Self>> {
        let location = &spec.image.location;
        let found = setup.stop.race(manifest::find(setup, location)).await?;
        let Found::Manifest(manifest) = found else {
            return Ok(None);
        };
        let Ok(digests) = manifest.part_digests() else {
            return Ok(None);
        };
        let is_usable = manifest.file_size == size && manifest.part_size <= most;
        Ok(is_usable.then(|| Self {
            object: shown_location(location).into(),
            part_size: manifest.part_size,
            digests: digests.into(),
        }))
    }

    /// Holds a part that was read to the manifest.
    ///
    /// # Errors
    /// `Mismatch`.
    pub(super) fn check(&self, index: u64, offset: u64, digest: &ChunkDigest) -> Result<()> {
        let wanted = usize::try_from(index).ok().and_then(|index| self.digests.get(index));
        if wanted == Some(digest) {
            return Ok(());
        }
        let text = "the bytes of the object are not what its manifest says";
        Err(Error::new(Kind::Mismatch, text).path(&*self.object).offset(offset).remedied_by(
            "run the same command again in case a byte changed on the way; else the object is \
             damaged: upload it again, or delete its .carreto.json if it was replaced on purpose",
        ))
    }
}
