//! The VMDK reader: every layout, every fault.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed expectation of a test is a panic"
)]

mod build;
mod corpus;
mod faults;
mod malformed;
mod read;
mod support;
