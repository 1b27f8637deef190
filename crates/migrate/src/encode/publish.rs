//! The end of an upload: what later readers can hold the object to.

use super::guest::Guest;
use super::run::{Run, read_as};
use super::spec::EncodeReport;
use crate::content;
use crate::inspect::ImageFacts;
use crate::manifest::{self, Manifest, Read, Written};
use carreto_block::ByteRange;
use carreto_error::Result;
use carreto_transfer::{ChunkDigest, ContentDigest};

/// An object that has just been made.
pub(super) struct Made {
    pub(super) size: u64,
    pub(super) etag: Option<String>,
    pub(super) part_size: u64,
    pub(super) parts: Vec<ChunkDigest>,
    /// What was read of the source.
    pub(super) content: ContentDigest,
}

impl Run<'_> {
    /// The digest of what a guest sees in the source; empty when it is no readable image.
    pub(super) async fn guest_content(
        &self,
        guest: Option<&Guest>,
        report: &mut EncodeReport,
    ) -> Result<Option<ContentDigest>> {
        let Some(guest) = guest else {
            return Ok(None);
        };
        let image = guest.opened.image.clone();
        let whole = ByteRange::whole(guest.facts.virtual_size);
        let scan = content::sparse(self.setup, image, whole, self.spec.memory / 2);
        let content = self.setup.stop.race(scan).await?;
        self.setup.stop.race(guest.opened.expect_unchanged()).await?;
        let size = guest.facts.virtual_size;
        report.virtual_size = Some(size);
        report.digest = Some(content.root(size).to_hex().to_string());
        Ok(Some(content))
    }

    /// Writes the manifest of a file that went as it was.
    pub(super) async fn publish_file(
        &self,
        guest: Option<(&Guest, &ContentDigest)>,
        made: Made,
        report: &mut EncodeReport,
    ) -> Result<()> {
        let format = guest.map_or("raw", |(guest, _)| guest.facts.format);
        let disk = guest.map(|(guest, content)| {
            let size = guest.facts.virtual_size;
            Read { size, virtual_size: size, content }
        });
        self.publish(&Manifest::new(written(format, made), disk.as_ref()), report).await
    }

    /// Writes the manifest of an image that was made.
    pub(super) async fn publish_image(
        &self,
        facts: &ImageFacts,
        made: Made,
        report: &mut EncodeReport,
    ) -> Result<()> {
        let content = made.content.clone();
        let size = facts.virtual_size;
        let virtual_size = report.virtual_size.unwrap_or(size);
        let disk = Read { size, virtual_size, content: &content };
        let format = read_as(self.spec.output.format).name();
        self.publish(&Manifest::new(written(format, made), Some(&disk)), report).await
    }

    async fn publish(&self, manifest: &Manifest, report: &mut EncodeReport) -> Result<()> {
        report.manifest_written = manifest::put(self.setup, &self.spec.target, manifest).await?;
        if !report.manifest_written {
            let text = "the object's key leaves no room for the name of a manifest".to_owned();
            report.warn("manifest_not_written", text);
        }
        Ok(())
    }
}

fn written(format: &str, made: Made) -> Written<'_> {
    let Made { size: file_size, etag, part_size, parts, .. } = made;
    Written { format, file_size, etag, part_size, parts }
}
