//! Whether an image is whole.

use crate::{ImageFacts, ImageSpec, Setup, image, inspect};
use carreto_error::Result;
use carreto_transfer::{CopyOptions, decode_all};
use serde::Serialize;

/// What a check found: the image is readable, perhaps with warnings.
#[derive(Debug, Clone, Serialize)]
pub struct CheckOutcome {
    /// What the image is, with all warnings.
    #[serde(flatten)]
    pub facts: ImageFacts,
    /// Guest bytes that were decompressed to see whether they can be.
    pub decoded_bytes: u64,
}

/// Walks all metadata and, unless `quick`, decodes everything that is compressed.
///
/// Cancel safe.
///
/// # Errors
/// What is wrong with the image, as its kind says; `SourceChanged`; `Cancelled` or `Timeout` when
/// `setup` was stopped.
pub async fn check(setup: &Setup, spec: &ImageSpec, quick: bool) -> Result<CheckOutcome> {
    setup.stop.race(check_whole(setup, spec, quick)).await
}

async fn check_whole(setup: &Setup, spec: &ImageSpec, quick: bool) -> Result<CheckOutcome> {
    let opened = image::open(setup, spec).await?;
    let facts = inspect::facts(setup, &spec.location, opened.image.as_ref()).await?;
    let engine = setup.engine(CopyOptions { digest: false, ..CopyOptions::default() });
    let decoded_bytes = if quick { 0 } else { decode_all(&engine, opened.image.clone()).await? };
    opened.expect_unchanged().await?;
    Ok(CheckOutcome { facts, decoded_bytes })
}
