//! The structure check: all metadata of all sparse extents, none of their payload.

mod regions;
mod seen;

use super::disk::{Body, Piece};
use super::layout::{Grain, Layout};
use super::markers::Markers;
use super::tables::{Copies, Copy, Runs, Tables, is_damage, is_empty};
use super::{SECTOR, corrupt};
use crate::pace::Pace;
use crate::repeats::Repeats;
use crate::{CheckReport, Limits, Warning};
use carreto_block::ByteRange;
use carreto_error::{Result, ResultExt as _};
use regions::Regions;
use seen::{Place, Seen};

/// Checks every extent, one at a time, so that memory does not grow with their number.
pub(super) async fn disk(pieces: &[Piece], limits: &Limits) -> Result<CheckReport> {
    let mut report = CheckReport { allocated_size: Some(0), warnings: Vec::new() };
    for piece in pieces {
        match &piece.body {
            Body::Zero => {}
            Body::Flat(_) => report.allocated_size = None,
            Body::Sparse(sparse) => {
                let tables = &sparse.tables;
                let mut walk = Walk::new(tables, limits);
                walk.run().await.or_path(tables.file.name())?;
                let own = walk.allocated.min(piece.range.len());
                report.allocated_size = report.allocated_size.map(|sum| sum.saturating_add(own));
                walk.report(&mut report.warnings);
            }
        }
    }
    Ok(report)
}

/// Something odd that can happen often: how often, and where first.
#[derive(Debug, Default)]
struct Oddity {
    count: u64,
    first: u64,
}

impl Oddity {
    fn note(&mut self, at: u64) {
        if self.count == 0 {
            self.first = at;
        }
        self.count += 1;
    }

    fn report(&self, code: &'static str, what: &str, list: &mut Vec<Warning>) {
        if self.count > 0 && list.len() < 64 {
            let text = format!("{} {what}, the first at guest byte {}", self.count, self.first);
            list.push(Warning::new(code, text));
        }
    }
}

/// The walk over one extent.
struct Walk<'a> {
    tables: &'a Tables,
    layout: &'a Layout,
    regions: Regions,
    /// Second copies of tables.
    spare: Vec<ByteRange>,
    most_spare: usize,
    spare_full: bool,
    seen: Seen,
    repeats: Repeats,
    markers: Markers,
    runs: Runs,
    allocated: u64,
    rescued: Oddity,
    differing: Oddity,
    shared: Oddity,
}

impl<'a> Walk<'a> {
    fn new(tables: &'a Tables, limits: &Limits) -> Self {
        let layout = &tables.layout;
        Self {
            tables,
            layout,
            regions: Regions::new(limits.max_check_memory / 4),
            spare: Vec::new(),
            most_spare: usize::try_from(limits.max_check_memory / 4 / 16).unwrap_or(usize::MAX),
            spare_full: false,
            seen: Seen::new(layout, tables.file.size(), limits.max_check_memory / 2),
            repeats: Repeats::new(layout.capacity.div_ceil(layout.grain), layout.grain),
            markers: Markers::new(layout, tables.file.size()),
            runs: Runs::default(),
            allocated: 0,
            rescued: Oddity::default(),
            differing: Oddity::default(),
            shared: Oddity::default(),
        }
    }

    async fn run(&mut self) -> Result<()> {
        self.collect_regions().await?;
        let mut pace = Pace::default();
        let mut index = self.tables.next_used(0, self.layout.tables).await?;
        while index < self.layout.tables {
            self.table(index).await?;
            pace.step(self.layout.per_table).await;
            index = self.tables.next_used(index + 1, self.layout.tables).await?;
        }
        self.spare_regions()?;
        self.markers.check(self.tables).await
    }

    /// No grain may lie on the second copy of a table.
    fn spare_regions(&self) -> Result<()> {
        let Some(range) = self.spare.iter().find(|range| self.seen.touches(**range)) else {
            return Ok(());
        };
        let text = format!("a grain lies on a redundant grain table, which is at bytes {range}");
        Err(corrupt(text).offset(range.start()))
    }

    /// Remembers the second copy of a table, which turned out to be one.
    async fn note_spare(&mut self, index: u64) -> Result<()> {
        if self.layout.redundant.is_none() || self.spare.len() >= self.most_spare {
            self.spare_full |= self.layout.redundant.is_some();
            return Ok(());
        }
        let Ok(Some(offset)) = self.tables.table_offset(Copy::Redundant, index).await else {
            return Ok(());
        };
        let primary = self.tables.table_offset(Copy::Primary, index).await;
        if primary.is_ok_and(|primary| primary == Some(offset)) {
            return Ok(());
        }
        let end = offset + self.layout.table_len();
        match self.spare.last_mut() {
            Some(last) if last.end() == offset => {
                *last = ByteRange::new(last.start(), end).unwrap_or(*last);
            }
            _ => self.spare.extend(ByteRange::new(offset, end)),
        }
        Ok(())
    }

