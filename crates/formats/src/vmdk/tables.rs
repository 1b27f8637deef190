//! Reading grain directories and grain tables: lazily, several neighbours at a time.

use super::cache::{Cache, Key, Part, Table};
use super::corrupt;
use super::layout::{Codec, Grain, Layout};
use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use std::sync::Arc;

/// Bytes of a directory that are read together.
const PAGE: u64 = 64 << 10;
/// Bytes of adjacent grain tables that are read together.
const RUN: u64 = 128 << 10;

/// Which copy of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    /// The one that counts.
    Primary,
    /// The one that helps out.
    Redundant,
}

/// The metadata of one sparse extent.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) file: Arc<dyn Source>,
    pub(super) layout: Layout,
    pub(super) cache: Arc<Cache>,
    /// The position of the extent in the image, for the cache.
    pub(super) extent: u32,
}

/// Adjacent grain tables that were read in one go.
#[derive(Debug, Default)]
struct Run {
    /// The directory entry of the first one.
    first: u64,
    bytes: Vec<u8>,
    table_len: usize,
}

impl Run {
    /// The table of directory entry `index`, if it is among them.
    fn table(&self, index: u64) -> Option<&[u8]> {
        let nth = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let start = nth.checked_mul(self.table_len)?;
        self.bytes.get(start..start.checked_add(self.table_len)?).filter(|table| !table.is_empty())
    }

    /// The directory entries whose tables these are.
    fn indices(&self) -> impl Iterator<Item = u64> + use<> {
        let count = self.bytes.len().checked_div(self.table_len).unwrap_or(0);
        self.first..self.first + count as u64
    }
}

/// The tables of both copies that were read last.
#[derive(Debug, Default)]
pub(super) struct Runs {
    primary: Run,
    redundant: Run,
}

/// How the two copies of a table compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    /// They say the same, or there is only one.
    Same,
    /// They do not, and the primary one counts.
    Differ,
    /// The redundant one counts.
    Rescued,
}

/// The copy of a table that counts.
#[derive(Debug)]
pub(super) struct Picked<'r> {
    /// `None` when there is no table.
    pub(super) table: Option<&'r [u8]>,
    pub(super) copies: Copies,
}

impl Tables {
    fn key(&self, part: Part) -> Key {
        Key { extent: self.extent, part }
    }

    fn per_page(&self) -> u64 {
        PAGE / self.layout.width()
    }

    fn directory(&self, copy: Copy) -> Result<u64> {
        match copy {
            Copy::Primary => Ok(self.layout.directory),
            Copy::Redundant => self
                .layout
                .redundant
                .ok_or_else(|| Error::new(Kind::Internal, "there is no redundant directory")),
        }
    }

    /// The page of the directory that holds entry `index`.
    async fn page(&self, copy: Copy, index: u64) -> Result<Arc<Table>> {
        let page = index / self.per_page();
        let key = self.key(match copy {
            Copy::Primary => Part::Directory(page),
            Copy::Redundant => Part::Redundant(page),
        });
        if let Some(table) = self.cache.get(key) {
            return Ok(table);
        }
        let first = page * self.per_page();
        let entries = self.layout.tables.saturating_sub(first).min(self.per_page());
        let offset = self.directory(copy)? + page * PAGE;
        let bytes = self
            .read(offset, entries * self.layout.width())
            .await
            .wrap_err(|| "the grain directory cannot be read".into())?;
        let bounds = Vec::new();
        Ok(self.cache.put(key, Table { bytes, bounds }))
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let len = usize::try_from(len)
            .map_err(|_| Error::new(Kind::Limit, "a table does not fit in memory"))?;
        self.file.read_vec(offset, len).await
    }

    /// Where the grain table of directory entry `index` is.
    pub(super) async fn table_offset(&self, copy: Copy, index: u64) -> Result<Option<u64>> {
        let page = self.page(copy, index).await?;
        self.offset_in(&page, copy, index)
    }

