//! What agent and receiver say to each other.
//!
//! A migration has one *control* connection and one to eight *data* connections, all from the agent
//! to the same port. Frames on the control connection carry [`Control`] messages as JSON and pages
//! of a ledger; frames on data connections carry batches of granules. Every message may be repeated
//! without harm. A message type or field that a side does not know is an error for the former and
//! ignored for the latter; what changes a meaning raises [`PROTOCOL`].
//!
//! ```text
//! agent                                receiver
//! Hello (token or known key)     →
//!                                ←     Welcome (session, ticket for data connections)
//! Open (disks)                   →
//!                                ←     Opened (targets), then the values of all pages
//! Want (pages)                   →
//!                                ←     ledger pages
//! batches on data connections    →
//!                                ←     one answer for each
//! Sync                           →     flush
//!                                ←     Synced
//! Check                          →     reads back what was written since it was last read back
//!                                ←     Checked (roots)
//! Commit (certificate, signed)   →     compares roots, gives the disk its first MiB, flushes
//!                                ←     Committed (certificate, signed by both)
//! ```

mod batch;
mod pages;

use crate::state::Report;
use crate::trust::Hidden;
use carreto_error::{Error, Kind};
use serde::{Deserialize, Serialize};

pub use batch::{Answer, Batch, Entry, Ranges};
pub use pages::{LedgerPage, PageValues};

/// The version of the protocol; both sides must have the same.
pub const PROTOCOL: u32 = 1;
/// Most granules of a batch.
pub const BATCH_GRANULES: usize = 16;
/// Most data connections.
pub const MAX_STREAMS: u16 = 8;

/// Kinds of frames.
pub mod kind {
    /// A [`super::Control`] message.
    pub const CONTROL: u8 = 1;
    /// A [`super::LedgerPage`].
    pub const PAGE: u8 = 2;
    /// A [`super::Batch`].
    pub const BATCH: u8 = 3;
    /// An [`super::Answer`] to a batch or to ranges of zeros.
    pub const ANSWER: u8 = 4;
    /// [`super::Ranges`] of zeros.
    pub const ZEROS: u8 = 5;
    /// [`super::PageValues`].
    pub const VALUES: u8 = 7;
    /// Bytes that are thrown away: the line is measured. Answered like a batch with number 0.
    pub const PROBE: u8 = 6;
}

/// A message of the control connection, and the first one of a data connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// First from the agent.
    Hello(Hello),
    /// The receiver takes the agent.
    Welcome(Welcome),
    /// First from the agent on a data connection.
    Attach(Attach),
    /// The data connection is taken.
    Attached,
    /// The disks of the source.
    Open {
        /// All disks, in the order of their numbers from 0.
        disks: Vec<SourceDisk>,
    },
    /// The targets of the disks; frames [`kind::VALUES`] with the values of all pages follow.
    Opened {
        /// In the order of [`Control::Open`].
        disks: Vec<TargetDisk>,
    },
    /// The pages of the receiver's ledger that the agent needs, each answered by a frame
    /// [`kind::PAGE`].
    Want {
        /// The number of the disk.
        disk: u16,
        /// Numbers of pages.
        pages: Vec<u64>,
    },
    /// Make everything that was answered durable.
    Sync,
    /// It is.
    Synced,
    /// Read back from the disks what was not read back since it was written.
    Check {
        /// Read back everything.
        everything: bool,
        /// Granules after which it is enough for now; all of them unless it is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        most: Option<u64>,
    },
    /// A reading back goes on.
    Checking {
        /// Granules read back.
        done: u64,
        /// Granules to read back in all.
        of: u64,
    },
    /// What was read back is what the ledger says.
    Checked {
        /// Hex BLAKE3 of each disk, which take long: none where a part was asked for and
        /// something is left.
        roots: Vec<String>,
        /// Granules that were not read back since they were written.
        #[serde(default)]
        left: u64,
        /// Granules that were read back.
        #[serde(default)]
        read: u64,
        /// Milliseconds that reading took, without what was done before and after it.
        #[serde(default)]
        millis: u64,
    },
    /// The source is frozen and these are its disks: the receiver compares, completes and signs.
    Commit {
        /// A [`crate::certificate::Certificate`] as JSON, signed by the agent.
        certificate: String,
    },
    /// The targets are complete and durable.
    Committed {
        /// The same certificate, signed by both.
        certificate: String,
    },
    /// The agent's state, for the receiver's operator.
    Status {
        /// What `agent status` prints.
        report: Box<Report>,
    },
    /// Nothing to say, and still there. Answered by the same.
    Ping,
    /// It cannot go on.
    Failed(Failed),
}

