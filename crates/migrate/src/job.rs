//! The state of a job: its name, its lock, its journal, its report.

use crate::{EncodeSpec, JobSpec, Report, Verify, location};
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_store::NbdAddress;
use carreto_transfer::{Journal, JournalHeader, Resumed};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The files of one job, locked for this process.
#[derive(Debug)]
pub(crate) struct Job {
    stem: PathBuf,
    /// Held open for its lock.
    _lock: File,
    /// The same for the target, where nothing else keeps others away.
    _target: Option<Box<Self>>,
}

/// What a journal must agree with to be continued.
#[derive(Debug, Clone)]
pub(crate) struct JobState {
    /// The image, in the user's terms.
    pub(crate) job: String,
    /// The state of the image's files.
    pub(crate) source: String,
    /// Which target it is; `None` while it does not exist.
    pub(crate) target: Option<String>,
    /// What [`crate::target::mark`] says about it.
    pub(crate) target_mark: Option<String>,
    /// When the target was written last.
    pub(crate) target_written: Option<SystemTime>,
    /// The size of the disk.
    pub(crate) size: u64,
    pub(crate) boot: String,
    /// The result will be read back.
    pub(crate) verified: bool,
}

/// The last writes of a run that is killed end within this time after its last journal frame: a
/// frame is written before each item.
const LAST_WRITES: Duration = Duration::from_secs(2);

impl JobState {
    /// Whether others may have written to the target since the run that left the journal at
    /// `path`. A run that ends notes the state of the target; of one that was killed only the
    /// time is known.
    fn may_be_foreign(&self, path: &Path) -> Result<bool> {
        if let Some(left) = Journal::peek_mark(path)? {
            return Ok(self.target_mark.as_ref() != Some(&left));
        }
        let ended = std::fs::metadata(path).and_then(|found| found.modified());
        let text = path.display().to_string();
        let ended = ended.map_err(|e| Error::io(IoSide::State, "look at the journal", text, e))?;
        Ok(self.target_written.is_none_or(|written| written > ended + LAST_WRITES))
    }
}

/// A journal to go on with.
#[derive(Debug)]
pub(crate) struct Continued {
    pub(crate) journal: Journal,
    pub(crate) resumed: Resumed,
}

/// What an earlier run of a job left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// No journal.
    Nothing,
    /// A journal to go on with.
    Fits,
    /// A journal that does not count any more, and why.
    Discarded(&'static str),
}

impl Earlier {
    /// Judges the journal that an interrupted run left at `path`; changes nothing.
    ///
    /// # Errors
    /// `SourceChanged` when the image is no longer the one that was being copied.
    pub(crate) fn find(path: &Path, state: &JobState) -> Result<Self> {
        let Some(header) = Journal::peek(path)? else {
            return Ok(Self::Nothing);
        };
        if state.target.as_ref() != Some(&header.target) {
            return Ok(Self::Discarded("the target is not the one of the interrupted run"));
        }
        if header.job != state.job {
            return Ok(Self::Discarded("the options ask for something else"));
        }
        if !state.verified {
            // Device numbers can be dealt out anew at boot, and files can be written by others;
            // only verification would notice.
            if header.boot != state.boot {
                return Ok(Self::Discarded(
                    "the system, or the connection, is a new one and nothing is verified",
                ));
            }
            if state.target_mark.is_some() && state.may_be_foreign(path)? {
                return Ok(Self::Discarded(
                    "the target may have been written by others and nothing is verified",
                ));
            }
        }
        if header.source != state.source || header.size != state.size {
            let text = "the image changed since the interrupted run began";
            return Err(Error::new(Kind::SourceChanged, text));
        }
        Ok(Self::Fits)
    }
}

impl Job {
    /// Takes the lock of the job that `spec` describes. The same image and target are the same
    /// job, whatever the options; but options that read the image in another way, or verify in
    /// another way, discard the journal of an interrupted run.
    pub(crate) fn lock(spec: &JobSpec) -> Result<Self> {
        Self::lock_at(stem_of(spec), &spec.state_dir)
    }

