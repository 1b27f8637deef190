//! The checkpoint of a file that is made in parts: an upload, or a conversion.
//!
//! An append-only file of frames, as [`crate::Journal`] is. An item is written down before any
//! part that holds bytes of it, with everything that the caller needs to lay out the file again
//! without reading the source; a part is written down when the store has confirmed it. Nothing
//! here has to be durable for the result to be right: what is lost is sent again.

use crate::{ChunkDigest, frame};
use carreto_block::ByteRange;
use carreto_error::{Error, IoSide, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The version of the format that this code writes and reads.
const VERSION: u32 = 1;

const HEADER: u8 = 1;
const ITEM: u8 = 2;
const PART: u8 = 3;

/// What a journal is about. Persisted; a change of its meaning needs a new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHeader {
    /// The version of the format; set when the journal is created.
    pub version: u32,
    /// What is made of what, in the caller's terms.
    pub job: String,
    /// The state of the source when the job began.
    pub source: String,
    /// The size of the guest's disk in bytes.
    pub size: u64,
    /// The bytes of every part but the last.
    pub part_size: u64,
    /// The store's name for the upload, or what the caller knows the file by.
    pub upload: String,
    /// Numbers that the caller drew when the job began and needs again, in its own form.
    pub drawn: String,
    /// What the store called the object that was under the name when the job began.
    pub replaced: Option<String>,
}

/// An item as it was laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaidItem {
    /// The guest bytes.
    pub range: ByteRange,
    /// How they are stored, in the caller's form.
    pub layout: Vec<u8>,
    /// The digests of the chunks with data.
    pub digests: Vec<(u64, ChunkDigest)>,
}

/// A part that the store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DonePart {
    /// Its bytes.
    pub len: u64,
    /// The BLAKE3 hash of its bytes.
    pub digest: [u8; 32],
    /// The store's name for it.
    pub name: String,
}

/// What an earlier run left.
#[derive(Debug, Clone, Default)]
pub struct PartsDone {
    /// The items, in the order of the disk.
    pub items: Vec<LaidItem>,
    /// The parts, by number.
    pub parts: BTreeMap<u64, DonePart>,
}

/// An open journal. All methods may be called from several threads.
#[derive(Debug)]
pub struct PartJournal {
    path: PathBuf,
    file: Mutex<File>,
}

impl PartJournal {
    /// Begins a new journal at `path`, replacing an old one.
    ///
    /// # Errors
    /// What writing the file meets.
    pub fn create(path: &Path, header: &PartHeader) -> Result<Self> {
        let header = PartHeader { version: VERSION, ..header.clone() };
        let json = serde_json::to_vec(&header)
            .map_err(|e| Error::new(Kind::Internal, "a journal header is no JSON").caused_by(e))?;
        let fresh = path.with_extension("new");
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options.append(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(&frame::encode(HEADER, &json))?;
            file.sync_all()?;
            std::fs::rename(&fresh, path)?;
            Ok(file)
        };
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("remove the old journal", path, error));
            }
            _ => {}
        }
        let file = write().map_err(|error| failed("create the journal", path, error))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file) })
    }

    /// Reads the header of the journal at `path`, if there is one.
    ///
    /// # Errors
    /// `Io` for a journal that is damaged or of another version.
    pub fn peek(path: &Path) -> Result<Option<PartHeader>> {
        Ok(read(path)?.map(|(header, ..)| header))
    }

    /// Continues the journal at `path`, if there is one: cuts a torn tail off and gives what it
    /// says.
    ///
    /// # Errors
    /// As [`Self::peek`].
    pub fn resume(path: &Path) -> Result<Option<(Self, PartHeader, PartsDone)>> {
        let Some((header, done, whole)) = read(path)? else {
            return Ok(None);
        };
        let open = || {
            let file = OpenOptions::new().append(true).open(path)?;
            file.set_len(whole)?;
            Ok(file)
        };
        let file = open().map_err(|error| failed("open the journal", path, error))?;
        let journal = Self { path: path.to_owned(), file: Mutex::new(file) };
        Ok(Some((journal, header, done)))
    }

    /// Writes down how an item is laid out.
    ///
    /// # Errors
    /// What writing the file meets.
    pub fn item(&self, item: &LaidItem) -> Result<()> {
        let len = u32::try_from(item.layout.len())
            .map_err(|_| Error::new(Kind::Internal, "the layout of an item is too long"))?;
        let mut payload = item.range.start().to_le_bytes().to_vec();
        payload.extend(item.range.end().to_le_bytes());
        payload.extend(len.to_le_bytes());
        payload.extend(&item.layout);
        for (offset, digest) in &item.digests {
            payload.extend(offset.to_le_bytes());
            payload.extend(digest);
        }
        self.append(ITEM, &payload)
    }

    /// Writes down that the store has a part.
    ///
    /// # Errors
    /// What writing the file meets.
    pub fn part(&self, index: u64, part: &DonePart) -> Result<()> {
        let mut payload = index.to_le_bytes().to_vec();
        payload.extend(part.len.to_le_bytes());
        payload.extend(part.digest);
        payload.extend(part.name.as_bytes());
        self.append(PART, &payload)
    }

    fn append(&self, kind: u8, payload: &[u8]) -> Result<()> {
        let frame = frame::encode(kind, payload);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&frame).map_err(|error| failed("write the journal", &self.path, error))
    }
}

fn failed(operation: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::io(IoSide::State, operation, path.display().to_string(), error)
}

