//! Checking the grain markers of a compressed extent, where that is cheap.
//!
//! A marker is the first bytes of its grain's payload, so checking all of them reads about the
//! whole file. Small files are checked before the first byte is written to a target; in large
//! ones the decoder finds a wrong marker when it gets there.

use super::codec::{self, MARKER_LEN};
use super::layout::Layout;
use super::tables::Tables;
use super::{SECTOR, corrupt};
use carreto_block::SourceExt as _;
use carreto_error::{Error, Kind, Result};

/// The largest file and the most grains that are checked.
const MAX_FILE: u64 = 64 << 20;
const MAX_GRAINS: usize = 16 << 10;
/// Bytes read at a time.
const WINDOW: u64 = 1 << 20;

/// The grains whose markers are to be checked.
pub(super) struct Markers {
    /// Where each grain is, and the guest byte it must claim. `None` when it is not cheap.
    list: Option<Vec<(u64, u64)>>,
    /// The same of the last grain in the file.
    last: Option<(u64, u64)>,
    marked: bool,
}

impl Markers {
    pub(super) fn new(layout: &Layout, file_size: u64) -> Self {
        let marked = layout.codec.is_some_and(|codec| codec.markers);
        Self { list: (marked && file_size <= MAX_FILE).then(Vec::new), last: None, marked }
    }

    /// Whether there are more grains than are checked.
    pub(super) fn limited(&self) -> bool {
        self.list.is_none() && self.last.is_some()
    }

    pub(super) fn note(&mut self, offset: u64, start: u64) {
        if self.marked {
            self.last = self.last.max(Some((offset, start)));
        }
        if let Some(list) = &mut self.list {
            if list.len() < MAX_GRAINS {
                list.push((offset, start));
            } else {
                self.list = None;
            }
        }
    }

    /// Reads the markers in the order of the file.
    pub(super) async fn check(&self, tables: &Tables) -> Result<()> {
        let mut list = match &self.list {
            Some(list) => list.clone(),
            None => self.last.into_iter().collect(),
        };
        list.sort_unstable();
        let size = tables.file.size();
        let grain = usize::try_from(tables.layout.grain).unwrap_or(usize::MAX);
        let mut window = Vec::new();
        let mut window_at = 0;
        for (nth, (offset, start)) in list.iter().copied().enumerate() {
            if offset + MARKER_LEN as u64 > window_at + window.len() as u64 {
                let len = WINDOW.min(size - offset);
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                window = tables.file.read_vec(offset, len).await?;
                window_at = offset;
            }
            let at = usize::try_from(offset - window_at).unwrap_or(usize::MAX);
            let marker = window.get(at..).unwrap_or_default();
            let place = |error: Error| {
                let text = format!("the grain of guest byte {start} is wrong");
                error.wrap(text).offset(offset)
            };
            let len = codec::marker_len(marker, start / SECTOR, grain).map_err(place)?;
            let end = offset + (MARKER_LEN + len) as u64;
            let next = list.get(nth + 1).map_or(u64::MAX, |next| next.0);
            check_end(end, size, next).map_err(place)?;
        }
        Ok(())
    }
}

fn check_end(end: u64, size: u64, next: u64) -> Result<()> {
    if end > size {
        let text = format!("it ends at byte {end}, the file at byte {size}");
        return Err(Error::new(Kind::Truncated, text));
    }
    if end > next {
        let text = format!("it ends at byte {end}, the next grain begins at byte {next}");
        return Err(corrupt(text));
    }
    Ok(())
}
