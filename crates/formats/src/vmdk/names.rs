//! The names that a descriptor gives to other files.
//!
//! They are untrusted bytes in some encoding. Only plain file names are taken, so that nothing
//! outside the descriptor's own directory is ever asked for.

use carreto_error::{Error, Kind, Result};

/// What the bytes 0x80 to 0x9f stand for in windows-1252; 0 where they stand for nothing.
const WINDOWS_1252: [u16; 32] = [
    0x20ac, 0, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039,
    0x0152, 0, 0x017d, 0, 0, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc,
    0x2122, 0x0161, 0x203a, 0x0153, 0, 0x017e, 0x0178,
];

/// The text of a name whose descriptor says `encoding=`.
///
/// # Errors
/// `Unsupported` for names beyond ASCII in an encoding that is not read.
pub(super) fn decode(name: &[u8], encoding: Option<&str>) -> Result<String> {
    if name.is_ascii() {
        return Ok(String::from_utf8_lossy(name).into_owned());
    }
    let lower = encoding.unwrap_or("utf-8").to_ascii_lowercase();
    let text = match lower.as_str() {
        "windows-1252" | "cp1252" => name.iter().map(|byte| western(*byte)).collect(),
        "iso-8859-1" | "latin1" => Some(name.iter().map(|byte| char::from(*byte)).collect()),
        _ => std::str::from_utf8(name).ok().map(ToOwned::to_owned),
    };
    text.ok_or_else(|| {
        let shown = String::from_utf8_lossy(name);
        let text = format!("the file name {shown:?} cannot be read as {lower}");
        Error::new(Kind::Unsupported, text).remedied_by(
            "rename the file and change the descriptor to a name of plain ASCII letters",
        )
    })
}

fn western(byte: u8) -> Option<char> {
    match byte {
        0x80..=0x9f => match WINDOWS_1252[usize::from(byte - 0x80)] {
            0 => None,
            code => char::from_u32(u32::from(code)),
        },
        _ => Some(char::from(byte)),
    }
}

/// Why `name` is not the name of a file in the descriptor's own directory, if it is not.
pub(super) fn not_plain(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name == "." || name == ".." {
        return Some("is a directory");
    }
    if name.contains(['/', '\\']) {
        return Some("is a path, not a file beside the descriptor");
    }
    if name.chars().any(char::is_control) {
        return Some("has control characters");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{decode, not_plain};
    use carreto_error::Kind;

    #[test]
    fn encodings() {
        assert_eq!(decode(b"plain.vmdk", Some("GBK")).unwrap(), "plain.vmdk");
        assert_eq!(decode(b"\x80\xe9.vmdk", Some("windows-1252")).unwrap(), "€é.vmdk");
        assert_eq!(decode("é.vmdk".as_bytes(), Some("UTF-8")).unwrap(), "é.vmdk");
        assert_eq!(decode("é.vmdk".as_bytes(), None).unwrap(), "é.vmdk");
        let error = decode(b"\x83\x65.vmdk", Some("Shift_JIS")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(decode(b"\x81", Some("windows-1252")).unwrap_err().kind(), Kind::Unsupported);
    }

    #[test]
    fn only_names_in_the_same_directory_are_plain() {
        for bad in ["", ".", "..", "/etc/passwd", "a/b", "..\\a", "\\\\.\\PhysicalDrive0", "a\nb"] {
            assert!(not_plain(bad).is_some(), "{bad:?}");
        }
        assert_eq!(not_plain("disk-s001.vmdk"), None);
    }
}
