//! libvmdk (<https://github.com/libyal/libvmdk>), a reader of VMDK that shares no line with QEMU
//! or with Carreto: installed once, by pip, into a folder of its own.

use super::super::carreto::text;
use super::super::needs::Provided;
use super::super::process;
use super::disks;
use crate::Result;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A later one may behave differently: it is raised on purpose.
const VERSION: &str = "20260714";

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
        let own = Self { python: folder.join("bin/python") };
        let mut provided = Provided::default();
        if !own.is_there() {
            let package = format!("libvmdk-python=={VERSION}");
            println!("pip install {package}");
            process::succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
            let pip = ["-m", "pip", "install", "--disable-pip-version-check", &package];
            process::succeed(Command::new(&own.python).args(pip))?;
            if !own.is_there() {
                return Err(format!("{package} was installed and does not load").into());
            }
            provided.installed.push(format!("pip install {package}"));
        }
        provided.versions.push(format!("libvmdk {VERSION}"));
        Ok((own, provided))
    }

    fn is_there(&self) -> bool {
        let ask = ["-c", "import pyvmdk; print(pyvmdk.get_version())"];
        let version = process::succeed(Command::new(&self.python).args(ask));
        version.is_ok_and(|version| version.trim() == VERSION)
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
