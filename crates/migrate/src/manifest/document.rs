//! The document itself.

use carreto_error::{Error, Kind, Result};
use carreto_transfer::{CHUNK, ChunkDigest, ContentDigest};
use serde::{Deserialize, Serialize};

/// The version that is written, and the newest that is understood.
const SCHEMA_VERSION: u32 = 1;
/// The name of the digests.
const ALGORITHM: &str = "carreto-sparse-v1";
/// Chunks that a manifest lists at most; larger disks have larger chunks.
const MAX_CHUNKS: usize = 64 << 10;

/// `KEY.carreto.json`. Sizes are in bytes, digests in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    /// The format of the object.
    pub(crate) format: String,
    /// The size of the object.
    pub(crate) file_size: u64,
    /// Its `ETag`, where the store gives one: another object under the same name has another.
    pub(crate) etag: Option<String>,
    /// The size of the disk that was read; the image may round it up.
    pub(crate) content_size: u64,
    /// The size of the disk that a guest sees in the object.
    pub(crate) virtual_size: Option<u64>,
    pub(crate) algorithm: String,
    /// The digest of what a guest sees; empty for a file that could not be read as an image.
    pub(crate) digest: Option<String>,
    /// The guest bytes that each of `chunks` covers.
    pub(crate) chunk_size: u64,
    /// Offset and digest of every chunk with data: BLAKE3 over offset and digest of each of its
    /// chunks of 1 MiB, or the digest of that one chunk.
    pub(crate) chunks: Vec<(u64, String)>,
    /// The bytes of the object that each of `parts` covers.
    pub(crate) part_size: u64,
    /// BLAKE3 of each part of the object, in order.
    pub(crate) parts: Vec<String>,
}

/// An object as it was written.
#[derive(Debug)]
pub(crate) struct Written<'w> {
    pub(crate) format: &'w str,
    pub(crate) file_size: u64,
    pub(crate) etag: Option<String>,
    pub(crate) part_size: u64,
    pub(crate) parts: Vec<ChunkDigest>,
}

/// A disk as it was read.
#[derive(Debug)]
pub(crate) struct Read<'r> {
    pub(crate) size: u64,
    pub(crate) virtual_size: u64,
    pub(crate) content: &'r ContentDigest,
}

impl Manifest {
    /// The manifest of an object; `disk` is empty when the file could not be read as an image.
    pub(crate) fn new(object: Written<'_>, disk: Option<&Read<'_>>) -> Self {
        let nothing = ContentDigest::default();
        let (chunk_size, chunks) = grouped(disk.map_or(&nothing, |disk| disk.content));
        let root = |disk: &Read<'_>| disk.content.root(disk.size).to_hex().to_string();
        Self {
            schema_version: SCHEMA_VERSION,
            format: object.format.to_owned(),
            file_size: object.file_size,
            etag: object.etag,
            content_size: disk.map_or(0, |disk| disk.size),
            virtual_size: disk.map(|disk| disk.virtual_size),
            algorithm: ALGORITHM.to_owned(),
            digest: disk.map(root),
            chunk_size,
            chunks,
            part_size: object.part_size,
            parts: object.parts.into_iter().map(hex).collect(),
        }
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::new(Kind::Internal, "a manifest is no JSON").caused_by(error))
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// `Corrupt` for what is no manifest, `Unsupported` for one of a later version.
    pub(crate) fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let broken = |error| Error::new(Kind::Corrupt, "it is no manifest").caused_by(error);
        let Version { schema_version } = serde_json::from_slice(json).map_err(broken)?;
        if schema_version != SCHEMA_VERSION {
            let text = format!("schema_version {schema_version}, expected {SCHEMA_VERSION}");
            return Err(Error::new(Kind::Unsupported, text));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(broken)?;
        if manifest.algorithm != ALGORITHM {
            let text = format!("algorithm {:?}, expected {ALGORITHM:?}", manifest.algorithm);
            return Err(Error::new(Kind::Unsupported, text));
        }
        Ok(manifest)
    }

    /// The digests of all chunks with data, when the manifest is fine enough to have them.
    ///
    /// # Errors
    /// `Corrupt` when the list is none.
    pub(crate) fn chunk_digests(&self) -> Result<Option<ContentDigest>> {
        if self.chunk_size != CHUNK {
            return Ok(None);
        }
        let mut digests = ContentDigest::default();
        for (offset, digest) in &self.chunks {
            if !offset.is_multiple_of(CHUNK) || *offset >= self.content_size {
                let text = format!("chunk at {offset} of a disk of {}", self.content_size);
                return Err(Error::new(Kind::Corrupt, text));
            }
            digests.insert(*offset, parse_hash(digest)?);
        }
        Ok(Some(digests))
    }

