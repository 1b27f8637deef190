//! An image on top of its parents.

use crate::{CheckReport, Image, ImageInfo, Limits, Warning};
use async_trait::async_trait;
use carreto_block::{ByteRange, Extent, Layered, ReadHint, Source, Stamp};
use carreto_error::Result;
use std::sync::Arc;

/// A top image whose absent ranges are read from its parent. Its info is the top's, with the
/// warnings of the parent, which name it.
#[derive(Debug)]
pub struct Chained {
    top: Arc<dyn Image>,
    parent: Arc<dyn Image>,
    layers: Layered,
    info: ImageInfo,
}

impl Chained {
    /// Puts `top` on `parent`.
    pub fn new(top: Arc<dyn Image>, parent: Arc<dyn Image>) -> Self {
        let layers = Layered::new(top.clone(), parent.clone());
        let mut info = top.info().clone();
        info.warnings.extend(attributed(parent.as_ref(), &parent.info().warnings));
        Self { top, parent, layers, info }
    }
}

#[async_trait]
impl Source for Chained {
    fn name(&self) -> &str {
        self.layers.name()
    }

    fn size(&self) -> u64 {
        self.layers.size()
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        self.layers.extents(range, limit).await
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.layers.read_at(offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        self.layers.files()
    }

    fn hint(&self) -> ReadHint {
        self.layers.hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.layers.stamp().await
    }
}

#[async_trait]
impl Image for Chained {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    async fn check(&self, limits: &Limits) -> Result<CheckReport> {
        let mut report = self.top.check(limits).await?;
        let parent = self.parent.check(limits).await?;
        report.warnings.extend(attributed(self.parent.as_ref(), &parent.warnings));
        Ok(report)
    }
}

/// The warnings about `image` and its own parents, each with the name of the file it is about in
/// front.
fn attributed(image: &dyn Image, warnings: &[Warning]) -> Vec<Warning> {
    let named = |text: &str| {
        let files = image.files().iter().map(|file| file.name());
        let mut rest = files.filter_map(|name| text.strip_prefix(name));
        rest.any(|rest| rest.starts_with(": "))
    };
    let attribute = |warning: &Warning| {
        let mut warning = warning.clone();
        if !named(&warning.text) {
            warning.text = format!("{}: {}", image.name(), warning.text);
        }
        warning
    };
    warnings.iter().map(attribute).collect()
}
