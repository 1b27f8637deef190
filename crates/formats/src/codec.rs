//! Decompression shared by the formats.

mod inflate;

pub(crate) use inflate::{Inflated, Wrapping, inflate};
