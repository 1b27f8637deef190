//! Disks with known content: partitioned, sparse, the same bytes every time.

use crate::Result;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

const BLOCK: u64 = 4096;
const CHUNK: usize = 1 << 20;

/// A small generator of numbers (`SplitMix64`): the disks need no better ones, but always the
/// same ones.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// What a run of blocks holds.
#[derive(Clone, Copy)]
enum Fill {
    Hole,
    Zeroes,
    Text,
    Random,
}

/// Writes a disk of `size` bytes: an MBR, then runs of 4 KiB blocks as a file system leaves them
/// (many small, few large ones; holes, written zeros, text and data that does not compress), and
/// something in the very last bytes.
pub(crate) fn write(path: &Path, size: u64, seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed);
    let mut file = File::create(path)?;
    file.set_len(size)?;
    file.write_all(&boot_sector(size))?;
    let mut block = 16;
    while block * BLOCK < size {
        let blocks = run_length(&mut rng);
        let what = match rng.below(8) {
            0..=3 => Fill::Hole,
            4 => Fill::Zeroes,
            5 | 6 => Fill::Text,
            _ => Fill::Random,
        };
        let start = block * BLOCK;
        let end = size.min(start + blocks * BLOCK);
        if let Some(bytes) = content(what, start, end, &mut rng) {
            file.seek(SeekFrom::Start(start))?;
            file.write_all(&bytes)?;
        }
        block += blocks;
    }
    file.seek(SeekFrom::Start(size - 3))?;
    file.write_all(b"end")?;
    Ok(())
}

fn run_length(rng: &mut Rng) -> u64 {
    match rng.below(20) {
        0 => 64 + rng.below(400),
        1..=5 => 8 + rng.below(48),
        _ => 1 + rng.below(6),
    }
}

fn boot_sector(size: u64) -> [u8; 512] {
    let mut sector = [0; 512];
    let sectors = u32::try_from(size / 512).unwrap_or(u32::MAX);
    // One bootable Linux partition from sector 128 on.
    sector[446] = 0x80;
    sector[450] = 0x83;
    sector[454..458].copy_from_slice(&128_u32.to_le_bytes());
    sector[458..462].copy_from_slice(&sectors.saturating_sub(128).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xAA]);
    sector
}

/// The bytes of a run, or nothing for a hole.
fn content(fill: Fill, start: u64, end: u64, rng: &mut Rng) -> Option<Vec<u8>> {
    let len = usize::try_from(end - start).ok()?;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        match fill {
            Fill::Hole => return None,
            Fill::Zeroes => bytes.resize(len, 0),
            Fill::Text => {
                let line = format!("{:015x}\n", start + bytes.len() as u64);
                bytes.extend_from_slice(line.as_bytes());
            }
            Fill::Random => bytes.extend_from_slice(&rng.next().to_le_bytes()),
        }
    }
    bytes.truncate(len);
    Some(bytes)
}

/// The SHA-256 of a whole file or device, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    let mut file = open(path)?;
    let mut buf = vec![0; CHUNK];
    loop {
        match file.read(&mut buf)? {
            0 => break,
            len => digest.update(&buf[..len]),
        }
    }
    let mut text = String::new();
    for byte in digest.finalize() {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// Says where two files differ, if they do.
pub(crate) fn compare(found: &Path, wanted: &Path) -> Result<()> {
    let (mut one, mut other) = (open(found)?, open(wanted)?);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut at = 0;
    loop {
        a.clear();
        b.clear();
        one.by_ref().take(CHUNK as u64).read_to_end(&mut a)?;
        other.by_ref().take(CHUNK as u64).read_to_end(&mut b)?;
        if a != b {
            return Err(difference(at, &a, &b).into());
        }
        if a.is_empty() {
            return Ok(());
        }
        at += a.len();
    }
}

fn difference(at: usize, found: &[u8], wanted: &[u8]) -> String {
    if let Some(index) = found.iter().zip(wanted).position(|(a, b)| a != b) {
        let (a, b) = (found[index], wanted[index]);
        format!("byte {} is {a:#04x}, not {b:#04x}", at + index)
    } else {
        let (a, b) = (at + found.len(), at + wanted.len());
        format!("it ends at byte {a} or later, the other one at {b} or later")
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(BufReader::with_capacity(CHUNK, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_the_same_every_time_and_all_of_it_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = [folder.path().join("a"), folder.path().join("b")];
        for path in &paths {
            write(path, 3 * 1024 * 1024 + 1536, 7).expect("it is written");
        }
        compare(&paths[0], &paths[1]).expect("equal");
        assert_eq!(sha256(&paths[0]).expect("read"), sha256(&paths[1]).expect("read"));
        let bytes = std::fs::read(&paths[0]).expect("read");
        assert_eq!(bytes.len(), 3 * 1024 * 1024 + 1536);
        assert_eq!(&bytes[510..512], &[0x55, 0xAA]);
        assert_eq!(&bytes[bytes.len() - 3..], b"end");
        let data = bytes.iter().filter(|byte| **byte != 0).count();
        assert!(data > bytes.len() / 10 && data < bytes.len() * 9 / 10, "{data}");
    }

    #[test]
    fn differences_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path
        };
        let (short, long, other) = (file("s", b"ab"), file("l", b"abc"), file("o", b"axc"));
        assert!(compare(&short, &long).is_err());
        assert!(compare(&long, &short).is_err());
        let text = compare(&long, &other).expect_err("they differ").to_string();
        assert!(text.contains("byte 1 is 0x62, not 0x78"), "{text}");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&long).expect("read"), abc);
    }
}
