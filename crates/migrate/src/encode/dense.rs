//! A source whose metadata is not asked again.
//!
//! Where a file has holes may change although its bytes do not: of what was preallocated and never
//! written, Linux says data while it is in the page cache and hole when it is not (`SEEK_DATA`). So
//! what was laid out by an earlier run is read again as data, whatever it is said to be now.

use async_trait::async_trait;
use carreto_block::{ByteRange, Extent, LocalRead, Placement, ReadHint, Source, Stamp};
use carreto_error::Result;
use std::sync::Arc;

/// The same bytes, all of which have to be read.
#[derive(Debug)]
pub(super) struct Dense(pub(super) Arc<dyn Source>);

#[async_trait]
impl Source for Dense {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    async fn extents(&self, range: ByteRange, _limit: usize) -> Result<Vec<Extent>> {
        Ok(vec![Extent::new(range, Placement::Opaque)])
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf).await
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        self.0.as_local()
    }

    fn hint(&self) -> ReadHint {
        self.0.hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.0.stamp().await
    }
}
