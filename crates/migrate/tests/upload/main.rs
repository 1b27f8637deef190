//! Uploads to a store that loses answers, forgets, refuses and flips bits: what is there in the
//! end is exactly what was read, or the run says why not and nothing looks whole.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

mod bench;
mod changed;
mod lost;
mod refused;
