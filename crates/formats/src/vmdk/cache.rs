//! Grain tables and pieces of directories that were read before, within one bound of memory for
//! the whole image, however many extents it has.

use lru::LruCache;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that the cache of an image holds.
const CAPACITY: usize = 8 << 20;
/// What an entry costs beside its table.
const OVERHEAD: usize = 160;

/// What is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The position of the extent in the image.
    pub(super) extent: u32,
    /// Which of its tables.
    pub(super) part: Part,
}

/// A piece of the metadata of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// A page of the directory.
    Directory(u64),
    /// A page of the redundant directory.
    Redundant(u64),
    /// The grain table of a directory entry.
    Table(u64),
}

/// A table as it lies in the file.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The entries.
    pub(super) bytes: Vec<u8>,
    /// For compressed grains, how many bytes each entry's grain takes at most.
    pub(super) bounds: Vec<u32>,
}

impl Table {
    fn weight(&self) -> usize {
        self.bytes.len() + self.bounds.len() * 4 + OVERHEAD
    }
}

#[derive(Debug)]
struct Inner {
    tables: LruCache<Key, Arc<Table>>,
    weight: usize,
}

/// The tables that were used last.
#[derive(Debug)]
pub(super) struct Cache(Mutex<Inner>);

impl Cache {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Inner { tables: LruCache::unbounded(), weight: 0 }))
    }

    pub(super) fn get(&self, key: Key) -> Option<Arc<Table>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tables.get(&key).cloned()
    }

    pub(super) fn put(&self, key: Key, table: Table) -> Arc<Table> {
        let table = Arc::new(table);
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *guard;
        inner.weight += table.weight();
        if let Some(old) = inner.tables.put(key, Arc::clone(&table)) {
            inner.weight -= old.weight();
        }
        while inner.weight > CAPACITY && inner.tables.len() > 1 {
            let Some((_, old)) = inner.tables.pop_lru() else {
                break;
            };
            inner.weight -= old.weight();
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::{CAPACITY, Cache, Key, Part, Table};

    #[test]
    fn the_oldest_tables_go_first() {
        let cache = Cache::new();
        let key = |number| Key { extent: 0, part: Part::Table(number) };
        for number in 0..20_000 {
            let bytes = vec![0; 2048];
            cache.put(key(number), Table { bytes, bounds: Vec::new() });
            assert!(cache.get(key(0)).is_some(), "table 0 is used all the time");
        }
        assert!(cache.get(key(1)).is_none());
        assert!(cache.get(key(19_999)).is_some());
        let inner = cache.0.lock().unwrap();
        assert!(inner.weight <= CAPACITY);
        assert_eq!(
            inner.weight,
            inner.tables.iter().map(|(_, table)| table.weight()).sum::<usize>()
        );
    }
}