    /// Notes where header, directories and primary tables are; none may overlap another.
    async fn collect_regions(&mut self) -> Result<()> {
        let layout = self.layout;
        let directory_len = layout.tables * layout.width();
        self.regions.add(0, layout.header_len)?;
        if let Some((offset, len)) = layout.descriptor {
            self.regions.add(offset, len)?;
        }
        self.regions.add(layout.directory, directory_len)?;
        if let Some(redundant) = layout.redundant {
            self.regions.add(redundant, directory_len)?;
        }
        let mut pace = Pace::default();
        // Redundant tables may be wrong, but walking one of them a million times is no help.
        let mut copies = Repeats::new(layout.tables, layout.table_len());
        let mut index = self.tables.next_used(0, layout.tables).await?;
        while index < layout.tables {
            if layout.redundant.is_some()
                && let Ok(Some(offset)) = self.tables.table_offset(Copy::Redundant, index).await
            {
                copies.add(offset);
            }
            match self.tables.table_offset(Copy::Primary, index).await {
                Ok(Some(offset)) => self.regions.add(offset, layout.table_len())?,
                Ok(None) => {}
                Err(error) if is_damage(&error) && layout.redundant.is_some() => {}
                Err(error) => return Err(error),
            }
            pace.step(4).await;
            index = self.tables.next_used(index + 1, layout.tables).await?;
        }
        copies.verdict()?;
        self.regions.sort()
    }

    async fn table(&mut self, index: u64) -> Result<()> {
        let start = index.saturating_mul(self.layout.span());
        let mut runs = std::mem::take(&mut self.runs);
        let mut spare = false;
        let picked = self.tables.pick(&mut runs, index).await?;
        match picked.copies {
            Copies::Same if picked.table.is_none() => {}
            Copies::Same => spare = true,
            Copies::Differ => self.differing.note(start),
            Copies::Rescued => {
                self.rescued.note(start);
                spare = true;
            }
        }
        if let Some(table) = picked.table.filter(|table| !is_empty(table)) {
            self.entries(index, table)?;
            self.repeats.verdict()?;
        }
        if spare {
            self.note_spare(index).await?;
        }
        self.runs = runs;
        Ok(())
    }

    fn entries(&mut self, index: u64, table: &[u8]) -> Result<()> {
        let packed = self.layout.codec.is_some();
        for slot in 0..self.layout.used_entries(index) {
            let Grain::At(offset) = self.tables.grain(index, table, slot)? else {
                continue;
            };
            let start = index * self.layout.span() + slot * self.layout.grain;
            let needed = self.layout.needed(start);
            let len = if packed { SECTOR } else { needed };
            // A last grain of less is stored whole, unless the file ends before.
            let rest = self.tables.file.size().saturating_sub(offset);
            let stored = if packed { SECTOR } else { self.layout.grain.min(rest) };
            if let Some(region) = self.regions.overlapping(offset, len) {
                let text = format!(
                    "entry {slot} of grain table {index} (guest byte {start}) names a grain at \
                     byte {offset}, which is metadata (from byte {region} on)"
                );
                return Err(corrupt(text).offset(offset));
            }
            let marked = self.layout.codec.is_some_and(|codec| codec.markers);
            match self.seen.mark(offset, stored) {
                Place::Free => {}
                Place::Shared if !marked => self.shared.note(start),
                place => {
                    let what = if place == Place::Shared { "is" } else { "overlaps" };
                    let text = format!(
                        "entry {slot} of grain table {index} (guest byte {start}) names a grain \
                         at byte {offset}, which {what} another one's"
                    );
                    return Err(corrupt(text).offset(offset));
                }
            }
            self.repeats.add(offset);
            self.markers.note(offset, start);
            self.allocated = self.allocated.saturating_add(needed);
        }
        Ok(())
    }

    fn report(&self, list: &mut Vec<Warning>) {
        let what = "grain tables are damaged or lost and were read from the redundant copy";
        self.rescued.report("grain_table_rescued", what, list);
        let what = "grain tables differ from their redundant copy";
        self.differing.report("redundant_differs", what, list);
        let what = "grains are used by several table entries";
        self.shared.report("shared_grain", what, list);
        if self.regions.full || self.spare_full || !self.seen.is_complete() {
            let text = "the image is too large to look for all overlaps";
            list.push(Warning::new("overlaps_not_checked", text));
        }
        if self.markers.limited() {
            let text = "the image is too large to check the marker of every grain beforehand: \
                        only the last one was, the others are when they are read";
            list.push(Warning::new("markers_not_checked", text));
        }
    }
}