impl Control {
    /// What the message is called, for errors: what is in it may be long, or nobody's business.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Welcome(_) => "welcome",
            Self::Attach(_) => "attach",
            Self::Attached => "attached",
            Self::Open { .. } => "open",
            Self::Opened { .. } => "opened",
            Self::Want { .. } => "want",
            Self::Sync => "sync",
            Self::Synced => "synced",
            Self::Check { .. } => "check",
            Self::Checking { .. } => "checking",
            Self::Checked { .. } => "checked",
            Self::Commit { .. } => "commit",
            Self::Committed { .. } => "committed",
            Self::Status { .. } => "status",
            Self::Ping => "ping",
            Self::Failed(_) => "failed",
        }
    }
}

/// Who connects.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The agent's version, for people.
    pub version: String,
    /// The name that the token or an earlier Welcome gave this server.
    pub server: String,
    /// The secret of the join token, hex; needed until the receiver knows the agent's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Hidden>,
    /// The host name, for people.
    pub host: String,
    /// Only look: nothing is opened or written, and no token is used up.
    #[serde(default)]
    pub preflight: bool,
}

impl std::fmt::Display for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (carreto {}, protocol {})", self.server, self.version, self.protocol)
    }
}

/// The receiver's answer to [`Hello`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The receiver's version, for people.
    pub version: String,
    /// The migration's name, the same for the life of the migration.
    pub migration: String,
    /// Counts the control connections of the migration.
    pub session: u64,
    /// What data connections have to show, hex.
    pub ticket: Hidden,
    /// Most data connections.
    pub streams: u16,
    /// The targets that are configured for this server.
    pub targets: Vec<Planned>,
    /// The receiver's clock, seconds since 1970.
    pub clock: i64,
    /// The certificate, as JSON, of a migration that was committed: nothing is left to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<String>,
    /// Bytes that the receiver's state folder can hold for this server, with what it holds for it
    /// already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_room: Option<u64>,
}

/// A target as configured, before anything is opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Planned {
    /// The disk of the source that it is for, as configured.
    pub source: String,
    /// The target, for people.
    pub target: String,
    /// Bytes, where it exists already.
    pub size: Option<u64>,
    /// Bytes that the file system of a file can hold for it, with what it takes already. Targets
    /// share what is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Failed>,
}

/// First message of a data connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attach {
    /// Of [`Welcome`].
    pub ticket: Hidden,
    /// The number of the data connection.
    pub stream: u16,
}

/// A disk of the source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceDisk {
    /// The kernel's name, such as `vda`.
    pub name: String,
    /// Names the disk across reboots.
    pub identity: String,
    /// Bytes.
    pub size: u64,
}

/// A target that was opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TargetDisk {
    /// For people.
    pub target: String,
    /// What the receiver knows of the target's content.
    pub known: Knowledge,
}

/// Where the receiver's ledger comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knowledge {
    /// Nothing is known: the target is new to this migration.
    Nothing,
    /// Kept since the target was written.
    Kept,
    /// The target was read again, since the receiver's system restarted.
    Reread,
}

/// An error, for the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The name of its [`carreto_error::Kind`].
    pub kind: String,
    /// What happened.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Whether trying again can help: the name of a [`carreto_error::Retry`]. For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
}

impl Failed {
    /// What the other side is told of `error`.
    pub fn of(error: &Error) -> Self {
        Self {
            kind: error.kind().name().to_owned(),
            detail: carreto_error::chain_text(error),
            remedy: Some(error.remedy().to_owned()),
            retry: Some(error.kind().retry().name().to_owned()),
        }
    }

    /// The error that the other side told.
    pub fn into_error(self) -> Error {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == self.kind);
        let error = Error::new(kind.unwrap_or(Kind::Unavailable), self.detail);
        match self.remedy {
            Some(remedy) => error.remedied_by(remedy),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests;
