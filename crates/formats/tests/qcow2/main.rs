//! The qcow2 reader against images of a writer of the tests' own, broken images, failing files
//! and the corpora.
#![expect(
    clippy::cast_possible_truncation,
    reason = "tests count in small numbers"
)]

mod builder;
mod corpus;
mod faults;
mod malformed;
mod reading;
mod support;
