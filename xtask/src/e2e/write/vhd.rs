//! What other readers take from a VHD before its data, checked field by field (Virtual Hard Disk
//! Image Format Specification, "Hard Disk Footer Format" and "Dynamic Disk Header Format").

use crate::Result;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const FOOTER: u64 = 512;

/// The file at `path` has a right footer for a disk of `size` bytes.
pub(super) fn check(path: &Path, size: u64, fixed: bool) -> Result<()> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let at = len.checked_sub(FOOTER).ok_or("it has no room for a footer")?;
    let footer: [u8; 512] = read(&file, at)?;
    expect("cookie", &footer[..8], b"conectix")?;
    expect("original_size", &footer[40..48], &size.to_be_bytes())?;
    expect("current_size", &footer[48..56], &size.to_be_bytes())?;
    let kind: u32 = if fixed { 2 } else { 3 };
    expect("disk_type", &footer[60..64], &kind.to_be_bytes())?;
    expect("checksum", &footer[64..68], &checksum(&footer, 64))?;
    if fixed {
        expect("data_offset", &footer[16..24], &[0xFF; 8])?;
        return expect("the size of the file", &len.to_be_bytes(), &(size + FOOTER).to_be_bytes());
    }
    expect("the copy of the footer", &read::<512>(&file, 0)?, &footer)?;
    expect("data_offset", &footer[16..24], &FOOTER.to_be_bytes())?;
    let header: [u8; 1024] = read(&file, FOOTER)?;
    expect("cookie of the header", &header[..8], b"cxsparse")?;
    expect("checksum of the header", &header[36..40], &checksum(&header, 36))
}

fn read<const N: usize>(file: &File, at: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// The complement of the sum of all bytes but those of the field itself.
fn checksum(bytes: &[u8], field: usize) -> [u8; 4] {
    let others = bytes[..field].iter().chain(&bytes[field + 4..]);
    let sum = others.fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    (!sum).to_be_bytes()
}

fn expect(field: &str, found: &[u8], wanted: &[u8]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("VHD: {field} is {found:02x?}, not {wanted:02x?}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed disk of 1 MiB; the bytes of the footer that are not named are zero.
    fn fixed() -> Vec<u8> {
        let mut bytes = vec![7; (1 << 20) + 512];
        let footer = &mut bytes[1 << 20..];
        footer.fill(0);
        footer[..8].copy_from_slice(b"conectix");
        footer[16..24].fill(0xFF);
        footer[45] = 0x10;
        footer[53] = 0x10;
        footer[63] = 2;
        let sum: u32 = b"conectix".iter().map(|byte| u32::from(*byte)).sum();
        footer[64..68].copy_from_slice(&(!(sum + 8 * 0xFF + 0x20 + 2)).to_be_bytes());
        bytes
    }

    #[test]
    fn a_wrong_field_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("disk.vhd");
        let verdict = |bytes: &[u8], size| {
            std::fs::write(&path, bytes).expect("written");
            check(&path, size, true).map_err(|error| error.to_string())
        };
        assert_eq!(verdict(&fixed(), 1 << 20), Ok(()));
        assert!(verdict(&fixed(), (1 << 20) + 512).is_err_and(|text| text.contains("_size")));
        assert!(verdict(&fixed()[512..], 1 << 20).is_err_and(|text| text.contains("the file")));
        for (at, field) in [(0, "cookie"), (53, "current_size"), (67, "checksum"), (90, "checksum")]
        {
            let mut bytes = fixed();
            bytes[(1 << 20) + at] ^= 1;
            assert!(verdict(&bytes, 1 << 20).is_err_and(|text| text.contains(field)), "{field}");
        }
        assert!(verdict(&[], 1 << 20).is_err());
    }
}
