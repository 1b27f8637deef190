//! What Carreto's tests share: sources and targets in memory, wrappers that inject faults, and
//! the conformance suites that every format and every store must pass.
//!
//! A development dependency only; it may panic where a test should fail.
#![expect(
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failed expectation of a test is a panic"
)]

pub mod conformance;
mod fault;
mod mem;
mod pattern;

pub use fault::{Fault, FaultySource, FaultyTarget};
pub use mem::{MemSource, MemTarget};
pub use pattern::{Rng, sparse_disk};