    fn offset_in(&self, page: &Table, copy: Copy, index: u64) -> Result<Option<u64>> {
        let slot = usize::try_from(index % self.per_page()).unwrap_or(usize::MAX);
        let raw = self.layout.raw(&page.bytes, slot)?;
        self.layout.table_at(raw, self.file.size()).map_err(|error| {
            let at = self.directory(copy).unwrap_or(0) + index * self.layout.width();
            error
                .wrap(format!("directory entry {index} is wrong"))
                .offset(at)
                .path(self.file.name())
        })
    }

    /// The first entry from `index` on, below `end`, that one of the directories has a table
    /// for; `end` if none.
    pub(super) async fn next_used(&self, mut index: u64, end: u64) -> Result<u64> {
        while index < end {
            let primary = self.page(Copy::Primary, index).await?;
            let redundant = match self.layout.redundant {
                Some(_) => Some(self.page(Copy::Redundant, index).await?),
                None => None,
            };
            let stop = (index - index % self.per_page() + self.per_page()).min(end);
            while index < stop {
                let slot = usize::try_from(index % self.per_page()).unwrap_or(usize::MAX);
                let used = |page: &Table| self.layout.raw(&page.bytes, slot).map(|raw| raw != 0);
                if used(&primary)? || redundant.as_deref().map_or(Ok(false), used)? {
                    return Ok(index);
                }
                index += 1;
            }
        }
        Ok(end)
    }

    /// Reads the grain table of directory entry `index` and those after it that lie directly
    /// behind it in the file. An empty run when the entry has none.
    async fn run(&self, copy: Copy, index: u64) -> Result<Run> {
        let page = self.page(copy, index).await?;
        let Some(offset) = self.offset_in(&page, copy, index)? else {
            return Ok(Run::default());
        };
        let len = self.layout.table_len();
        let most = (RUN / len).max(1).min(self.layout.tables - index);
        let mut count = 1;
        while count < most
            && !(index + count).is_multiple_of(self.per_page())
            && self
                .offset_in(&page, copy, index + count)
                .is_ok_and(|next| next == Some(offset + count * len))
        {
            count += 1;
        }
        let bytes = self
            .read(offset, count * len)
            .await
            .wrap_err(|| format!("the grain table of directory entry {index} cannot be read"))?;
        Ok(Run { first: index, bytes, table_len: usize::try_from(len).unwrap_or(usize::MAX) })
    }

    /// The grain table of directory entry `index` that counts (see [`Self::pick`]), or `None`
    /// when there is none.
    pub(super) async fn table(&self, index: u64) -> Result<Option<Arc<Table>>> {
        if let Some(table) = self.cache.get(self.key(Part::Table(index))) {
            return Ok(Some(table));
        }
        let mut runs = Runs::default();
        let wanted = self.pick(&mut runs, index).await?.table.map(|table| self.keep(index, table));
        // The neighbours that were read with it. What is wrong with them is said when they are
        // asked for.
        let read = if runs.primary.bytes.is_empty() { &runs.redundant } else { &runs.primary };
        for at in read.indices().skip_while(|at| *at <= index) {
            match self.pick(&mut runs, at).await {
                Ok(Picked { table: Some(table), .. }) => drop(self.keep(at, table)),
                Ok(_) => {}
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(wanted)
    }

    fn keep(&self, index: u64, bytes: &[u8]) -> Arc<Table> {
        let table = Table { bytes: bytes.to_vec(), bounds: self.bounds(index, bytes) };
        self.cache.put(self.key(Part::Table(index)), table)
    }

    /// The grain table of directory entry `index` that counts. That is the primary copy, unless
    /// it is damaged or has lost entries and the redundant copy is sound and has them.
    ///
    /// # Errors
    /// What is wrong with the primary copy when the redundant one does not help; what reading
    /// meets.
    pub(super) async fn pick<'r>(&self, runs: &'r mut Runs, index: u64) -> Result<Picked<'r>> {
        let mut damage = None;
        if runs.primary.table(index).is_none() {
            runs.primary = match self.run(Copy::Primary, index).await {
                Err(error) if is_damage(&error) && self.layout.redundant.is_some() => {
                    damage = Some(error);
                    Run::default()
                }
                run => run?,
            };
        }
        let primary = runs.primary.table(index);
        if self.layout.redundant.is_none() {
            return Ok(Picked { table: primary, copies: Copies::Same });
        }
        let mut unreadable = false;
        if runs.redundant.table(index).is_none() {
            runs.redundant = match self.run(Copy::Redundant, index).await {
                Err(error) if is_damage(&error) => {
                    unreadable = true;
                    Run::default()
                }
                run => run?,
            };
        }
        let redundant = runs.redundant.table(index);
        let damage = damage.or_else(|| primary.and_then(|table| self.validate(index, table).err()));
        let rescue = redundant
            .filter(|table| damage.is_some() || self.has_more(table, primary))
            .filter(|table| !is_empty(table) && self.validate(index, table).is_ok());
        match (rescue, damage) {
            (Some(_), _) => Ok(Picked { table: rescue, copies: Copies::Rescued }),
            (None, Some(error)) => Err(error),
            (None, None) => {
                let empty = |table: Option<&[u8]>| table.is_none_or(is_empty);
                let same = redundant == primary || (empty(redundant) && empty(primary));
                let copies = if same && !unreadable { Copies::Same } else { Copies::Differ };
                Ok(Picked { table: primary, copies })
            }
        }
    }

