//! The detectors.

use super::Ends;
use super::magic::{BZIP2, DMG, MAGICS, OVF, QCOW1};
use crate::Format;
use crate::field::{be32, le32};
use crate::vhd::is_footer;
use carreto_error::Kind;

/// What follows from a match.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    /// The format has a reader.
    Read(Format),
    /// It has none.
    Refused { kind: Kind, remedy: &'static str },
}

/// A format that a file looks like.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) name: &'static str,
    pub(super) evidence: String,
    pub(super) verdict: Verdict,
    /// The signature lies where a guest's partition table or boot sector would.
    pub(super) at_start: bool,
}

impl Match {
    fn new(name: &'static str, verdict: Verdict, evidence: impl Into<String>) -> Self {
        Self { name, evidence: evidence.into(), verdict, at_start: true }
    }
}

/// Every image, container or archive that the ends look like; each format once.
pub(super) fn images(ends: &Ends) -> Vec<Match> {
    let head = ends.head.as_slice();
    let mut list: Vec<Match> = MAGICS
        .iter()
        .filter(|magic| has(head, magic.at, magic.bytes))
        .map(|magic| {
            let bytes = magic.bytes.escape_ascii();
            let evidence = format!("\"{bytes}\" at byte {}", magic.at);
            Match::new(magic.name, magic.verdict, evidence)
        })
        .collect();
    let others = [qcow(head), vhd(ends), vmdk_text(head), bzip2(head), dmg(&ends.tail), ovf(head)];
    list.extend(others.into_iter().flatten());
    list.dedup_by_key(|found| found.name);
    list
}

fn has(bytes: &[u8], at: usize, wanted: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(wanted))
}

fn qcow(head: &[u8]) -> Option<Match> {
    if !has(head, 0, b"QFI\xfb") {
        return None;
    }
    let evidence = "\"QFI\\xfb\" at byte 0";
    Some(match be32(head, 4) {
        Ok(1) => Match::new("qcow version 1", QCOW1, evidence),
        _ => Match::new("qcow2", Verdict::Read(Format::Qcow2), evidence),
    })
}

/// A sparse VHD has a copy of its footer in front; a fixed one has only the footer, which old
/// writers made one byte shorter. The header behind the copy survives damage to it.
fn vhd(ends: &Ends) -> Option<Match> {
    let read = |evidence| Match::new("vhd", Verdict::Read(Format::Vhd), evidence);
    if has(&ends.head, 0, b"conectix") {
        return Some(read("\"conectix\" at byte 0"));
    }
    if has(&ends.head, 512, b"cxsparse") {
        return Some(read("\"cxsparse\" at byte 512"));
    }
    let footer = tail_with_cookie(&ends.tail)?;
    is_footer(footer, ends.size)
        .then(|| Match { at_start: false, ..read("\"conectix\" in the footer") })
}

/// The signature of a VHD at the end, whether or not it belongs to one. A file that is called
/// `.vhd` or `.vpc` is taken for one by this alone.
pub(super) fn vhd_cookie(ends: &Ends) -> Option<Match> {
    tail_with_cookie(&ends.tail)?;
    let evidence = "\"conectix\" in the footer";
    let found = Match::new("vhd", Verdict::Read(Format::Vhd), evidence);
    Some(Match { at_start: false, ..found })
}

/// The last 512 bytes, or 511 as old writers left them, if they start as a footer does.
fn tail_with_cookie(tail: &[u8]) -> Option<&[u8]> {
    let tails = [512, 511].map(|len| Some(&tail[tail.len().checked_sub(len)?..]));
    tails.into_iter().flatten().find(|tail| tail.starts_with(b"conectix"))
}

