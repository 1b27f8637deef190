//! The block transfer engine: from any [`carreto_block::Source`] to any
//! [`carreto_block::Target`], fast, verified and resumable.
//!
//! The engine asks for extents per work range, fetches and decodes work items in parallel from
//! one memory budget, never transfers zeros, hashes while the bytes are in cache, and writes
//! merged runs. A [`Journal`] makes any interruption, also a loss of power, resumable. The engine
//! names no format and no store.
//!
//! - [`copy`] moves a range; [`verify`] reads the target back and compares digests.
//! - [`scan_ordered`] hands the bytes of a source to a consumer in order (digests).
//! - [`compare`] finds the first difference of two sources.
//!
//! ```
//! use carreto_testkit::{MemSource, MemTarget, sparse_disk};
//! use carreto_transfer::{Body, CopyOptions, Engine, copy};
//! use std::sync::Arc;
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
//! let disk = sparse_disk(5 << 20, 1);
//! let target = MemTarget::blank(5 << 20);
//! let engine = Engine::new(CopyOptions::default());
//! let body = Body::whole(Arc::new(MemSource::new("disk", disk.clone())), Arc::new(target.clone()));
//! let copied = copy(&engine, &body, None).await?;
//! assert!(target.content() == disk);
//! assert!(copied.data_bytes < 5 << 20, "zeros are not transferred");
//! # Ok::<(), carreto_error::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod budget;
mod compare;
mod copy;
mod decode;
mod digest;
mod door;
mod engine;
mod event;
mod expected;
mod frame;
mod item;
mod journal;
mod ordered;
mod pace;
mod part_journal;
mod ranges;
mod stop;
mod verify;
mod walk;
mod zero;

pub use budget::{Budget, Lease};
pub use compare::{Difference, compare};
pub use copy::{Body, Copied, copy};
pub use decode::decode_all;
pub use digest::{CHUNK, ChunkDigest, ContentDigest, LEAF, chunk_digests as chunk_digests_of};
pub use engine::{CopyOptions, Engine};
pub use event::{Counters, Event, Observer, Phase, Silent, Wait};
pub use expected::Expected;
pub use journal::{Journal, JournalHeader, Resumed};
pub use ordered::{Consumer, Piece, map_ordered, scan_ordered};
pub use part_journal::{DonePart, LaidItem, PartHeader, PartJournal, PartsDone};
pub use ranges::RangeSet;
pub use stop::{Stop, StopReason};
pub use verify::verify;
pub use walk::{ITEM, Walker, Work};
pub use zero::is_zero;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
