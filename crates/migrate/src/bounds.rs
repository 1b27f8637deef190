//! What the user does not want to be handed: formats that are not expected, disks that are too big.

use crate::ImageSpec;
use carreto_block::Source;
use carreto_error::{Error, Kind, Result};
use carreto_formats::{Format, Limits, OpenOptions, probe};

impl ImageSpec {
    /// Options with the bounds of the user, and nothing else.
    pub(crate) fn bounds(&self) -> OpenOptions {
        let mut limits = Limits::default();
        if let Some(size) = self.max_virtual_size {
            limits.max_virtual_size = size;
        }
        OpenOptions { limits, ..OpenOptions::default() }
    }

    /// Refuses a format that the user did not allow, before anything of it is interpreted.
    pub(crate) async fn expect_allowed(&self, file: &dyn Source) -> Result<()> {
        if self.allow_formats.is_empty() {
            return Ok(());
        }
        let format = match self.format {
            Some(format) => format,
            None => probe(file).await.map_err(|error| error.or_path(file.name()))?.format,
        };
        if self.allow_formats.contains(&format) {
            return Ok(());
        }
        let allowed: Vec<&str> = self.allow_formats.iter().copied().map(Format::name).collect();
        let text = format!("its format is {format}, allowed are {}", allowed.join(", "));
        let remedy = "if you expected this image, allow its format with --allow-format";
        Err(Error::new(Kind::Limit, text).path(file.name()).remedied_by(remedy))
    }
}
