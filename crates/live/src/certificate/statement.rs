//! What both ends sign.

use super::{Root, text};
use crate::trust::Fingerprint;
use carreto_error::{Error, Kind, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the statement that this program makes and reads.
const VERSION: u32 = 1;
/// Disks of one server, at most.
const DISK_LIMIT: usize = 4096;
/// Kinds of trackers of one migration, at most.
const TRACKER_LIMIT: usize = 4096;

/// What was hashed while the file systems were frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everything: the proof does not rest on tracking.
    Strict,
    /// What was written since the last clean pass over everything.
    Tracked,
}

/// The outcome of one migration, as both ends saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// 1. A reader refuses any other.
    pub version: u32,
    /// The migration.
    pub migration: String,
    /// The server.
    pub server: String,
    /// The version of Carreto.
    pub carreto: String,
    /// What was hashed under the freeze.
    pub mode: Mode,
    /// Every disk that was migrated; 1 to 4096.
    pub disks: Vec<Disk>,
    /// When the last file system was frozen, by the source's clock.
    pub frozen_at: Timestamp,
    /// When the result was committed, by the source's clock.
    pub committed_at: Timestamp,
    /// Milliseconds during which the server could not write.
    pub pause_ms: u64,
    /// How tracking fared.
    pub audits: Audits,
    /// The kinds of tracking that were used, in the order of the disks or of time.
    pub trackers: Vec<String>,
    /// Mount points of what could only be synchronised, not frozen: nothing was written there
    /// until the commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfrozen: Vec<String>,
    /// The key of the source.
    pub agent: Fingerprint,
    /// The key of the receiver; another one.
    pub receiver: Fingerprint,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name on the source, such as `/dev/vda`.
    pub source: String,
    /// What tells it from other disks: its WWN, serial number or the like.
    pub identity: String,
    /// Bytes.
    pub size: u64,
    /// The BLAKE3 of all its bytes, computed at the source under the freeze and at the receiver
    /// from what its target holds.
    pub root: Root,
    /// Granules that were hashed again under the freeze.
    pub rehashed: u64,
    /// Granules that were sent under the freeze.
    pub sent_frozen: u64,
    /// Where the receiver put it.
    pub target: String,
}

/// Counts of the whole migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Audits {
    /// Epochs that were compared with the kernel's own counters.
    pub epochs: u64,
    /// Those whose counters did not match.
    pub suspect: u64,
    /// Passes over a whole disk by hash, the first one not counted.
    pub rescans: u64,
}

impl Statement {
    /// The version to put in [`Self::version`].
    pub const VERSION: u32 = VERSION;

    /// Checks the bounds and rules that hold for every statement.
    ///
    /// # Errors
    /// `Unsupported` for another version, `Corrupt` naming the field and its value.
    pub fn check(&self) -> Result<()> {
        if self.version != VERSION {
            let text = format!("the version of the statement is {}, expected 1", self.version);
            return Err(Error::new(Kind::Unsupported, text)
                .during("read the certificate")
                .remedied_by("use a newer version of carreto"));
        }
        text::check("migration", &self.migration)?;
        text::check("server", &self.server)?;
        text::check("carreto", &self.carreto)?;
        check_count("disks", self.disks.len(), 1, DISK_LIMIT)?;
        check_count("trackers", self.trackers.len(), 0, TRACKER_LIMIT)?;
        self.trackers.iter().try_for_each(|kind| text::check("trackers", kind))?;
        check_count("unfrozen", self.unfrozen.len(), 0, DISK_LIMIT)?;
        self.unfrozen.iter().try_for_each(|mount| text::check("unfrozen", mount))?;
        self.disks.iter().try_for_each(Disk::check)?;
        if self.committed_at < self.frozen_at {
            let (commit, freeze) = (self.committed_at, self.frozen_at);
            let detail = format!("committed_at is {commit}, before frozen_at, {freeze}");
            return Err(text::refusal(detail));
        }
        // One key for both ends would be one witness, not two.
        if self.agent == self.receiver {
            let detail = format!("agent and receiver are both {}, expected two keys", self.agent);
            return Err(text::refusal(detail));
        }
        Ok(())
    }
}

impl Disk {
    fn check(&self) -> Result<()> {
        text::check("source", &self.source)?;
        text::check("identity", &self.identity)?;
        text::check("target", &self.target)?;
        if self.size == 0 {
            return Err(text::refusal(format!("the size of {} is 0", self.source)));
        }
        Ok(())
    }
}

fn check_count(field: &str, found: usize, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(text::refusal(format!("{field} has {found} entries, expected {least} to {most}")))
}
