//! Granules on the wire.

use super::BATCH_GRANULES;
use crate::granule::{GRANULE, bytes_of};
use crate::ledger::Leaf;
use carreto_error::{Error, Kind, Result};

/// Some granules of one disk with their bytes, plain or as one zstd frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Counts the batches of a session, over all data connections, from 1.
    pub sequence: u64,
    /// The number of the disk.
    pub disk: u16,
    /// The granules, ascending, at most [`BATCH_GRANULES`].
    pub entries: Vec<Entry>,
    /// Whether `payload` is a zstd frame.
    pub packed: bool,
    /// The bytes of all granules that are not references, one after another.
    pub payload: &'a [u8],
}

/// One granule of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Which granule.
    pub granule: u64,
    /// The leaf of its content.
    pub leaf: Leaf,
    /// A granule, by disk and number, that the receiver has and whose bytes are the same.
    pub same_as: Option<(u16, u64)>,
}

impl<'a> Batch<'a> {
    /// The bytes that `payload` stands for, on a disk of `size` bytes.
    pub fn plain_len(&self, size: u64) -> u64 {
        let with_bytes = self.entries.iter().filter(|entry| entry.same_as.is_none());
        with_bytes.map(|entry| bytes_of(entry.granule, size).len()).sum()
    }

    /// The head of the frame; `payload` follows it. Sequence `u64`, disk `u16`, packed `u8`, count
    /// `u16`, then for each granule its number `u64`, a byte that is 1 for a reference, the leaf and
    /// for a reference disk `u16` and granule `u64`. Little endian.
    pub fn encode_head(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(13 + self.entries.len() * 51);
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.disk.to_le_bytes());
        bytes.push(u8::from(self.packed));
        bytes.extend(u16::try_from(self.entries.len()).unwrap_or(u16::MAX).to_le_bytes());
        for entry in &self.entries {
            bytes.extend(entry.granule.to_le_bytes());
            bytes.push(u8::from(entry.same_as.is_some()));
            bytes.extend(entry.leaf);
            if let Some((disk, granule)) = entry.same_as {
                bytes.extend(disk.to_le_bytes());
                bytes.extend(granule.to_le_bytes());
            }
        }
        bytes
    }

    /// The opposite of [`Self::encode_head`] and the payload behind it.
    ///
    /// # Errors
    /// `Unavailable`, naming what is wrong and where.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = Cursor::new("batch", bytes);
        let (sequence, disk) = (rest.u64("sequence")?, rest.u16("disk")?);
        let packed = rest.flag("packed")?;
        let count = rest.u16("count")?;
        if usize::from(count) > BATCH_GRANULES {
            return Err(rest.wrong("count", count));
        }
        let entries = (0..count).map(|_| rest.entry()).collect::<Result<Vec<_>>>()?;
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].granule >= pair[1].granule) {
            return Err(rest.wrong("granule", pair[1].granule));
        }
        Ok(Self { sequence, disk, entries, packed, payload: rest.rest })
    }
}

/// Ranges of granules that are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// As [`Batch::sequence`].
    pub sequence: u64,
    /// The number of the disk.
    pub disk: u16,
    /// First granule and the one after the last, ascending and apart.
    pub ranges: Vec<(u64, u64)>,
}

impl Ranges {
    /// Most ranges of one frame.
    pub const MAX: usize = 4096;

    /// Sequence `u64`, disk `u16`, then pairs of `u64`. Little endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10 + self.ranges.len() * 16);
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.disk.to_le_bytes());
        for (start, end) in &self.ranges {
            bytes.extend(start.to_le_bytes());
            bytes.extend(end.to_le_bytes());
        }
        bytes
    }

    /// The opposite of [`Self::encode`].
    ///
    /// # Errors
    /// `Unavailable`, naming what is wrong and where.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = Cursor::new("ranges", bytes);
        let (sequence, disk) = (rest.u64("sequence")?, rest.u16("disk")?);
        let mut ranges = Vec::new();
        let mut last = 0;
        while !rest.is_empty() {
            let (start, end) = (rest.u64("start")?, rest.u64("end")?);
            if start < last || end <= start || ranges.len() == Self::MAX {
                return Err(rest.wrong("start", start));
            }
            last = end;
            ranges.push((start, end));
        }
        Ok(Self { sequence, disk, ranges })
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of the batch.
    pub sequence: u64,
    /// References that did not hold: their granules have to be sent again with their bytes.
    pub refused: Vec<u64>,
}

impl Answer {
    /// Sequence `u64`, then the refused granules, `u64` each. Little endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.sequence.to_le_bytes().to_vec();
        self.refused.iter().for_each(|granule| bytes.extend(granule.to_le_bytes()));
        bytes
    }

    /// The opposite of [`Self::encode`].
    ///
    /// # Errors
    /// `Unavailable`, naming what is wrong and where.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = Cursor::new("answer", bytes);
        let sequence = rest.u64("sequence")?;
        let mut refused = Vec::new();
        while !rest.is_empty() {
            if refused.len() == BATCH_GRANULES {
                return Err(rest.wrong("refused", rest.rest.len()));
            }
            refused.push(rest.u64("refused")?);
        }
        Ok(Self { sequence, refused })
    }
}

/// Takes values from the front of a message.
pub(super) struct Cursor<'a> {
    message: &'static str,
    total: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Self { message, total: bytes.len(), rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn wrong(&self, field: &str, value: impl std::fmt::Display) -> Error {
        let text = format!("{}: {field} cannot be {value}", self.message);
        Error::new(Kind::Unavailable, text).offset((self.total - self.rest.len()) as u64)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let Some((array, rest)) = self.rest.split_first_chunk() else {
            let text = format!("{}: it ends within {field}", self.message);
            return Err(Error::new(Kind::Unavailable, text).offset(self.total as u64));
        };
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn u8(&mut self, field: &str) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u16(&mut self, field: &str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    fn flag(&mut self, field: &str) -> Result<bool> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.wrong(field, other)),
        }
    }

    fn entry(&mut self) -> Result<Entry> {
        let granule = self.u64("granule")?;
        if granule > u64::MAX / GRANULE {
            return Err(self.wrong("granule", granule));
        }
        let is_reference = self.flag("reference")?;
        let leaf = self.array("leaf")?;
        let same_as = if is_reference {
            Some((self.u16("same disk")?, self.u64("same granule")?))
        } else {
            None
        };
        Ok(Entry { granule, leaf, same_as })
    }
}
