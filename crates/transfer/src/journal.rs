//! The checkpoint: which ranges of the target are done, surviving `kill -9` and loss of power.
//!
//! An append-only file of frames. An item is written as *begun* before its first byte and as
//! *done* after its last one. After the target was flushed, a *flushed* frame says how many of the
//! frames before are thereby durable, and the journal itself is synchronised.
//!
//! What a later run may trust depends on whether the system ran on in between. If it did (same
//! boot), everything that was done is in the target or in the page cache, however the process
//! ended. If it did not, only what was flushed is. A flush that failed is the exception: the
//! system may have dropped pages that it could not write, and says so only once. After a *doubted*
//! frame nothing counts that was not flushed before, on the same boot either. What was *undone*
//! stays undone whoever asks.

use crate::frame;
use crate::{ChunkDigest, RangeSet};
use carreto_block::ByteRange;
use carreto_error::{Error, IoSide, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The version of the format that this code writes and reads.
const VERSION: u32 = 1;

const HEADER: u8 = 1;
const BEGUN: u8 = 2;
const DONE: u8 = 3;
const UNDONE: u8 = 4;
const FLUSHED: u8 = 5;
const DOUBTED: u8 = 6;
const TARGET_MARK: u8 = 7;

/// What a journal is about. Persisted; a change of its meaning needs a new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHeader {
    /// The version of the format; set when the journal is created.
    pub version: u32,
    /// What is being done, in the caller's terms.
    pub job: String,
    /// The state of the source when the job began.
    pub source: String,
    /// Which target it is.
    pub target: String,
    /// The size of the disk in bytes.
    pub size: u64,
    /// The boot of the system that wrote the journal.
    pub boot: String,
    /// The target was created for the job, so what was never written reads as zero.
    pub created: bool,
}

/// What an earlier run left.
#[derive(Debug, Clone, Default)]
pub struct Resumed {
    /// The ranges that need not be done again.
    pub done: RangeSet,
    /// The digests of the chunks with data in them.
    pub digests: BTreeMap<u64, ChunkDigest>,
    /// What was never written on the target still reads as zero: the target was created for the
    /// job, and nothing on it was ever found to be wrong.
    pub blank: bool,
    /// The target was created for this very run: nobody wrote to it yet.
    pub untouched: bool,
    /// Data bytes of items that had begun and are not done: they are sent a second time.
    pub resent: u64,
}

/// An open journal. All methods may be called from several threads.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Done and undone frames so far.
    operations: u64,
    /// A flush failed: what this run writes cannot be made durable any more.
    doubted: bool,
}

/// A change to what is done, in the order of the file.
#[derive(Debug)]
enum Operation {
    Done(ByteRange, Vec<(u64, ChunkDigest)>),
    Undone(ByteRange),
}

/// A journal file as it was read.
#[derive(Debug)]
struct Contents {
    header: JournalHeader,
    operations: Vec<Operation>,
    flushed: usize,
    begun: BTreeMap<u64, (ByteRange, u64)>,
    target_mark: Option<String>,
}

impl Journal {
    /// Begins a new journal at `path`, replacing an old one.
    ///
    /// # Errors
    /// What writing the file meets.
    pub fn create(path: &Path, header: &JournalHeader) -> Result<Self> {
        Self::write_fresh(path, header, &Resumed::default(), &Resumed::default())
    }

    /// Reads the header of the journal at `path`, if there is one.
    ///
    /// # Errors
    /// `Io` for a journal that is damaged or of another version.
    pub fn peek(path: &Path) -> Result<Option<JournalHeader>> {
        Ok(read(path)?.map(|contents| contents.header))
    }

    /// What [`Self::resume`] would call done; changes nothing.
    ///
    /// # Errors
    /// As [`Self::peek`].
    pub fn peek_done(path: &Path, boot: &str) -> Result<RangeSet> {
        Ok(read(path)?.map(|contents| contents.split(boot).1.done).unwrap_or_default())
    }

