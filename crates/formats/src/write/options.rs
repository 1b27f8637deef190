//! What to write, and which choices fit together.

use carreto_error::{Error, Kind, Result};

/// The formats and subformats that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputFormat {
    /// The bytes of the disk.
    Raw,
    /// qcow2, version 3.
    Qcow2,
    /// VHD whose blocks are all there, as Azure takes it.
    VhdFixed,
    /// VHD that leaves empty blocks out.
    VhdDynamic,
    /// VMDK in one file that leaves empty grains out.
    VmdkSparse,
    /// VMDK as vSphere and AWS import it: compressed, written front to back.
    VmdkStream,
}

impl OutputFormat {
    /// The name for messages and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::VhdFixed => "vhd fixed",
            Self::VhdDynamic => "vhd dynamic",
            Self::VmdkSparse => "vmdk monolithicSparse",
            Self::VmdkStream => "vmdk streamOptimized",
        }
    }
}

/// How units are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackCodec {
    /// Deflate without a header, as qcow2 has it.
    Deflate,
    /// Deflate with the zlib header and checksum, as VMDK has it.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// What to write and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOptions {
    /// The format.
    pub format: OutputFormat,
    /// qcow2: compress clusters, [`PackCodec::Deflate`] or [`PackCodec::Zstd`]. The other formats
    /// have no choice: leave it empty.
    pub compress: Option<PackCodec>,
    /// The level of the compression; the codec's usual one when empty. Deflate: 1 to 12,
    /// zstd: 1 to 22.
    pub level: Option<i32>,
    /// qcow2: the cluster size in bytes, a power of two from 512 to 2 MiB; 64 KiB when empty.
    pub cluster_size: Option<u64>,
    /// VHD: round the size of the disk up to a multiple of this. 512, or 1 MiB as Azure wants it.
    pub align: u64,
    /// The identity that VHD and VMDK record. Two images should not share it.
    pub id: [u8; 16],
    /// The time of creation that VHD records, in seconds since 1970.
    pub time: u64,
    /// The file name that a VMDK descriptor names its extent by.
    pub name: String,
}

impl WriteOptions {
    /// The defaults for `format`: no compression but where the format has no other way; a fixed
    /// VHD is rounded up to whole MiB.
    pub fn new(format: OutputFormat) -> Self {
        let align = if format == OutputFormat::VhdFixed { 1 << 20 } else { 512 };
        Self {
            format,
            compress: None,
            level: None,
            cluster_size: None,
            align,
            id: [0; 16],
            time: 0,
            name: "disk.vmdk".to_owned(),
        }
    }

    /// How units are compressed, if at all.
    pub fn pack_codec(&self) -> Option<PackCodec> {
        match self.format {
            OutputFormat::VmdkStream => Some(PackCodec::Zlib),
            _ => self.compress,
        }
    }

    /// The cluster size in bytes.
    pub fn cluster_size(&self) -> u64 {
        self.cluster_size.unwrap_or(64 << 10)
    }

    pub(super) fn check(&self) -> Result<()> {
        let usage = |text: String| Err(Error::new(Kind::Usage, text));
        let name = self.format.name();
        match (self.format, self.compress) {
            (_, None) | (OutputFormat::Qcow2, Some(PackCodec::Deflate | PackCodec::Zstd)) => {}
            _ => return usage(format!("{name} has no such choice of compression")),
        }
        if self.cluster_size.is_some() && self.format != OutputFormat::Qcow2 {
            return usage(format!("{name} has no choice of the cluster size"));
        }
        let cluster = self.cluster_size();
        if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
            let text = format!(
                "the cluster size is {cluster} bytes, expected a power of two from 512 to 2097152"
            );
            return usage(text);
        }
        if !self.align.is_power_of_two() || !(512..=1 << 30).contains(&self.align) {
            return usage(format!("sizes cannot be rounded to {} bytes", self.align));
        }
        self.check_level()
    }

    fn check_level(&self) -> Result<()> {
        let Some(level) = self.level else {
            return Ok(());
        };
        let most = match self.pack_codec() {
            Some(PackCodec::Deflate | PackCodec::Zlib) => 12,
            Some(PackCodec::Zstd) => 22,
            None => {
                let text = "a level needs compression to be asked for";
                return Err(Error::new(Kind::Usage, text));
            }
        };
        if (1..=most).contains(&level) {
            return Ok(());
        }
        let text = format!("the compression level is {level}, expected 1 to {most}");
        Err(Error::new(Kind::Usage, text))
    }
}
