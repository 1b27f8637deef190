//! The qcow2 reader against images of a writer of the tests' own, broken images, failing files
//! and the corpora.
#![expect(
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    reason = "tests count in small numbers, and say what they test in their names"
)]

mod builder;
mod reading;
mod support;