    /// What [`Self::target_mark`] noted last.
    ///
    /// # Errors
    /// As [`Self::peek`].
    pub fn peek_mark(path: &Path) -> Result<Option<String>> {
        Ok(read(path)?.and_then(|contents| contents.target_mark))
    }

    /// Continues the journal at `path`, if there is one. `boot` is the system's current boot.
    ///
    /// The file is rewritten with what still counts.
    ///
    /// # Errors
    /// As [`Self::peek`], and what writing meets.
    pub fn resume(path: &Path, boot: &str) -> Result<Option<(Self, Resumed)>> {
        let Some(contents) = read(path)? else {
            return Ok(None);
        };
        let (flushed, mut all) = contents.split(boot);
        for (range, data) in contents.begun.values() {
            if !all.done.contains(*range) {
                all.resent += data;
            }
        }
        all.blank = contents.is_blank();
        let header = JournalHeader { boot: boot.to_owned(), created: all.blank, ..contents.header };
        let journal = Self::write_fresh(path, &header, &flushed, &all)?;
        Ok(Some((journal, all)))
    }

    /// Notes that an item with `data` bytes of data is about to be written.
    ///
    /// # Errors
    /// What writing the file meets.
    pub fn begun(&self, range: ByteRange, data: u64) -> Result<()> {
        let mut payload = range_bytes(range);
        payload.extend(data.to_le_bytes());
        self.append(BEGUN, &payload, false)
    }

    /// Notes that `range` is on the target, with the digests of its chunks that have data.
    ///
    /// # Errors
    /// What writing the file meets.
    pub fn done(&self, range: ByteRange, digests: &[(u64, ChunkDigest)]) -> Result<()> {
        if self.lock().doubted {
            return Ok(());
        }
        self.append(DONE, &done_bytes(range, digests), true)
    }

    /// Notes that `range` has to be done again.
    ///
    /// # Errors
    /// What writing the file meets.
    pub fn undone(&self, range: ByteRange) -> Result<()> {
        self.append(UNDONE, &range_bytes(range), true)
    }

    /// A mark for [`Self::flushed`], to be taken before the target is flushed.
    pub fn mark(&self) -> u64 {
        self.lock().operations
    }

    /// Notes that the target was flushed after `mark` was taken, and makes the journal durable.
    ///
    /// # Errors
    /// What writing and synchronising the file meet.
    pub fn flushed(&self, mark: u64) -> Result<()> {
        if self.lock().doubted {
            return Ok(());
        }
        self.append(FLUSHED, &mark.to_le_bytes(), false)?;
        self.sync()
    }

    /// Notes that a flush of the target failed: from now on only what was flushed before counts,
    /// and nothing that this run still does. A later flush that succeeds proves nothing, because
    /// the system reports a lost page once.
    ///
    /// Where not even that can be written down, the journal is removed, so that the next run
    /// begins again.
    ///
    /// # Errors
    /// What removing the file meets.
    pub fn doubted(&self) -> Result<()> {
        self.lock().doubted = true;
        match self.append(DOUBTED, &[], false).and_then(|()| self.sync()) {
            Ok(()) => Ok(()),
            Err(_) => {
                std::fs::remove_file(&self.path).map_err(|e| self.error("remove the journal", e))
            }
        }
    }

    /// Notes the state of the target as the run leaves it, in the caller's terms. A journal that
    /// is continued forgets it.
    ///
    /// # Errors
    /// What writing the file meets.
    pub fn target_mark(&self, mark: &str) -> Result<()> {
        self.append(TARGET_MARK, mark.as_bytes(), false)
    }

    /// Makes what was noted so far durable.
    ///
    /// # Errors
    /// What synchronising the file meets.
    pub fn sync(&self) -> Result<()> {
        self.lock().file.sync_data().map_err(|e| self.error("synchronise the journal", e))
    }

