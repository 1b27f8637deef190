//! The qcow2 reader against images of a writer of the tests' own, broken images, failing files
//! and the corpora.
#![expect(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::large_stack_arrays,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed expectation of a test is a panic, and its numbers and arrays are small"
)]

mod builder;
mod corpus;
mod faults;
mod malformed;
mod reading;
mod references;
mod support;
