//! The names that a descriptor gives to other files.
//!
//! They are untrusted bytes in some encoding. Only plain file names are taken, so that nothing
//! outside the descriptor's own directory is ever asked for.

use carreto_error::{Error, Kind, Result};
use encoding_rs::{BIG5, EUC_KR, Encoding, GBK, SHIFT_JIS, UTF_8};

/// The text of a name whose descriptor says `encoding=`. Encodings go by the labels of the WHATWG
/// Encoding Standard and by the numbers of Windows code pages.
///
/// # Errors
/// `Unsupported` for names beyond ASCII in an encoding that is not read, or not in theirs.
pub(super) fn decode(name: &[u8], encoding: Option<&str>) -> Result<String> {
    if name.is_ascii() {
        return Ok(String::from_utf8_lossy(name).into_owned());
    }
    let label = encoding.unwrap_or("utf-8");
    let text = encoding_of(label).decode_without_bom_handling_and_without_replacement(name);
    // Bytes that stand for nothing come out as control characters of the second row.
    let text = text.filter(|text| !text.chars().any(|c| matches!(c, '\u{80}'..='\u{9f}')));
    text.map(Into::into).ok_or_else(|| {
        let shown = String::from_utf8_lossy(name);
        let text = format!("the file name {shown:?} cannot be read as {label}");
        Error::new(Kind::Unsupported, text).remedied_by(
            "rename the file and change the descriptor to a name of plain ASCII letters",
        )
    })
}

/// The encoding of this label; UTF-8, which is strict, when the label is not known.
fn encoding_of(label: &str) -> &'static Encoding {
    match label.to_ascii_lowercase().as_str() {
        "cp932" => SHIFT_JIS,
        "cp936" | "ms936" => GBK,
        "cp949" | "ms949" => EUC_KR,
        "cp950" | "ms950" => BIG5,
        _ => Encoding::for_label(label.as_bytes()).unwrap_or(UTF_8),
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
        assert_eq!(decode(b"\x83\x65\x83\x58.vmdk", Some("Shift_JIS")).unwrap(), "テス.vmdk");
        assert_eq!(decode(b"\x95\x5c.vmdk", Some("cp932")).unwrap(), "表.vmdk");
        assert_eq!(decode(b"\xb4\xc5\xc5\xcc.vmdk", Some("GBK")).unwrap(), "磁盘.vmdk");
        assert_eq!(decode(b"\xba\xcf.vmdk", Some("gb18030")).unwrap(), "合.vmdk");
        let bad =
            [("Shift_JIS", b"\x83.vmdk".as_slice()), ("UTF-8", b"\xe9"), ("martian", b"\xe9")];
        for (label, name) in bad {
            assert_eq!(decode(name, Some(label)).unwrap_err().kind(), Kind::Unsupported, "{label}");
        }
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
