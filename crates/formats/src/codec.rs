//! Decompression shared by the formats.

mod inflate;
mod zstd;

pub(crate) use inflate::{Inflated, Wrapping, inflate};
pub(crate) use zstd::unzstd;
