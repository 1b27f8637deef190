//! A page of a ledger on the wire.

use crate::ledger::{Known, Leaf, PAGE};
use carreto_error::{Error, Kind, Result};

/// What the receiver knows of the granules of one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerPage {
    /// The number of the disk.
    pub disk: u16,
    /// The number of the page.
    pub page: u64,
    /// What is known of each granule, at most [`PAGE`].
    pub granules: Vec<Option<Known>>,
}

const UNKNOWN: u8 = 0;
const ZERO: u8 = 1;
const LEAF: u8 = 2;

impl LedgerPage {
    /// Disk `u16`, page `u64`, then for each granule a byte and, if it is 2, a leaf. Little endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10 + self.granules.len() * 33);
        bytes.extend(self.disk.to_le_bytes());
        bytes.extend(self.page.to_le_bytes());
        for known in &self.granules {
            match known {
                None => bytes.push(UNKNOWN),
                Some(Known::Zero) => bytes.push(ZERO),
                Some(Known::Leaf(leaf)) => {
                    bytes.push(LEAF);
                    bytes.extend(leaf);
                }
            }
        }
        bytes
    }

    /// The opposite of [`Self::encode`].
    ///
    /// # Errors
    /// `Unavailable`, naming what is wrong and where.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = super::batch::Cursor::new("ledger page", bytes);
        let (disk, page) = (rest.u16("disk")?, rest.u64("page")?);
        let mut granules = Vec::new();
        while !rest.is_empty() {
            if granules.len() as u64 == PAGE {
                let text = format!("a ledger page has more than {PAGE} granules");
                return Err(Error::new(Kind::Unavailable, text));
            }
            granules.push(match rest.u8("granule")? {
                UNKNOWN => None,
                ZERO => Some(Known::Zero),
                LEAF => Some(Known::Leaf(rest.array("leaf")?)),
                other => return Err(rest.wrong("granule", other)),
            });
        }
        Ok(Self { disk, page, granules })
    }
}

/// The values of pages that follow each other; see [`crate::ledger::Ledger::page_value`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageValues {
    /// The number of the disk.
    pub disk: u16,
    /// The number of the first page.
    pub first: u64,
    /// The values; `None` where a granule of the page is unknown.
    pub values: Vec<Option<Leaf>>,
}

impl PageValues {
    /// Most values of one frame.
    pub const MAX: usize = 16_384;

    /// Disk `u16`, first page `u64`, then for each page a byte and, if it is 2, a value. Little
    /// endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(10 + self.values.len() * 33);
        bytes.extend(self.disk.to_le_bytes());
        bytes.extend(self.first.to_le_bytes());
        for value in &self.values {
            bytes.push(if value.is_some() { LEAF } else { UNKNOWN });
            bytes.extend(value.iter().flatten());
        }
        bytes
    }

    /// The opposite of [`Self::encode`].
    ///
    /// # Errors
    /// `Unavailable`, naming what is wrong and where.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = super::batch::Cursor::new("page values", bytes);
        let (disk, first) = (rest.u16("disk")?, rest.u64("first")?);
        let mut values = Vec::new();
        while !rest.is_empty() {
            if values.len() == Self::MAX {
                return Err(rest.wrong("count", values.len() + 1));
            }
            values.push(match rest.u8("value")? {
                UNKNOWN => None,
                LEAF => Some(rest.array("value")?),
                other => return Err(rest.wrong("value", other)),
            });
        }
        Ok(Self { disk, first, values })
    }
}
