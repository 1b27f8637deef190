//! What names a partition table: the GUID of a GPT, the signature of an MBR.
//!
//! UEFI specification 2.10, section 5; the MBR's signature as Linux and Windows use it.

use std::fmt::Write as _;

/// Bytes from the start of a disk that tell, for sectors of up to 4 KiB.
pub(super) const HEAD: usize = 8192;

/// The name of the partition table in the first bytes of a disk.
pub(super) fn id(head: &[u8], sector: u32) -> Option<String> {
    let sector = usize::try_from(sector).ok()?;
    gpt(head.get(sector..)?).or_else(|| mbr(head))
}

fn gpt(header: &[u8]) -> Option<String> {
    if header.get(..8)? != b"EFI PART" {
        return None;
    }
    let guid = header.get(56..72)?;
    if guid.iter().all(|byte| *byte == 0) {
        return None;
    }
    // The first three fields are little-endian numbers, the rest is bytes.
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (position, index) in order.into_iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{:02x}", guid[index]);
    }
    Some(text)
}

fn mbr(head: &[u8]) -> Option<String> {
    if head.get(510..512)? != [0x55, 0xAA] {
        return None;
    }
    let signature = u32::from_le_bytes(head.get(440..444)?.try_into().ok()?);
    (signature != 0).then(|| format!("{signature:08x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[510..512].copy_from_slice(&[0x55, 0xAA]);
        head[at..at + bytes.len()].copy_from_slice(bytes);
        head
    }

    /// The GUID of a Linux file system partition has the text that the specification prints.
    #[test]
    fn a_guid_is_printed_as_others_print_it() {
        let guid = *b"\xAF\x3D\xC6\x0F\x83\x84\x72\x47\x8E\x79\x3D\x69\xD8\x47\x7D\xE4";
        let mut header = b"EFI PART".to_vec();
        header.resize(56, 1);
        header.extend(guid);
        let wanted = Some("0fc63daf-8483-4772-8e79-3d69d8477de4".to_owned());
        assert_eq!(id(&head_with(512, &header), 512), wanted);
        assert_eq!(id(&head_with(4096, &header), 4096), wanted);
        assert_eq!(id(&head_with(4096, &header), 512), None);
    }

    #[test]
    fn a_signature_needs_the_mark() {
        let mut head = head_with(440, &[0x78, 0x56, 0x34, 0x12]);
        assert_eq!(id(&head, 512).as_deref(), Some("12345678"));
        head[511] = 0;
        assert_eq!(id(&head, 512), None);
        assert_eq!(id(&head_with(440, &[0; 4]), 512), None);
        for sector in [0, 1, 8000, u32::MAX] {
            let _ = id(&head, sector);
        }
        assert_eq!(id(&[], 512), None);
    }
}