/// A VMDK descriptor: a text file whose first line is a comment that says so, or that has a
/// version behind its comments and a type somewhere.
fn vmdk_text(head: &[u8]) -> Option<Match> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let text = head.split(|byte| *byte == 0).next()?;
    let text = text[..text.len().min(4096)].to_ascii_lowercase();
    let mut lines = text
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .map(without_spaces)
        .filter(|line| !line.is_empty());
    let first = lines.next()?;
    let found = |evidence| Some(Match::new("vmdk", Verdict::Read(Format::Vmdk), evidence));
    if first.starts_with(b"#diskdescriptorfile") {
        return found("the line \"# Disk DescriptorFile\"");
    }
    let mut code = std::iter::once(first).chain(lines).skip_while(|line| line.starts_with(b"#"));
    let version = code.next().is_some_and(|line| {
        line.starts_with(b"version=") && line.get(8).is_some_and(u8::is_ascii_digit)
    });
    (version && code.any(|line| line.starts_with(b"createtype=")))
        .then(|| found("the lines \"version=\" and \"createType=\""))?
}

fn without_spaces(line: &[u8]) -> Vec<u8> {
    let visible = line.iter().filter(|byte| !byte.is_ascii_whitespace());
    visible.copied().collect()
}

/// `BZh`, the block size as a digit, then the digits of pi (a block) or of its root (no block).
fn bzip2(head: &[u8]) -> Option<Match> {
    let level = head.get(3).is_some_and(|byte| matches!(byte, b'1'..=b'9'));
    let block = has(head, 4, b"\x31\x41\x59\x26\x53\x59") || has(head, 4, b"\x17\x72\x45\x38\x50");
    (has(head, 0, b"BZh") && level && block)
        .then(|| Match::new("bzip2", BZIP2, "\"BZh\" at byte 0"))
}

fn dmg(tail: &[u8]) -> Option<Match> {
    let at = tail.len().checked_sub(512)?;
    has(tail, at, b"koly")
        .then(|| Match { at_start: false, ..Match::new("DMG", DMG, "\"koly\" in the trailer") })
}

fn ovf(head: &[u8]) -> Option<Match> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let start = head.trim_ascii_start();
    let start = &start[..start.len().min(4096)];
    let envelope = start
        .windows(9)
        .any(|window| window.eq_ignore_ascii_case(b"<Envelope") || window == b":Envelope");
    (start.starts_with(b"<") && envelope).then(|| Match::new("OVF", OVF, "an XML envelope"))
}

/// What shows that the file is itself a disk rather than an image of one.
pub(super) fn disk_content(ends: &Ends) -> Option<&'static str> {
    let head = ends.head.as_slice();
    if is_iso(head) {
        Some("an ISO 9660 image (\"CD001\" at byte 32769)")
    } else if has(head, 512, b"EFI PART") || (has_mark(head) && has(head, 4096, b"EFI PART")) {
        Some("a disk with a GPT")
    } else if has_partitions(head) {
        Some("a disk with a master boot record")
    } else {
        None
    }
}

/// ISO 9660 and UDF: a volume descriptor in the seventeenth or eighteenth sector of 2048 bytes.
pub(super) fn is_iso(head: &[u8]) -> bool {
    [32769, 34817].into_iter().any(|at| has(head, at, b"CD001") || has(head, at, b"BEA01"))
}

/// The mark of a boot sector, which also every disk with a GPT has (UEFI 2.10, section 5.2.3).
/// Without it, byte 4096 may be where an image keeps the second sector of its disk.
fn has_mark(head: &[u8]) -> bool {
    has(head, 510, b"\x55\xaa")
}

/// A master boot record: the mark at the end, four entries whose boot flags are valid, and at
/// least one partition.
fn has_partitions(head: &[u8]) -> bool {
    if !has_mark(head) {
        return false;
    }
    let entries: Vec<&[u8]> = head[446..510].chunks(16).collect();
    let valid = entries.iter().all(|entry| matches!(entry[0], 0 | 0x80));
    let used = |entry: &&[u8]| entry[4] != 0 && le32(entry, 12).is_ok_and(|sectors| sectors != 0);
    valid && entries.iter().any(used)
}
