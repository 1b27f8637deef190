//! What of a migration is on the source.

use super::super::config::AgentConfig;
use super::super::files::RunFolder;
use super::super::run;
use super::{processes, programs};
use crate::track::{self, TrackerKind};
use carreto_error::{Error, IoSide, Result};
use serde::Serialize;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What an agent makes in its run folder, and what is there while a file is replaced.
const RUN_FILES: [&str; 6] = [
    "state.json",
    "state.new",
    "certificate.json",
    "certificate.new",
    "control.sock",
    // Last, so that no agent starts in between.
    "lock",
];
/// What an agent makes in its state folder.
const KEY: &str = "agent.key";

/// What of a migration is on the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Remains {
    /// Names in the BPF file system, and their folders.
    pub pins: Vec<String>,
    /// Files and folders.
    pub files: Vec<String>,
    /// Mounts in the folders of the migration. An agent mounts nothing.
    pub mounts: Vec<String>,
    /// The agent, and watchdogs of no other agent.
    pub processes: Vec<String>,
    /// BPF programs that no other agent holds.
    pub programs: Vec<String>,
    /// Disks whose block trace this migration began.
    pub traces: Vec<String>,
    /// A committed cutover left the file systems frozen.
    pub frozen: bool,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

impl Remains {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.listed().is_empty()
    }

    /// Everything that was found, for people.
    pub fn listed(&self) -> Vec<String> {
        let groups = [
            ("pin", &self.pins),
            ("file", &self.files),
            ("mount", &self.mounts),
            ("process", &self.processes),
            ("BPF program", &self.programs),
            ("block trace", &self.traces),
        ];
        let named = groups
            .iter()
            .flat_map(|(what, list)| list.iter().map(move |name| format!("{what} {name}")));
        let frozen = self.frozen.then(|| "frozen file systems".to_owned());
        named.chain(frozen).collect()
    }
}

/// Lists what of this migration is on this system now. Blocking, changes nothing.
///
/// # Errors
/// `Usage` without a token, which names the server.
pub fn remains(config: &AgentConfig) -> Result<Remains> {
    Place::of(config).map(|place| place.look())
}

/// Where a migration leaves things.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) server: String,
    pub(super) folder: PathBuf,
    pub(super) files: RunFolder,
    pub(super) pins: PathBuf,
    /// As the agent's last process left it.
    pub(super) frozen: bool,
    state: PathBuf,
    /// Disks that the last process followed by block tracing.
    traced: Vec<String>,
}

impl Place {
    pub(super) fn of(config: &AgentConfig) -> Result<Self> {
        let server = config.token()?.server;
        let folder = config.run_folder(&server);
        let files = RunFolder::at(folder.clone());
        let left = files.load();
        let reports = left.iter().filter_map(|state| state.report.as_ref());
        let traced = reports
            .flat_map(|report| &report.disks)
            .filter(|disk| disk.tracker == TrackerKind::Blktrace.name())
            .map(|disk| disk.name.clone());
        Ok(Self {
            pins: run::pins(&server),
            traced: traced.collect(),
            frozen: left.as_ref().is_some_and(|state| state.frozen),
            state: config.state.clone(),
            server,
            folder,
            files,
        })
    }

    /// What is there now.
    pub(super) fn look(&self) -> Remains {
        let mut unseen = Vec::new();
        let mut seen = |what: &str, found: Result<Vec<String>>| {
            found.unwrap_or_else(|error| {
                unseen.push(format!("{what}: {}", carreto_error::chain_text(&error)));
                Vec::new()
            })
        };
        let agents = processes::holders(&self.files.lock());
        let pins = seen("pins", self.pins());
        let programs = seen("BPF programs", programs::of(&self.pins, &agents));
        let files = seen("files", self.list_files());
        let processes = processes::of(&agents);
        let mounts = self.mounts();
        let frozen = self.files.load().is_some_and(|state| state.frozen);
        Remains { pins, files, mounts, processes, programs, traces: self.traces(), frozen, unseen }
    }

    fn pins(&self) -> Result<Vec<String>> {
        let mut pins: Vec<_> = track::list_pins(&self.pins)?.iter().map(|pin| name(pin)).collect();
        pins.extend(self.pins.is_dir().then(|| name(&self.pins)));
        pins.extend(self.pins_parent().map(name));
        Ok(pins)
    }

    /// The folder of the pins of all agents, where it is empty and this user's to remove.
    fn pins_parent(&self) -> Option<&Path> {
        let parent = self.pins.parent()?;
        let user = rustix::process::geteuid().as_raw();
        let is_ours = parent.metadata().is_ok_and(|found| found.uid() == user);
        (is_ours && is_empty_folder(parent)).then_some(parent)
    }

    /// Removes the folder of the pins of all agents, if nothing is in it.
    pub(super) fn remove_pins_parent(&self) -> Option<String> {
        let parent = self.pins_parent()?;
        std::fs::remove_dir(parent).is_ok().then(|| name(parent))
    }

    fn list_files(&self) -> Result<Vec<String>> {
        let mut found = match std::fs::read_dir(&self.folder) {
            Ok(entries) => {
                let entries: std::io::Result<Vec<_>> =
                    entries.map(|entry| Ok(name(&entry?.path()))).collect();
                let mut names = entries.map_err(|error| fail("list", &self.folder, error))?;
                names.sort();
                names.push(name(&self.folder));
                names
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(fail("list", &self.folder, error)),
        };
        found.extend(self.parent().map(name));
        let key = self.state.join(KEY);
        found.extend(key.symlink_metadata().is_ok().then(|| name(&key)));
        Ok(found)
    }

    /// The folder of all agents, where it is empty and no mount that somebody made for it.
    fn parent(&self) -> Option<&Path> {
        let parent = self.folder.parent()?;
        let device = |path: &Path| path.metadata().map(|found| found.dev()).ok();
        let is_mount = device(parent) != device(parent.parent()?);
        (!is_mount && is_empty_folder(parent)).then_some(parent)
    }

    fn mounts(&self) -> Vec<String> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        points
            .filter(|point| point.starts_with(&self.folder) || point.starts_with(&self.pins))
            .map(name)
            .collect()
    }

    /// Disks that are traced now and were traced by this migration.
    pub(super) fn traces(&self) -> Vec<String> {
        let Some(folder) = crate::host::facts().debug_folder else { return Vec::new() };
        let is_traced = |disk: &&String| {
            let folder = folder.join("block").join(disk.replace('/', "!"));
            folder.join("dropped").exists()
        };
        self.traced.iter().filter(is_traced).cloned().collect()
    }

    /// Removes the files that agents make, by name, and the folders that are empty then.
    pub(super) fn remove_files(&self) -> Result<Vec<String>> {
        let mut paths = vec![self.state.join(KEY)];
        paths.extend(RUN_FILES.iter().map(|file| self.folder.join(file)));
        let mut removed = Vec::new();
        for path in &paths {
            match std::fs::remove_file(path) {
                Ok(()) => removed.push(name(path)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(fail("remove", path, error)),
            }
        }
        if std::fs::remove_dir(&self.folder).is_ok() {
            removed.push(name(&self.folder));
        }
        // A folder that is not empty, or is gone, is nobody's concern.
        if let Some(parent) = self.parent()
            && std::fs::remove_dir(parent).is_ok()
        {
            removed.push(name(parent));
        }
        Ok(removed)
    }
}

fn is_empty_folder(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn fail(what: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::io(IoSide::State, what, name(path), error)
}
