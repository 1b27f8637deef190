//! What the tests of local files share.
#![allow(dead_code, reason = "every test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a helper of tests that cannot go on ends the test")]

pub(crate) mod machine;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory in memory and one on the disk: file systems differ in holes and direct I/O.
pub(crate) fn places() -> Vec<TempDir> {
    let memory = Path::new("/dev/shm");
    let mut list = Vec::new();
    if memory.is_dir() {
        list.push(TempDir::new_in(memory).unwrap());
    } else {
        skip("tests on tmpfs: there is no /dev/shm");
    }
    let disk = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    list.push(TempDir::new_in(disk).unwrap());
    list
}

/// Writes `bytes` to a new file and leaves out the 4 KiB blocks that are zero.
pub(crate) fn write_sparse(path: &Path, bytes: &[u8]) {
    let file = File::create_new(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (index, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, index as u64 * 4096).unwrap();
        }
    }
}

/// Says that something was not tested. The handle itself, because what a passing test prints
/// through the macros is not shown.
pub(crate) fn skip(what: &str) {
    let line = format!("SKIPPED {what}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
