//! Disk-image formats as [`carreto_block::Source`]s.
//!
//! Every reader maps a guest range to ranges of its file, compressed runs, zeros or its parent
//! without touching payload; `carreto_block`'s shared fetch path reads and decodes. So every
//! format is as parallel as the caller. Knows no network and no object store.
//!
//! Images are untrusted. [`open`] validates headers with checked arithmetic and bounded memory,
//! and [`Image::check`] walks all metadata of the active image. Every second file that an image
//! names passes the [`carreto_block::OpenGate`].
//!
//! ```
//! use carreto_block::{OpenGate, SourceExt as _};
//! use carreto_formats::{Format, OpenOptions, open};
//! # use std::sync::Arc;
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let file = Arc::new(carreto_testkit::MemSource::new("disk.raw", vec![0; 4096]));
//! let image = open(file, &OpenOptions::default(), &OpenGate::closed()).await?;
//! assert_eq!(image.info().format, Format::Raw);
//! assert_eq!(image.read_vec(0, 512).await?, vec![0; 512]);
//! # Ok::<(), carreto_error::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bits;
mod chain;
mod codec;
mod field;
mod image;
mod names;
mod noted;
mod open;
mod pace;
mod probe;
pub mod qcow2;
pub mod raw;
mod repeats;
pub mod vhd;
pub mod vmdk;

pub use chain::Chained;
pub use image::{BackingInfo, CheckReport, Format, Image, ImageInfo, Limits, Warning};
pub use open::{OpenOptions, open};
pub use probe::{Probe, probe};

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
