//! qcow2.

use crate::{Image, OpenOptions};
use carreto_block::{OpenGate, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

/// Opens the image in `file`.
///
/// # Errors
/// As [`crate::open`].
pub async fn open(
    file: Arc<dyn Source>,
    options: &OpenOptions,
    gate: &OpenGate,
) -> Result<Arc<dyn Image>> {
    let _ = (options, gate);
    Err(Error::new(Kind::Unsupported, "not read yet").path(file.name()))
}
