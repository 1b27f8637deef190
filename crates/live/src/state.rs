//! Where a migration stands, and what its operator does next.

use serde::{Deserialize, Serialize};

/// The state of an online migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The agent started and has not reached the receiver yet.
    Registered,
    /// Agent and receiver find out what the targets have already.
    Preflight,
    /// Every disk is read once.
    InitialSync,
    /// What changed meanwhile is sent.
    CatchingUp,
    /// The target follows the source closely.
    Continuous,
    /// It follows, and the predicted pause is within what the operator allows.
    Ready,
    /// Hooks run and file systems are frozen.
    Quiescing,
    /// The source stands still; the last changes are sent.
    FinalSync,
    /// Both ends are read again and compared.
    Verifying,
    /// The target is the source; the migration is over.
    Committed,
    /// The operator asked to wait.
    Paused,
    /// The receiver cannot be reached.
    Stalled,
    /// Tracking lost something: a disk is read again and compared.
    Rescan,
    /// More changes than the line carries.
    NotConverging,
    /// It ended with an error; what was sent is kept.
    Failed,
    /// A cutover was given up; the source works as before.
    RolledBack,
    /// The operator ended it.
    Cancelled,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 17] = [
        Self::Registered,
        Self::Preflight,
        Self::InitialSync,
        Self::CatchingUp,
        Self::Continuous,
        Self::Ready,
        Self::Quiescing,
        Self::FinalSync,
        Self::Verifying,
        Self::Committed,
        Self::Paused,
        Self::Stalled,
        Self::Rescan,
        Self::NotConverging,
        Self::Failed,
        Self::RolledBack,
        Self::Cancelled,
    ];

    /// What the operator does next.
    pub const fn next_action(self) -> &'static str {
        match self {
            Self::Registered => "wait; if it lasts, check that the receiver runs and is reachable",
            Self::Preflight | Self::InitialSync | Self::CatchingUp | Self::Rescan => "wait",
            Self::Continuous => {
                "wait for a smaller pause, or run `carreto agent cutover` and accept the one predicted"
            }
            Self::Ready => "run `carreto agent cutover` when the service may pause",
            Self::Quiescing | Self::FinalSync | Self::Verifying => {
                "wait; `carreto agent abort` gives the cutover up"
            }
            Self::Committed => {
                "start the target; then run `carreto agent cleanup` or switch the source off"
            }
            Self::Paused => "run `carreto agent resume`",
            Self::Stalled => "check the network and the receiver; it goes on by itself",
            Self::NotConverging => {
                "raise the bandwidth, quiet the source, or run `carreto agent cutover` and accept a long pause"
            }
            Self::Failed => {
                "see the error and its remedy, then run `carreto agent run` again: it resumes"
            }
            Self::RolledBack => {
                "the source works as before; see the reason, then run `carreto agent cutover` again"
            }
            Self::Cancelled => {
                "run `carreto agent run` to go on, or `carreto agent cleanup` to leave: that removes the agent's key, and coming back then takes a new token (`carreto receive --new-token NAME`)"
            }
        }
    }

    /// Whether nothing more happens by itself, whatever runs.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Committed | Self::Failed | Self::Cancelled)
    }

    /// Whether changes are sent as they come.
    pub const fn is_following(self) -> bool {
        matches!(
            self,
            Self::InitialSync
                | Self::CatchingUp
                | Self::Continuous
                | Self::Ready
                | Self::Rescan
                | Self::NotConverging
        )
    }

    /// Whether the source stands still for the sake of the cutover.
    pub const fn is_cutover(self) -> bool {
        matches!(self, Self::Quiescing | Self::FinalSync | Self::Verifying)
    }
}

