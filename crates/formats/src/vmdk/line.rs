//! One extent line of a descriptor: K, "The Extent Description".
//!
//! `access size type ["name" [offset]]`. A line that is skipped would shift everything behind it,
//! so whatever is not understood here is an error.

use super::corrupt;
use carreto_error::{Error, Kind, Result};

/// Whether a guest may touch the extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// `RW`.
    ReadWrite,
    /// `RDONLY`.
    ReadOnly,
    /// `NOACCESS`.
    None,
}

/// How the extent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentType {
    /// `FLAT` and `VMFS`: the bytes of the disk in a file, from an offset on.
    Flat,
    /// `SPARSE`, `VMFSSPARSE` and `SESPARSE`: the magic number of the file tells which.
    Sparse,
    /// `ZERO`: no file.
    Zero,
    /// `VMFSRDM`, `VMFSRAW`: a device.
    Device,
}

/// An extent as the descriptor has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) access: Access,
    /// Guest sectors.
    pub(super) sectors: u64,
    pub(super) kind: ExtentType,
    /// The file's name in the descriptor's encoding; `None` for zeros.
    pub(super) name: Option<Vec<u8>>,
    /// Where the extent starts in its file, in sectors.
    pub(super) offset: u64,
}

/// Reads `line` if it is an extent line; `None` when its first word is not an access mode.
pub(super) fn parse(line: &[u8]) -> Result<Option<ExtentLine>> {
    let (access, rest) = word(line);
    let access = match access.to_ascii_uppercase().as_slice() {
        b"RW" => Access::ReadWrite,
        b"RDONLY" => Access::ReadOnly,
        b"NOACCESS" => Access::None,
        _ => return Ok(None),
    };
    let (sectors, rest) = word(rest);
    if sectors.starts_with(b"=") || access_is_key(sectors, rest) {
        return Ok(None);
    }
    let sectors = number(sectors, "the size")?;
    if sectors == 0 {
        return Err(corrupt("the size of an extent is 0 sectors"));
    }
    let (kind, rest) = word(rest);
    let upper = kind.to_ascii_uppercase();
    let (kind, default_offset) = match upper.as_slice() {
        b"FLAT" => (ExtentType::Flat, None),
        b"VMFS" => (ExtentType::Flat, Some(0)),
        b"SPARSE" | b"VMFSSPARSE" | b"SESPARSE" => (ExtentType::Sparse, Some(0)),
        b"ZERO" => (ExtentType::Zero, Some(0)),
        b"VMFSRDM" | b"VMFSRAW" => (ExtentType::Device, Some(0)),
        other => {
            let text = format!("the extent type {:?} is unknown", String::from_utf8_lossy(other));
            return Err(Error::new(Kind::Unsupported, text));
        }
    };
    let (name, tail) = name(rest, kind)?;
    let offset = if kind == ExtentType::Device { 0 } else { offset(tail, default_offset)? };
    Ok(Some(ExtentLine { access, sectors, kind, name, offset }))
}

/// `rw = …` is a key that happens to be called like an access mode.
fn access_is_key(second: &[u8], rest: &[u8]) -> bool {
    second.is_empty() && rest.is_empty()
}

/// The first word of `text` and what follows it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii_start();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    text.split_at(end)
}

fn number(digits: &[u8], what: &str) -> Result<u64> {
    let shown = String::from_utf8_lossy(digits);
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all_digits
        .then(|| shown.parse().ok())
        .flatten()
        .ok_or_else(|| corrupt(format!("{what} of an extent is {shown:?}, expected a number")))
}

/// The quoted name, which may hold quotes itself, and what follows it.
///
/// The name ends at the last quote behind which there is nothing but a number.
fn name(rest: &[u8], kind: ExtentType) -> Result<(Option<Vec<u8>>, &[u8])> {
    let rest = rest.trim_ascii();
    if rest.is_empty() && kind == ExtentType::Zero {
        return Ok((None, rest));
    }
    let Some(quoted) = rest.strip_prefix(b"\"") else {
        return Err(corrupt("an extent names no file in quotes"));
    };
    let Some(end) = quoted.iter().rposition(|byte| *byte == b'"') else {
        return Err(corrupt("the quote before the name of an extent is not closed"));
    };
    let (name, tail) = (&quoted[..end], &quoted[end + 1..]);
    let name = (kind != ExtentType::Zero).then(|| name.to_vec());
    Ok((name, tail))
}

