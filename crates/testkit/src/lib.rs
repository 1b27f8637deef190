//! What Carreto's tests share: sources and targets in memory, wrappers that inject faults, a store
//! that fails where a script says so, and the conformance suites that every format and every store
//! must pass.
//!
//! A development dependency only; it may panic where a test should fail.
//!
//! ```
//! use carreto_testkit::{MemSource, conformance, sparse_disk};
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let disk = sparse_disk(100_000, 1);
//! conformance::source(&MemSource::new("disk", disk.clone()), &disk).await;
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```
#![expect(
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation of a test is a panic"
)]

mod bucket;
pub mod conformance;
mod fault;
mod mem;
mod pattern;

pub use bucket::{Asked, Bucket, Op, Reply, Stored};
pub use fault::{Fault, FaultySource, FaultyTarget};
pub use mem::{MemSource, MemTarget};
pub use pattern::{Rng, sparse_disk};

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
