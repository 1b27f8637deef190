//! Finding the footer: at the end of the file, with a copy at the start of sparse disks.

use super::footer::{COOKIE, Checksum, FOOTER_LEN, Footer};
use super::header::COOKIE as HEADER_COOKIE;
use crate::{OpenOptions, Warning};
use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result};

/// The footer that holds for an image.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) footer: Footer,
    /// Where the trailing footer starts: no data lies at or after it.
    pub(super) data_end: u64,
    pub(super) warnings: Vec<Warning>,
}

/// One of the two places.
#[derive(Debug)]
struct Copy {
    at: u64,
    bytes: [u8; FOOTER_LEN],
    footer: Option<Footer>,
}

impl Copy {
    fn new(at: u64, bytes: &[u8; FOOTER_LEN]) -> Result<Self> {
        Ok(Self { at, bytes: *bytes, footer: Footer::parse(bytes)? })
    }

    fn sound(&self) -> Option<&Footer> {
        self.footer.as_ref().filter(|footer| footer.is_sound())
    }
}

/// Reads both places and decides which one holds.
///
/// The trailing footer decides, because a guest can write the start of a fixed disk but never its
/// footer. Where it is damaged, the copy at the start of a sparse disk stands in.
pub(super) async fn find(file: &dyn Source, options: &OpenOptions) -> Result<Found> {
    let (lead, tail) = read(file).await?;
    if let Some(footer) = tail.sound() {
        return Ok(by_tail(footer.clone(), &lead, tail.at));
    }
    if let Some(footer) = lead.sound() {
        return by_lead(footer, &lead, &tail);
    }
    let Some((at, footer)) = [&tail, &lead]
        .into_iter()
        .find_map(|copy| copy.footer.as_ref().map(|footer| (copy.at, footer)))
    else {
        return Err(no_footer(file).await?);
    };
    ignored(footer, at, tail.at, options)
}

/// A file without any footer was cut, unless what stands behind the footer's copy is still there.
async fn no_footer(file: &dyn Source) -> Result<Error> {
    let behind = if file.size() < 520 { [0; 8] } else { file.read_array::<8>(512).await? };
    if &behind == HEADER_COOKIE {
        let text = "the signatures of the footer and of its copy at the start are damaged";
        return Ok(Error::new(Kind::Corrupt, text).offset(0));
    }
    let text = "there is no footer (\"conectix\") at the end and no copy of it at the start";
    Ok(Error::new(Kind::Truncated, text))
}

async fn read(file: &dyn Source) -> Result<(Copy, Copy)> {
    let size = file.size();
    if size < FOOTER_LEN as u64 - 1 {
        let text = format!("a VHD has at least a footer of 511 bytes, the file has {size} bytes");
        return Err(Error::new(Kind::Truncated, text));
    }
    let len = usize::try_from(size).unwrap_or(FOOTER_LEN).min(FOOTER_LEN);
    let start = size - len as u64;
    let mut lead = [0; FOOTER_LEN];
    file.read_at(0, &mut lead[..len]).await?;
    let end = file.read_vec(start, len).await?;
    Ok((Copy::new(0, &lead)?, trailing(start, &end)?))
}

/// The last 512 bytes, or the last 511 where the footer of an old writer is.
fn trailing(start: u64, end: &[u8]) -> Result<Copy> {
    let short = end.len() == FOOTER_LEN && !end.starts_with(COOKIE) && end[1..].starts_with(COOKIE);
    let part = &end[usize::from(short)..];
    let mut bytes = [0; FOOTER_LEN];
    bytes[..part.len()].copy_from_slice(part);
    Copy::new(start + u64::from(short), &bytes)
}

fn by_tail(footer: Footer, lead: &Copy, data_end: u64) -> Found {
    let mut warnings = Vec::new();
    warn_of_checksum(&footer, data_end, &mut warnings);
    if footer.disk_type().is_ok_and(super::is_sparse) {
        match lead.sound() {
            Some(copy) if !copy.agrees_with(&footer) => {
                let text = "the footer and its copy at the start of the file describe different \
                            disks; the footer holds";
                warnings.push(Warning::new("footer_copies_differ", text).offset(0));
            }
            Some(_) => {}
            None => {
                let text = "the copy of the footer at the start of the file is damaged";
                warnings.push(Warning::new("footer_copy_damaged", text).offset(0));
            }
        }
    }
    Found { footer, data_end, warnings }
}

/// The copy holds where the footer is there but damaged, and only in sparse disks: the start of a
/// fixed one is the guest's. Where it is not there at all the file
/// has been cut, and a block may be missing with it.
fn by_lead(footer: &Footer, lead: &Copy, tail: &Copy) -> Result<Found> {
    if !footer.disk_type().is_ok_and(super::is_sparse) {
        let text = "the footer is missing or damaged: what the file starts with is no copy of it, \
                    because a fixed disk has none";
        return Err(Error::new(Kind::Truncated, text).offset(tail.at));
    }
    if let Some(damaged) = tail.footer.as_ref().filter(|tail| !footer.is_same_disk(tail)) {
        let text = format!(
            "the footer is damaged, and its copy at the start of the file describes another disk \
             (type {} and id {}, not {} and {})",
            footer.disk_type, footer.unique_id, damaged.disk_type, damaged.unique_id
        );
        return Err(Error::new(Kind::Corrupt, text).offset(tail.at));
    }
    if !resembles(&lead.bytes, &tail.bytes) {
        let text = "the footer is missing: the file ends before it, although its copy at the \
                    start of the file is there";
        return Err(Error::new(Kind::Truncated, text).offset(tail.at));
    }
    let mut warnings = Vec::new();
    warn_of_checksum(footer, 0, &mut warnings);
    let text = "the footer at the end of the file is damaged; its copy at the start is used";
    warnings.push(Warning::new("footer_damaged", text).offset(tail.at));
    Ok(Found { footer: footer.clone(), data_end: tail.at, warnings })
}

/// Whether `tail` is a damaged copy of `lead`: it has the signature, or the identity, or the
/// sizes.
fn resembles(lead: &[u8; FOOTER_LEN], tail: &[u8; FOOTER_LEN]) -> bool {
    let same = |range: std::ops::Range<usize>| {
        lead[range.clone()] == tail[range.clone()] && tail[range].iter().any(|byte| *byte != 0)
    };
    same(0..8) || same(68..84) || same(24..60)
}

fn ignored(footer: &Footer, at: u64, data_end: u64, options: &OpenOptions) -> Result<Found> {
    let Checksum::Bad { stored, computed } = footer.checksum else {
        return Err(Error::new(Kind::Internal, "a sound footer was taken for a bad one"));
    };
    let text = format!("footer checksum {stored:#010x} is wrong, expected {computed:#010x}");
    if !options.ignore_checksum {
        let error = Error::new(Kind::Corrupt, text).offset(at);
        return Err(error.remedied_by(super::CHECKSUM_REMEDY));
    }
    Ok(Found {
        footer: footer.clone(),
        data_end,
        warnings: vec![Warning::new("wrong_checksum", text).offset(at)],
    })
}

fn warn_of_checksum(footer: &Footer, at: u64, warnings: &mut Vec<Warning>) {
    if footer.checksum == Checksum::Stale {
        let text = "the footer checksum is that of the footer before its unique id was written";
        warnings.push(Warning::new("stale_checksum", text).offset(at));
    }
}
