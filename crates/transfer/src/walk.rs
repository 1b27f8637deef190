//! From a range of a source to work items.

use carreto_block::{ByteRange, Extent, Placement, Source};
use carreto_error::{Error, Kind, Result};
use std::collections::VecDeque;
use std::sync::Arc;

/// Guest bytes of a work item; items start and end on multiples of it.
///
/// Large enough to be one good read of an object store and one good write of a disk, small enough
/// that a decoded item is still in a core's cache when it is hashed and written.
pub const ITEM: u64 = 2 << 20;

/// Extents asked for at a time.
const LIMIT: usize = 512;

/// What to do next.
#[derive(Debug)]
pub enum Work {
    /// These bytes are zero; may be many items long.
    Zero(ByteRange),
    /// Some of these bytes have to be fetched; at most one item long.
    Data(ByteRange, Vec<Extent>),
}

/// Cuts a range of a source into work, in order, reading metadata only.
#[derive(Debug)]
pub struct Walker {
    source: Arc<dyn Source>,
    /// What has not been handed out.
    rest: ByteRange,
    /// Extents from the start of `rest` on.
    known: VecDeque<Extent>,
}

impl Walker {
    /// Walks `range` of `source`.
    pub fn new(source: Arc<dyn Source>, range: ByteRange) -> Self {
        Self { source, rest: range, known: VecDeque::new() }
    }

    /// The next piece of work, or `None` at the end.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// What [`Source::extents`] meets.
    pub async fn next(&mut self) -> Result<Option<Work>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let item = self.item_at(self.rest.start());
        self.learn(item.end()).await?;
        let zero = self.leading_zeroes();
        if zero.contains(item) {
            let aligned = zero.end() / ITEM * ITEM;
            let end = if zero.end() == self.rest.end() { zero.end() } else { aligned };
            return Ok(Some(Work::Zero(self.hand_out(end.max(item.end())).0)));
        }
        let (range, extents) = self.hand_out(item.end());
        Ok(Some(Work::Data(range, extents)))
    }

    fn item_at(&self, start: u64) -> ByteRange {
        self.rest.split_at((start / ITEM + 1).saturating_mul(ITEM)).0
    }

    /// Asks until the extents up to `end` are known.
    async fn learn(&mut self, end: u64) -> Result<()> {
        loop {
            let known_to = self.known.back().map_or(self.rest.start(), |e| e.range.end());
            if known_to >= end {
                return Ok(());
            }
            let unknown = self.rest.split_at(known_to).1;
            let answer = self.source.extents(unknown, LIMIT).await?;
            let starts = answer.first().map(|extent| extent.range.start());
            if starts != Some(known_to) {
                let text = format!("the extents of {unknown} start at {starts:?}");
                return Err(Error::new(Kind::Internal, text).path(self.source.name()));
            }
            self.known.extend(answer);
        }
    }

    /// The zeros that the rest starts with.
    fn leading_zeroes(&self) -> ByteRange {
        let is_zero =
            |extent: &&Extent| matches!(extent.placement, Placement::Zero | Placement::Absent);
        let end = self.known.iter().take_while(is_zero).last().map(|e| e.range.end());
        self.rest.split_at(end.unwrap_or(self.rest.start())).0
    }

    fn hand_out(&mut self, end: u64) -> (ByteRange, Vec<Extent>) {
        let (range, rest) = self.rest.split_at(end);
        let mut extents = Vec::new();
        while let Some(extent) = self.known.pop_front() {
            extents.extend(extent.clip(range));
            if let Some(remainder) = extent.clip(rest) {
                self.known.push_front(remainder);
                break;
            }
        }
        self.rest = rest;
        (range, extents)
    }
}
