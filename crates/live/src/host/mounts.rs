//! What is mounted: `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).

use super::machine::{Machine, Number, parse_number};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// One mount of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: u64,
    pub(super) parent: u64,
    /// The number of the file system; major 0 where it is not on one block device.
    pub(super) number: Number,
    /// What of the file system is mounted.
    pub(super) root: PathBuf,
    /// Where.
    pub(super) point: PathBuf,
    pub(super) kind: String,
    /// What was mounted; for a file system on devices one of them.
    pub(super) source: PathBuf,
    /// Options of the file system, whichever its mounts have.
    pub(super) options: Vec<String>,
}

impl Mount {
    /// Whether the file system takes no changes at any of its mounts.
    pub(super) fn read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }

    /// The value of an option of the file system.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The mounts that this process sees, in the kernel's order.
pub(super) fn mounts(machine: &Machine) -> Vec<Mount> {
    parse(&machine.bytes("/proc/self/mountinfo").unwrap_or_default())
}

/// Lines that are none of mountinfo are left out.
pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - KIND SOURCE OPTIONS`.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let number = parse_number(std::str::from_utf8(fields.next()?).ok()?)?;
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = unescape(rest.next().unwrap_or_default());
    let options = String::from_utf8_lossy(rest.next().unwrap_or_default()).into_owned();
    let options = options.split(',').map(str::to_owned).collect();
    let fits = point.is_absolute() && !kind.is_empty();
    fits.then_some(Mount { id, parent, number, root, point, kind, source, options })
}

/// Undoes the octal escapes of spaces, tabs, newlines and backslashes.
pub(super) fn unescape(field: &[u8]) -> PathBuf {
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
    let all = digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
    all.then(|| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok())?
}

/// Whether the path of `mounts[index]` leads to another mount, stacked on it or on a folder above.
pub(super) fn is_covered(mounts: &[Mount], index: usize) -> bool {
    let mount = &mounts[index];
    mounts[index.saturating_add(1)..].iter().any(|later| {
        mount.point.starts_with(&later.point) && !ancestors(mounts, mount).contains(&later.id)
    })
}

/// The mounts that a mount hangs on, nearest first.
fn ancestors(mounts: &[Mount], mount: &Mount) -> Vec<u64> {
    let mut list = Vec::new();
    let mut parent = mount.parent;
    while !list.contains(&parent) && parent != mount.id {
        list.push(parent);
        match mounts.iter().find(|other| other.id == parent) {
            Some(found) => parent = found.parent,
            None => break,
        }
    }
    list
}

/// The mount that the absolute `path` leads into.
pub(super) fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    // Of mounts on the same point the last one is seen; `max_by_key` returns the last.
    mounts
        .iter()
        .enumerate()
        .filter(|(index, mount)| path.starts_with(&mount.point) && !is_covered(mounts, *index))
        .map(|(_, mount)| mount)
        .max_by_key(|mount| mount.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_tags_and_escapes() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw,errors=continue\n\
            36 22 8:17 /sub /mnt/a\\040b\\134 rw,noatime shared:1 master:2 - xfs /dev/sdb1 ro,logdev=/dev/sdc1\n\
            40 22 0:44 /@ /data rw - btrfs /dev/sdd rw\n";
        let list = parse(text);
        assert_eq!(list.len(), 3);
        assert_eq!((list[0].id, list[0].parent, list[0].number), (22, 1, (8, 1)));
        assert_eq!(list[1].point, Path::new("/mnt/a b\\"));
        assert_eq!(list[1].root, Path::new("/sub"));
        assert!(list[1].read_only() && !list[0].read_only());
        assert_eq!(list[1].option("logdev"), Some("/dev/sdc1"));
        assert_eq!(list[1].option("log"), None);
        assert_eq!((list[2].kind.as_str(), list[2].number), ("btrfs", (0, 44)));
    }

    #[test]
    fn hostile_lines_are_left_out() {
        let text =
            b"\nbroken line\n1 2\n1 2 x:y / / rw - ext4 a rw\n1 2 8:1 / rel rw - ext4 a rw\n\
            1 2 8:1 / /m rw shared:1\n-1 2 8:1 / /m rw - ext4 a rw\n1 2 8:1 / /\xFF\\9 rw -  a rw\n\
            99999999999999999999999 2 8:1 / /m rw - ext4 a rw\n7 2 8:1 / /\xFF\\777 rw - ext4\n";
        let list = parse(text);
        assert_eq!(list.len(), 1, "{list:?}");
        assert_eq!(list[0].id, 7);
        assert!(list[0].source.as_os_str().is_empty());
    }

    #[test]
    fn what_is_no_escape_stays() {
        for text in ["a\\04", "\\999x", "\\+12", "\\"] {
            assert_eq!(unescape(text.as_bytes()), Path::new(text));
        }
    }

    #[test]
    fn paths_lead_into_the_mount_on_top() {
        let list = parse(
            b"1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /a rw - ext4 b rw\n3 2 8:3 / /a/b rw - ext4 c rw\n\
            4 2 8:4 / /a rw - ext4 d rw\n",
        );
        let number = |path: &str| holding(&list, Path::new(path)).map(|mount| mount.number);
        assert_eq!(number("/x/y"), Some((8, 1)));
        assert_eq!(number("/ab"), Some((8, 1)));
        assert_eq!(number("/a/b/c"), Some((8, 4)));
        assert!(is_covered(&list, 1) && is_covered(&list, 2));
        assert!(!is_covered(&list, 0) && !is_covered(&list, 3));
    }

    #[test]
    fn parents_that_name_each_other_end() {
        let list = parse(b"1 2 8:1 / /a rw - ext4 a rw\n2 1 8:2 / /a/b rw - ext4 b rw\n");
        assert!(!is_covered(&list, 0));
        assert!(!is_covered(&list, 1));
    }
}
