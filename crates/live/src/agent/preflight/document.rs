//! The answer of a preflight.

use crate::price;
use crate::track::TrackerKind;
use crate::wire::Failed;
use serde::Serialize;
use std::path::PathBuf;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// A migration works, with a drawback.
    Warning,
    /// A migration would fail.
    Blocked,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, such as `privileges` or `disk vda`.
    pub item: String,
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Everything that a preflight found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preflight {
    /// The version of this document: fields are only added.
    pub schema_version: u32,
    /// `preflight`.
    #[serde(rename = "type")]
    pub document: &'static str,
    /// The name of the server.
    pub server: String,
    /// Whether a finding stands in the way of a migration.
    pub blocked: bool,
    /// What was looked at, in that order.
    pub findings: Vec<Finding>,
    /// The running system.
    pub system: SystemFacts,
    /// The disks that would be migrated.
    pub disks: Vec<DiskFacts>,
    /// The mounted file systems on them, in the order in which they would be frozen.
    pub mounts: Vec<MountFacts>,
    /// The swap spaces on them.
    pub swaps: Vec<SwapFacts>,
    /// The receiver; none when it could not be reached.
    pub receiver: Option<ReceiverFacts>,
    /// What the line carries; none when it could not be measured.
    pub bandwidth: Option<BandwidthFacts>,
    /// What the first pass will take.
    pub estimate: Prediction,
}

impl Preflight {
    /// Whether a finding stands in the way of a migration.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The findings that stand in the way, or the warnings.
    pub fn of_severity(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity == severity)
    }
}

/// The running system. What it hides is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemFacts {
    /// The network name.
    pub host_name: String,
    /// The release of the running kernel.
    pub kernel: String,
    /// As the kernel names it.
    pub architecture: String,
    /// Another text for every start of the kernel.
    pub boot_id: String,
    /// Processors.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of memory that can be had without swapping.
    pub available_memory_bytes: Option<u64>,
    /// On average over 1, 5 and 15 minutes.
    pub load: Option<[f64; 3]>,
    /// Since the system started.
    pub uptime_seconds: Option<f64>,
    /// Whether the clock follows a time source.
    pub clock_synchronised: Option<bool>,
    /// The name of the time zone.
    pub time_zone: Option<String>,
    /// The mode of the kernel's lockdown.
    pub lockdown: String,
    /// Whether the kernel describes its own types.
    pub btf: bool,
    /// Where a BPF file system is mounted.
    pub bpf_folder: Option<PathBuf>,
    /// Where the file system of block tracing is mounted.
    pub debug_folder: Option<PathBuf>,
}

/// A disk that would be migrated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiskFacts {
    /// The kernel's name.
    pub name: String,
    /// Names the disk across reboots; a receiver's configuration may use it.
    pub identity: String,
    /// Bytes.
    pub size: u64,
    /// Bytes that mounted file systems on it use; none when there are none.
    pub used_bytes: Option<u64>,
    /// Whether the kernel refuses writes.
    pub read_only: bool,
    /// Whether the kernel counts its requests, which the audit of tracking needs.
    pub counted: Option<bool>,
    /// How its changes would be followed.
    pub tracker: TrackerFacts,
    /// What samples of its content look like; none when it could not be read.
    pub sample: Option<SampleFacts>,
}

/// How the changes of a disk would be followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TrackerFacts {
    /// The rung of the ladder; none when there is none or an agent is at work.
    pub kind: Option<TrackerKind>,
    /// Better ones, and why they cannot be used.
    pub refused: Vec<String>,
    /// Whether a restart of the agent loses no marks.
    pub survives_restart: bool,
}

/// What some pieces of a disk look like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SampleFacts {
    /// Bytes that were read.
    pub bytes: u64,
    /// The share of granules of zeros, 0 to 1.
    pub zero_share: f64,
    /// Bytes on the wire for each byte that is not zero, 0 to 1.
    pub compressed: f64,
    /// Bytes on the wire for each byte of the disk, zeros included.
    pub wire_share: f64,
    /// How far that may be off: twice its standard error.
    pub wire_share_error: f64,
    /// Bytes per second with one reader.
    pub read_rate: f64,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountFacts {
    /// One of the places where it is mounted.
    pub mount_point: PathBuf,
    /// The kernel's name of the kind.
    pub kind: String,
    /// What was mounted.
    pub source: String,
    /// The disks that it lies on.
    pub disks: Vec<String>,
    /// Disks that it lies on too, and that would not be migrated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Whether it can be frozen.
    pub freezable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it takes no changes.
    pub read_only: bool,
    /// Bytes that it uses; none when it does not say.
    pub used_bytes: Option<u64>,
}

/// Swap space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SwapFacts {
    /// The device or file.
    pub path: PathBuf,
    /// The disks that it lies on.
    pub disks: Vec<String>,
}

/// The receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceiverFacts {
    /// Its version.
    pub version: String,
    /// The version of the protocol.
    pub protocol: u32,
    /// The migration's name.
    pub migration: String,
    /// Most data connections.
    pub streams: u16,
    /// Its clock minus that of this system, seconds.
    pub clock_difference_seconds: i64,
    /// Whether the migration is over.
    pub committed: bool,
    /// Bytes that its state folder can hold for this server; none where it does not say.
    pub state_room: Option<u64>,
    /// The targets that are configured for this server.
    pub targets: Vec<TargetFacts>,
}

/// A target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetFacts {
    /// The disk that it is for, as the receiver's configuration has it.
    pub source: String,
    /// The disk of this system that it is for.
    pub disk: Option<String>,
    /// The target.
    pub target: String,
    /// Bytes; none where it does not exist yet.
    pub size: Option<u64>,
    /// Bytes that the file system of a file can hold for it, with what it takes already; none for
    /// what is no file. Targets share what is free.
    pub free: Option<u64>,
    /// Why the receiver cannot use it.
    pub problem: Option<Failed>,
}

/// What the line carries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BandwidthFacts {
    /// Data connections.
    pub streams: u16,
    /// Bytes that arrived.
    pub bytes: u64,
    /// How long that took.
    pub seconds: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// The limit of the configuration at this time of the day, bytes per second.
    pub configured: Option<u64>,
}

/// A value that is known to lie between two.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize)]
pub struct Range<T> {
    /// The least.
    pub low: T,
    /// The most.
    pub high: T,
}

/// What the first pass will take, as far as can be told. Changes meanwhile come on top.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Prediction {
    /// Bytes that are read: all.
    pub read_bytes: u64,
    /// Bytes on the wire.
    pub wire_bytes: Range<u64>,
    /// Seconds at the measured bandwidth.
    pub seconds: Option<Range<f64>>,
    /// Seconds at the configured bandwidth of this time of the day.
    pub configured_seconds: Option<Range<f64>>,
    /// Memory that the agent will need, bytes.
    pub memory_bytes: u64,
    /// What it costs by the configured prices.
    pub cost: Option<CostRange>,
}

/// What a first pass costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CostRange {
    /// The least.
    pub low: price::Estimate,
    /// The most.
    pub high: price::Estimate,
}
