//! How compressed qcow2 clusters decode.
//!
//! Facts: qcow2 specification, "Compressed Clusters Descriptor" and header field
//! `compression_type`. What QEMU accepts beyond it is accepted here: an over-long deflate stream
//! and any bytes after the data.

use crate::codec::{Inflated, Wrapping, inflate, unzstd};
use carreto_block::Decode;
use carreto_error::{Error, Kind, Result};

/// How an image compresses its clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Deflate without the zlib header, although the format calls it so.
    Zlib,
    /// Zstandard frames.
    Zstd,
}

impl Compression {
    /// The name that `qemu-img` uses.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    /// The codec for extents.
    pub(super) const fn codec(self) -> &'static dyn Decode {
        match self {
            Self::Zlib => &Zlib,
            Self::Zstd => &Zstd,
        }
    }
}

#[derive(Debug)]
struct Zlib;

impl Decode for Zlib {
    fn name(&self) -> &'static str {
        "zlib"
    }

    fn decode(&self, input: &[u8], _tag: u64, output: &mut [u8]) -> Result<()> {
        match inflate(Wrapping::Raw, input, output)? {
            Inflated::Exactly | Inflated::Longer => Ok(()),
            Inflated::Short(len) => {
                let wanted = output.len();
                let text = format!("the cluster decodes to {len} bytes, expected {wanted}");
                Err(Error::new(Kind::Corrupt, text))
            }
        }
    }
}

#[derive(Debug)]
struct Zstd;

impl Decode for Zstd {
    fn name(&self) -> &'static str {
        "zstd"
    }

    fn decode(&self, input: &[u8], _tag: u64, output: &mut [u8]) -> Result<()> {
        unzstd(input, output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_follows_the_cluster_is_ignored_and_a_short_one_is_corrupt() {
        let text: Vec<u8> = (0..5000u32).flat_map(u32::to_be_bytes).collect();
        let codec = Compression::Zlib.codec();
        let mut input = deflate(&text);
        input.extend_from_slice(b"the next cluster");
        for len in [text.len(), text.len() - 1, 512] {
            let mut output = vec![0xA5; len];
            codec.decode(&input, 0, &mut output).unwrap();
            assert!(output == text[..len], "{len} bytes");
        }
        let mut output = vec![0; text.len() + 1];
        let error = codec.decode(&input, 0, &mut output).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        let half = &input[..input.len() / 2];
        let error = codec.decode(half, 0, &mut output[..text.len()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    }
}
