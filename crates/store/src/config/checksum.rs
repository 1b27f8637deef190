//! With which checksum the parts of an upload are sent.

use std::fmt;
use std::str::FromStr;

/// The checksum that the store is asked to check each part of an upload by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Checksum {
    /// CRC-64/NVME where the store takes it, none where it refuses it.
    #[default]
    Auto,
    /// CRC-64/NVME; a store that refuses it is an error.
    Crc64Nvme,
    /// SHA-256; a store that refuses it is an error.
    Sha256,
    /// None.
    None,
}

impl Checksum {
    const ALL: [Self; 4] = [Self::Auto, Self::Crc64Nvme, Self::Sha256, Self::None];

    /// The name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Crc64Nvme => "crc64nvme",
            Self::Sha256 => "sha256",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Checksum {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let named = |checksum: &Self| checksum.name().eq_ignore_ascii_case(text.trim());
        Self::ALL.into_iter().find(named).ok_or(())
    }
}
