//! How large an image will be, before anything is read or written.

use crate::{ImageSpec, Setup, image, shown_location};
use carreto_block::{ByteRange, Placement};
use carreto_error::Result;
use carreto_formats::write::{Gauge, OutputFormat, WriteOptions, gauge};
use carreto_formats::{Image, Limits};
use serde::Serialize;

/// The size of a file that [`crate::encode`] would make. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// The version of this document.
    pub schema_version: u32,
    /// The image as the user named it, without the query of a web address.
    pub image: String,
    /// Its format.
    pub source_format: &'static str,
    /// The format that would be written.
    pub format: &'static str,
    /// The size of the disk that a guest would see in the result.
    pub virtual_size: u64,
    /// Guest bytes that the image has data for.
    pub allocated_size: u64,
    /// What the file needs at most: payload is not read, so data counts as data that is not zero
    /// and does not compress.
    pub required: u64,
    /// What the file would need if the whole disk were data.
    pub fully_allocated: u64,
    /// The file will have exactly `required` bytes, whatever the data is.
    pub exact: bool,
}

/// Says how large the file will be that `output` makes of an image. Reads metadata only; the work
/// grows with the number of extents.
///
/// Cancel safe.
///
/// # Errors
/// What opening and checking the image meets; `Usage` when the options do not fit, `Limit` when
/// the format cannot hold the disk; `SourceChanged`; `Cancelled` or `Timeout` when `setup` was
/// stopped.
pub async fn measure(
    setup: &Setup,
    spec: &ImageSpec,
    output: &WriteOptions,
) -> Result<Measurement> {
    setup.stop.race(measure_whole(setup, spec, output)).await
}

async fn measure_whole(
    setup: &Setup,
    spec: &ImageSpec,
    output: &WriteOptions,
) -> Result<Measurement> {
    let opened = image::open(setup, spec).await?;
    let image = &opened.image;
    let mut gauge = gauge(output, image.size())?;
    image.check(&Limits::default()).await?;
    let allocated_size = fill(setup, &mut gauge, image.as_ref()).await?;
    opened.expect_unchanged().await?;
    Ok(Measurement {
        schema_version: 1,
        image: shown_location(&spec.location),
        source_format: image.info().format.name(),
        format: output.format.name(),
        virtual_size: gauge.virtual_size(),
        allocated_size,
        required: gauge.required(),
        fully_allocated: gauge.fully_allocated(),
        exact: matches!(output.format, OutputFormat::Raw | OutputFormat::VhdFixed),
    })
}

/// The bytes that the file needs at most which `output` makes of `image`.
///
/// # Errors
/// As [`measure`].
pub(crate) async fn most(setup: &Setup, image: &dyn Image, output: &WriteOptions) -> Result<u64> {
    let mut gauge = gauge(output, image.size())?;
    fill(setup, &mut gauge, image).await?;
    Ok(gauge.required())
}

/// Tells `gauge` where `image` has data; gives how much.
async fn fill(setup: &Setup, gauge: &mut Gauge, image: &dyn Image) -> Result<u64> {
    let mut rest = ByteRange::whole(image.size());
    let mut allocated = 0;
    while !rest.is_empty() {
        for extent in image.extents(rest, 4096).await? {
            rest = rest.split_at(extent.range.end()).1;
            if !matches!(extent.placement, Placement::Zero | Placement::Absent) {
                gauge.data(extent.range);
                allocated += extent.range.len();
            }
        }
        setup.alive();
    }
    Ok(allocated)
}
