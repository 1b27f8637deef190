//! What a user wants done.

use carreto_formats::Format;
use std::path::PathBuf;
use std::time::Duration;

/// An image and how to open it.
#[derive(Debug, Clone, Default)]
pub struct ImageSpec {
    /// A path or a URL; `nbd://` and `nbd+unix://` name exports.
    pub location: String,
    /// The format; found out from the bytes when absent.
    pub format: Option<Format>,
    /// The internal snapshot to read, by name or id.
    pub snapshot: Option<String>,
    /// Directories (or URL prefixes) in which files that the image names may be opened.
    pub allow_dirs: Vec<String>,
    /// Read a VHD although its checksums are wrong.
    pub ignore_checksum: bool,
    /// The formats that the image may have; any when empty. Files that it names are not meant.
    pub allow_formats: Vec<Format>,
    /// The largest virtual size in bytes to accept instead of the default of `carreto-formats`.
    pub max_virtual_size: Option<u64>,
}

impl ImageSpec {
    /// The image at `location`, format found out, nothing else allowed.
    pub fn at(location: impl Into<String>) -> Self {
        Self { location: location.into(), ..Self::default() }
    }
}

/// What the target disk will be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A server boots from it: the image is expected to carry a boot sector.
    System,
    /// A server mounts it.
    Data,
}

impl Role {
    /// The stable name used on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Data => "data",
        }
    }
}

/// How to make sure that what was written is what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Read the whole target back, past the page cache, and compare digests.
    Full,
    /// Trust the disk.
    None,
}

impl Verify {
    /// The stable name used on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::None => "none",
        }
    }
}

/// A migration: an image in a store becomes a verified disk.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// The image.
    pub image: ImageSpec,
    /// A block device, a file, or an NBD export (`nbd://`, `nbd+unix://`). A missing file is
    /// created with the image's virtual size.
    pub target: PathBuf,
    /// What the disk will be used for, when that is known.
    pub role: Option<Role>,
    /// How to verify.
    pub verify: Verify,
    /// The whole run must end within this time.
    pub timeout: Option<Duration>,
    /// Something must move within this time.
    pub stall_timeout: Option<Duration>,
    /// Bytes of memory for everything in flight.
    pub memory: u64,
    /// Bytes per second to read from the store at most.
    pub limit_rate: Option<u64>,
    /// Where journals, locks and reports lie.
    pub state_dir: PathBuf,
    /// Forget what an earlier run of the same job left.
    pub restart: bool,
    /// The user confirmed that a block device or an export may be overwritten.
    pub confirmed: bool,
}

impl JobSpec {
    /// A job with the default options.
    pub fn new(
        image: ImageSpec,
        target: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            image,
            target: target.into(),
            role: None,
            verify: Verify::Full,
            timeout: None,
            stall_timeout: Some(Self::STALL_TIMEOUT),
            memory: Self::MEMORY,
            limit_rate: None,
            state_dir: state_dir.into(),
            restart: false,
            confirmed: false,
        }
    }

    /// The default memory budget in bytes.
    pub const MEMORY: u64 = 256 << 20;
    /// The default stall limit: longer than a store is retried, so that a store's own error is
    /// what the user sees.
    pub const STALL_TIMEOUT: Duration = Duration::from_hours(2);
}
