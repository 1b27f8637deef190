//! Where the bytes of an image are.

use crate::{ImageSpec, Setup, image};
use carreto_block::{ByteRange, Extent, Placement, Source};
use carreto_error::Result;
use serde::Serialize;

/// What is at a place of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MapKind {
    /// Bytes stored as they are.
    Data,
    /// Bytes stored compressed.
    Compressed,
    /// Nothing: reads as zeros.
    Zero,
}

/// One line of a map. Offsets and lengths are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// The first byte of the disk.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
    /// What is there.
    pub kind: MapKind,
    /// The file that holds the bytes.
    pub file: Option<String>,
    /// Where in that file uncompressed bytes start.
    pub offset: Option<u64>,
}

/// Hands the map of an image to `entry`, in order, neighbours of one kind merged.
///
/// Cancel safe.
///
/// # Errors
/// What opening the image and reading its metadata meet, and what `entry` returns;
/// `SourceChanged`; `Cancelled` or `Timeout` when `setup` was stopped.
pub async fn map(
    setup: &Setup,
    spec: &ImageSpec,
    entry: impl FnMut(MapEntry) -> Result<()>,
) -> Result<()> {
    setup.stop.race(map_whole(setup, spec, entry)).await
}

async fn map_whole(
    setup: &Setup,
    spec: &ImageSpec,
    mut entry: impl FnMut(MapEntry) -> Result<()>,
) -> Result<()> {
    let opened = image::open(setup, spec).await?;
    let image = &opened.image;
    let mut rest = ByteRange::whole(image.size());
    let mut pending: Option<MapEntry> = None;
    while !rest.is_empty() {
        setup.stop.check()?;
        setup.alive();
        for extent in image.extents(rest, 1024).await? {
            rest = rest.split_at(extent.range.end()).1;
            let next = entry_of(image.as_ref(), extent);
            match &mut pending {
                Some(last) if continues(last, &next) => last.length += next.length,
                _ => pending.replace(next).map_or(Ok(()), &mut entry)?,
            }
        }
    }
    pending.map_or(Ok(()), entry)?;
    opened.expect_unchanged().await
}

fn entry_of(image: &dyn Source, extent: Extent) -> MapEntry {
    let (kind, file, offset) = match extent.placement {
        Placement::Zero | Placement::Absent => (MapKind::Zero, None, None),
        Placement::Plain { file, offset } => (MapKind::Data, Some(file), Some(offset)),
        Placement::Packed(packed) => (MapKind::Compressed, Some(packed.file), None),
        Placement::Opaque => (MapKind::Data, None, None),
    };
    let file = file.and_then(|id| image.files().get(usize::from(id.0)));
    MapEntry {
        start: extent.range.start(),
        length: extent.range.len(),
        kind,
        file: file.map(|file| file.name().to_owned()),
        offset,
    }
}

fn continues(last: &MapEntry, next: &MapEntry) -> bool {
    last.kind == next.kind
        && last.file == next.file
        && last.offset.map(|offset| offset + last.length) == next.offset
}