/// Header, content, and the bytes up to the first damage.
fn read(path: &Path) -> Result<Option<(PartHeader, PartsDone, u64)>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read the journal", path, error)),
    };
    let damaged = |text: &str| {
        Error::new(Kind::Io, text.to_owned())
            .path(path.display().to_string())
            .remedied_by("run again with --restart to begin anew")
    };
    let Some((HEADER, json, mut rest)) = frame::decode(&bytes) else {
        return Err(damaged("the journal is damaged"));
    };
    let header: PartHeader = serde_json::from_slice(json)
        .map_err(|error| damaged("the journal's header is damaged").caused_by(error))?;
    if header.version != VERSION {
        return Err(damaged("the journal was written by another version"));
    }
    let mut done = PartsDone::default();
    while let Some((kind, payload, next)) = frame::decode(rest) {
        if take(&mut done, kind, payload).is_none() {
            break;
        }
        rest = next;
    }
    let whole = bytes.len() - rest.len();
    Ok(Some((header, done, whole as u64)))
}

/// Takes one frame; `None` when it makes no sense.
fn take(done: &mut PartsDone, kind: u8, payload: &[u8]) -> Option<()> {
    match kind {
        ITEM => {
            let item = item_of(payload)?;
            let follows = done.items.last().is_none_or(|l| l.range.end() <= item.range.start());
            done.items.push(Some(item).filter(|_| follows)?);
        }
        PART => {
            let (index, part) = part_of(payload)?;
            done.parts.insert(index, part);
        }
        _ => return None,
    }
    Some(())
}

fn item_of(payload: &[u8]) -> Option<LaidItem> {
    let (start, rest) = payload.split_first_chunk::<8>()?;
    let (end, rest) = rest.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (layout, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    let (records, torn) = rest.as_chunks::<40>();
    if !torn.is_empty() {
        return None;
    }
    let record = |record: &[u8; 40]| {
        let (offset, digest) = record.split_first_chunk::<8>()?;
        Some((u64::from_le_bytes(*offset), digest.try_into().ok()?))
    };
    Some(LaidItem {
        range: ByteRange::new(u64::from_le_bytes(*start), u64::from_le_bytes(*end))?,
        layout: layout.to_vec(),
        digests: records.iter().map(record).collect::<Option<_>>()?,
    })
}

fn part_of(payload: &[u8]) -> Option<(u64, DonePart)> {
    let (index, rest) = payload.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<8>()?;
    let (digest, name) = rest.split_first_chunk::<32>()?;
    let name = std::str::from_utf8(name).ok()?.to_owned();
    let part = DonePart { len: u64::from_le_bytes(*len), digest: *digest, name };
    Some((u64::from_le_bytes(*index), part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> PartHeader {
        PartHeader {
            version: 0,
            job: "a to b".into(),
            source: "s".into(),
            size: 100,
            part_size: 10,
            upload: "u".into(),
            drawn: "7".into(),
            replaced: None,
        }
    }

    fn item(start: u64) -> LaidItem {
        LaidItem {
            range: ByteRange::new(start, start + 5).unwrap(),
            layout: vec![1, 2, 3],
            digests: vec![(start, [9; 32])],
        }
    }

    fn part(fill: u8) -> DonePart {
        DonePart { len: 10, digest: [fill; 32], name: format!("etag {fill}") }
    }

    #[test]
    fn what_was_written_is_there_again_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.parts");
        assert!(PartJournal::resume(&path).unwrap().is_none());
        let journal = PartJournal::create(&path, &header()).unwrap();
        journal.item(&item(0)).unwrap();
        journal.part(3, &part(1)).unwrap();
        drop(journal);
        let (journal, found, done) = PartJournal::resume(&path).unwrap().unwrap();
        assert_eq!(found, PartHeader { version: VERSION, ..header() });
        assert_eq!((done.items, done.parts.len()), (vec![item(0)], 1));
        journal.item(&item(5)).unwrap();
        journal.part(3, &part(2)).unwrap();
        let (.., done) = PartJournal::resume(&path).unwrap().unwrap();
        assert_eq!(done.items, [item(0), item(5)]);
        assert_eq!(done.parts[&3], part(2), "the last word counts");
    }

    #[test]
    fn every_cut_leaves_what_was_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.parts");
        let journal = PartJournal::create(&path, &header()).unwrap();
        let first = std::fs::metadata(&path).unwrap().len();
        journal.item(&item(0)).unwrap();
        let second = std::fs::metadata(&path).unwrap().len();
        journal.part(0, &part(1)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let resumed = PartJournal::resume(&path);
            if (cut as u64) < first {
                assert_eq!(resumed.unwrap_err().kind(), Kind::Io, "cut at {cut}");
                continue;
            }
            let (journal, _, done) = resumed.unwrap().unwrap();
            assert_eq!(done.items.len(), usize::from(cut as u64 >= second), "cut at {cut}");
            assert!(done.parts.is_empty(), "cut at {cut}");
            journal.part(8, &part(8)).unwrap();
            assert_eq!(PartJournal::resume(&path).unwrap().unwrap().2.parts.len(), 1, "{cut}");
        }
    }

    #[test]
    fn items_out_of_order_end_what_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.parts");
        let journal = PartJournal::create(&path, &header()).unwrap();
        for start in [10, 5, 20] {
            journal.item(&item(start)).unwrap();
        }
        assert_eq!(PartJournal::resume(&path).unwrap().unwrap().2.items, [item(10)]);
    }
}
