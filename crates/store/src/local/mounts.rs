//! What is mounted and what is swapped to: `/proc/self/mountinfo` and `/proc/swaps` (proc(5)).

use super::sysfs::parse_dev;
use rustix::fs::{FileType, major};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The device number of the file system; anonymous (major 0) where it spans devices.
    pub(super) dev: u64,
    /// What is mounted, for a file system on devices one of them.
    pub(super) source: PathBuf,
    /// Where it is mounted.
    pub(super) point: PathBuf,
    /// Whether the file system takes writes, here or at another place where it is mounted.
    pub(super) writable: bool,
}

impl Mount {
    /// The number of the device that the file system is on. Btrfs and the like have an anonymous
    /// number and name a device.
    pub(super) fn device(&self) -> Option<u64> {
        if major(self.dev) != 0 {
            return Some(self.dev);
        }
        self.source.is_absolute().then(|| device_at(&self.source))?
    }
}

/// The mounts that this process sees; none where `proc` is not mounted.
pub(super) fn mounts(proc: &Path) -> Vec<Mount> {
    let text = std::fs::read(proc.join("self/mountinfo")).unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(parse_mount).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER`.
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let dev = parse_dev(std::str::from_utf8(fields.nth(2)?).ok()?)?;
    let point = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|field| *field != b"-");
    let source = unescape(rest.nth(2)?);
    let mut options = rest.next().unwrap_or_default().split(|byte| *byte == b',');
    let writable = !options.any(|option| option == b"ro");
    Some(Mount { dev, source, point, writable })
}

/// The devices and files that are swapped to.
pub(super) fn swaps(proc: &Path) -> Vec<PathBuf> {
    let text = std::fs::read(proc.join("swaps")).unwrap_or_default();
    text.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| line.split(|byte| *byte == b' ' || *byte == b'\t').next())
        .filter(|field| !field.is_empty())
        .map(unescape)
        .collect()
}

/// The number of the block device at `path`.
pub(super) fn device_at(path: &Path) -> Option<u64> {
    let stat = rustix::fs::stat(path).ok()?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    device.then_some(stat.st_rdev)
}

/// Undoes the octal escapes of spaces, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..3).filter(|_| *first == b'\\').and_then(octal);
        let taken = if escaped.is_some() { 4 } else { 1 };
        bytes.push(escaped.unwrap_or(*first));
        rest = &rest[taken..];
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// A path for messages.
pub(super) fn shown(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::makedev;

    #[test]
    fn mountinfo_with_tags_and_escapes() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("self")).unwrap();
        let text = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            36 22 8:17 /sub /mnt/a\\040b rw,noatime shared:1 master:2 - xfs /dev/sdb1 ro,noquota\n\
            40 22 0:44 / /data rw - btrfs /no/such/device rw\n\
            41 22 0:45 / /tmp rw - tmpfs tmpfs rw\n\
            broken line\n";
        std::fs::write(place.path().join("self/mountinfo"), text).unwrap();
        let list = mounts(place.path());
        assert_eq!(list.len(), 4);
        assert_eq!(list[0].device(), Some(makedev(8, 1)));
        assert_eq!(list[1].point, Path::new("/mnt/a b"));
        assert_eq!(list[1].device(), Some(makedev(8, 17)));
        assert!(list[0].writable && !list[1].writable, "{list:?}");
        assert_eq!((list[2].device(), list[3].device()), (None, None));
    }

    #[test]
    fn swaps_are_named() {
        let place = tempfile::tempdir().unwrap();
        let text = "Filename\t\t\t\tType\t\tSize\n/dev/sda2   partition\t8388604\t0\t-2\n\
            /swap\\040file file\t1\t0\t-3\n";
        std::fs::write(place.path().join("swaps"), text).unwrap();
        let wanted = [Path::new("/dev/sda2"), Path::new("/swap file")];
        assert_eq!(swaps(place.path()), wanted);
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(b"a\\04"), Path::new("a\\04"));
        assert_eq!(unescape(b"\\999x"), Path::new("\\999x"));
        assert_eq!(unescape(b"\\134"), Path::new("\\"));
    }
}
