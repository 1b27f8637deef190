//! What the agent leaves in memory for its next process: `/run/carreto/<server>/state.json`.
//!
//! Gone after a restart of the system, and so is everything that it is about.

use super::disk::DiskSync;
use crate::state::Report;
use crate::storage::{lock, write_whole};
use carreto_error::{Error, IoSide, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

const VERSION: u32 = 1;
/// How often and how long somebody may hold the lock who only looks.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(20);

/// How far a commit went, as the source knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Commit {
    /// It was not asked for.
    #[default]
    Never,
    /// It was asked for; the source may have worked on since.
    Asked,
    /// It is done, and what becomes of the source was done too.
    Done,
}

/// What is remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AgentState {
    version: u32,
    /// The migration.
    pub(super) migration: String,
    /// The process that wrote it last.
    pub(super) process: u32,
    /// Disks, by identity, whose first whole pass is over, and the identity of their tracker.
    pub(super) established: BTreeMap<String, String>,
    /// Mount points that were left frozen on purpose.
    #[serde(default)]
    pub(super) frozen: bool,
    /// Whether the receiver was asked to commit.
    #[serde(default)]
    pub(super) commit: Commit,
    /// The hooks before a freeze were begun, and those after it were not run.
    #[serde(default)]
    pub(super) quiesced: bool,
    /// What the operator saw last.
    pub(super) report: Option<Report>,
}

impl AgentState {
    pub(super) fn new(migration: &str) -> Self {
        Self {
            version: VERSION,
            migration: migration.to_owned(),
            process: std::process::id(),
            established: BTreeMap::new(),
            frozen: false,
            commit: Commit::Never,
            quiesced: false,
            report: None,
        }
    }

    /// What holds on from an earlier process, which left `before`.
    pub(super) fn after(before: Option<&Self>) -> Self {
        let Some(before) = before else { return Self::new("") };
        Self {
            frozen: before.frozen,
            commit: before.commit,
            quiesced: before.quiesced,
            ..Self::new(&before.migration)
        }
    }

    /// A later process may go on from here with `disk`.
    pub(super) fn establish(&mut self, disk: &DiskSync) {
        if let Some(identity) = disk.tracker.identity() {
            self.established.insert(disk.machine.identity.clone(), identity.to_owned());
        }
    }
}

/// The folder in memory.
#[derive(Debug, Clone)]
pub(super) struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder, which may not exist.
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes the folder.
    pub(super) fn make(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|error| Error::io(IoSide::State, "make the folder", self.name(), error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.0.join("certificate.json")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Makes this process the agent of its server while the file stays open.
    pub(super) fn take(&self) -> Result<File> {
        let mut tries = LOOKS;
        loop {
            let taken = lock(&self.lock(), "an agent of this server runs already");
            // Whoever looks whether an agent runs holds the lock for a moment.
            match taken {
                Err(error) if error.kind() == Kind::Locked && tries > 0 => tries -= 1,
                taken => return taken,
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether a process is the agent of its server now. Changes nothing.
    pub(super) fn is_taken(&self) -> bool {
        File::open(self.lock()).is_ok_and(|file| {
            flock(file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
        })
    }

    /// What an earlier process left; `None` when there is nothing that can be understood.
    pub(super) fn load(&self) -> Option<AgentState> {
        let text = std::fs::read(self.0.join("state.json")).ok()?;
        let state: AgentState = serde_json::from_slice(&text).ok()?;
        (state.version == VERSION).then_some(state)
    }

    pub(super) fn save(&self, state: &AgentState) -> Result<()> {
        let text = serde_json::to_vec(state).unwrap_or_default();
        write_whole(&self.0.join("state.json"), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_looks_keeps_no_agent_from_starting() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::at(parent.path().join("run"));
        folder.make().expect("made");
        drop(folder.take().expect("nobody has it"));
        let looker = File::open(folder.lock()).expect("a lock");
        flock(&looker, FlockOperation::NonBlockingLockShared).expect("nobody has it");
        let looking = std::thread::spawn(move || {
            std::thread::sleep(LOOK * 2);
            drop(looker);
        });
        let held = folder.take().expect("the look ends");
        looking.join().expect("it ended");
        assert!(folder.is_taken());
        assert_eq!(folder.take().expect_err("an agent runs").kind(), Kind::Locked);
        drop(held);
        assert!(!folder.is_taken());
    }
}
