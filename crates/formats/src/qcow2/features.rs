//! Feature bits and their names.
//!
//! Facts: qcow2 specification, header bytes 72 to 95 and "Feature name table".

use crate::field;
use carreto_error::{Error, Kind, Result};

/// Refcounts may be stale; reading does not need them.
pub(super) const DIRTY: u64 = 1;
/// Some metadata may be damaged; writing is forbidden, reading is not.
pub(super) const CORRUPT: u64 = 1 << 1;
/// Guest clusters live in another file.
pub(super) const DATA_FILE: u64 = 1 << 2;
/// The header's `compression_type` is not the default.
pub(super) const COMPRESSION: u64 = 1 << 3;
/// L2 entries are 16 bytes long and carry a bitmap of subclusters.
pub(super) const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;

/// The data file, read as a raw disk, shows the guest's bytes (an autoclear bit).
pub(super) const RAW_DATA_FILE: u64 = 1 << 1;

/// The three sets of feature bits; all clear in version 2.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Features {
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
}

impl Features {
    /// Reads the bits of a version 3 header.
    pub(super) fn parse(head: &[u8]) -> Result<Self> {
        Ok(Self {
            incompatible: field::be64(head, 72)?,
            compatible: field::be64(head, 80)?,
            autoclear: field::be64(head, 88)?,
        })
    }

    /// Whether an incompatible bit is set.
    pub(super) const fn has(self, bit: u64) -> bool {
        self.incompatible & bit != 0
    }

    /// Refuses incompatible bits that this reader does not know, calling them by the names that
    /// the image's `names` table has for them.
    pub(super) fn refuse_unknown(self, names: Option<&[u8]>) -> Result<()> {
        let unknown = self.incompatible & !KNOWN;
        if unknown == 0 {
            return Ok(());
        }
        let list: Vec<String> =
            (0..64).filter(|bit| unknown >> bit & 1 == 1).map(|bit| describe(bit, names)).collect();
        let text = format!("the image needs features that are not known: {}", list.join(", "));
        Err(Error::new(Kind::Unsupported, text).during("read the qcow2 header").offset(72))
    }
}

fn describe(bit: u8, names: Option<&[u8]>) -> String {
    match names.and_then(|table| name_of(bit, table)) {
        Some(name) => format!("incompatible bit {bit} ({name})"),
        None => format!("incompatible bit {bit}"),
    }
}

/// Looks an incompatible bit up in the feature name table: entries of type, bit and 46 bytes of
/// name, padded with zeros.
fn name_of(bit: u8, table: &[u8]) -> Option<String> {
    let entry = table.chunks_exact(48).find(|entry| entry[0] == 0 && entry[1] == bit)?;
    let text = entry[2..].split(|byte| *byte == 0).next()?;
    let clean: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect();
    (!clean.is_empty()).then_some(clean)
}