    /// Takes the lock of the job of making a file of an image.
    pub(crate) fn lock_encode(spec: &EncodeSpec) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"encode\n").update(location::key(&spec.image.location).as_bytes());
        hasher.update(b"\n").update(location::key(&spec.target).as_bytes());
        let name = hasher.finalize().to_hex();
        Self::lock_at(spec.state_dir.join("jobs").join(&name[..24]), &spec.state_dir)
    }

    fn lock_at(stem: PathBuf, state_dir: &Path) -> Result<Self> {
        let directory = state_dir.join("jobs");
        let text = directory.display().to_string();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|e| Error::io(IoSide::State, "create the state directory", &text, e))?;
        let path = stem.with_extension("lock");
        let text = path.display().to_string();
        let lock = File::options().create(true).append(true).mode(0o600).open(&path);
        let lock = lock.map_err(|e| Error::io(IoSide::State, "open the lock", &text, e))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            Error::new(Kind::Locked, "another run of the same job is under way")
                .path(text)
                .caused_by(std::io::Error::from(error))
        })?;
        Ok(Self { stem, _lock: lock, _target: None })
    }

    /// Takes a lock for the export `identity`, too: NBD has none, and two jobs would write to it
    /// at once.
    pub(crate) fn with_export(self, identity: Option<String>, spec: &JobSpec) -> Result<Self> {
        let Some(identity) = identity else { return Ok(self) };
        let name = blake3::hash(format!("export\n{identity}").as_bytes()).to_hex();
        let stem = spec.state_dir.join("jobs").join(&name[..24]);
        let other = Self::lock_at(stem, &spec.state_dir).map_err(|error| match error.kind() {
            Kind::Locked => error.wrap("another run writes to the same export"),
            _ => error,
        })?;
        Ok(Self { _target: Some(Box::new(other)), ..self })
    }

    /// Where the journal of the job that `spec` describes lies, if there is one.
    pub(crate) fn journal_of(spec: &JobSpec) -> PathBuf {
        stem_of(spec).with_extension("journal")
    }

    /// Where the checkpoint of a file made in parts lies.
    pub(crate) fn parts_path(&self) -> PathBuf {
        self.stem.with_extension("parts")
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.stem.with_extension("journal")
    }

    /// Where the report of the last run lies.
    pub(crate) fn report_path(&self) -> PathBuf {
        self.stem.with_extension("report.json")
    }

    /// Forgets what interrupted runs of other jobs left for the same target: this run overwrites
    /// what they wrote. Called while the target is held exclusively.
    pub(crate) fn supersede(&self, target: &str) -> Result<()> {
        let Some(directory) = self.stem.parent() else { return Ok(()) };
        let fail = |error| {
            let text = directory.display().to_string();
            Error::io(IoSide::State, "list the state directory", text, error)
        };
        for entry in std::fs::read_dir(directory).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let is_journal = path.extension().is_some_and(|ending| ending == "journal");
            if !is_journal || path == self.journal_path() {
                continue;
            }
            // A journal that cannot be read cannot be resumed either.
            if Journal::peek(&path).is_ok_and(|found| found.is_some_and(|h| h.target == target)) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Forgets what an earlier run left.
    pub(crate) fn forget(&self) -> Result<()> {
        remove(&self.journal_path())
    }

    /// Continues the journal that [`Earlier::find`] accepted.
    pub(crate) fn resume(&self, boot: &str) -> Result<Continued> {
        let found = Journal::resume(&self.journal_path(), boot)?;
        let (journal, resumed) = found.ok_or_else(|| {
            Error::new(Kind::Internal, "the journal vanished while the job was locked")
        })?;
        Ok(Continued { journal, resumed })
    }

    /// Begins a new journal.
    pub(crate) fn begin(&self, state: JobState, created: bool) -> Result<Continued> {
        let header = JournalHeader {
            version: 0,
            job: state.job,
            source: state.source,
            target: state.target.unwrap_or_default(),
            size: state.size,
            boot: state.boot,
            created,
        };
        let journal = Journal::create(&self.journal_path(), &header)?;
        Ok(Continued {
            journal,
            resumed: Resumed { blank: created, untouched: created, ..Resumed::default() },
        })
    }

    /// Writes the report beside the journal: the whole new one, or none.
    pub(crate) fn write_report(&self, report: &Report) -> Result<()> {
        let path = self.report_path();
        let json = serde_json::to_vec_pretty(report).map_err(|error| {
            Error::new(Kind::Internal, "the report is no JSON").caused_by(error)
        })?;
        let fresh = self.stem.with_extension("report.new");
        let write = || {
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&fresh)?.write_all(&json)?;
            std::fs::rename(&fresh, &path)
        };
        let text = path.display().to_string();
        write().map_err(|e| Error::io(IoSide::State, "write the report", text, e))
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let text = path.display().to_string();
            Err(Error::io(IoSide::State, "remove the journal", text, error))
        }
        _ => Ok(()),
    }
}

/// What decides whether done work counts: the image and how it is read, and whether digests for
/// verification were kept.
pub(crate) fn job_text(spec: &JobSpec) -> String {
    let image = &spec.image;
    let format = image.format.map_or("probed", carreto_formats::Format::name);
    let snapshot = image.snapshot.as_deref().unwrap_or("active");
    let digests = spec.verify == Verify::Full;
    format!("{}|{format}|{snapshot}|digests={digests}", location::key(&image.location))
}

fn stem_of(spec: &JobSpec) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    hasher.update(location::key(&spec.image.location).as_bytes());
    hasher.update(b"\n");
    match spec.target.to_str().filter(|text| NbdAddress::is_meant(text)) {
        Some(text) => hasher.update(location::key(text).as_bytes()),
        None => hasher.update(location::absolute(&spec.target).as_os_str().as_bytes()),
    };
    let name = hasher.finalize().to_hex();
    spec.state_dir.join("jobs").join(&name[..24])
}
