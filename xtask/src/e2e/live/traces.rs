//! What an agent leaves on its server: pins, files, mounts, processes.

use super::super::process;
use crate::Result;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything of an agent that can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traces {
    pins: BTreeSet<String>,
    files: BTreeSet<String>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
}

/// Where to look.
pub(super) struct Places {
    /// Folders of the agent.
    pub(super) folders: Vec<PathBuf>,
    /// Its name: there may be pins of others.
    pub(super) server: String,
    /// Mounts below it count.
    pub(super) lab: PathBuf,
    /// Processes of this program count.
    pub(super) program: PathBuf,
}

impl Traces {
    pub(super) fn find(places: &Places) -> Result<Self> {
        let mut files = BTreeSet::new();
        for folder in &places.folders {
            files.extend(below(folder)?);
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let lab = places.lab.display().to_string();
        let mounts = mounts.lines().filter(|line| line.contains(&lab) || line.contains(" /sys/"));
        let mut pins = below(Path::new("/sys/fs/bpf"))?;
        pins.retain(|pin| pin.contains(&places.server));
        Ok(Self {
            pins,
            files,
            mounts: mounts.map(str::to_owned).collect(),
            processes: processes(&places.program)?,
        })
    }

    /// The listing, for people.
    pub(super) fn counts(&self) -> String {
        let (pins, files) = (self.pins.len(), self.files.len());
        let (mounts, processes) = (self.mounts.len(), self.processes.len());
        format!("{pins} pins, {files} files, {mounts} mounts, {processes} processes")
    }

    /// An error naming what is more or less than `before`.
    pub(super) fn expect(&self, before: &Self) -> Result<()> {
        if self == before {
            return Ok(());
        }
        Err(format!("something stayed behind or went away: {before:?} became {self:?}").into())
    }
}

/// Files and folders below `folder`; none where there is no folder.
fn below(folder: &Path) -> Result<BTreeSet<String>> {
    if !folder.exists() {
        return Ok(BTreeSet::new());
    }
    let text = process::succeed(Command::new("find").arg(folder))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Agents and watchdogs among the processes that run `program`.
fn processes(program: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let folder = entry?.path();
        // Processes end while they are looked at; the kernel's own run no program.
        let Ok(runs) = std::fs::read_link(folder.join("exe")) else { continue };
        let line = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let runs = runs.display().to_string();
        let is_ours = runs.trim_end_matches(" (deleted)") == program.display().to_string();
        if is_ours && line.contains(" agent ") {
            found.insert(line.trim().to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = Places {
            folders: vec![folder.path().to_owned()],
            server: "web1".to_owned(),
            lab: folder.path().to_owned(),
            program: PathBuf::from("/no/such/program"),
        };
        let before = Traces::find(&places).expect("found");
        before.expect(&before).expect("equal");
        std::fs::write(folder.path().join("key"), "").expect("written");
        let after = Traces::find(&places).expect("found");
        assert!(after.expect(&before).expect_err("more").to_string().contains("key"));
        assert_eq!(after.files.len(), 2);
    }
}
