//! The text that describes a disk: K, "The Descriptor File".

use super::header::MAX_DESCRIPTOR;
use super::line::{self, ExtentLine};
use super::{corrupt, names};
use carreto_error::{Error, Kind, Result, ResultExt as _};

/// The `parentCID` of a disk without a parent.
const NO_PARENT: u32 = 0xffff_ffff;
/// The longest `createType`; real ones have up to 28 letters.
const MAX_TYPE: usize = 64;
/// The most extents: a disk of 8 TiB in parts of 2 GiB has 4096.
const MAX_EXTENTS: usize = 4096;

/// What a descriptor says.
#[derive(Debug, Clone, Default)]
pub(super) struct Descriptor {
    pub(super) cid: Option<u32>,
    parent_cid: Option<u32>,
    /// As written; empty when there is none.
    pub(super) create_type: String,
    parent_hint: Option<Vec<u8>>,
    encoding: Option<String>,
    pub(super) extents: Vec<ExtentLine>,
    /// Facts for people.
    pub(super) details: Vec<(&'static str, String)>,
    encrypted: bool,
    /// Lines that mean nothing.
    pub(super) strange: Vec<String>,
}

/// Whether `text`, the start of a file, looks like a descriptor.
pub(super) fn looks_like_one(text: &[u8]) -> bool {
    let start = text.trim_ascii_start();
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let first = start.split(|byte| *byte == b'\n').next().unwrap_or(start);
    let first = first.to_ascii_lowercase();
    let title = first.strip_prefix(b"#").unwrap_or(&first).trim_ascii();
    title.starts_with(b"disk descriptorfile") || has_type_line(text)
}

fn has_type_line(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n')
        .any(|line| key_value(line).is_some_and(|(key, _)| key == "createtype"))
}

impl Descriptor {
    /// Reads a descriptor file. Nothing but zeros may follow its text.
    ///
    /// # Errors
    /// `Corrupt`, naming the line; `Limit` for too many extents or too long a text.
    pub(super) fn parse_file(bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if let Some(at) = bytes[..end].iter().position(|byte| *byte == 0) {
            return Err(corrupt("the descriptor has a zero byte in its text").offset(at as u64));
        }
        let descriptor = Self::parse(&bytes[..end])?;
        if let Some(line) = descriptor.strange.first() {
            let text = format!("the line {line:?} is neither an extent, a key nor a comment");
            return Err(corrupt(text));
        }
        if descriptor.create_type.is_empty() {
            return Err(corrupt("the descriptor has no createType"));
        }
        if descriptor.extents.is_empty() {
            return Err(corrupt("the descriptor has no extents"));
        }
        Ok(descriptor)
    }

    /// Reads a descriptor inside an extent, which ends at the first zero byte.
    ///
    /// # Errors
    /// As [`Self::parse_file`].
    pub(super) fn parse_embedded(bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let descriptor = Self::parse(&bytes[..end])?;
        if descriptor.create_type.is_empty() && descriptor.extents.is_empty() {
            let text = "the place of the embedded descriptor holds none";
            return Err(corrupt(text));
        }
        Ok(descriptor)
    }

