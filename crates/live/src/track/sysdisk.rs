//! What `/sys/block` says about the disk that is tracked
//! (`Documentation/ABI/stable/sysfs-block` of the kernel).

use super::TrackedDisk;
use carreto_error::{Error, IoSide, Kind, Result};
use serde::Serialize;
use std::fs;
use std::path::PathBuf;

/// The counters of `/sys/block/X/stat` that concern changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KernelCounts {
    /// Requests that write, empty flushes and zeroing included.
    pub writes: u64,
    /// Sectors of 512 bytes of those.
    pub write_sectors: u64,
    /// Discards; 0 before Linux 4.18.
    pub discards: u64,
    /// Sectors of those.
    pub discard_sectors: u64,
    /// Flushes; 0 before Linux 5.5.
    pub flushes: u64,
}

impl KernelCounts {
    pub(super) fn sectors(self) -> [u64; 2] {
        [self.write_sectors, self.discard_sectors]
    }

    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<u64> =
            text.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
        let field = |index: usize| fields.get(index).copied();
        Some(Self {
            writes: field(4)?,
            write_sectors: field(6)?,
            discards: field(11).unwrap_or(0),
            discard_sectors: field(13).unwrap_or(0),
            flushes: field(15).unwrap_or(0),
        })
    }
}

/// The directory of a disk.
#[derive(Debug, Clone)]
pub(super) struct SysDisk(PathBuf);

impl SysDisk {
    /// The directory of `disk`, after a look that it is still the same one.
    pub(super) fn open(disk: &TrackedDisk) -> Result<Self> {
        let name = disk.name.replace('/', "!");
        if name.is_empty() || name.starts_with('.') {
            return Err(Error::new(Kind::Usage, format!("{name:?} is no name of a disk")));
        }
        let this = Self(PathBuf::from("/sys/block").join(name));
        let number = this.text("dev")?;
        let (major, minor) = disk.devno;
        if number != format!("{major}:{minor}") || this.diskseq() != disk.diskseq {
            let text = format!("the disk is now {number}, it was {major}:{minor}");
            return Err(Error::new(Kind::SourceChanged, text).path(this.0.display().to_string()));
        }
        Ok(this)
    }

    fn text(&self, file: &str) -> Result<String> {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path);
        let text = text.map_err(|error| {
            Error::io(IoSide::Source, "read", path.display().to_string(), error)
        })?;
        Ok(text.trim().to_owned())
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file).ok()?.parse().ok()
    }

    /// The counters.
    pub(super) fn counts(&self) -> Result<KernelCounts> {
        let text = self.text("stat")?;
        KernelCounts::parse(&text).ok_or_else(|| {
            let path = self.0.join("stat").display().to_string();
            Error::new(Kind::Unsupported, "it has less than 7 numbers").path(path)
        })
    }

    /// Requests in flight that are not reads. Everything counts where the kernel does not say.
    pub(super) fn in_flight(&self) -> u64 {
        let text = self.text("inflight").unwrap_or_default();
        text.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(1)
    }

    /// Whether a discard may have several ranges (`NVMe`, some of virtio), of which the request
    /// names the first one alone: the kernel merges discards of any sectors then
    /// (`bio_attempt_discard_merge`). Kernels without the file, before 4.11, never do.
    pub(super) fn merges_discards(&self) -> bool {
        self.number("queue/max_discard_segments").is_some_and(|most| most > 1)
    }

    /// Whether the kernel counts requests.
    pub(super) fn iostats(&self) -> bool {
        self.number("queue/iostats") == Some(1)
    }

    /// The number of this attachment, since Linux 5.15.
    pub(super) fn diskseq(&self) -> Option<u64> {
        self.number("diskseq")
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.number("size").unwrap_or(0).saturating_mul(512)
    }

    /// Whether what changes the disk can be followed: by requests with sectors.
    ///
    /// # Errors
    /// `Unsupported` for disks that hand bios on (device mapper, md, zram), because only requests
    /// are traced with absolute sectors at issue and completion, and for zoned disks.
    pub(super) fn makes_plain_requests(&self) -> Result<()> {
        let requests = self.makes_requests();
        let zoned = self.text("queue/zoned").is_ok_and(|model| model != "none");
        let text = match (requests, zoned) {
            (true, false) => return Ok(()),
            (false, _) => "the disk hands its work on to others and makes no requests",
            (_, true) => "the disk has zones, whose commands name no sectors",
        };
        Err(Error::new(Kind::Unsupported, text).path(self.0.display().to_string()))
    }

    /// Disks with several queues have a folder for them. Those with a single queue, before Linux
    /// 5.0, are known by a scheduler, which what hands bios on has not.
    fn makes_requests(&self) -> bool {
        if ["dm", "md"].iter().any(|folder| self.0.join(folder).is_dir()) {
            return false;
        }
        let schedulers = self.text("queue/scheduler").unwrap_or_default();
        let mut names =
            schedulers.split_ascii_whitespace().map(|name| name.trim_matches(['[', ']']));
        self.0.join("mq").is_dir() || names.any(|name| name != "none")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_that_make_requests_are_told_from_others() {
        for (folders, scheduler, zoned, requests) in [
            (&["mq"][..], "[none] mq-deadline", "none", true),
            (&["mq"], "none", "none", true),
            (&[], "noop deadline [cfq]", "none", true),
            (&[], "[noop]", "none", true),
            (&[], "none", "none", false),
            (&[], "[none]", "none", false),
            (&[], "", "none", false),
            (&["dm", "mq"], "[mq-deadline] none", "none", false),
            (&["dm"], "noop [cfq]", "none", false),
            (&["md"], "none", "none", false),
            (&["mq"], "[none]", "host-managed", false),
        ] {
            let place = tempfile::tempdir().unwrap();
            for folder in folders.iter().chain(&["queue"]) {
                fs::create_dir(place.path().join(folder)).unwrap();
            }
            fs::write(place.path().join("queue/scheduler"), format!("{scheduler}\n")).unwrap();
            fs::write(place.path().join("queue/zoned"), format!("{zoned}\n")).unwrap();
            let disk = SysDisk(place.path().to_owned());
            let result = disk.makes_plain_requests();
            assert_eq!(result.is_ok(), requests, "{folders:?} {scheduler} {zoned}");
        }
    }

    #[test]
    fn the_line_of_a_new_kernel_and_of_an_old_one() {
        let new = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17";
        let counts = KernelCounts::parse(new).unwrap();
        assert_eq!((counts.writes, counts.write_sectors), (5, 7));
        assert_eq!((counts.discards, counts.discard_sectors, counts.flushes), (12, 14, 16));
        let old = KernelCounts::parse("1 2 3 4 5 6 7 8 9 10 11").unwrap();
        assert_eq!((old.write_sectors, old.discard_sectors), (7, 0));
        assert_eq!(KernelCounts::parse("1 2 3 x 5 6 7"), None);
    }
}
