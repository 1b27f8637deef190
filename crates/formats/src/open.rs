//! Opening an image whose format is given or found out.

use crate::noted::Noted;
use crate::probe::{headers_in_raw, probe};
use crate::{Format, Image, Limits, qcow2, raw, vhd, vmdk};
use carreto_block::{OpenGate, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

/// How to open an image.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The format; wins over what the bytes look like.
    pub format: Option<Format>,
    /// The internal snapshot to read instead of the active state, by name or id (qcow2).
    pub snapshot: Option<String>,
    /// Read a VHD although its checksums are wrong.
    pub ignore_checksum: bool,
    /// Bounds for what the image may ask for.
    pub limits: Limits,
}

impl OpenOptions {
    /// The options for a file that another image names: nothing is chosen for the user there.
    #[must_use]
    pub fn for_reference(&self, format: Format) -> Self {
        Self { format: Some(format), snapshot: None, ..self.clone() }
    }

    /// Refuses a wish for a snapshot in a format that has none.
    pub(crate) fn refuse_snapshot(&self, file: &dyn Source, format: Format) -> Result<()> {
        let Some(wanted) = &self.snapshot else {
            return Ok(());
        };
        let text = format!("there is no snapshot {wanted:?}: {format} images have none inside");
        Err(Error::new(Kind::NotFound, text)
            .path(file.name())
            .remedied_by("leave the snapshot out, or name the image that has it"))
    }
}

/// Opens the image in `file`. Files that it names are opened through `gate`.
///
/// Reads headers and the descriptors of all parents, no tables and no payload. Cancel safe.
///
/// # Errors
/// `NotFound` for a snapshot that the image does not have; `Ambiguous` when two formats match, `Unsupported` for formats and features that are known but
/// not read, `Encrypted`, `Corrupt`, `Truncated`, `Limit`, `Unsafe` as the image deserves; what
/// reading meets.
pub async fn open(
    file: Arc<dyn Source>,
    options: &OpenOptions,
    gate: &OpenGate,
) -> Result<Arc<dyn Image>> {
    let (format, warnings) = match options.format {
        Some(Format::Raw) => (Format::Raw, headers_in_raw(file.as_ref()).await?),
        Some(format) => (format, Vec::new()),
        None => {
            let found = probe(file.as_ref()).await?;
            (found.format, found.warnings)
        }
    };
    let image = match format {
        Format::Raw => return raw::with_warnings(file, options, warnings),
        Format::Qcow2 => Box::pin(qcow2::open(file, options, gate)).await?,
        Format::Vhd => Box::pin(vhd::open(file, options, gate)).await?,
        Format::Vmdk => Box::pin(vmdk::open(file, options, gate)).await?,
    };
    Ok(Noted::wrap(image, warnings))
}
