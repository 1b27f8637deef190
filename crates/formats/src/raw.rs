//! Raw images: the bytes of the disk and nothing else.
//!
//! The size need not be a multiple of 512. Zero and hole detection comes from the file
//! underneath.

use crate::{CheckReport, Format, Image, ImageInfo, Limits, OpenOptions};
use async_trait::async_trait;
use carreto_block::{ByteRange, Extent, FileId, Placement, ReadHint, Source, Stamp};
use carreto_error::Result;
use std::sync::Arc;

/// A raw image.
#[derive(Debug)]
pub struct Raw {
    files: [Arc<dyn Source>; 1],
    info: ImageInfo,
}

/// Takes `file` as a raw image.
///
/// # Errors
/// `Limit` when it is larger than the limits allow.
pub async fn open(file: Arc<dyn Source>, options: &OpenOptions) -> Result<Arc<dyn Image>> {
    let _ = options;
    let info = ImageInfo {
        format: Format::Raw,
        subformat: "raw".into(),
        virtual_size: file.size(),
        file_size: file.size(),
        cluster_size: None,
        backing: None,
        warnings: Vec::new(),
        details: Vec::new(),
    };
    Ok(Arc::new(Raw {
        files: [file],
        info,
    }))
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
        let mut list = self.files[0].extents(range, limit).await?;
        for extent in &mut list {
            if matches!(extent.placement, Placement::Opaque) {
                extent.placement = Placement::Plain {
                    file: FileId(0),
                    offset: extent.range.start(),
                };
            }
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.files[0].read_at(offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn hint(&self) -> ReadHint {
        self.files[0].hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.files[0].stamp().await
    }
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
