//! Loop devices, file systems and loads for the tests of trackers. What is attached or mounted goes
//! away with the test, whatever happens in it.
#![allow(clippy::unwrap_used, reason = "a helper of tests that cannot go on ends the test")]
#![allow(dead_code, reason = "every test binary uses a part")]

pub(crate) mod load;

use carreto_live::granule::{GRANULE, GranuleSet, granules_in};
use carreto_live::track::TrackedDisk;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// Bytes of a granule, as a length in memory.
const BLOCK: usize = 64 << 10;
const _: () = assert!(BLOCK as u64 == GRANULE, "blocks are granules");

/// Lets one test at a time attach devices, if that is wanted at all: it needs root.
pub(crate) fn allowed(test: &str) -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    if std::env::var_os("CARRETO_ROOT_TESTS").is_none_or(|value| value != "1") {
        say(&format!("SKIPPED {test}: it needs root and CARRETO_ROOT_TESTS=1"));
        return None;
    }
    Some(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Prints a number that was measured, also where the test passes.
pub(crate) fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Runs a command that must succeed and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A folder on a disk, for the files behind loop devices.
pub(crate) fn folder() -> TempDir {
    let place = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    TempDir::new_in(place).unwrap()
}

/// A mount that ends with the test.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(arguments: &[&str], point: &Path) -> Self {
        fs::create_dir_all(point).unwrap();
        let mut arguments = arguments.to_vec();
        arguments.push(point.to_str().unwrap());
        run("mount", &arguments);
        Self(point.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A file of random bytes as a disk.
pub(crate) struct Disk {
    pub(crate) device: String,
    pub(crate) file: PathBuf,
}

impl Disk {
    /// A disk of `size` bytes in `folder`.
    pub(crate) fn random(folder: &Path, size: u64) -> Self {
        let file = folder.join("disk");
        let mut random = File::open("/dev/urandom").unwrap().take(size);
        std::io::copy(&mut random, &mut File::create(&file).unwrap()).unwrap();
        Self::attach(file)
    }

    /// A disk of `size` zeros, of which none take space.
    pub(crate) fn sparse(folder: &Path, size: u64) -> Self {
        let file = folder.join("disk");
        File::create(&file).unwrap().set_len(size).unwrap();
        Self::attach(file)
    }

    fn attach(file: PathBuf) -> Self {
        let path = file.to_str().unwrap();
        let device = run("losetup", &["--find", "--show", "--direct-io=on", path]);
        Self { device, file }
    }

    pub(crate) fn tracked(&self) -> TrackedDisk {
        let name = self.device.trim_start_matches("/dev/").to_owned();
        let number = fs::metadata(&self.device).unwrap().rdev();
        let diskseq = fs::read_to_string(format!("/sys/block/{name}/diskseq")).ok();
        TrackedDisk {
            name,
            devno: (rustix::fs::major(number), rustix::fs::minor(number)),
            diskseq: diskseq.and_then(|text| text.trim().parse().ok()),
            size: fs::metadata(&self.file).unwrap().len(),
        }
    }

    /// Makes the disk larger while it is attached.
    pub(crate) fn grow(&self, size: u64) {
        File::options().write(true).open(&self.file).unwrap().set_len(size).unwrap();
        run("losetup", &["-c", &self.device]);
    }

    /// Whether the device still belongs to this test; numbers are given to others once detached.
    fn is_attached(&self) -> bool {
        let name = self.device.trim_start_matches("/dev/");
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
        file.is_ok_and(|file| Path::new(file.trim()) == self.file)
    }

    /// Copies the content as it is on the disk now.
    pub(crate) fn snapshot(&self) -> PathBuf {
        run("sync", &["-f", self.file.to_str().unwrap()]);
        let copy = self.file.with_extension("before");
        run("cp", &["--sparse=never", self.file.to_str().unwrap(), copy.to_str().unwrap()]);
        copy
    }

    /// The granules in which the disk differs from `copy`.
    pub(crate) fn differing(&self, copy: &Path) -> GranuleSet {
        let granules = granules_in(self.tracked().size);
        let mut set = GranuleSet::empty(granules);
        let (mut old, mut new) = (File::open(copy).unwrap(), File::open(&self.file).unwrap());
        let mut blocks = [vec![0; BLOCK], vec![0; BLOCK]];
        for index in 0..granules {
            old.read_exact(&mut blocks[0]).unwrap();
            new.read_exact(&mut blocks[1]).unwrap();
            if blocks[0] != blocks[1] {
                set.insert(index);
            }
        }
        set
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_attached() {
            let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        }
    }
}

/// Changes one granule of `device` past the page cache.
pub(crate) fn write_granule(device: &str, index: u64) {
    let (to, seek) = (format!("of={device}"), format!("seek={index}"));
    run("dd", &["if=/dev/urandom", &to, "bs=64k", "count=1", &seek, "oflag=direct", "status=none"]);
}

/// Bytes of this process in memory.
pub(crate) fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}
