//! The walk over the block allocation table.

use super::Sparse;
use super::blocks::{ABSENT, PIECE};
use super::header::HEADER_LEN;
use crate::pace::Pace;
use crate::repeats::verdict_of;
use crate::{CheckReport, Limits, Warning};
use carreto_block::{ByteRange, Source};
use carreto_error::{Error, Kind, Result};

/// Bytes that remembering one block takes.
const REMEMBERED: u64 = size_of::<u32>() as u64;

/// Checks that every block lies inside the file, on no metadata, and that no two overlap.
///
/// The bitmaps are not read: any content of theirs is valid. So `allocated_size` counts whole
/// blocks.
pub(super) async fn run(
    file: &dyn Source,
    sparse: &Sparse,
    limits: &Limits,
) -> Result<CheckReport> {
    let mut walk = Walk::new(sparse, limits);
    let mut pace = Pace::default();
    let pieces = sparse.blocks.count().div_ceil(PIECE);
    for number in 0..pieces {
        let piece = sparse.blocks.piece(file, number).await?;
        pace.step(piece.len() as u64).await;
        for (entry, index) in piece.iter().zip(number * PIECE..) {
            if *entry != ABSENT {
                walk.visit(index, *entry)?;
            }
        }
    }
    walk.finish()
}

struct Walk<'a> {
    sparse: &'a Sparse,
    metadata: Vec<(&'static str, ByteRange)>,
    /// The sectors of the blocks met, unless there are too many to remember.
    starts: Option<Vec<u32>>,
    /// The last block, where the disk ends inside it.
    short: Option<ByteRange>,
    report: CheckReport,
    allocated: u64,
}

impl<'a> Walk<'a> {
    fn new(sparse: &'a Sparse, limits: &Limits) -> Self {
        let header = &sparse.header;
        let own = ByteRange::from_len(sparse.header_at, HEADER_LEN as u64);
        let mut metadata = vec![
            ("the copy of the footer", ByteRange::whole(512)),
            ("the header", own.unwrap_or(ByteRange::whole(0))),
            ("the block allocation table", header.table()),
        ];
        let locators = header.locators.iter();
        metadata.extend(locators.map(|locator| ("a parent locator", locator.data)));
        let blocks = sparse.blocks.count();
        let fits = blocks.saturating_mul(REMEMBERED) <= limits.max_check_memory;
        Self {
            sparse,
            metadata,
            starts: fits.then(Vec::new),
            short: None,
            report: CheckReport::default(),
            allocated: 0,
        }
    }

    fn visit(&mut self, index: u64, entry: u32) -> Result<()> {
        let blocks = &self.sparse.blocks;
        let block = blocks.block(index, entry)?;
        let place = blocks.place_of(block);
        for (what, range) in &self.metadata {
            if !range.intersect(place).is_empty() {
                let text = format!("block {index} at {place} overlaps {what} at {range}");
                return Err(self.at_entry(text, index));
            }
        }
        let len = blocks.range_of(index).len();
        self.allocated += len;
        if len < blocks.range_of(0).len() {
            self.short = Some(place);
        }
        if let Some(starts) = &mut self.starts {
            starts.push(entry);
        }
        Ok(())
    }

    fn at_entry(&self, text: String, index: u64) -> Error {
        let entry = self.sparse.header.table().start() + index * 4;
        Error::new(Kind::Corrupt, text).offset(entry)
    }

    fn finish(mut self) -> Result<CheckReport> {
        self.report.allocated_size = Some(self.allocated);
        let Some(mut starts) = self.starts.take() else {
            let text = "the table is too large to look for overlapping blocks";
            let warning = Warning::new("overlaps_not_checked", text);
            self.report.warnings.push(warning);
            return Ok(self.report);
        };
        starts.sort_unstable();
        let blocks = &self.sparse.blocks;
        // The first block is as long as any.
        let whole = blocks.bitmap_len() + blocks.range_of(0).len();
        let mut shared = 0_u64;
        for pair in starts.windows(2) {
            let (first, second) = (u64::from(pair[0]) * 512, u64::from(pair[1]) * 512);
            let short = self.short.filter(|place| place.start() == first);
            let len = short.map_or(whole, ByteRange::len);
            if first == second {
                shared += 1;
                self.short = self.short.filter(|_| short.is_none());
            } else if second - first < len {
                let text = format!(
                    "the blocks at bytes {first} and {second} overlap: the first takes {len} bytes"
                );
                return Err(Error::new(Kind::Corrupt, text).offset(second));
            }
        }
        verdict_of(shared, starts.len() as u64, blocks.range_of(0).len())?;
        if shared > 0 {
            let text = format!(
                "{shared} entries of the block allocation table name a block that another entry \
                 names too"
            );
            let table = self.sparse.header.table().start();
            self.report.warnings.push(Warning::new("shared_block", text).offset(table));
        }
        Ok(self.report)
    }
}
