//! Plans, layers and windows produce the bytes they map.
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::unnecessary_literal_bound,
    reason = "test disks are small, helpers of tests may fail, a name is a literal"
)]

use async_trait::async_trait;
use carreto_block::{
    ByteRange, Decode, Extent, FetchPlan, FetchTuning, FileId, Layered, Packed, Placement,
    ReadHint, Source, Stamp, Window, fetch_range,
};
use carreto_error::{Error, Kind, Result};
use carreto_testkit::{MemSource, conformance, sparse_disk};
use std::sync::Arc;

/// A codec for tests: the unit is its input with every byte flipped.
#[derive(Debug)]
struct Flip;

impl Decode for Flip {
    fn name(&self) -> &'static str {
        "flip"
    }

    fn decode(&self, input: &[u8], tag: u64, output: &mut [u8]) -> Result<()> {
        if tag == 666 || input.len() < output.len() {
            return Err(Error::new(Kind::Corrupt, "not flipped"));
        }
        for (out, byte) in output.iter_mut().zip(input) {
            *out = !byte;
        }
        Ok(())
    }
}

/// A made-up format: its extents are given.
#[derive(Debug)]
struct Mapped {
    files: Vec<Arc<dyn Source>>,
    extents: Vec<Extent>,
    size: u64,
}

