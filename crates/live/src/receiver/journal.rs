//! The receiver's ledger of one target, in a file.
//!
//! A header of 4096 bytes (JSON, padded with zeros), then a byte for each granule (0 unknown, 1
//! zero, 2 the leaf below holds), then a leaf of 32 bytes for each granule. The file is sparse. It
//! is written through the page cache and never flushed: it is trusted only while the system that
//! wrote it runs on ([`JournalHeader::trusted_while`]).

use crate::granule::granules_in;
use crate::ledger::{Known, Leaf, Ledger};
use carreto_error::{Error, IoSide, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

const HEADER: u64 = 4096;
const HEADER_LEN: usize = 4096;
const VERSION: u32 = 1;
const UNKNOWN: u8 = 0;
const ZERO: u8 = 1;
const LEAF: u8 = 2;
/// Granules whose states are read or written at a time.
const STEP: u64 = 64 << 10;
/// Granules whose leaves are read at a time.
const WINDOW: usize = 2048;

/// Bytes of the journal of a disk of `size` bytes, when no granule is zero.
pub(super) const fn len(size: u64) -> u64 {
    HEADER.saturating_add(granules_in(size).saturating_mul(33))
}

/// What a journal belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JournalHeader {
    version: u32,
    /// The migration.
    pub(super) migration: String,
    /// The identity of the source's disk.
    pub(super) source: String,
    /// The identity of the target.
    pub(super) target: String,
    /// Bytes of the source's disk.
    pub(super) size: u64,
    /// A text that changes when unflushed writes may have been lost.
    pub(super) trusted_while: String,
}

impl JournalHeader {
    pub(super) fn new(migration: &str, source: &str, target: &str, size: u64, trust: &str) -> Self {
        Self {
            version: VERSION,
            migration: migration.to_owned(),
            source: source.to_owned(),
            target: target.to_owned(),
            size,
            trusted_while: trust.to_owned(),
        }
    }

    /// The same, for a journal that no process may trust.
    pub(super) fn untrusted(&self) -> Self {
        Self { trusted_while: String::new(), ..self.clone() }
    }

    /// Whether both are about the same disk and target, whatever happened to the system since.
    pub(super) fn is_about_the_same_as(&self, other: &Self) -> bool {
        self.untrusted() == other.untrusted()
    }
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    name: String,
    granules: u64,
}

impl Journal {
    /// The header of the journal at `path`; `None` when there is none or it cannot be understood.
    pub(super) fn peek(path: &Path) -> Option<JournalHeader> {
        let file = File::open(path).ok()?;
        let mut bytes = [0; HEADER_LEN];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        serde_json::from_slice(&bytes[..end]).ok()
    }

    /// A new journal that knows nothing, in place of what is at `path`.
    pub(super) fn create(path: &Path, header: &JournalHeader) -> Result<Self> {
        let journal = Self::open_file(path, true, header.size)?;
        journal.file.set_len(len(header.size)).map_err(journal.fail("make"))?;
        journal.entitle(header)?;
        Ok(journal)
    }

    /// Gives the journal another header.
    pub(super) fn entitle(&self, header: &JournalHeader) -> Result<()> {
        let mut bytes = serde_json::to_vec(header)
            .map_err(|error| self.fail("write")(std::io::Error::other(error)))?;
        if bytes.len() as u64 >= HEADER {
            return Err(Error::new(Kind::Usage, "the names of disk and target are too long"));
        }
        bytes.resize(HEADER_LEN, 0);
        self.file.write_all_at(&bytes, 0).map_err(self.fail("write"))
    }

    /// The journal at `path`, whose header was seen by [`Self::peek`], and what it knows.
    pub(super) fn load(path: &Path, header: &JournalHeader) -> Result<(Self, Ledger)> {
        let journal = Self::open_file(path, false, header.size)?;
        let mut ledger = Ledger::unknown(header.size)?;
        let mut states = vec![0; 64 << 10];
        let mut first = 0;
        while first < journal.granules {
            let count = (journal.granules - first).min(states.len() as u64);
            let states = &mut states[..usize::try_from(count).unwrap_or(0)];
            let fail = journal.fail("read");
            journal.file.read_exact_at(states, HEADER + first).map_err(&fail)?;
            for (first, states) in (first..).step_by(WINDOW).zip(states.chunks(WINDOW)) {
                journal.learn(first, states, &mut ledger)?;
            }
            first += count;
        }
        Ok((journal, ledger))
    }