    fn parse(text: &[u8]) -> Result<Self> {
        if text.len() as u64 > MAX_DESCRIPTOR {
            let text = format!("the descriptor is longer than {MAX_DESCRIPTOR} bytes");
            return Err(Error::new(Kind::Limit, text));
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut descriptor = Self::default();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            descriptor
                .take_line(line.trim_ascii())
                .wrap_err(|| format!("line {} of the descriptor is wrong", number + 1))?;
        }
        Ok(descriptor)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<()> {
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        if let Some(extent) = line::parse(line)? {
            if self.extents.len() == MAX_EXTENTS {
                let text = format!("the descriptor has more than {MAX_EXTENTS} extents");
                return Err(Error::new(Kind::Limit, text));
            }
            self.extents.push(extent);
            return Ok(());
        }
        if let Some((key, value)) = key_value(line) {
            return self.take_value(&key, value);
        }
        if self.strange.len() < 8 {
            let line = &line[..line.len().min(80)];
            let line = String::from_utf8_lossy(line).into_owned();
            self.strange.push(line);
        }
        Ok(())
    }

    fn take_value(&mut self, key: &str, value: &[u8]) -> Result<()> {
        match key {
            "cid" => set(&mut self.cid, hex(value, "CID")?, "CID")?,
            "parentcid" => set(&mut self.parent_cid, hex(value, "parentCID")?, "parentCID")?,
            "createtype" => {
                if value.is_empty() || value.len() > MAX_TYPE || !value.is_ascii() {
                    let text = format!(
                        "createType has {} bytes, expected a word of up to {MAX_TYPE}",
                        value.len()
                    );
                    return Err(corrupt(text));
                }
                let text = String::from_utf8_lossy(value).into_owned();
                if !self.create_type.is_empty() && self.create_type != text {
                    return Err(corrupt("createType is there twice, with two values"));
                }
                self.create_type = text;
            }
            "parentfilenamehint" => {
                self.parent_hint.get_or_insert_with(|| value.to_vec());
            }
            "encoding" => self.encoding = Some(String::from_utf8_lossy(value).into_owned()),
            _ if key.starts_with("encryption.") || key == "encryptionkeys" => self.encrypted = true,
            "ddb.adaptertype" => self.detail("adapter_type", value),
            "ddb.virtualhwversion" => self.detail("hardware_version", value),
            "ddb.toolsversion" => self.detail("tools_version", value),
            "ddb.uuid" => self.detail("uuid", value),
            _ => {}
        }
        Ok(())
    }

    fn detail(&mut self, name: &'static str, value: &[u8]) {
        let value = String::from_utf8_lossy(&value[..value.len().min(200)]).into_owned();
        self.details.push((name, value));
    }

    /// The `createType` in lower case.
    pub(super) fn kind(&self) -> String {
        self.create_type.to_ascii_lowercase()
    }

    /// Whether the content is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The CID that the parent must have, and its name; `None` for a disk without a parent.
    ///
    /// # Errors
    /// `Unsafe` when there must be a parent but none is named, or only a CID is missing.
    pub(super) fn parent(&self) -> Result<Option<(u32, String)>> {
        match (self.parent_cid, &self.parent_hint) {
            (None | Some(NO_PARENT), None) | (Some(NO_PARENT), Some(_)) => Ok(None),
            (Some(cid), Some(hint)) => {
                let name = names::decode(hint, self.encoding.as_deref())?;
                Ok(Some((cid, name)))
            }
            (Some(cid), None) => {
                let text = format!("the disk needs a parent of CID {cid:08x} and does not name it");
                Err(Error::new(Kind::Unsafe, text))
            }
            (None, Some(_)) => Err(corrupt("parentFileNameHint is there, parentCID is not")),
        }
    }

    /// The plain file name of an extent.
    ///
    /// # Errors
    /// `Unsafe` when it is anything but a file beside the descriptor.
    pub(super) fn file_name(&self, extent: &ExtentLine) -> Result<Option<String>> {
        let Some(name) = &extent.name else {
            return Ok(None);
        };
        let lossy = String::from_utf8_lossy(name);
        let refuse = |problem| {
            let text = format!("the extent {lossy:?} {problem}");
            Err(Error::new(Kind::Unsafe, text))
        };
        if name.is_ascii()
            && let Some(problem) = names::not_plain(&lossy)
        {
            return refuse(problem);
        }
        let name = names::decode(name, self.encoding.as_deref())?;
        match names::not_plain(&name) {
            Some(problem) => refuse(problem),
            None => Ok(Some(name)),
        }
    }
}

/// Splits `key = "value"`; the key in lower case, the value without quotes.
fn key_value(line: &[u8]) -> Option<(String, &[u8])> {
    let at = line.iter().position(|byte| *byte == b'=')?;
    let key = line[..at].trim_ascii();
    let sound = |byte: &u8| byte.is_ascii_graphic() && !b"\"#".contains(byte);
    if key.is_empty() || !key.iter().all(sound) {
        return None;
    }
    let value = line[at + 1..].trim_ascii();
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    let key = String::from_utf8_lossy(key).to_ascii_lowercase();
    Some((key, unquoted.unwrap_or(value)))
}

fn hex(value: &[u8], what: &str) -> Result<u32> {
    let text = String::from_utf8_lossy(value);
    let digits = text.trim();
    let sound = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    sound.then(|| u32::from_str_radix(digits, 16).ok()).flatten().ok_or_else(|| {
        let shown: String = digits.chars().take(40).collect();
        corrupt(format!("{what} is {shown:?}, expected up to 8 hexadecimal digits"))
    })
}

fn set(field: &mut Option<u32>, value: u32, what: &str) -> Result<()> {
    match field.replace(value) {
        Some(old) if old != value => {
            Err(corrupt(format!("{what} is there twice, with two values")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Descriptor, looks_like_one};
    use carreto_error::Kind;

    const GOOD: &str = "# Disk DescriptorFile\r\nversion=1\r\nencoding=\"windows-1252\"\r\n\
        CID = 0000abcd\r\nparentCID=ffffffff\r\nisNativeSnapshot=\"no\"\r\n\
        CREATETYPE=\"monolithicFlat\"\r\n\r\nRW 10 FLAT \"a.vmdk\" 0\r\nRW 3 ZERO\r\n\
        ddb.adapterType = \"ide\"\r\n";

    #[test]
    fn reads_what_real_writers_write() {
        let it = Descriptor::parse_file(GOOD.as_bytes()).unwrap();
        assert_eq!(it.cid, Some(0xabcd));
        assert_eq!(it.kind(), "monolithicflat");
        assert_eq!(it.extents.len(), 2);
        assert_eq!(it.parent().unwrap(), None);
        assert_eq!(it.details, [("adapter_type", "ide".to_owned())]);
        assert_eq!(it.file_name(&it.extents[0]).unwrap().as_deref(), Some("a.vmdk"));
        assert!(looks_like_one(GOOD.as_bytes()));
        assert!(looks_like_one(b"version=1\ncreateType=\"x\"\n"));
        assert!(!looks_like_one(b"#!/bin/sh\n"));
    }

    #[test]
    fn faults_have_their_kind() {
        let cases = [
            (GOOD.replace("RW 10 FLAT", "RX 10 FLAT"), Kind::Corrupt),
            (GOOD.replace("CREATETYPE", "Type"), Kind::Corrupt),
            (GOOD.replace("0000abcd", "xyz"), Kind::Corrupt),
            (GOOD.replace("0000abcd", "123456789"), Kind::Corrupt),
            (GOOD.replace("monolithicFlat", &"A".repeat(65)), Kind::Corrupt),
            (GOOD.replace("version=1", "ver\0sion=1"), Kind::Corrupt),
            (format!("{GOOD}CID=1\n"), Kind::Corrupt),
            (format!("{GOOD}{}", "RW 1 ZERO\n".repeat(5000)), Kind::Limit),
            (format!("{GOOD}{}", "#\n".repeat(600_000)), Kind::Limit),
        ];
        for (text, kind) in cases {
            let error = Descriptor::parse_file(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), kind, "{error:?}");
        }
    }

    #[test]
    fn parents() {
        let parent = |from: &str, to: &str| {
            Descriptor::parse_file(GOOD.replace(from, to).as_bytes()).unwrap().parent()
        };
        let error = parent("ffffffff", "12345678").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsafe);
        let named = "12345678\r\nparentFileNameHint=\"b.vmdk\"";
        assert_eq!(parent("ffffffff", named).unwrap(), Some((0x1234_5678, "b.vmdk".into())));
        let error = parent("parentCID=ffffffff", "parentFileNameHint=\"b.vmdk\"").unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
    }
}