#[async_trait]
impl Source for Mapped {
    fn name(&self) -> &str {
        "mapped"
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        carreto_block::SourceExt::check_range(self, range.start(), range.len())?;
        Ok(self.extents.iter().filter_map(|e| e.clip(range)).take(limit).collect())
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        fetch_range(self, offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    async fn stamp(&self) -> Result<Stamp> {
        Ok(Stamp("fixed".into()))
    }
}

const UNIT: u64 = 1000;

/// Thirty units, every third packed, every fifth zero, stored backwards in the file.
fn mapped(remote: bool, tag: u64) -> (Mapped, Vec<u8>) {
    let guest = sparse_disk(30 * UNIT as usize, 5);
    let mut file = vec![0; guest.len() + 100];
    let (mut wanted, mut extents) = (guest.clone(), Vec::new());
    for i in 0..30 {
        let unit = (i * UNIT) as usize..((i + 1) * UNIT) as usize;
        let offset = (29 - i) * UNIT + 100;
        let place = offset as usize..(offset + UNIT) as usize;
        let packed = Packed {
            file: FileId(0),
            offset,
            len: UNIT as u32,
            unit: UNIT as u32,
            skip: 0,
            tag,
            codec: &Flip,
        };
        let placement = match i {
            i if i % 3 == 0 => {
                for (to, from) in file[place].iter_mut().zip(&guest[unit.clone()]) {
                    *to = !from;
                }
                Placement::Packed(packed)
            }
            i if i % 5 == 0 => {
                wanted[unit.clone()].fill(0);
                Placement::Zero
            }
            _ => {
                file[place].copy_from_slice(&guest[unit.clone()]);
                Placement::Plain { file: FileId(0), offset }
            }
        };
        let range = ByteRange::new(unit.start as u64, unit.end as u64).unwrap();
        extents.push(Extent::new(range, placement));
    }
    let file = MemSource::new("file", file);
    let file: Arc<dyn Source> = Arc::new(if remote { file.remote() } else { file });
    (Mapped { files: vec![file], extents, size: 30 * UNIT }, wanted)
}

#[tokio::test]
async fn every_placement_is_fetched_locally_and_remotely() {
    for remote in [false, true] {
        let (source, wanted) = mapped(remote, 0);
        conformance::source(&source, &wanted).await;
    }
}

#[tokio::test]
async fn remote_reads_are_coalesced() {
    let (source, _) = mapped(true, 0);
    let range = ByteRange::whole(source.size());
    let extents = source.extents(range, 100).await.unwrap();
    let few = FetchPlan::new(range, &extents, FetchTuning::new(ReadHint::REMOTE)).unwrap();
    let many = FetchPlan::new(range, &extents, FetchTuning::new(ReadHint::LOCAL)).unwrap();
    assert!(few.scratch_len() > 0 && few.read_len() >= many.read_len());
    let debug = format!("{few:?}");
    assert_eq!(debug.matches("Read {").count(), 1, "one read of everything: {debug}");
}

#[tokio::test]
async fn a_unit_that_does_not_decode_names_the_place() {
    let (source, _) = mapped(false, 666);
    let mut buf = vec![0; 10];
    let error = source.read_at(3 * UNIT + 5, &mut buf).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert_eq!(error.nearest_path(), Some("file"));
    assert_eq!(error.nearest_offset(), Some(26 * UNIT + 100));
}

#[test]
fn extents_with_a_gap_are_refused() {
    let range = ByteRange::whole(100);
    let half = Extent::new(ByteRange::whole(50), Placement::Zero);
    let error = FetchPlan::new(range, &[half], FetchTuning::new(ReadHint::LOCAL)).unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
}

#[tokio::test]
async fn a_layer_shows_its_base_where_it_is_absent() {
    let base_bytes = sparse_disk(20_500, 8);
    let base: Arc<dyn Source> = Arc::new(MemSource::new("base", base_bytes.clone()));
    let (mut top, mut wanted) = mapped(false, 0);
    for extent in &mut top.extents {
        if matches!(extent.placement, Placement::Zero) {
            extent.placement = Placement::Absent;
            let start = extent.range.start() as usize;
            let hole = &mut wanted[start..extent.range.end() as usize];
            for (at, byte) in hole.iter_mut().enumerate() {
                *byte = base_bytes.get(start + at).copied().unwrap_or(0);
            }
        }
    }
    let layered = Layered::new(Arc::new(top), base);
    conformance::source(&layered, &wanted).await;
}

#[tokio::test]
async fn a_window_is_a_source() {
    let bytes = sparse_disk(100_000, 3);
    let inner: Arc<dyn Source> = Arc::new(MemSource::new("inner", bytes.clone()));
    let window = Window::new(inner.clone(), ByteRange::new(777, 90_001).unwrap()).unwrap();
    conformance::source(&window, &bytes[777..90_001]).await;
    let past = ByteRange::new(0, 100_001).unwrap();
    assert_eq!(Window::new(inner, past).unwrap_err().kind(), Kind::Truncated);
}

/// Small pieces with wide gaps, as a hostile image has them: memory follows the range, not the
/// file.
#[test]
fn scratch_memory_is_bounded_by_the_range() {
    const PIECE: u64 = 512;
    let range = ByteRange::whole(2 << 20);
    let pieces = range.len() / PIECE;
    for spacing in [PIECE, 4 << 10, 64 << 10, 400 << 10, 512 << 10] {
        let extents: Vec<Extent> = (0..pieces)
            .map(|index| {
                let placement =
                    Placement::Plain { file: FileId(0), offset: index * (PIECE + spacing) };
                Extent::new(ByteRange::from_len(index * PIECE, PIECE).unwrap(), placement)
            })
            .collect();
        let plan = FetchPlan::new(range, &extents, FetchTuning::new(ReadHint::REMOTE)).unwrap();
        let most = 2 * range.len() + (4 << 20);
        assert!(plan.scratch_len() as u64 <= most, "{spacing}: {}", plan.scratch_len());
        assert!(plan.read_len() >= range.len() && plan.read_len() <= most, "{spacing}");
    }
}

/// When not all gaps can be read, the narrow ones are.
#[test]
fn wide_gaps_do_not_use_up_what_narrow_ones_need() {
    const PIECE: u64 = 4096;
    let mut at = 0;
    let mut extents = Vec::new();
    for index in 0..64 {
        at += PIECE + if index < 32 { 500 << 10 } else { 4096 };
        let placement = Placement::Plain { file: FileId(0), offset: at };
        extents.push(Extent::new(ByteRange::from_len(index * PIECE, PIECE).unwrap(), placement));
    }
    let range = ByteRange::whole(64 * PIECE);
    let plan = FetchPlan::new(range, &extents, FetchTuning::new(ReadHint::REMOTE)).unwrap();
    let reads = format!("{plan:?}").matches("Read {").count();
    assert!((1..=33).contains(&reads), "{reads} reads");
    assert!(plan.scratch_len() as u64 <= 2 * range.len() + (4 << 20));
}
