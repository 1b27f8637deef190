//! Loop devices and mounts that go away with the test, whatever happens in it.

use super::skip;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lets one test at a time attach devices and mount file systems, if that is wanted at all: it
/// needs root. Says so where it is not wanted.
pub(crate) fn allowed(test: &str) -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    let wanted = std::env::var_os("CARRETO_ROOT_TESTS").is_some_and(|value| value == "1");
    if !wanted {
        skip(&format!("{test}: it needs root and CARRETO_ROOT_TESTS=1"));
        return None;
    }
    Some(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs a command that must succeed and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A file as a block device.
pub(crate) struct Loop {
    pub(crate) device: PathBuf,
}

impl Loop {
    /// Attaches `file` with the given logical block size and further options of losetup(8).
    pub(crate) fn attach(file: &Path, sector: u32, options: &[&str]) -> Self {
        let sector = sector.to_string();
        let mut arguments = vec!["--find", "--show", "--sector-size", &sector];
        arguments.extend(options);
        arguments.push(file.to_str().unwrap());
        Self { device: PathBuf::from(run("losetup", &arguments)) }
    }

    /// The device's path as text.
    pub(crate) fn name(&self) -> &str {
        self.device.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// A mounted file system.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts with the given arguments of mount(8) on the new directory `point`.
    pub(crate) fn new(arguments: &[&str], point: &Path) -> Self {
        std::fs::create_dir_all(point).unwrap();
        let mut arguments = arguments.to_vec();
        arguments.push(point.to_str().unwrap());
        run("mount", &arguments);
        Self(point.to_owned())
    }

    /// A file system in memory of `size` bytes.
    pub(crate) fn tmpfs(size: u64, point: &Path) -> Self {
        let options = format!("size={size}");
        Self::new(&["-t", "tmpfs", "-o", &options, "tmpfs"], point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
