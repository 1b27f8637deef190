//! The state of a job: its name, its lock, its journal, its report.

use crate::{JobSpec, Report, Verify};
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_transfer::{Journal, JournalHeader, Resumed};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The files of one job, locked for this process.
#[derive(Debug)]
pub(crate) struct Job {
    stem: PathBuf,
    /// Held open for its lock.
    _lock: File,
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
    /// The size of the disk.
    pub(crate) size: u64,
    pub(crate) boot: String,
    /// The result will be read back.
    pub(crate) verified: bool,
}

/// A journal to go on with.
#[derive(Debug)]
pub(crate) struct Continued {
    pub(crate) journal: Journal,
    pub(crate) resumed: Resumed,
}

impl Job {
    /// Takes the lock of the job that `spec` describes. The same image and target are the same
    /// job, whatever the options.
    pub(crate) fn lock(spec: &JobSpec) -> Result<Self> {
        let directory = spec.state_dir.join("jobs");
        let text = directory.display().to_string();
        std::fs::create_dir_all(&directory)
            .map_err(|e| Error::io(IoSide::State, "create the state directory", &text, e))?;
        let stem = directory.join(job_name(spec));
        let path = stem.with_extension("lock");
        let text = path.display().to_string();
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(|e| Error::io(IoSide::State, "open the lock", &text, e))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            Error::new(Kind::Locked, "another run of the same job is under way")
                .path(text)
                .caused_by(std::io::Error::from(error))
        })?;
        Ok(Self { stem, _lock: lock })
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.stem.with_extension("journal")
    }

    /// Where the report of the last run lies.
    pub(crate) fn report_path(&self) -> PathBuf {
        self.stem.with_extension("report.json")
    }

    /// The header of the journal that an interrupted run left, if it fits `state`.
    ///
    /// # Errors
    /// `SourceChanged` when the image is no longer the one that was being copied.
    pub(crate) fn earlier(&self, state: &JobState) -> Result<Option<JournalHeader>> {
        let Some(header) = Journal::peek(&self.journal_path())? else {
            return Ok(None);
        };
        let same_target = state.target.as_ref() == Some(&header.target);
        // Device numbers can be dealt out anew at boot; only verification would notice.
        let trusted = state.verified || header.boot == state.boot;
        if !same_target || !trusted || header.job != state.job {
            return Ok(None);
        }
        if header.source != state.source || header.size != state.size {
            let text = "the image changed since the interrupted run began";
            return Err(Error::new(Kind::SourceChanged, text));
        }
        Ok(Some(header))
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

    /// Continues the journal that [`Self::earlier`] accepted.
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
        Ok(Continued { journal, resumed: Resumed { blank: created, ..Resumed::default() } })
    }

    /// Writes the report beside the journal.
    pub(crate) fn write_report(&self, report: &Report) -> Result<()> {
        let path = self.report_path();
        let json = serde_json::to_vec_pretty(report).map_err(|error| {
            Error::new(Kind::Internal, "the report is no JSON").caused_by(error)
        })?;
        let text = path.display().to_string();
        std::fs::write(&path, json)
            .map_err(|e| Error::io(IoSide::State, "write the report", text, e))
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
    format!("{}|{format}|{snapshot}|digests={digests}", image.location)
}

fn job_name(spec: &JobSpec) -> String {
    let image = match spec.image.location.split_once("://") {
        Some(_) => spec.image.location.clone(),
        None => absolute(Path::new(&spec.image.location)),
    };
    let text = format!("{image}\n{}", absolute(&spec.target));
    let hash = blake3::hash(text.as_bytes());
    hash.to_hex()[..24].to_owned()
}

/// The path with its directory resolved, so that the same file has the same name from anywhere.
fn absolute(path: &Path) -> String {
    let resolved = path.canonicalize().or_else(|_| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new(".")).canonicalize()?;
        Ok::<_, std::io::Error>(parent.join(path.file_name().unwrap_or_default()))
    });
    resolved.unwrap_or_else(|_| path.to_owned()).display().to_string()
}