    /// Removes the file: the job is complete.
    ///
    /// # Errors
    /// What removing meets.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|e| self.error("remove the journal", e))
    }

    fn append(&self, kind: u8, payload: &[u8], operation: bool) -> Result<()> {
        let mut state = self.lock();
        let written = state.file.write_all(&frame::encode(kind, payload));
        written.map_err(|e| self.error("append to the journal", e))?;
        state.operations += u64::from(operation);
        Ok(())
    }

    fn write_fresh(
        path: &Path,
        header: &JournalHeader,
        flushed: &Resumed,
        all: &Resumed,
    ) -> Result<Self> {
        let header = JournalHeader { version: VERSION, ..header.clone() };
        let json = serde_json::to_vec(&header).map_err(|error| {
            Error::new(Kind::Internal, "the journal's header is no JSON").caused_by(error)
        })?;
        let mut bytes = frame::encode(HEADER, &json);
        let mut operations = 0;
        for (range, digests) in flushed.pieces() {
            bytes.extend(frame::encode(DONE, &done_bytes(range, &digests)));
            operations += 1;
        }
        bytes.extend(frame::encode(FLUSHED, &u64::to_le_bytes(operations)));
        if all.done != flushed.done {
            for (range, digests) in all.pieces() {
                bytes.extend(frame::encode(DONE, &done_bytes(range, &digests)));
                operations += 1;
            }
        }
        let file = replace(path, &bytes)?;
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State { file, operations, doubted: false }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, operation: &'static str, error: std::io::Error) -> Error {
        Error::io(IoSide::State, operation, self.path.display().to_string(), error)
    }
}

impl Resumed {
    fn replay(&mut self, operations: &[Operation]) {
        for operation in operations {
            match operation {
                Operation::Done(range, digests) => {
                    self.done.insert(*range);
                    self.digests.extend(digests.iter().copied());
                }
                Operation::Undone(range) => self.remove(*range),
            }
        }
    }

    /// Replays what was undone, and nothing of what was done.
    fn undo(&mut self, operations: &[Operation]) {
        for operation in operations {
            if let Operation::Undone(range) = operation {
                self.remove(*range);
            }
        }
    }

    fn remove(&mut self, range: ByteRange) {
        self.done.remove(range);
        let inside: Vec<u64> =
            self.digests.range(range.start()..range.end()).map(|(at, _)| *at).collect();
        for at in inside {
            self.digests.remove(&at);
        }
    }

    /// The done ranges with the digests inside each.
    fn pieces(&self) -> impl Iterator<Item = (ByteRange, Vec<(u64, ChunkDigest)>)> {
        self.done.iter().map(|range| {
            let inside = self.digests.range(range.start()..range.end());
            (range, inside.map(|(at, digest)| (*at, *digest)).collect())
        })
    }
}

/// Writes `bytes` to `path` so that either the old or the new file is there whatever happens, and
/// returns the new one open for appending.
fn replace(path: &Path, bytes: &[u8]) -> Result<File> {
    let error = |operation: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |error| Error::io(IoSide::State, operation, path, error)
    };
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh).map_err(error("create the journal", &fresh))?;
    file.write_all(bytes).map_err(error("write the journal", &fresh))?;
    file.sync_all().map_err(error("synchronise the journal", &fresh))?;
    std::fs::rename(&fresh, path).map_err(error("put the journal in place", path))?;
    if let Some(directory) = path.parent() {
        let handle = File::open(directory).map_err(error("open the state directory", directory))?;
        handle.sync_all().map_err(error("synchronise the state directory", directory))?;
    }
    let file = OpenOptions::new().append(true).open(path);
    file.map_err(error("open the journal", path))
}

fn read(path: &Path) -> Result<Option<Contents>> {
    let name = path.display().to_string();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(IoSide::State, "read the journal", name, error)),
    };
    parse(&bytes).map(Some).map_err(|error| {
        error.path(name).remedied_by("run with --restart to begin again from the start")
    })
}

