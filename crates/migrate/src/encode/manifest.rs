//! The manifest beside an uploaded object: what a later reader can hold its content to.

use super::spec::{EncodeReport, EncodeSpec};
use crate::inspect::ImageFacts;
use crate::{Setup, image};
use bytes::Bytes;
use carreto_error::{Error, Kind, Result, ResultExt as _};
use carreto_store::Location;
use carreto_transfer::{CHUNK, ContentDigest};
use serde::Serialize;

/// Chunks that a manifest lists at most; larger disks have larger chunks.
const MAX_CHUNKS: usize = 64 << 10;

/// `KEY.carreto.json`. Sizes are in bytes, digests in hexadecimal.
#[derive(Debug, Serialize)]
struct Manifest<'a> {
    schema_version: u32,
    format: &'a str,
    /// The size of the disk that was read; the image may round it up.
    content_size: u64,
    virtual_size: Option<u64>,
    file_size: Option<u64>,
    algorithm: &'static str,
    digest: Option<&'a str>,
    /// The guest bytes that each of `chunks` covers.
    chunk_size: u64,
    /// Offset and digest of every chunk with data: BLAKE3 over offset and digest of each of its
    /// chunks of 1 MiB, or the digest of that one chunk.
    chunks: Vec<(u64, String)>,
}

/// Writes the manifest of the object that `report` is about.
///
/// # Errors
/// What writing an object meets.
pub(super) async fn put(
    setup: &Setup,
    spec: &EncodeSpec,
    report: &EncodeReport,
    facts: &ImageFacts,
    content: &ContentDigest,
) -> Result<()> {
    let Location::Object(url) = format!("{}.carreto.json", spec.target).parse()? else {
        return Ok(());
    };
    let (chunk_size, chunks) = chunks(content);
    let manifest = Manifest {
        schema_version: 1,
        format: report.format,
        content_size: facts.virtual_size,
        virtual_size: report.virtual_size,
        file_size: report.file_size,
        algorithm: "carreto-sparse-v1",
        digest: report.digest.as_deref(),
        chunk_size,
        chunks,
    };
    let json = serde_json::to_vec(&manifest)
        .map_err(|error| Error::new(Kind::Internal, "a manifest is no JSON").caused_by(error))?;
    let handle = image::stores(setup).handle(&url)?;
    let put = setup.stop.race(handle.put_bytes(Bytes::from(json))).await;
    put.wrap_err(|| "write the manifest".into())
}

fn chunks(content: &ContentDigest) -> (u64, Vec<(u64, String)>) {
    let mut size = CHUNK;
    while content.len() > MAX_CHUNKS * usize::try_from(size / CHUNK).unwrap_or(usize::MAX) {
        size *= 2;
    }
    let all: Vec<_> = content.iter().collect();
    let groups = all.chunk_by(|(a, _), (b, _)| a / size == b / size);
    let list = groups.map(|group| {
        let digest = match group {
            [(_, one)] if size == CHUNK => blake3::Hash::from_bytes(*one),
            many => {
                let mut hasher = blake3::Hasher::new();
                for (offset, digest) in many {
                    hasher.update(&offset.to_le_bytes()).update(digest);
                }
                hasher.finalize()
            }
        };
        (group[0].0 / size * size, digest.to_hex().to_string())
    });
    (size, list.collect())
}
