//! Online migration: a running Linux server moves to another disk with nothing lost.
//!
//! The *agent* runs on the source. It reads the disks past the page cache, sends what the
//! *receiver* does not have, follows what changes by a [`track::Tracker`], freezes the file
//! systems, sends the rest and proves equality. Tracking is a hint; the proof is the
//! [`ledger::Ledger`]: one BLAKE3 leaf for each [granule] of 64 KiB, whose root is the
//! plain BLAKE3 of the whole disk, so that anyone can check the result with `b3sum`.

pub mod agent;
pub mod certificate;
pub mod frame;
pub mod granule;
pub mod host;
pub mod ledger;
pub mod pace;
pub mod price;
pub mod receiver;
mod remedy;
pub mod state;
mod storage;
pub mod track;
pub mod trust;
pub mod wire;
