//! A part of a source as a source of its own.

use crate::{ByteRange, Extent, LocalRead, ReadHint, Source, SourceExt as _, Stamp};
use async_trait::async_trait;
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

/// The bytes of `inner` inside a range: a flat extent, a fixed VHD without its footer.
#[derive(Debug)]
pub struct Window {
    inner: Arc<dyn Source>,
    window: ByteRange,
}

impl Window {
    /// Shows `window` of `inner`.
    ///
    /// # Errors
    /// `Truncated` when the window reaches past the end of `inner`.
    pub fn new(inner: Arc<dyn Source>, window: ByteRange) -> Result<Self> {
        if window.end() > inner.size() {
            let (size, end) = (inner.size(), window.end());
            let text = format!("the file has {size} bytes, {end} are needed");
            return Err(Error::new(Kind::Truncated, text).path(inner.name()));
        }
        Ok(Self { inner, window })
    }

    fn outer(&self, extent: Extent) -> Option<Extent> {
        let clipped = extent.clip(self.window)?;
        let start = clipped.range.start() - self.window.start();
        let range = ByteRange::from_len(start, clipped.range.len())?;
        Some(Extent { range, placement: clipped.placement })
    }
}

#[async_trait]
impl Source for Window {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.window.len()
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        let range = self.check_range(range.start(), range.len())?;
        let Some(inner) = ByteRange::from_len(self.window.start() + range.start(), range.len())
        else {
            return Ok(Vec::new());
        };
        let list = self.inner.extents(inner, limit).await?;
        Ok(list.into_iter().filter_map(|extent| self.outer(extent)).collect())
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        self.inner.read_at(self.window.start() + offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        self.inner.files()
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        self.inner.as_local().is_some().then_some(self as &dyn LocalRead)
    }

    fn hint(&self) -> ReadHint {
        self.inner.hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.inner.stamp().await
    }
}

impl LocalRead for Window {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        let local = self.inner.as_local().ok_or_else(|| {
            Error::new(Kind::Internal, "the source underneath lost its blocking path")
        })?;
        local.read_local(self.window.start() + offset, buf)
    }
}
