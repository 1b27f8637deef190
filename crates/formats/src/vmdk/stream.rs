//! Finding the grain directory of a stream, which was written after the grains: K,
//! "Stream-Optimized Compressed Sparse Extents".
//!
//! A stream ends with a footer (a second header, with the directory's place) and an end-of-stream
//! marker. Where the footer is not, the markers are walked from the start for the directory's
//! own marker. A stream with neither is an interrupted one: after its last grain a zero sector
//! could be an end marker as well as the padding of a download that stopped.

use super::header::{self, Header};
use super::layout::Codec;
use super::{SECTOR, corrupt};
use crate::field::{le32, le64};
use crate::{Limits, Warning};
use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result};

/// How far from the end of a padded file the footer is looked for.
const TAIL: u64 = 1 << 20;
/// The same where nothing is needed from it.
const SHORT_TAIL: u64 = 64 << 10;
/// The largest file whose markers are walked, because that reads about all of it.
const MAX_WALK: u64 = 2 << 30;
/// Bytes read at a time on the walk.
const WINDOW: u64 = 256 << 10;

const GRAIN_TABLE: u32 = 1;
const GRAIN_DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

/// The header with the place of the directory, which the one at the start leaves open.
pub(super) async fn find_directory(
    file: &dyn Source,
    header: &Header,
    limits: &Limits,
    warnings: &mut Vec<Warning>,
) -> Result<Header> {
    let tail = tail_of(file, TAIL).await?;
    if let Some(footer) = footer_in(&tail) {
        return take_footer(header, footer, file.size(), limits);
    }
    drop(tail);
    if file.size() > MAX_WALK {
        return Err(no_directory(file.size()));
    }
    let mut walk = Walk::new(file, header);
    while walk.step().await? {}
    if let Some(footer) = walk.footer {
        let sector = file.read_array::<512>(footer).await?;
        return take_footer(header, &sector, file.size(), limits);
    }
    let Some(directory) = walk.directory else {
        return Err(no_directory(walk.at));
    };
    let text = "the stream has no footer, its grain directory was found by its marker";
    warnings.push(Warning::new("footer_missing", text).offset(walk.at));
    Ok(header.with_directory(directory / SECTOR))
}

/// Checks that a footer, where a stream whose header names the directory has one, says the same:
/// readers that begin at the end would see another disk.
pub(super) async fn check_footer(
    file: &dyn Source,
    header: &Header,
    limits: &Limits,
) -> Result<()> {
    let tail = tail_of(file, SHORT_TAIL).await?;
    let Some(footer) = footer_in(&tail) else {
        return Ok(());
    };
    let footer = take_footer(header, footer, file.size(), limits)?;
    if !header.same_directory(&footer) {
        return Err(corrupt("header and footer name two grain directories").offset(56));
    }
    Ok(())
}

/// About the last `len` bytes of the file, as whole sectors.
async fn tail_of(file: &dyn Source, len: u64) -> Result<Vec<u8>> {
    let len = file.size().min(len) / SECTOR * SECTOR;
    let at = file.size() / SECTOR * SECTOR - len;
    file.read_vec(at, usize::try_from(len).unwrap_or(usize::MAX)).await
}

fn no_directory(at: u64) -> Error {
    let text = "the stream ends without a footer and without a grain directory";
    Error::new(Kind::Truncated, text)
        .offset(at)
        .remedied_by("export or upload the image again: it is not complete")
}

/// The footer at the end of `tail`: at its place, or before zeros that somebody appended.
fn footer_in(tail: &[u8]) -> Option<&[u8]> {
    let sector = 512;
    let usual = tail.len().checked_sub(2 * sector);
    let last = tail.iter().rposition(|byte| *byte != 0)? / sector * sector;
    [usual, Some(last)].into_iter().flatten().find_map(|at| {
        let footer = tail.get(at..at.checked_add(sector)?)?;
        let marker = tail.get(at.checked_sub(sector)?..at)?;
        let end = tail.get(at + sector..at + sector + 16)?;
        let is_footer = footer.starts_with(header::MAGIC)
            && le32(marker, 8).ok()? == 0
            && le32(marker, 12).ok()? == FOOTER
            && end.iter().all(|byte| *byte == 0);
        is_footer.then_some(footer)
    })
}

fn take_footer(header: &Header, footer: &[u8], file_size: u64, limits: &Limits) -> Result<Header> {
    let footer = Header::parse(footer)?;
    footer.check(file_size, limits)?;
    if !header.agrees(&footer) {
        return Err(corrupt("header and footer describe two different disks"));
    }
    if footer.directory_at_end() {
        return Err(corrupt("the footer does not say where the grain directory is"));
    }
    Ok(footer)
}

/// A walk from marker to marker. Every step moves on by at least a sector.
struct Walk<'a> {
    file: &'a dyn Source,
    at: u64,
    max_packed: u64,
    capacity: u64,
    window: Vec<u8>,
    window_at: u64,
    directory: Option<u64>,
    footer: Option<u64>,
}

impl<'a> Walk<'a> {
    fn new(file: &'a dyn Source, header: &Header) -> Self {
        Self {
            file,
            at: header.overhead(),
            max_packed: Codec::max_packed(header.grain()),
            capacity: header.capacity(),
            window: Vec::new(),
            window_at: 0,
            directory: None,
            footer: None,
        }
    }

    /// Goes over one marker; false at the end of the stream or of the file.
    async fn step(&mut self) -> Result<bool> {
        let Some((value, size, kind)) = self.marker().await? else {
            return Ok(false);
        };
        let here = self.at;
        let len = if size != 0 {
            let address = value.checked_mul(SECTOR);
            let sound = address.is_some_and(|address| address < self.capacity);
            if !sound || u64::from(size) > self.max_packed {
                let text = format!("a grain marker names sector {value} and {size} bytes");
                return Err(corrupt(text).offset(here));
            }
            (u64::from(size) + 12).next_multiple_of(SECTOR)
        } else {
            match kind {
                0 => return Ok(false),
                GRAIN_TABLE => {}
                GRAIN_DIRECTORY => self.directory = Some(here + SECTOR),
                FOOTER => {
                    self.footer = Some(here + SECTOR).filter(|at| at + SECTOR <= self.file.size());
                    return Ok(false);
                }
                other => {
                    let text = format!("a marker has the type {other}, expected 0 to 3");
                    return Err(corrupt(text).offset(here));
                }
            }
            value.saturating_mul(SECTOR).saturating_add(SECTOR)
        };
        self.at = here.saturating_add(len);
        Ok(self.at < self.file.size())
    }

    /// The fields of the marker here; `None` behind the end of the file.
    async fn marker(&mut self) -> Result<Option<(u64, u32, u32)>> {
        if self.at.saturating_add(16) > self.file.size() {
            return Ok(None);
        }
        if self.at + 16 > self.window_at + self.window.len() as u64 {
            let len = WINDOW.min(self.file.size() - self.at);
            self.window =
                self.file.read_vec(self.at, usize::try_from(len).unwrap_or(usize::MAX)).await?;
            self.window_at = self.at;
        }
        let at = usize::try_from(self.at - self.window_at).unwrap_or(usize::MAX);
        let marker = self.window.get(at..).unwrap_or_default();
        Ok(Some((le64(marker, 0)?, le32(marker, 8)?, le32(marker, 12)?)))
    }
}
