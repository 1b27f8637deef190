//! The disk that is written: looking at it, and opening it.

mod place;

pub(crate) use place::Place;

use carreto_block::{Source as _, Target};
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_store::{
    DeviceTarget, FileTarget, LocalFile, NbdAddress, NbdTarget, Obstacle, TargetFacts, TargetKind,
    inspect_target,
};
use serde::Serialize;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// What the target is before a run. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct TargetState {
    /// The path as the user named it.
    pub path: String,
    /// `missing`, `file`, `device`, `export` or `other`.
    pub kind: &'static str,
    /// The size, unless it is missing.
    pub size: Option<u64>,
    /// What the file system of a file can still take.
    pub free: Option<u64>,
    /// The path itself: its text may have lost bytes that are no UTF-8.
    #[serde(skip)]
    pub(crate) location: PathBuf,
    /// What a file takes on its file system already.
    #[serde(skip)]
    pub(crate) allocated: u64,
    /// See [`identity`].
    #[serde(skip)]
    pub(crate) identity: Option<String>,
    #[serde(skip)]
    pub(crate) obstacles: Vec<Obstacle>,
    /// An NBD export, open.
    #[serde(skip)]
    pub(crate) export: Option<(NbdAddress, Arc<NbdTarget>)>,
}

/// A target that is open for writing.
#[derive(Debug)]
pub(crate) struct OpenTarget {
    pub(crate) target: Arc<dyn Target>,
    pub(crate) identity: String,
    /// It was created just now and reads as zeros.
    pub(crate) created: bool,
}

impl TargetState {
    pub(crate) fn is_device(&self) -> bool {
        self.kind == "device"
    }

    /// Whether what is on it is lost without a file's name being asked for.
    pub(crate) fn is_disk(&self) -> bool {
        self.is_device() || self.export.is_some()
    }

    /// Whether a source of this identity is the target, whatever names either goes by.
    pub(crate) fn is_the_same_as(&self, identity: &str) -> Result<bool> {
        if let Some((address, _)) = &self.export {
            let other = identity.parse::<NbdAddress>();
            return Ok(other.is_ok_and(|other| address.is_same_export(&other)));
        }
        let exists = matches!(self.kind, "file" | "device");
        Ok(exists && LocalFile::open(&self.location)?.identity() == identity)
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.kind == "missing"
    }
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size {
            Some(size) => write!(f, "{} ({}, {size} bytes)", self.path, self.kind),
            None => write!(f, "{} (will be created)", self.path),
        }
    }
}

/// Looks at the target without changing it.
pub(crate) fn inspect(path: &Path) -> Result<TargetState> {
    let TargetFacts { kind, size, free, allocated, obstacles, .. } = inspect_target(path)?;
    let exists = matches!(kind, TargetKind::File | TargetKind::Device);
    let identity = if exists && obstacles.is_empty() { Some(identity(path)?) } else { None };
    Ok(TargetState {
        path: path.display().to_string(),
        location: path.to_owned(),
        kind: match kind {
            TargetKind::Missing => "missing",
            TargetKind::File => "file",
            TargetKind::Device => "device",
            TargetKind::Other => "other",
        },
        size: exists.then_some(size),
        free,
        allocated,
        identity,
        obstacles,
        export: None,
    })
}

/// Opens the target exclusively; creates a missing file with `size` bytes.
pub(crate) fn open(path: &Path, state: &TargetState, size: u64) -> Result<OpenTarget> {
    if let (Some((_, export)), Some(identity)) = (&state.export, &state.identity) {
        let target: Arc<dyn Target> = export.clone();
        return Ok(OpenTarget { target, identity: identity.clone(), created: false });
    }
    let target: Arc<dyn Target> = if state.is_device() {
        Arc::new(DeviceTarget::open(path)?)
    } else if state.is_missing() {
        Arc::new(FileTarget::create_new(path, size)?)
    } else {
        Arc::new(FileTarget::open_existing(path)?)
    };
    let identity = identity(path)?;
    if state.identity.as_ref().is_some_and(|checked| *checked != identity) {
        let text = "the path names another disk than the one that was checked";
        return Err(Error::new(Kind::TargetUnusable, text)
            .during("open the target")
            .path(path.display().to_string())
            .remedied_by("stop what replaces the target, and run the same command again"));
    }
    Ok(OpenTarget { target, identity, created: state.is_missing() })
}

/// A text that every write to a file changes; `None` for a device or an export,
/// which keep no such time.
pub(crate) fn mark(path: &Path, state: &TargetState) -> Result<Option<String>> {
    if state.is_disk() {
        return Ok(None);
    }
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let name = path.display().to_string();
            return Err(Error::io(IoSide::Target, "look at", name, error));
        }
    };
    let (written, changed) = (found.mtime_nsec(), found.ctime_nsec());
    Ok(Some(format!("{}.{written:09}:{}.{changed:09}", found.mtime(), found.ctime())))
}

/// Whether a device that was there is there no more.
pub(crate) fn is_gone(path: &Path) -> bool {
    inspect_target(path).is_ok_and(|facts| {
        let gone = |o: &Obstacle| matches!(o, Obstacle::Gone { .. } | Obstacle::NoMedium { .. });
        facts.kind == TargetKind::Missing || facts.obstacles.iter().any(gone)
    })
}

/// A text that another disk at the same path does not share: a file that was deleted and made
/// again has another birth time, a device that was attached again another sequence number.
fn identity(path: &Path) -> Result<String> {
    let node = LocalFile::open(path)?;
    let name = path.display().to_string();
    let found = std::fs::metadata(path)
        .map_err(|error| Error::io(IoSide::Target, "look at", name, error))?;
    let mark = if node.is_device() {
        disk_sequence(found.rdev())
    } else {
        found
            .created()
            .ok()
            .and_then(|born| born.duration_since(UNIX_EPOCH).ok())
            .map(|born| born.as_nanos().to_string())
    };
    Ok(format!("{}:{}:{}", node.identity(), node.size(), mark.unwrap_or_default()))
}

/// The kernel's number of this attachment of a disk (Linux 5.15), also of a partition's disk.
fn disk_sequence(device: u64) -> Option<String> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let entry = format!("/sys/dev/block/{major}:{minor}");
    let read = |path: String| std::fs::read_to_string(path).ok();
    let text = read(format!("{entry}/diskseq")).or_else(|| read(format!("{entry}/../diskseq")));
    text.map(|number| number.trim().to_owned())
}
