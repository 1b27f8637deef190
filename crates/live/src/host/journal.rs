//! Where an ext4 file system keeps its journal, if not in itself.
//!
//! `Documentation/filesystems/ext4/super.rst` of the kernel. The mount options do not say it, and
//! the kernel keeps the number in the superblock up to date.

use super::machine::Number;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Where the superblock begins.
const PLACE: u64 = 1024;
const MAGIC: u16 = 0xEF53;
/// The bit of the compatible features that says that there is a journal.
const HAS_JOURNAL: u32 = 4;

/// The device of the journal of the file system on the device `node`; none when there is no such
/// device, or when the device cannot be read.
pub(super) fn device_of(node: &Path) -> Option<Number> {
    let mut superblock = [0; 1024];
    std::fs::File::open(node).ok()?.read_exact_at(&mut superblock, PLACE).ok()?;
    external(&superblock)
}

fn external(superblock: &[u8; 1024]) -> Option<Number> {
    let word = |at: usize| {
        let bytes = superblock.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let magic = u16::from_le_bytes([superblock[0x38], superblock[0x39]]);
    let (features, inode, device) = (word(0x5C)?, word(0xE0)?, word(0xE4)?);
    let is_external = magic == MAGIC && features & HAS_JOURNAL != 0 && inode == 0;
    // 12 bits of the major number stand between 8 and 12 bits of the minor one.
    is_external.then_some(((device & 0xF_FF00) >> 8, (device & 0xFF) | ((device >> 12) & 0xF_FF00)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(features: u32, inode: u32, device: u32) -> [u8; 1024] {
        let mut bytes = [0; 1024];
        bytes[0x38..0x3A].copy_from_slice(&[0x53, 0xEF]);
        for (at, word) in [(0x5C, features), (0xE0, inode), (0xE4, device)] {
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn only_a_journal_elsewhere_has_a_device() {
        assert_eq!(external(&superblock(0x3C, 0, 0x0811)), Some((8, 17)));
        // 259:300, as `makedev(3)` packs it into 32 bits.
        assert_eq!(external(&superblock(4, 0, 0x0011_032C)), Some((259, 300)));
        assert_eq!(external(&superblock(0x3C, 8, 0)), None);
        assert_eq!(external(&superblock(0x38, 0, 0x0811)), None);
        assert_eq!(external(&[0; 1024]), None);
    }
}
