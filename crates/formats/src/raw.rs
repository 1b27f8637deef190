//! Raw images: the bytes of the disk and nothing else.
//!
//! The size need not be a multiple of 512. Zero and hole detection comes from the file
//! underneath.

use crate::{CheckReport, Format, Image, ImageInfo, Limits, OpenOptions, Warning};
use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, FileId, LocalRead, Placement, ReadHint, Source, Stamp, merge_extents,
};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

/// A raw image.
#[derive(Debug)]
pub struct Raw {
    files: [Arc<dyn Source>; 1],
    info: ImageInfo,
}

/// Takes `file` as a raw image, whatever its bytes look like.
///
/// The virtual size is the file's to the byte, so a digest of the disk is a digest of the file;
/// tools that round it up to sectors are told by a warning.
///
/// # Errors
/// `Limit` when it is larger than the limits allow.
#[expect(clippy::unused_async, reason = "every format opens alike")]
pub async fn open(file: Arc<dyn Source>, options: &OpenOptions) -> Result<Arc<dyn Image>> {
    with_warnings(file, options, Vec::new())
}

/// As [`open`], with what probing found odd.
pub(crate) fn with_warnings(
    file: Arc<dyn Source>,
    options: &OpenOptions,
    mut warnings: Vec<Warning>,
) -> Result<Arc<dyn Image>> {
    options.refuse_snapshot(file.as_ref(), Format::Raw)?;
    let (size, max) = (file.size(), options.limits.max_virtual_size);
    if size > max {
        let text = format!("a disk of {size} bytes is above the bound of {max}");
        return Err(Error::new(Kind::Limit, text).path(file.name()));
    }
    if !size.is_multiple_of(512) {
        let text = format!("the size {size} is not a multiple of 512");
        warnings.push(Warning::new("odd_size", text));
    }
    let info = ImageInfo {
        format: Format::Raw,
        subformat: "raw".into(),
        virtual_size: size,
        file_size: size,
        cluster_size: None,
        backing: None,
        warnings,
        details: Vec::new(),
    };
    Ok(Arc::new(Raw { files: [file], info }))
}

#[async_trait]
impl Source for Raw {
    fn name(&self) -> &str {
        self.files[0].name()
    }

    fn size(&self) -> u64 {
        self.info.virtual_size
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        Ok(own_extents(self.files[0].extents(range, limit).await?))
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.files[0].read_at(offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        self.files[0].as_local()
    }

    fn hint(&self) -> ReadHint {
        self.files[0].hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.files[0].stamp().await
    }
}

/// The extents of a file as extents of an image that begins where the file begins: what is not
/// zero is read through the file itself, because its own placements count other files.
pub(crate) fn own_extents(list: Vec<Extent>) -> Vec<Extent> {
    let mut own = Vec::with_capacity(list.len());
    for extent in list {
        let placement = match extent.placement {
            Placement::Zero => Placement::Zero,
            _ => Placement::Plain { file: FileId(0), offset: extent.range.start() },
        };
        merge_extents(&mut own, Extent::new(extent.range, placement));
    }
    own
}

#[async_trait]
impl Image for Raw {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    async fn check(&self, _limits: &Limits) -> Result<CheckReport> {
        Ok(CheckReport::default())
    }
}
