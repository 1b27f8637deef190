//! Reading tables: many at once, in few requests.

use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result};
use futures_util::future::try_join_all;
use std::sync::Arc;

/// Table words in host order.
pub(super) type Words = Arc<[u64]>;

/// A part of a table: where it is in the file and how many bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Bytes between two tables that are read and thrown away rather than skipped, at most.
const MAX_GAP: u64 = 64 << 10;
/// Tables are joined into one request up to this many bytes.
const MAX_RUN: u64 = 1 << 20;
/// Pieces and bytes that one call reads at a time, which bounds its memory.
pub(super) const BATCH_PIECES: usize = 64;
pub(super) const BATCH_BYTES: u64 = 2 << 20;

/// Reads `pieces` (whole words, at most a batch), neighbours together and all at once.
///
/// # Errors
/// What reading meets; `Limit` when there is not enough memory.
pub(super) async fn read_pieces(file: &dyn Source, pieces: &[Piece]) -> Result<Vec<Words>> {
    let gap = u64::from(file.hint().packed_gap).min(MAX_GAP);
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by_key(|index| pieces[*index].offset);
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut run_of = vec![0; pieces.len()];
    for index in order {
        let Piece { offset, len } = pieces[index];
        let end = offset.saturating_add(len);
        match runs.last_mut() {
            Some((start, last))
                if offset <= last.saturating_add(gap) && end - *start <= MAX_RUN =>
            {
                *last = end.max(*last);
            }
            _ => runs.push((offset, end)),
        }
        run_of[index] = runs.len() - 1;
    }
    let jobs = runs.iter().map(|(start, end)| file.read_vec(*start, index_of(end - start)));
    let buffers = try_join_all(jobs).await?;
    let cut = |(piece, run): (&Piece, &usize)| {
        let start = index_of(piece.offset - runs[*run].0);
        buffers[*run]
            .get(start..start.saturating_add(index_of(piece.len)))
            .map(words)
            .ok_or_else(|| Error::new(Kind::Internal, "a table lies outside its read"))
    };
    pieces.iter().zip(&run_of).map(cut).collect()
}

/// Reads the first `entries` words of a table that the caller has bounded.
///
/// # Errors
/// What reading meets; `Limit` when there is not enough memory.
pub(super) async fn read_table(file: &dyn Source, offset: u64, entries: u64) -> Result<Vec<u64>> {
    const STEP: u64 = 256 << 10;
    let count = index_of(entries);
    let mut table = Vec::new();
    table.try_reserve_exact(count).map_err(|_| {
        let text = format!("a table of {entries} entries does not fit in memory");
        Error::new(Kind::Limit, text)
    })?;
    let mut at = 0;
    while at < entries * 8 {
        let len = STEP.min(entries * 8 - at);
        let bytes = file.read_vec(offset + at, index_of(len)).await?;
        table.extend(each_word(&bytes));
        at += len;
    }
    Ok(table)
}

fn words(bytes: &[u8]) -> Words {
    each_word(bytes).collect()
}

fn each_word(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_be_bytes(*word))
}

/// A length that was bounded before it became an index.
pub(super) fn index_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