    /// Whether `redundant` has entries where `primary` has none, and otherwise says the same:
    /// the primary copy has lost them.
    fn has_more(&self, redundant: &[u8], primary: Option<&[u8]>) -> bool {
        let Some(primary) = primary else {
            return true;
        };
        let width = usize::try_from(self.layout.width()).unwrap_or(usize::MAX);
        let mut pairs = redundant.chunks(width).zip(primary.chunks(width));
        redundant != primary && pairs.all(|(more, less)| more == less || is_empty(less))
    }

    /// Checks every entry of a table against the file.
    fn validate(&self, index: u64, table: &[u8]) -> Result<()> {
        if is_empty(table) {
            return Ok(());
        }
        for slot in 0..self.layout.used_entries(index) {
            self.grain(index, table, slot)?;
        }
        Ok(())
    }

    /// Where the grain of entry `slot` of table `index` is.
    pub(super) fn grain(&self, index: u64, table: &[u8], slot: u64) -> Result<Grain> {
        let start = index * self.layout.span() + slot * self.layout.grain;
        let at = usize::try_from(slot).unwrap_or(usize::MAX);
        let raw = self.layout.raw(table, at)?;
        self.layout.grain_at(raw, self.layout.needed(start), self.file.size()).map_err(|error| {
            let text = format!("entry {slot} of grain table {index} (guest byte {start}) is wrong");
            error.wrap(text).path(self.file.name())
        })
    }

    /// How many bytes the compressed grain of each entry takes at most: what fits before the next
    /// grain of the same table, before the end of the file and in a grain that did not compress.
    fn bounds(&self, index: u64, table: &[u8]) -> Vec<u32> {
        if self.layout.codec.is_none() {
            return Vec::new();
        }
        let offset_of = |slot| match self.grain(index, table, slot) {
            Ok(Grain::At(offset)) => Some(offset),
            _ => None,
        };
        let slots = 0..self.layout.used_entries(index);
        let mut starts: Vec<u64> = slots.clone().filter_map(offset_of).collect();
        starts.sort_unstable();
        starts.dedup();
        let most = Codec::max_packed(self.layout.grain);
        let bound = |offset: u64| {
            let next = starts.partition_point(|start| *start <= offset);
            let end = starts.get(next).copied().unwrap_or(u64::MAX).min(self.file.size());
            let len = end.saturating_sub(offset).min(most);
            u32::try_from(len).unwrap_or(u32::MAX)
        };
        slots.map(|slot| offset_of(slot).map_or(0, bound)).collect()
    }

    /// The bound of entry `slot`.
    pub(super) fn bound(table: &Table, slot: u64) -> Result<u32> {
        usize::try_from(slot)
            .ok()
            .and_then(|slot| table.bounds.get(slot).copied())
            .ok_or_else(|| corrupt("a compressed grain without a bound"))
    }
}

/// Whether the metadata is at fault, not the device that holds it.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Corrupt | Kind::Truncated)
}

/// Whether a table has no entry.
pub(super) fn is_empty(table: &[u8]) -> bool {
    table.iter().all(|byte| *byte == 0)
}
