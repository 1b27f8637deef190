//! libvmdk (<https://github.com/libyal/libvmdk>), a reader of VMDK that shares no line with QEMU
//! or with Carreto.

use super::super::carreto::text;
use super::super::needs::Provided;
use super::super::process;
use super::super::python::Package;
use super::disks;
use crate::Result;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: Package = Package { name: "libvmdk-python", version: "20260714", module: "pyvmdk" };

/// Disks up to here are read from begin to end.
const WHOLE: u64 = 1 << 30;

/// Prints the size of a disk and the SHA-256 of ranges of it.
const SCRIPT: &str = "
import hashlib, pyvmdk, sys
disk = pyvmdk.handle()
disk.open(sys.argv[1])
disk.open_extent_data_files()
digest = hashlib.sha256()
for word in sys.argv[2:]:
    start, length = map(int, word.split(':'))
    disk.seek_offset(start, 0)
    while length > 0:
        piece = disk.read_buffer(min(length, 1 << 20))
        if not piece:
            sys.exit('the disk ends %d bytes early' % length)
        digest.update(piece)
        length -= len(piece)
print(disk.get_media_size(), digest.hexdigest())
";

/// Python with libvmdk.
pub(super) struct LibVmdk {
    python: PathBuf,
}

impl LibVmdk {
    /// Installs it into `folder`, unless it is there.
    pub(super) fn provide(folder: &Path) -> Result<(Self, Provided)> {
        let (python, provided) = PACKAGE.provide(folder)?;
        Ok((Self { python }, provided))
    }

    /// The image `made` holds the bytes of the raw disk `wanted`, and is as large.
    pub(super) fn expect(&self, made: &Path, wanted: &Path) -> Result<()> {
        let size = std::fs::metadata(wanted)?.len();
        let ranges = ranges(size);
        let mut command = Command::new(&self.python);
        command.args(["-c", SCRIPT, text(made)?]);
        command.args(ranges.iter().map(|(start, len)| format!("{start}:{len}")));
        let found = process::succeed(&mut command)?;
        let wanted = format!("{size} {}", digest(wanted, &ranges)?);
        if found.trim() == wanted {
            return Ok(());
        }
        Err(format!("libvmdk read {}, wanted {wanted}", found.trim()).into())
    }
}

/// What is read: everything, or what surrounds the data of a sparse disk.
fn ranges(size: u64) -> Vec<(u64, u64)> {
    if size <= WHOLE {
        return vec![(0, size)];
    }
    let around = |at: u64| (at.saturating_sub(1 << 20), size.min(at + (1 << 20)));
    let ends = disks::places(size).map(around);
    ends.iter().map(|(start, end)| (*start, end - start)).collect()
}

fn digest(disk: &Path, ranges: &[(u64, u64)]) -> Result<String> {
    let file = File::open(disk)?;
    let mut digest = Sha256::new();
    for (start, len) in ranges {
        let mut bytes = vec![0; usize::try_from(*len)?];
        file.read_exact_at(&mut bytes, *start)?;
        digest.update(&bytes);
    }
    let mut text = String::new();
    for byte in digest.finalize() {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}