fn parse(bytes: &[u8]) -> Result<Contents> {
    let Some((HEADER, json, mut rest)) = frame::decode(bytes) else {
        return Err(Error::new(Kind::Io, "the header of the journal is damaged"));
    };
    let header: JournalHeader = serde_json::from_slice(json).map_err(|error| {
        Error::new(Kind::Io, "the header of the journal is not known").caused_by(error)
    })?;
    if header.version != VERSION {
        let text = format!("the journal has version {}, expected {VERSION}", header.version);
        return Err(Error::new(Kind::Io, text));
    }
    let mut contents = Contents {
        header,
        operations: Vec::new(),
        flushed: 0,
        begun: BTreeMap::new(),
        target_mark: None,
    };
    while let Some((kind, payload, tail)) = frame::decode(rest) {
        if contents.take(kind, payload).is_none() {
            break;
        }
        rest = tail;
    }
    Ok(contents)
}

impl Contents {
    /// A range that was done and had to be undone held bytes that nobody wrote.
    fn is_blank(&self) -> bool {
        let undone = |operation: &Operation| matches!(operation, Operation::Undone(_));
        self.header.created && !self.operations.iter().any(undone)
    }

    /// What is durable, and what a run on `boot` may trust.
    fn split(&self, boot: &str) -> (Resumed, Resumed) {
        let (durable, rest) = self.operations.split_at(self.flushed);
        let mut flushed = Resumed::default();
        flushed.replay(durable);
        let mut all = flushed.clone();
        all.replay(rest);
        // What was undone and done again is durable only once it is flushed again.
        flushed.undo(rest);
        let trusted = if self.header.boot == boot { all } else { flushed.clone() };
        (flushed, trusted)
    }

    /// Undoes whatever was not flushed.
    fn doubt(&mut self) {
        for operation in self.operations.iter_mut().skip(self.flushed) {
            if let Operation::Done(range, _) = operation {
                *operation = Operation::Undone(*range);
            }
        }
    }

    /// Adds a frame; `None` when its payload makes no sense.
    fn take(&mut self, kind: u8, payload: &[u8]) -> Option<()> {
        match kind {
            BEGUN => {
                let (range, rest) = split_range(payload)?;
                self.begun.insert(range.start(), (range, split_u64(rest)?.0));
            }
            DONE => {
                let (range, rest) = split_range(payload)?;
                let digests = rest.chunks_exact(40).map(split_digest).collect::<Option<_>>()?;
                self.operations.push(Operation::Done(range, digests));
            }
            UNDONE => self.operations.push(Operation::Undone(split_range(payload)?.0)),
            FLUSHED => {
                let count = usize::try_from(split_u64(payload)?.0).ok()?;
                self.flushed = count.min(self.operations.len());
            }
            DOUBTED => self.doubt(),
            TARGET_MARK => self.target_mark = Some(str::from_utf8(payload).ok()?.to_owned()),
            _ => return None,
        }
        Some(())
    }
}

fn range_bytes(range: ByteRange) -> Vec<u8> {
    [range.start().to_le_bytes(), range.len().to_le_bytes()].concat()
}

fn done_bytes(range: ByteRange, digests: &[(u64, ChunkDigest)]) -> Vec<u8> {
    let mut payload = range_bytes(range);
    for (offset, digest) in digests {
        payload.extend(offset.to_le_bytes());
        payload.extend(digest);
    }
    payload
}

fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*head), rest))
}

fn split_range(bytes: &[u8]) -> Option<(ByteRange, &[u8])> {
    let (start, rest) = split_u64(bytes)?;
    let (len, rest) = split_u64(rest)?;
    Some((ByteRange::from_len(start, len)?, rest))
}

fn split_digest(bytes: &[u8]) -> Option<(u64, ChunkDigest)> {
    let (offset, digest) = split_u64(bytes)?;
    Some((offset, digest.try_into().ok()?))
}