    /// Takes over what the granules from `first` on are, by their `states`.
    fn learn(&self, first: u64, states: &[u8], ledger: &mut Ledger) -> Result<()> {
        let mut leaves = vec![[0; 32]; if states.contains(&LEAF) { states.len() } else { 0 }];
        let bytes = leaves.as_flattened_mut();
        self.file.read_exact_at(bytes, self.leaf_at(first)).map_err(self.fail("read"))?;
        for (index, state) in states.iter().enumerate() {
            let granule = first + index as u64;
            match *state {
                ZERO => ledger.set(granule, Known::Zero),
                LEAF => ledger.set(granule, Known::Leaf(leaves[index])),
                _ => {}
            }
        }
        Ok(())
    }

    fn open_file(path: &Path, empty: bool, size: u64) -> Result<Self> {
        let name = path.display().to_string();
        let no_link = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(empty).truncate(empty).mode(0o600);
        let file = options
            .custom_flags(no_link)
            .open(path)
            .map_err(|error| Error::io(IoSide::State, "open the journal", &name, error))?;
        Ok(Self { file, name, granules: granules_in(size) })
    }

    fn leaf_at(&self, granule: u64) -> u64 {
        HEADER + self.granules + granule * 32
    }

    fn fail(&self, what: &str) -> impl Fn(std::io::Error) -> Error + use<> {
        let (what, name) = (format!("{what} the journal"), self.name.clone());
        move |error| Error::io(IoSide::State, what.clone(), &name, error)
    }

    /// Nothing is known about `start..end` from now on.
    pub(super) fn forget(&self, start: u64, end: u64) -> Result<()> {
        self.fill(start, end, UNKNOWN)
    }

    /// `start..end` are zero.
    pub(super) fn set_zero(&self, start: u64, end: u64) -> Result<()> {
        self.fill(start, end, ZERO)
    }

    fn fill(&self, start: u64, end: u64, state: u8) -> Result<()> {
        let states = vec![state; usize::try_from(end.saturating_sub(start).min(STEP)).unwrap_or(0)];
        let mut first = start;
        while first < end {
            let count = (end - first).min(STEP);
            let states = &states[..usize::try_from(count).unwrap_or(0)];
            self.file.write_all_at(states, HEADER + first).map_err(self.fail("write"))?;
            first += count;
        }
        Ok(())
    }

    /// The granules from `first` on have this content.
    pub(super) fn set(&self, first: u64, leaves: &[Leaf]) -> Result<()> {
        let fail = self.fail("write");
        self.file.write_all_at(leaves.as_flattened(), self.leaf_at(first)).map_err(&fail)?;
        self.fill(first, first + leaves.len() as u64, LEAF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::granule::GRANULE;

    #[test]
    fn what_was_written_is_there_for_the_next_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.ledger");
        let header = JournalHeader::new("m", "wwn-1", "file 7", 3000 * GRANULE - 512, "boot 1");
        assert_eq!(Journal::peek(&path), None);
        let journal = Journal::create(&path, &header).expect("made");
        journal.set_zero(0, 2900).expect("written");
        journal.set(5, &[[7; 32], [8; 32]]).expect("written");
        journal.set(2046, &[[9; 32]; 3]).expect("written");
        journal.forget(9, 12).expect("written");
        assert_eq!(Journal::peek(&path), Some(header.clone()));
        let (_, ledger) = Journal::load(&path, &header).expect("read");
        assert_eq!(ledger.get(0), Some(Known::Zero));
        assert_eq!(ledger.get(5), Some(Known::Leaf([7; 32])));
        assert_eq!(ledger.get(6), Some(Known::Leaf([8; 32])));
        for granule in 2046..2049 {
            assert_eq!(ledger.get(granule), Some(Known::Leaf([9; 32])));
        }
        assert_eq!(ledger.get(2049), Some(Known::Zero));
        assert_eq!(ledger.unknown_count(), 3 + 100);
        let again = Journal::create(&path, &header).expect("made");
        drop(again);
        let (_, ledger) = Journal::load(&path, &header).expect("read");
        assert_eq!(ledger.unknown_count(), 3000);
    }

    #[test]
    fn a_damaged_header_is_no_header() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.ledger");
        for bytes in [vec![], vec![b'{'; 4096], vec![0; 9000], b"{}".to_vec()] {
            std::fs::write(&path, bytes).expect("written");
            assert_eq!(Journal::peek(&path), None);
        }
    }
}
