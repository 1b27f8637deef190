//! Header extensions: what follows the header in the first cluster.
//!
//! Facts: qcow2 specification, "Header extensions".

use super::header::broken;
use crate::field;
use carreto_error::{Kind, Result};

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xE279_2ACA;
const FEATURE_NAMES: u32 = 0x6803_F857;
const DATA_FILE: u32 = 0x4441_5441;

/// The extensions that reading needs.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// The format of the backing file.
    pub(super) backing_format: Option<String>,
    /// The name of the external data file.
    pub(super) data_file: Option<Vec<u8>>,
    /// The feature name table.
    pub(super) feature_names: Option<Vec<u8>>,
}

impl Extensions {
    /// Walks the extensions in `head` (the first cluster, or as much of it as the file has) from
    /// `start` to `end`.
    ///
    /// # Errors
    /// `Corrupt` when one reaches past `end` or says what it must not; `Truncated` when the file
    /// ends before.
    pub(super) fn parse(head: &[u8], start: usize, end: usize) -> Result<Self> {
        let mut found = Self::default();
        let mut at = start;
        while at < end {
            if end - at < 8 {
                break;
            }
            let (kind, len) = (field::be32(head, at)?, field::be32(head, at + 4)?);
            if kind == END {
                break;
            }
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let body = at + 8;
            if len > end - body {
                let room = end - body;
                let text = format!("extension {kind:#010x} has {len} bytes, room is for {room}");
                return Err(broken(Kind::Corrupt, at as u64, text));
            }
            let Some(data) = head.get(body..body + len) else {
                let text = format!("extension {kind:#010x} reaches past the end of the file");
                return Err(broken(Kind::Truncated, at as u64, text));
            };
            found.take(kind, data, at)?;
            at = body + len.next_multiple_of(8);
        }
        Ok(found)
    }

    fn take(&mut self, kind: u32, data: &[u8], at: usize) -> Result<()> {
        match kind {
            BACKING_FORMAT => {
                let name = std::str::from_utf8(data)
                    .ok()
                    .filter(|name| name.len() < 16 && name.chars().all(|c| c.is_ascii_graphic()));
                let (Some(name), None) = (name, &self.backing_format) else {
                    let text = "the backing format is no short name, or is given twice";
                    return Err(broken(Kind::Corrupt, at as u64, text));
                };
                self.backing_format = Some(name.to_owned());
            }
            DATA_FILE => {
                if self.data_file.is_some() {
                    let text = "the data file's name is given twice";
                    return Err(broken(Kind::Corrupt, at as u64, text));
                }
                self.data_file = Some(data.to_vec());
            }
            FEATURE_NAMES => self.feature_names = Some(data.to_vec()),
            _ => {}
        }
        Ok(())
    }
}
