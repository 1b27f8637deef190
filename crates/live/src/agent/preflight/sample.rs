//! What is on a disk, told from a few pieces of it.

use super::super::machine::ReadDisk;
use super::document::SampleFacts;
use crate::granule::GRANULE;
use carreto_block::AlignedBuf;
use carreto_error::{Error, Kind, Result};
use std::time::Instant;

/// Bytes of a piece.
const PIECE: u64 = 1 << 20;
/// Pieces of a disk.
const PIECES: u64 = 64;

/// One piece.
#[derive(Debug, Clone, Copy)]
struct Piece {
    bytes: u64,
    zeros: u64,
    wire: u64,
}

/// Reads up to 64 pieces of 1 MiB, each from a random place in its part of the disk. The places
/// follow from `identity`, so that two looks at the same disk see the same.
///
/// # Errors
/// What reading meets.
pub(super) fn of(disk: &dyn ReadDisk, size: u64, identity: &str) -> Result<SampleFacts> {
    let begun = Instant::now();
    let pieces: Result<Vec<_>> =
        places(size, identity).into_iter().map(|(start, len)| piece(disk, start, len)).collect();
    Ok(summary(&pieces?, begun.elapsed().as_secs_f64()))
}

/// Start and length of every piece.
fn places(size: u64, identity: &str) -> Vec<(u64, u64)> {
    let whole = size / PIECE;
    if whole <= PIECES {
        let starts = (0..size.div_ceil(PIECE)).map(|number| number * PIECE);
        return starts.map(|start| (start, PIECE.min(size - start))).collect();
    }
    let mut random = blake3::Hasher::new().update(identity.as_bytes()).finalize_xof();
    let part = whole / PIECES;
    let starts = (0..PIECES).map(|number| {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        (number * part + u64::from_le_bytes(bytes) % part) * PIECE
    });
    starts.map(|start| (start, PIECE)).collect()
}

fn piece(disk: &dyn ReadDisk, start: u64, len: u64) -> Result<Piece> {
    let mut buffer = AlignedBuf::zeroed(usize::try_from(len).unwrap_or(0))?;
    disk.read_local(start, &mut buffer)?;
    let granule = usize::try_from(GRANULE).unwrap_or(usize::MAX);
    let mut content = Vec::new();
    for bytes in buffer.chunks(granule).filter(|bytes| !carreto_transfer::is_zero(bytes)) {
        content.extend_from_slice(bytes);
    }
    let packed = zstd::bulk::compress(&content, 1)
        .map_err(|error| Error::new(Kind::Internal, format!("zstd: {error}")))?;
    let wire = if content.is_empty() { 0 } else { packed.len().min(content.len()) as u64 };
    Ok(Piece { bytes: len, zeros: len - content.len() as u64, wire })
}

fn summary(pieces: &[Piece], seconds: f64) -> SampleFacts {
    let sum = |of: fn(&Piece) -> u64| pieces.iter().map(of).sum::<u64>();
    let (bytes, zeros, wire) = (sum(|it| it.bytes), sum(|it| it.zeros), sum(|it| it.wire));
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let mean = share(wire, bytes);
    let squares: f64 = pieces.iter().map(|it| (share(it.wire, it.bytes) - mean).powi(2)).sum();
    let count = pieces.len().max(2) as f64;
    SampleFacts {
        bytes,
        zero_share: share(zeros, bytes),
        compressed: if bytes == zeros { 1.0 } else { share(wire, bytes - zeros) },
        wire_share: mean,
        wire_share_error: 2.0 * (squares / (count - 1.0) / count).sqrt(),
        read_rate: bytes as f64 / seconds.max(1e-6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Machine as _;
    use crate::agent::testing::Fake;

    #[test]
    fn zeros_text_and_noise_are_told() {
        let mut bytes = vec![0; 4 << 20];
        let mut noise = blake3::Hasher::new().finalize_xof();
        noise.fill(&mut bytes[..1 << 20]);
        bytes[1 << 20..2 << 20].fill(b'x');
        let disks = Fake(vec![("fake0".to_owned(), bytes)]).disks(&[]).unwrap();
        let found = of(disks[0].reader.as_ref(), 4 << 20, "id").unwrap();
        assert_eq!((found.bytes, found.zero_share), (4 << 20, 0.5));
        assert!((0.25..0.26).contains(&found.wire_share), "{found:?}");
        assert!((0.5..0.51).contains(&found.compressed) && found.wire_share_error > 0.2);
        let empty = Fake(vec![("fake0".to_owned(), vec![0; 70_000])]).disks(&[]).unwrap();
        let found = of(empty[0].reader.as_ref(), 70_000, "id").unwrap();
        assert_eq!((found.wire_share, found.wire_share_error), (0.0, 0.0));
    }

    #[test]
    fn pieces_lie_on_the_disk_and_apart() {
        for size in [100 << 20, (1 << 40) + 512, 64 << 20] {
            let places = places(size, "serial:1");
            assert_eq!(places.len(), 64);
            assert!(places.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0));
            assert!(places.iter().all(|(start, len)| start + len <= size));
        }
        assert_eq!(places((1 << 20) + 512, ""), [(0, 1 << 20), (1 << 20, 512)]);
    }
}
