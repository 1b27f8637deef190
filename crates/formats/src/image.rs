//! What every format tells about an image.

use async_trait::async_trait;
use carreto_block::Source;
use carreto_error::{Error, Kind, Result};
use std::fmt;
use std::str::FromStr;

/// The formats that Carreto reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The bytes of the disk and nothing else.
    Raw,
    /// QEMU's copy-on-write format, versions 2 and 3.
    Qcow2,
    /// Microsoft Virtual PC's format, called `vpc` by QEMU.
    Vhd,
    /// VMware's format with all its subformats.
    Vmdk,
}

impl Format {
    /// The stable name used on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vmdk => "vmdk",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "vhd" | "vpc" => Ok(Self::Vhd),
            "vmdk" => Ok(Self::Vmdk),
            _ => Err(Error::new(
                Kind::Usage,
                format!("unknown format {text:?}, expected raw, qcow2, vhd (or vpc) or vmdk"),
            )),
        }
    }
}

/// The file below an overlay, as the image names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingInfo {
    /// The name as the image has it.
    pub name: String,
    /// The format that the image records for it.
    pub format: Option<Format>,
}

/// Something odd that does not keep the image from being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// A stable name in snake case: `dirty_bit`, `shared_cluster`.
    pub code: &'static str,
    /// What was found, naming field and value.
    pub text: String,
    /// The byte of the file where it was found.
    pub offset: Option<u64>,
}

impl Warning {
    /// A warning without a place.
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), offset: None }
    }

    /// Adds the byte of the file where it was found.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

/// What the headers of an image say.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// The format.
    pub format: Format,
    /// The variant within the format: `v3`, `dynamic`, `streamOptimized`.
    pub subformat: String,
    /// The size of the guest's disk in bytes.
    pub virtual_size: u64,
    /// The size of the image file in bytes; of all its files where it has several.
    pub file_size: u64,
    /// The allocation unit in bytes (cluster, block, grain), where the format has one.
    pub cluster_size: Option<u64>,
    /// The file below, where there is one.
    pub backing: Option<BackingInfo>,
    /// What was odd about the headers.
    pub warnings: Vec<Warning>,
    /// Further facts for people, as name and value: `compression` and `zstd`.
    pub details: Vec<(&'static str, String)>,
}

/// What a walk over all metadata found.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// Guest bytes that the image itself (not its parents) has data for. `None` where the format
    /// cannot tell (raw: ask the store for holes).
    pub allocated_size: Option<u64>,
    /// What was odd.
    pub warnings: Vec<Warning>,
}

/// Bounds that protect memory and time from what an image asks for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest virtual size in bytes.
    pub max_virtual_size: u64,
    /// The largest single table that is held in memory, in bytes.
    pub max_table: u64,
    /// Memory in bytes that a structure check may use for finding overlaps; beyond it overlaps
    /// are not looked for, and the report says so.
    pub max_check_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_virtual_size: 4 << 50, max_table: 32 << 20, max_check_memory: 32 << 20 }
    }
}

/// An opened image: a [`Source`] of the guest's bytes that knows what it is.
#[async_trait]
pub trait Image: Source {
    /// What the headers say.
    fn info(&self) -> &ImageInfo;

    /// Walks all metadata of the disk that is read: everything lies inside the file, nothing
    /// overlaps metadata, no reserved bit is set. Of the payload it reads little: samples where
    /// metadata alone leaves a doubt (qcow2), and markers that lie among the data (VMDK). After
    /// success no read of the image fails for a reason that its metadata could have told.
    ///
    /// Cancel safe; holds no more memory than [`Limits`] allows.
    ///
    /// # Errors
    /// `Corrupt` or `Truncated`, naming the table, the entry, its offset and value.
    async fn check(&self, limits: &Limits) -> Result<CheckReport>;
}
