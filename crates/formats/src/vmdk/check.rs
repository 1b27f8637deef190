//! The structure check: all metadata of all sparse extents, none of their payload.

use super::disk::{Body, Piece};
use super::layout::{Grain, Layout};
use super::markers::Markers;
use super::tables::{Copies, Copy, Runs, Tables, is_damage};
use super::{SECTOR, corrupt};
use crate::pace::Pace;
use crate::{CheckReport, Limits, Warning};
use carreto_error::{Result, ResultExt as _};

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
    seen: Seen,
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
            seen: Seen::new(layout, tables.file.size(), limits.max_check_memory / 2),
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
        self.markers.check(self.tables).await
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
        let mut index = self.tables.next_used(0, layout.tables).await?;
        while index < layout.tables && !self.regions.full {
            match self.tables.table_offset(Copy::Primary, index).await {
                Ok(Some(offset)) => self.regions.add(offset, layout.table_len())?,
                Ok(None) => {}
                Err(error) if is_damage(&error) && layout.redundant.is_some() => {}
                Err(error) => return Err(error),
            }
            pace.step(1).await;
            index = self.tables.next_used(index + 1, layout.tables).await?;
        }
        self.regions.sort()
    }

    async fn table(&mut self, index: u64) -> Result<()> {
        let start = index.saturating_mul(self.layout.span());
        let mut runs = std::mem::take(&mut self.runs);
        let picked = self.tables.pick(&mut runs, index).await?;
        match picked.copies {
            Copies::Same => {}
            Copies::Differ => self.differing.note(start),
            Copies::Rescued => self.rescued.note(start),
        }
        picked.table.map_or(Ok(()), |table| self.entries(index, table))?;
        self.runs = runs;
        Ok(())
    }

    fn entries(&mut self, index: u64, table: &[u8]) -> Result<()> {
        for slot in 0..self.layout.used_entries(index) {
            let Grain::At(offset) = self.tables.grain(index, table, slot)? else {
                continue;
            };
            let start = index * self.layout.span() + slot * self.layout.grain;
            let needed = self.layout.needed(start);
            let len = if self.layout.codec.is_some() { SECTOR } else { needed };
            if let Some(region) = self.regions.overlapping(offset, len) {
                let text = format!(
                    "entry {slot} of grain table {index} (guest byte {start}) names a grain at \
                     byte {offset}, which is metadata (from byte {region} on)"
                );
                return Err(corrupt(text).offset(offset));
            }
            if self.seen.mark(offset) {
                self.shared.note(start);
            }
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
        if self.regions.full || self.seen.bits.is_none() {
            let text = "the image is too large to look for all overlaps";
            list.push(Warning::new("overlaps_not_checked", text));
        }
    }
}

/// The byte ranges of metadata, merged where they touch.
struct Regions {
    list: Vec<(u64, u64)>,
    most: usize,
    /// Whether there were more than memory allows.
    full: bool,
}

impl Regions {
    fn new(memory: u64) -> Self {
        Self {
            list: Vec::new(),
            most: usize::try_from(memory / 16).unwrap_or(usize::MAX).max(16),
            full: false,
        }
    }

    fn add(&mut self, start: u64, len: u64) -> Result<()> {
        let end = start.saturating_add(len);
        if let Some(last) = self.list.last_mut()
            && last.1 == start
        {
            last.1 = end;
            return Ok(());
        }
        if self.full {
            return Ok(());
        }
        if self.list.len() == self.most {
            self.sort()?;
            self.full = self.list.len() == self.most;
        }
        if !self.full {
            self.list.push((start, end));
        }
        Ok(())
    }

    /// Sorts and merges.
    ///
    /// # Errors
    /// `Corrupt` when two overlap: then a table would be two tables.
    fn sort(&mut self) -> Result<()> {
        self.list.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (start, end) in self.list.drain(..) {
            match merged.last_mut() {
                Some(last) if start < last.1 => {
                    let text = format!("two pieces of metadata overlap at byte {start}");
                    return Err(corrupt(text).offset(start));
                }
                Some(last) if start == last.1 => last.1 = end,
                _ => merged.push((start, end)),
            }
        }
        self.list = merged;
        Ok(())
    }

    /// The start of the region that `len` bytes at `start` touch.
    fn overlapping(&self, start: u64, len: u64) -> Option<u64> {
        let next = self.list.partition_point(|region| region.1 <= start);
        let region = self.list.get(next)?;
        (region.0 < start.saturating_add(len)).then_some(region.0)
    }
}

/// Which grains were seen: a bit for each place where one can start. Two plain grains that start
/// within the same grain-sized block of the file overlap; compressed grains start at sectors.
struct Seen {
    bits: Option<Vec<u64>>,
    unit: u64,
}

impl Seen {
    fn new(layout: &Layout, file_size: u64, memory: u64) -> Self {
        let unit = if layout.codec.is_some() { SECTOR } else { layout.grain };
        let words = (file_size / unit / 64).saturating_add(1);
        let bits = (words.saturating_mul(8) <= memory)
            .then(|| usize::try_from(words).ok())
            .flatten()
            .map(|words| vec![0; words]);
        Self { bits, unit }
    }

    /// Marks a grain; true when another one was marked there.
    fn mark(&mut self, offset: u64) -> bool {
        let Some(bits) = &mut self.bits else {
            return false;
        };
        let at = offset / self.unit;
        let word = usize::try_from(at / 64).ok().and_then(|at| bits.get_mut(at));
        let Some(word) = word else { return false };
        let bit = 1 << (at % 64);
        let seen = *word & bit != 0;
        *word |= bit;
        seen
    }
}