    /// The digests of the object's parts.
    ///
    /// # Errors
    /// `Corrupt` when they do not cover the object.
    pub(crate) fn part_digests(&self) -> Result<Vec<ChunkDigest>> {
        let wanted = self
            .file_size
            .checked_div(self.part_size)
            .map(|whole| whole + u64::from(!self.file_size.is_multiple_of(self.part_size)));
        if wanted != Some(self.parts.len() as u64) {
            let (parts, part_size) = (self.parts.len(), self.part_size);
            let text = format!("{parts} parts of {part_size} bytes for {} bytes", self.file_size);
            return Err(Error::new(Kind::Corrupt, text));
        }
        self.parts.iter().map(|digest| parse_hash(digest)).collect()
    }
}

/// Reads a digest.
///
/// # Errors
/// `Corrupt` when it is none.
pub(super) fn parse_hash(text: &str) -> Result<ChunkDigest> {
    match blake3::Hash::from_hex(text) {
        Ok(hash) => Ok(*hash.as_bytes()),
        Err(error) => Err(Error::new(Kind::Corrupt, "a digest is none").caused_by(error)),
    }
}

fn hex(digest: ChunkDigest) -> String {
    blake3::Hash::from_bytes(digest).to_hex().to_string()
}

fn grouped(content: &ContentDigest) -> (u64, Vec<(u64, String)>) {
    let mut size = CHUNK;
    while content.len() > MAX_CHUNKS * usize::try_from(size / CHUNK).unwrap_or(usize::MAX) {
        size *= 2;
    }
    let all: Vec<_> = content.iter().collect();
    let groups = all.chunk_by(|(a, _), (b, _)| a / size == b / size);
    let list = groups.map(|group| {
        let digest = match group {
            [(_, one)] if size == CHUNK => *one,
            many => {
                let mut hasher = blake3::Hasher::new();
                for (offset, digest) in many {
                    hasher.update(&offset.to_le_bytes()).update(digest);
                }
                *hasher.finalize().as_bytes()
            }
        };
        (group[0].0 / size * size, hex(digest))
    });
    (size, list.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(chunks: &[u64]) -> Manifest {
        let mut content = ContentDigest::default();
        content.extend(chunks.iter().map(|offset| (*offset, [7; 32])));
        let parts = vec![[1; 32], [2; 32]];
        let object = Written { format: "qcow2", file_size: 7, etag: None, part_size: 4, parts };
        let disk = Read { size: 3 << 40, virtual_size: 3 << 40, content: &content };
        Manifest::new(object, Some(&disk))
    }

    #[test]
    fn what_is_written_is_read() {
        let one = manifest(&[0, 5 << 20]);
        let read = Manifest::parse(&one.to_json().unwrap()).unwrap();
        assert_eq!(read, one);
        let chunks: Vec<_> = read.chunk_digests().unwrap().unwrap().iter().collect();
        assert_eq!(chunks, [(0, [7; 32]), (5 << 20, [7; 32])]);
        assert_eq!(read.part_digests().unwrap(), [[1; 32], [2; 32]]);
    }

    #[test]
    fn a_large_disk_has_a_short_list() {
        let offsets: Vec<u64> = (0..200_000).map(|index| index << 20).collect();
        let large = manifest(&offsets);
        assert!(large.chunks.len() <= MAX_CHUNKS, "{}", large.chunks.len());
        assert_eq!(large.chunk_size, 4 << 20);
        assert!(large.chunk_digests().unwrap().is_none());
        assert!(large.to_json().unwrap().len() < 8 << 20);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let kind = |json: &[u8]| Manifest::parse(json).unwrap_err().kind();
        assert_eq!(kind(b""), Kind::Corrupt);
        assert_eq!(kind(b"{}"), Kind::Corrupt);
        assert_eq!(kind(br#"{"schema_version": 2}"#), Kind::Unsupported);
        let good = manifest(&[0]);
        let with = |change: fn(&mut Manifest)| {
            let mut changed = good.clone();
            change(&mut changed);
            changed
        };
        let odd = with(|m| m.algorithm = "md5".into());
        assert_eq!(kind(&odd.to_json().unwrap()), Kind::Unsupported);
        let chunks = |m: Manifest| m.chunk_digests().unwrap_err().kind();
        assert_eq!(chunks(with(|m| m.chunks[0].0 = 1)), Kind::Corrupt);
        assert_eq!(chunks(with(|m| m.chunks[0].0 = 3 << 40)), Kind::Corrupt);
        assert_eq!(chunks(with(|m| m.chunks[0].1.push('x'))), Kind::Corrupt);
        let parts = |m: Manifest| m.part_digests().unwrap_err().kind();
        assert_eq!(parts(with(|m| m.part_size = 0)), Kind::Corrupt);
        assert_eq!(parts(with(|m| m.part_size = 3)), Kind::Corrupt);
        assert_eq!(parts(with(|m| m.parts[1].clear())), Kind::Corrupt);
    }
}
