//! One source on top of another: a backing chain as a single source.

use crate::{
    ByteRange, Extent, FileId, Placement, ReadHint, Source, Stamp, fetch_range, merge_extents,
};
use async_trait::async_trait;
use carreto_error::Result;
use std::sync::Arc;

/// Reads from `top`, and where that is [`Placement::Absent`] from `base`.
///
/// The size is `top`'s. A shorter `base` reads as zeros beyond its end, also in the middle of a
/// cluster; what a longer one has beyond `top`'s end is ignored.
#[derive(Debug)]
pub struct Layered {
    top: Arc<dyn Source>,
    base: Arc<dyn Source>,
    files: Vec<Arc<dyn Source>>,
    /// The position of `base`'s first file in `files`.
    base_files: usize,
}

impl Layered {
    /// Puts `top` on `base`.
    pub fn new(top: Arc<dyn Source>, base: Arc<dyn Source>) -> Self {
        let mut files = top.files().to_vec();
        files.push(Arc::clone(&top));
        let base_files = files.len();
        files.extend_from_slice(base.files());
        files.push(Arc::clone(&base));
        Self { top, base, files, base_files }
    }

    fn of_top(&self, extent: Extent) -> Extent {
        let own = FileId(0).shifted(self.base_files - 1);
        Extent { placement: revealed(extent, own), ..extent }
    }

    fn of_base(&self, extent: Extent) -> Extent {
        let own = FileId(0).shifted(self.files.len() - 1);
        let placement = match extent.placement {
            Placement::Opaque => revealed(extent, own),
            Placement::Absent => Placement::Zero,
            other => other.shifted(self.base_files),
        };
        Extent { placement, ..extent }
    }

    /// Appends what `base` has for `hole`; stops early after `limit` extents.
    async fn append_base(
        &self,
        hole: ByteRange,
        limit: usize,
        list: &mut Vec<Extent>,
    ) -> Result<()> {
        let (mut inside, beyond) = hole.split_at(self.base.size());
        while !inside.is_empty() {
            let room = limit.saturating_sub(list.len()).max(1);
            let answer = self.base.extents(inside, room).await?;
            for extent in answer {
                inside = inside.split_at(extent.range.end()).1;
                merge_extents(list, self.of_base(extent));
            }
            if list.len() >= limit && !inside.is_empty() {
                return Ok(());
            }
        }
        merge_extents(list, Extent::new(beyond, Placement::Zero));
        Ok(())
    }
}

/// An opaque extent of a layer is a plain extent of the layer taken as a file.
fn revealed(extent: Extent, own: FileId) -> Placement {
    match extent.placement {
        Placement::Opaque => Placement::Plain { file: own, offset: extent.range.start() },
        other => other,
    }
}

#[async_trait]
impl Source for Layered {
    fn name(&self) -> &str {
        self.top.name()
    }

    fn size(&self) -> u64 {
        self.top.size()
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        let mut list = Vec::new();
        for extent in self.top.extents(range, limit).await? {
            if matches!(extent.placement, Placement::Absent) {
                self.append_base(extent.range, limit, &mut list).await?;
            } else {
                merge_extents(&mut list, self.of_top(extent));
            }
            if list.len() >= limit {
                break;
            }
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        fetch_range(self, offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn hint(&self) -> ReadHint {
        self.top.hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        let (top, base) = (self.top.stamp().await?, self.base.stamp().await?);
        Ok(Stamp(format!("{}|{}", top.0, base.0)))
    }
}
