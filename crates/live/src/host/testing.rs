//! A machine of plain files for the tests of this module.

use super::machine::{Machine, Number};
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder with `sys`, `proc` and `dev`; every function adds to it.
pub(super) struct Fake(TempDir);

impl Fake {
    pub(super) fn new() -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        for folder in ["sys/block", "sys/class/block", "sys/dev/block", "dev", "proc/self"] {
            std::fs::create_dir_all(fake.0.path().join(folder)).unwrap();
        }
        fake
    }

    pub(super) fn machine(&self) -> Machine {
        Machine::at(self.0.path())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    /// A file with its folders.
    pub(super) fn file(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// A symbolic link with its folders.
    pub(super) fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    pub(super) fn disk(&self, name: &str, number: Number, size: u64) -> &Self {
        self.link(&format!("/sys/block/{name}"), &format!("../devices/{name}"));
        self.device(name, &format!("devices/{name}"), number, size)
    }

    /// Start and size in sectors of 512 bytes.
    pub(super) fn partition(
        &self,
        disk: &str,
        name: &str,
        number: Number,
        start: u64,
        sectors: u64,
    ) -> &Self {
        self.device(name, &format!("devices/{disk}/{name}"), number, sectors * 512);
        self.attribute(name, "partition", "1").attribute(name, "start", &start.to_string())
    }

    fn device(&self, name: &str, folder: &str, number: Number, size: u64) -> &Self {
        let (major, minor) = number;
        self.file(&format!("/sys/{folder}/dev"), format!("{major}:{minor}\n"));
        self.file(&format!("/sys/{folder}/size"), format!("{}\n", size / 512));
        self.link(&format!("/sys/class/block/{name}"), &format!("../../{folder}"));
        self.link(&format!("/sys/dev/block/{major}:{minor}"), &format!("../../{folder}"));
        self.file(&format!("/dev/{name}"), "")
    }

    pub(super) fn attribute(&self, device: &str, name: &str, text: &str) -> &Self {
        self.file(&format!("/sys/class/block/{device}/{name}"), text)
    }

    /// Says that `above` is built on `below`.
    pub(super) fn built_on(&self, above: &str, below: &str) -> &Self {
        let folder =
            |name: &str| std::fs::canonicalize(self.path(&format!("sys/class/block/{name}")));
        let (upper, lower) = (folder(above).unwrap(), folder(below).unwrap());
        for (folder, name, target) in
            [(lower.join("holders"), above, &upper), (upper.join("slaves"), below, &lower)]
        {
            std::fs::create_dir_all(&folder).unwrap();
            std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        }
        self
    }

    /// What is mounted, as the kernel prints it.
    pub(super) fn mounted(&self, text: &str) -> &Self {
        self.file("/proc/self/mountinfo", text)
    }
}
