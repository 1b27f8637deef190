//! Digests and comparisons of what a guest would read.

use crate::{ImageSpec, Setup, image};
use carreto_block::{ByteRange, Source};
use carreto_error::{Error, Kind, Result};
use carreto_transfer::{
    ContentDigest, CopyOptions, Difference, Engine, LEAF, Piece, chunk_digests_of, is_zero,
    scan_ordered,
};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;

/// What to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// BLAKE3 of all bytes, zeros included: what `b3sum` prints for the raw disk.
    Blake3,
    /// SHA-256 of all bytes, zeros included: what `sha256sum` prints for the raw disk.
    Sha256,
    /// SHA-256 of, for every 64 KiB-aligned block that is not all zero, its offset as a
    /// little-endian 64-bit number and its bytes: proportional to the data.
    Sha256Nonzero64k,
    /// The digest of the migration report, see [`carreto_transfer::ContentDigest`]: proportional
    /// to the data.
    Sparse,
}

impl Algorithm {
    /// The stable name used on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
            Self::Sha256Nonzero64k => "sha256-nonzero64k",
            Self::Sparse => "sparse",
        }
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Blake3, Self::Sha256, Self::Sha256Nonzero64k, Self::Sparse];
        all.into_iter().find(|algorithm| algorithm.name() == text).ok_or_else(|| {
            let known = all.map(Self::name).join(", ");
            Error::new(Kind::Usage, format!("unknown algorithm {text:?}, expected one of {known}"))
        })
    }
}

/// The digest, in hexadecimal, of the guest-visible bytes of an image.
///
/// Cancel safe.
///
/// # Errors
/// What opening, reading and decoding the image meet; `SourceChanged`; `Cancelled` or `Timeout`
/// when `setup` was stopped.
pub async fn digest(setup: &Setup, spec: &ImageSpec, algorithm: Algorithm) -> Result<String> {
    setup.stop.race(digest_whole(setup, spec, algorithm)).await
}

async fn digest_whole(setup: &Setup, spec: &ImageSpec, algorithm: Algorithm) -> Result<String> {
    let opened = image::open(setup, spec).await?;
    let size = opened.image.size();
    let mut hasher = Hasher::new(algorithm);
    let engine = setup.engine(CopyOptions { digest: false, ..CopyOptions::default() });
    let mut at = 0;
    scan_ordered(&engine, opened.image.clone(), ByteRange::whole(size), |piece| {
        at += match piece {
            Piece::Zero(len) => hasher.zeros(len),
            Piece::Data(bytes) => hasher.data(at, bytes),
        };
        Ok(())
    })
    .await?;
    opened.expect_unchanged().await?;
    Ok(hasher.finish(size))
}

/// Where the guest-visible bytes of two images differ first; `None` when they are identical.
///
/// Cancel safe.
///
/// # Errors
/// What opening, reading and decoding the images meet; `SourceChanged`; `Cancelled` or `Timeout`
/// when `setup` was stopped.
pub async fn compare(setup: &Setup, a: &ImageSpec, b: &ImageSpec) -> Result<Option<Difference>> {
    setup.stop.race(compare_whole(setup, a, b)).await
}

async fn compare_whole(setup: &Setup, a: &ImageSpec, b: &ImageSpec) -> Result<Option<Difference>> {
    let (a, b) = (image::open(setup, a).await?, image::open(setup, b).await?);
    let engine = setup.engine(CopyOptions { digest: false, ..CopyOptions::default() });
    let (one, other) = (a.image.clone(), b.image.clone());
    let difference = carreto_transfer::compare(&engine, one, other).await?;
    a.expect_unchanged().await?;
    b.expect_unchanged().await?;
    Ok(difference)
}

/// The digests of what `range` of `source` reads as. Tells `setup` that it is alive.
///
/// Cancel safe.
pub(crate) async fn sparse(
    setup: &Setup,
    source: Arc<dyn Source>,
    range: ByteRange,
    memory: u64,
) -> Result<ContentDigest> {
    let options = CopyOptions { digest: false, memory, ..CopyOptions::default() };
    let engine = Engine::new(options).stopped_by(setup.stop.clone());
    let (mut content, mut at) = (ContentDigest::default(), 0);
    scan_ordered(&engine, source, range, |piece| {
        setup.alive();
        at += match piece {
            Piece::Zero(len) => len,
            Piece::Data(bytes) => {
                content.extend(chunk_digests_of(at, bytes));
                bytes.len() as u64
            }
        };
        Ok(())
    })
    .await?;
    Ok(content)
}

enum Hasher {
    Blake3(Box<blake3::Hasher>),
    Sha256(Sha256),
    Nonzero(Sha256),
    Sparse(ContentDigest),
}

/// Zeros are hashed in pieces of this many bytes.
const ZEROS: usize = 1 << 20;

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Blake3 => Self::Blake3(Box::default()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha256Nonzero64k => Self::Nonzero(Sha256::new()),
            Algorithm::Sparse => Self::Sparse(ContentDigest::default()),
        }
    }

    /// Adds `len` zero bytes; returns `len`.
    fn zeros(&mut self, len: u64) -> u64 {
        if matches!(self, Self::Nonzero(_) | Self::Sparse(_)) {
            return len;
        }
        let zeros: Arc<[u8]> = vec![0; ZEROS].into();
        let mut left = len;
        while left > 0 {
            let now = left.min(ZEROS as u64);
            self.dense(&zeros[..usize::try_from(now).unwrap_or(ZEROS)]);
            left -= now;
        }
        len
    }

    /// Adds the bytes at guest offset `at`, a multiple of 1 MiB; returns how many.
    fn data(&mut self, at: u64, bytes: &[u8]) -> u64 {
        match self {
            Self::Nonzero(hasher) => {
                for (index, leaf) in bytes.chunks(LEAF).enumerate() {
                    if !is_zero(leaf) {
                        hasher.update((at + (index * LEAF) as u64).to_le_bytes());
                        hasher.update(leaf);
                    }
                }
            }
            Self::Sparse(digest) => digest.extend(chunk_digests_of(at, bytes)),
            Self::Blake3(_) | Self::Sha256(_) => self.dense(bytes),
        }
        bytes.len() as u64
    }

    fn dense(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Nonzero(_) | Self::Sparse(_) => {}
        }
    }

    fn finish(self, size: u64) -> String {
        match self {
            Self::Blake3(hasher) => hasher.finalize().to_hex().to_string(),
            Self::Sha256(hasher) | Self::Nonzero(hasher) => hex(&hasher.finalize()),
            Self::Sparse(digest) => digest.root(size).to_hex().to_string(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
