//! An image of which something is to be said that its own reader cannot know.

use crate::{CheckReport, Image, ImageInfo, Limits, Warning};
use async_trait::async_trait;
use carreto_block::{ByteRange, Extent, LocalRead, ReadHint, Source, Stamp};
use carreto_error::Result;
use std::sync::Arc;

/// An image with more warnings.
#[derive(Debug)]
pub(crate) struct Noted {
    image: Arc<dyn Image>,
    info: ImageInfo,
}

impl Noted {
    /// Adds `warnings` to what `image` says about itself.
    pub(crate) fn wrap(image: Arc<dyn Image>, warnings: Vec<Warning>) -> Arc<dyn Image> {
        if warnings.is_empty() {
            return image;
        }
        let mut info = image.info().clone();
        info.warnings.extend(warnings);
        Arc::new(Self { image, info })
    }
}

#[async_trait]
impl Source for Noted {
    fn name(&self) -> &str {
        self.image.name()
    }

    fn size(&self) -> u64 {
        self.image.size()
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        self.image.extents(range, limit).await
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.image.read_at(offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        self.image.files()
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        self.image.as_local()
    }

    fn hint(&self) -> ReadHint {
        self.image.hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.image.stamp().await
    }
}

#[async_trait]
impl Image for Noted {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    async fn check(&self, limits: &Limits) -> Result<CheckReport> {
        self.image.check(limits).await
    }
}
