//! What an image is.

use crate::{ImageSpec, Setup, image, shown_location};
use carreto_block::{ByteRange, Placement, Source};
use carreto_error::Result;
use carreto_formats::{Image, ImageInfo, Warning};
use serde::Serialize;
use std::collections::BTreeMap;

/// What `info` and `check` tell about an image. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct ImageFacts {
    /// The version of this document.
    pub schema_version: u32,
    /// The image as the user named it, without the query of a web address.
    pub image: String,
    /// The format.
    pub format: &'static str,
    /// The variant within the format.
    pub subformat: String,
    /// The size of the guest's disk.
    pub virtual_size: u64,
    /// The size of the image's files.
    pub file_size: u64,
    /// Guest bytes that the image has data for.
    pub allocated_size: u64,
    /// The allocation unit, where the format has one.
    pub cluster_size: Option<u64>,
    /// The file below, where there is one.
    pub backing: Option<BackingFacts>,
    /// What is odd but readable.
    pub warnings: Vec<WarningFacts>,
    /// Further facts about the format.
    pub details: BTreeMap<&'static str, String>,
}

/// The file below an overlay.
#[derive(Debug, Clone, Serialize)]
pub struct BackingFacts {
    /// The name as the image has it.
    pub name: String,
    /// The format that the image records for it.
    pub format: Option<&'static str>,
}

/// Something odd that does not keep the image from being read.
#[derive(Debug, Clone, Serialize)]
pub struct WarningFacts {
    /// A stable name.
    pub code: &'static str,
    /// A sentence.
    pub text: String,
    /// The byte of the file.
    pub offset: Option<u64>,
}

impl From<Warning> for WarningFacts {
    fn from(warning: Warning) -> Self {
        Self { code: warning.code, text: warning.text, offset: warning.offset }
    }
}

/// Opens an image, walks all its metadata and says what it is. Touches no payload.
///
/// Cancel safe.
///
/// # Errors
/// What opening and checking the image meets; `SourceChanged`; `Cancelled` or `Timeout` when
/// `setup` was stopped.
pub async fn inspect(setup: &Setup, spec: &ImageSpec) -> Result<ImageFacts> {
    setup.stop.race(inspect_whole(setup, spec)).await
}

async fn inspect_whole(setup: &Setup, spec: &ImageSpec) -> Result<ImageFacts> {
    let opened = image::open(setup, spec).await?;
    let found = facts(setup, &spec.location, opened.image.as_ref()).await?;
    opened.expect_unchanged().await?;
    Ok(found)
}

pub(crate) async fn facts(setup: &Setup, location: &str, image: &dyn Image) -> Result<ImageFacts> {
    let report = image.check(&carreto_formats::Limits::default()).await?;
    setup.alive();
    let allocated_size = match report.allocated_size {
        Some(size) => size,
        None => mapped_size_in(setup, image, ByteRange::whole(image.size())).await?,
    };
    let info: &ImageInfo = image.info();
    let warnings = info.warnings.iter().cloned().chain(report.warnings);
    Ok(ImageFacts {
        schema_version: 1,
        image: shown_location(location),
        format: info.format.name(),
        subformat: info.subformat.clone(),
        virtual_size: info.virtual_size,
        file_size: info.file_size,
        allocated_size,
        cluster_size: info.cluster_size,
        backing: info.backing.as_ref().map(|backing| BackingFacts {
            name: backing.name.clone(),
            format: backing.format.map(carreto_formats::Format::name),
        }),
        warnings: warnings.map(WarningFacts::from).collect(),
        details: info.details.iter().cloned().collect(),
    })
}

/// Bytes of a range of a source that are not known to be zero.
pub(crate) async fn mapped_size_in(
    setup: &Setup,
    source: &dyn Source,
    range: ByteRange,
) -> Result<u64> {
    let mut rest = range;
    let mut mapped = 0;
    while !rest.is_empty() {
        for extent in source.extents(rest, 4096).await? {
            rest = rest.split_at(extent.range.end()).1;
            if !matches!(extent.placement, Placement::Zero | Placement::Absent) {
                mapped += extent.range.len();
            }
        }
        setup.alive();
    }
    Ok(mapped)
}