/// Everything there is to tell about a migration at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of this document: fields are only added.
    pub schema_version: u32,
    /// The name of the server.
    pub server: String,
    /// The migration's name; empty before the receiver was reached.
    pub migration: String,
    /// Where it stands.
    pub state: State,
    /// What the operator does next: [`State::next_action`], unless there is something more urgent.
    pub next_action: String,
    /// Whether an agent runs; only in the answer to who asks the agent's host, as a report that is
    /// sent or kept may outlive its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_running: Option<bool>,
    /// Seconds since the agent started.
    pub running_seconds: f64,
    /// Bytes that the receiver does not have yet, as far as is known.
    pub backlog_bytes: u64,
    /// Age of the oldest change that the receiver does not have, seconds.
    pub lag_seconds: f64,
    /// Bytes of disk content that the receiver confirmed per second, lately.
    pub rate: f64,
    /// Bytes of disk that change per second, lately.
    pub change_rate: f64,
    /// Seconds until the target follows closely; `null` where nothing can be said.
    pub eta_seconds: Option<f64>,
    /// Seconds that a cutover now would stop the source; `null` where nothing can be said.
    pub predicted_pause_seconds: Option<f64>,
    /// Running totals.
    pub totals: Totals,
    /// The disks.
    pub disks: Vec<DiskReport>,
    /// What is done before a cutover freezes anything, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparing: Option<String>,
    /// Of the cutover, once there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutover: Option<CutoverReport>,
    /// Why it failed, stalled or was rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::wire::Failed>,
}

/// Running totals of a migration since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Bytes read from the disks.
    pub read_bytes: u64,
    /// Bytes of disk content sent as data, before compression.
    pub data_bytes: u64,
    /// Bytes written to the connections, after compression, framing included.
    pub wire_bytes: u64,
    /// Bytes of disk content sent as ranges of zeros.
    pub zero_bytes: u64,
    /// Bytes of disk content sent as references.
    pub reference_bytes: u64,
    /// Bytes read that the receiver had already.
    pub unchanged_bytes: u64,
    /// Granules that were sent again since they changed after they had been sent.
    pub resent_granules: u64,
    /// Granules that had changed though the tracker did not say so.
    pub missed_granules: u64,
    /// Epochs.
    pub epochs: u64,
    /// Epochs whose audit failed.
    pub suspect_epochs: u64,
    /// Disks read again since tracking lost something.
    pub rescans: u64,
    /// Connections made anew after the first.
    pub reconnects: u64,
    /// Cutovers that were given up.
    #[serde(default)]
    pub failed_cutovers: u64,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskReport {
    /// The kernel's name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// The target, for people.
    pub target: String,
    /// How changes are tracked.
    pub tracker: String,
    /// Better ways that could not be used, and why.
    pub refused_trackers: Vec<String>,
    /// Bytes that the receiver does not have yet.
    pub backlog_bytes: u64,
    /// Why tracking is not trusted, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distrust: Option<String>,
    /// Hex BLAKE3 of the disk, once it was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// A cutover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CutoverReport {
    /// Seconds from the first freeze until the receiver had confirmed.
    pub pause_seconds: f64,
    /// Seconds of it by step: freeze, drain, hash, check, commit.
    pub steps: Vec<(String, f64)>,
    /// Granules compared while the source stood still.
    pub compared_granules: u64,
    /// Granules sent while the source stood still.
    pub sent_granules: u64,
    /// Granules that differed though the tracker had not marked them.
    pub missed_granules: u64,
    /// Every granule was hashed while the source stood still.
    pub strict: bool,
    /// Mount points of what could only be synchronised, not frozen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfrozen: Vec<String>,
    /// Where the certificate lies.
    pub certificate: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_names_the_next_action() {
        for state in State::ALL {
            assert!(!state.next_action().is_empty(), "{state:?}");
        }
        let name = serde_json::to_string(&State::NotConverging).expect("a name");
        assert_eq!(name, "\"NOT_CONVERGING\"");
    }

    #[test]
    fn totals_of_before_are_read() {
        let totals = Totals { reconnects: 3, failed_cutovers: 2, ..Totals::default() };
        let mut document = serde_json::to_value(totals).expect("a document");
        document.as_object_mut().expect("an object").remove("failed_cutovers");
        let read: Totals = serde_json::from_value(document).expect("still good");
        assert_eq!(read, Totals { reconnects: 3, ..Totals::default() });
    }
}
