//! The sending end: runs on the source while it works.
//!
//! An *epoch* drains the tracker, reads what changed, and sends what the receiver does not have.
//! Epochs get short as the agent catches up. The cutover freezes the file systems, sends the last
//! changes, reads again what was written since the last whole pass, lets the receiver read its disks
//! back, and commits when both sides have the same BLAKE3 of every disk; otherwise it thaws.

mod ahead;
mod blocks;
mod board;
mod cleanup;
mod commit;
mod config;
mod cutover;
mod disk;
mod epoch;
mod files;
mod level;
mod link;
mod machine;
mod meter;
mod orders;
mod pass;
mod preflight;
mod prepare;
mod reading_back;
mod resume;
mod run;
mod seal;
mod sweeping;
#[cfg(test)]
mod testing;
mod under_way;
mod workshop;

pub use board::AgentObserver;
pub use cleanup::{Cleaned, Remains, cleanup, remains};
pub use config::{After, AgentConfig, CutoverConfig, HookConfig, When};
pub use machine::{Freezing, LinuxMachine, Machine, MachineDisk, ReadDisk};
pub use orders::{Order, OrderReply, ask};
pub use preflight::{
    BandwidthFacts, CostRange, DiskFacts, Finding, MountFacts, Prediction, Preflight, Range,
    ReceiverFacts, SampleFacts, Severity, SwapFacts, SystemFacts, TargetFacts, TrackerFacts, check,
};
pub use run::{Agent, Outcome};
