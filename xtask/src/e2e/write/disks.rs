//! The disks that are written: small ones of every kind, and sparse ones of any size.

use super::super::disk::{self, Rng};
use crate::Result;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// A raw disk.
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// Whether anything in it is not zero.
    pub(super) has_data: bool,
    /// Whether some of its data gets smaller by compression.
    pub(super) shrinks: bool,
}

/// Empty, full of noise, mixed as file systems leave it, and of sizes that are multiples of no
/// cluster, no grain or no sector.
pub(super) fn small(folder: &Path) -> Result<Vec<Disk>> {
    let disk = |name: &str, size, has_data, shrinks| Disk {
        name: name.to_owned(),
        path: folder.join(name),
        size,
        has_data,
        shrinks,
    };
    let disks = vec![
        disk("empty", 3 * MIB, false, false),
        disk("empty-odd", MIB + 1, false, false),
        disk("full", 4 * MIB, true, false),
        disk("full-odd", 2 * MIB + 3 * 512, true, false),
        disk("mixed", 5 * MIB, true, true),
        disk("mixed-odd", 4 * MIB + 7 * 512, true, true),
        disk("mixed-bytes", 2 * MIB + 1000, true, true),
    ];
    for disk in &disks {
        match (disk.has_data, disk.shrinks) {
            (false, _) => File::create(&disk.path)?.set_len(disk.size)?,
            (true, false) => std::fs::write(&disk.path, noise(disk.size))?,
            (true, true) => disk::write(&disk.path, disk.size, disk.size)?,
        }
    }
    Ok(disks)
}

fn noise(size: u64) -> Vec<u8> {
    let mut rng = Rng::new(size);
    (0..size).map(|_| rng.next().to_le_bytes()[0]).collect()
}

impl Disk {
    /// A disk of `size` bytes with little in it: at its begin, in the middle, and at its end.
    pub(super) fn sparse(folder: &Path, size: u64) -> Result<Self> {
        let name = format!("sparse-{}G", size >> 30);
        let path = folder.join(&name);
        let file = File::create(&path)?;
        file.set_len(size)?;
        for at in places(size) {
            file.write_all_at(&[0x5A; 4096], at)?;
        }
        Ok(Self { name, path, size, has_data: true, shrinks: true })
    }

    /// The same disk with zeros at its end, up to `size` bytes.
    pub(super) fn padded(&self, size: u64) -> Result<PathBuf> {
        if size == self.size {
            return Ok(self.path.clone());
        }
        let path = self.path.with_extension(size.to_string());
        std::fs::copy(&self.path, &path)?;
        File::options().write(true).open(&path)?.set_len(size)?;
        Ok(path)
    }
}

/// Where a sparse disk has data.
pub(super) const fn places(size: u64) -> [u64; 3] {
    [0, size / 3 / 4096 * 4096, size - 4096]
}
