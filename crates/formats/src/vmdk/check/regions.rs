//! Where the metadata of an extent lies.

use crate::vmdk::corrupt;
use carreto_error::Result;

/// The byte ranges of metadata, merged where they touch.
pub(super) struct Regions {
    list: Vec<(u64, u64)>,
    most: usize,
    /// Whether there were more than memory allows.
    pub(super) full: bool,
}

impl Regions {
    pub(super) fn new(memory: u64) -> Self {
        Self {
            list: Vec::new(),
            most: usize::try_from(memory / 16).unwrap_or(usize::MAX).max(16),
            full: false,
        }
    }

    pub(super) fn add(&mut self, start: u64, len: u64) -> Result<()> {
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
    pub(super) fn sort(&mut self) -> Result<()> {
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
    pub(super) fn overlapping(&self, start: u64, len: u64) -> Option<u64> {
        let next = self.list.partition_point(|region| region.1 <= start);
        let region = self.list.get(next)?;
        (region.0 < start.saturating_add(len)).then_some(region.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Regions;

    #[test]
    fn regions_beyond_the_bound_are_counted_out() {
        let mut regions = Regions::new(0);
        for index in 0..100 {
            regions.add(index * 1024, 512).unwrap();
        }
        assert!(regions.full);
        assert_eq!(regions.list.len(), 16);
        regions.sort().unwrap();
        assert_eq!(regions.overlapping(1000, 25), Some(1024));
        assert_eq!(regions.overlapping(512, 512), None);
    }

    #[test]
    fn neighbours_merge_and_overlaps_are_damage() {
        let mut regions = Regions::new(1 << 20);
        for (start, len) in [(512, 512), (1024, 512), (0, 512)] {
            regions.add(start, len).unwrap();
        }
        regions.sort().unwrap();
        assert_eq!(regions.list, [(0, 1536)]);
        regions.add(1535, 10).unwrap();
        assert!(regions.sort().is_err());
    }
}