/// The offset in the file. Only `FLAT` extents have one that is not 0, and they must have one.
fn offset(tail: &[u8], default: Option<u64>) -> Result<u64> {
    let (first, rest) = word(tail);
    if !rest.trim_ascii().is_empty() {
        let text = format!(
            "{:?} follows the offset of an extent",
            String::from_utf8_lossy(rest.trim_ascii())
        );
        return Err(corrupt(text));
    }
    match (first.is_empty(), default) {
        (true, Some(default)) => Ok(default),
        (true, None) => Err(corrupt("a FLAT extent has no offset")),
        (false, default) => match (number(first, "the offset")?, default) {
            (0, _) => Ok(0),
            (offset, None) => Ok(offset),
            (offset, Some(_)) => {
                let text = format!("the offset {offset} of an extent, of a type that has none");
                Err(corrupt(text))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, ExtentType, parse};
    use carreto_error::Kind;

    #[test]
    fn lines_that_real_writers_produce() {
        let cases = [
            (
                "RW 2048 FLAT \"a-flat.vmdk\" 63",
                Access::ReadWrite,
                2048,
                ExtentType::Flat,
                Some("a-flat.vmdk"),
                63,
            ),
            (
                "rw 1 sparse \"a b.vmdk\"",
                Access::ReadWrite,
                1,
                ExtentType::Sparse,
                Some("a b.vmdk"),
                0,
            ),
            ("RDONLY 9 SESPARSE \"x\"", Access::ReadOnly, 9, ExtentType::Sparse, Some("x"), 0),
            (
                "RW 9 VMFS \"x-flat.vmdk\"",
                Access::ReadWrite,
                9,
                ExtentType::Flat,
                Some("x-flat.vmdk"),
                0,
            ),
            (
                "RW 9 VMFS \"x-flat.vmdk\" 0",
                Access::ReadWrite,
                9,
                ExtentType::Flat,
                Some("x-flat.vmdk"),
                0,
            ),
            ("NOACCESS 7 ZERO", Access::None, 7, ExtentType::Zero, None, 0),
            ("RW\t7   ZERO   ", Access::ReadWrite, 7, ExtentType::Zero, None, 0),
            (
                "RW 5 FLAT \"say \"hi\" 3.vmdk\" 0",
                Access::ReadWrite,
                5,
                ExtentType::Flat,
                Some("say \"hi\" 3.vmdk"),
                0,
            ),
        ];
        for (text, access, sectors, kind, name, offset) in cases {
            let line = parse(text.as_bytes()).unwrap().expect(text);
            assert_eq!((line.access, line.sectors, line.kind), (access, sectors, kind), "{text}");
            assert_eq!(line.name.as_deref(), name.map(str::as_bytes), "{text}");
            assert_eq!(line.offset, offset, "{text}");
        }
    }

    #[test]
    fn malformed_lines_are_errors_never_skipped() {
        for text in [
            "RW",
            "RW x FLAT \"a\" 0",
            "RW -5 FLAT \"a\" 0",
            "RW 0 FLAT \"a\" 0",
            "RW 99999999999999999999 FLAT \"a\" 0",
            "RW 5",
            "RW 5 FLAT",
            "RW 5 FLAT a 0",
            "RW 5 FLAT \"a 0",
            "RW 5 FLAT \"a\"",
            "RW 5 FLAT \"a\" x",
            "RW 5 FLAT \"a\" 0 1",
            "RW 5 FLAT \"a\" -1",
            "RW 5 VMFS \"a\" 1",
            "RW 5 SPARSE \"a\" 1",
            "RW 5 SPARSE",
        ] {
            let result = parse(text.as_bytes());
            if text == "RW" {
                assert!(matches!(result, Ok(None)));
                continue;
            }
            let kind = result.expect_err(text).kind();
            assert!(matches!(kind, Kind::Corrupt | Kind::Unsupported), "{text}: {kind:?}");
        }
        let error = parse(b"RW 5 VMFSNEW \"a\"").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }
}
