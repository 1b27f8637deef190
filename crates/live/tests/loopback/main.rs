//! Whole migrations in one process: both engines over real TLS on the loopback device, with disks
//! and targets in memory, a clockwork of faults, and a network that can be cut anywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod ahead;
mod commit;
mod counters;
mod crowd;
mod links;
mod machine;
mod orders;
mod plain;
mod proof;
mod proxy;
mod refused;
mod restarts;
mod rogue;
mod scene;
mod target;
