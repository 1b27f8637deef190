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
pub(super) struct Run {
    /// The directory entry of the first one.
    pub(super) first: u64,
    bytes: Vec<u8>,
    table_len: usize,
}

impl Run {
    /// The table of directory entry `index`, if it is among them.
    pub(super) fn table(&self, index: u64) -> Option<&[u8]> {
        let nth = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let start = nth.checked_mul(self.table_len)?;
        self.bytes.get(start..start.checked_add(self.table_len)?).filter(|table| !table.is_empty())
    }

    fn indices(&self) -> impl Iterator<Item = u64> + use<> {
        let count = self.bytes.len().checked_div(self.table_len).unwrap_or(0);
        self.first..self.first + count as u64
    }
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

    /// The first entry of a directory from `index` on, below `end`, that has a table; `end` if
    /// none.
    pub(super) async fn next_used(&self, copy: Copy, mut index: u64, end: u64) -> Result<u64> {
        while index < end {
            let page = self.page(copy, index).await?;
            let stop = (index - index % self.per_page() + self.per_page()).min(end);
            while index < stop {
                let slot = usize::try_from(index % self.per_page()).unwrap_or(usize::MAX);
                if self.layout.raw(&page.bytes, slot)? != 0 {
                    return Ok(index);
                }
                index += 1;
            }
        }
        Ok(end)
    }

    /// Reads the grain table of directory entry `index` and those after it that lie directly
    /// behind it in the file. An empty run when the entry has none.
    pub(super) async fn run(&self, copy: Copy, index: u64) -> Result<Run> {
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

    /// The grain table of directory entry `index`, or `None` when it has none. Where the primary
    /// copy is damaged and the redundant one is not, that is the redundant one.
    pub(super) async fn table(&self, index: u64) -> Result<Option<Arc<Table>>> {
        let key = self.key(Part::Table(index));
        if let Some(table) = self.cache.get(key) {
            return Ok(Some(table));
        }
        let primary = self.run(Copy::Primary, index).await;
        let damage = match &primary {
            Ok(run) if self.layout.redundant.is_some() => {
                run.table(index).and_then(|table| self.validate(index, table).err())
            }
            Ok(_) => None,
            Err(error) if is_damage(error) => None,
            Err(_) => return primary.map(|_| None),
        };
        if (damage.is_some() || primary.is_err())
            && let Some(table) = self.rescued(index).await?
        {
            return Ok(Some(self.cache.put(key, self.table_of(index, &table))));
        }
        Ok(self.keep(&primary?, index))
    }

    /// Puts the tables of `run` into the cache: all that are sound, and `index` in any case.
    fn keep(&self, run: &Run, index: u64) -> Option<Arc<Table>> {
        let mut wanted = None;
        for at in run.indices() {
            let Some(table) = run.table(at) else { continue };
            let key = self.key(Part::Table(at));
            if at == index {
                wanted = Some(self.cache.put(key, self.table_of(at, table)));
            } else if self.layout.redundant.is_none() || self.validate(at, table).is_ok() {
                self.cache.put(key, self.table_of(at, table));
            }
        }
        wanted
    }

    fn table_of(&self, index: u64, bytes: &[u8]) -> Table {
        Table { bytes: bytes.to_vec(), bounds: self.bounds(index, bytes) }
    }

    /// The redundant copy of a table, if there is one and it is sound.
    pub(super) async fn rescued(&self, index: u64) -> Result<Option<Vec<u8>>> {
        if self.layout.redundant.is_none() {
            return Ok(None);
        }
        let run = match self.run(Copy::Redundant, index).await {
            Err(error) if is_damage(&error) => return Ok(None),
            run => run?,
        };
        let sound = |table: &&[u8]| self.validate(index, table).is_ok();
        Ok(run.table(index).filter(sound).map(<[u8]>::to_vec))
    }

    /// Checks every entry of a table against the file.
    pub(super) fn validate(&self, index: u64, table: &[u8]) -> Result<()> {
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
