//! The running system as the agent sees it, so that the engine can be tried without one.

use crate::host::{self, DiskReader, FileSystem, Freezer, Frozen, KeptInMemory, WatchdogCommand};
use crate::track::{self, Attached, TrackedDisk, TrackerChoice};
use carreto_block::{ByteRange, LocalRead};
use carreto_error::{Error, Kind, Result};
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The system that the agent runs on. All calls block.
pub trait Machine: Send + Sync + Debug {
    /// The disks called `wished`, or all; each at most once.
    ///
    /// # Errors
    /// `NotFound`, `Usage` for a disk that cannot be migrated as a whole.
    fn disks(&self, wished: &[String]) -> Result<Vec<MachineDisk>>;

    /// Follows the changes of `disk`.
    ///
    /// # Errors
    /// When no tracker of `choice` works.
    fn attach(&self, disk: &TrackedDisk, choice: TrackerChoice, pins: &Path) -> Result<Attached>;

    /// Gets ready to freeze every file system on `disks`; nothing is frozen yet.
    ///
    /// # Errors
    /// `TargetUnusable` names who uses a disk without a file system; `SourceChanged` a file system
    /// that lies on a disk that is not among them too.
    fn prepare_freeze(&self, disks: &[MachineDisk], lease: Duration) -> Result<Box<dyn Freezing>>;

    /// Whether `folder` lies on a file system that a freeze of `disks` would freeze.
    ///
    /// # Errors
    /// What looking at the disks meets; `SourceChanged` as [`Self::prepare_freeze`].
    fn would_freeze(&self, disks: &[MachineDisk], folder: &Path) -> Result<bool>;

    /// Ranges of disks that may change while everything is frozen: swap.
    fn volatile(&self, disks: &[MachineDisk]) -> Vec<(String, ByteRange)>;
}

/// A disk of the source.
#[derive(Debug, Clone)]
pub struct MachineDisk {
    /// What the tracker needs.
    pub tracked: TrackedDisk,
    /// Names the disk across reboots.
    pub identity: String,
    /// Reads past the page cache.
    pub reader: Arc<dyn ReadDisk>,
}

/// Reads of a disk that see what is on it.
pub trait ReadDisk: LocalRead + Debug {}

impl<T: LocalRead + Debug> ReadDisk for T {}

/// File systems that are about to be, or are, frozen. Dropping it thaws them.
pub trait Freezing: Send + Debug {
    /// Freezes everything; thaws what was frozen if something cannot be.
    ///
    /// # Errors
    /// What could not be frozen.
    fn freeze(&mut self) -> Result<()>;

    /// Makes the lease last from now on.
    ///
    /// # Errors
    /// `Timeout` when the freeze was lost.
    fn renew(&mut self) -> Result<()>;

    /// Thaws everything and says how long it was frozen.
    ///
    /// # Errors
    /// `Timeout` when the freeze was lost before.
    fn thaw(&mut self) -> Result<Duration>;

    /// Lets everything stay frozen without a lease.
    ///
    /// # Errors
    /// `Timeout` when the freeze was lost before.
    fn stay(&mut self) -> Result<()>;

    /// Mount points of what takes changes and could only be synchronised. Known from the freeze on,
    /// and after its end.
    fn unfrozen(&self) -> Vec<String>;
}

/// This Linux system.
#[derive(Debug)]
pub struct LinuxMachine {
    /// What thaws when the agent cannot.
    pub watchdog: WatchdogCommand,
}

impl Machine for LinuxMachine {
    fn disks(&self, wished: &[String]) -> Result<Vec<MachineDisk>> {
        let disks = find(wished)?;
        disks
            .iter()
            .map(|disk| {
                Ok(MachineDisk {
                    tracked: TrackedDisk {
                        name: disk.name.clone(),
                        devno: disk.devno,
                        diskseq: disk.diskseq,
                        size: disk.size,
                    },
                    identity: disk.identity(),
                    reader: Arc::new(DiskReader::open(disk)?),
                })
            })
            .collect()
    }

    fn attach(&self, disk: &TrackedDisk, choice: TrackerChoice, pins: &Path) -> Result<Attached> {
        track::attach(disk, choice, pins)
    }

    fn prepare_freeze(&self, disks: &[MachineDisk], lease: Duration) -> Result<Box<dyn Freezing>> {
        let disks = again(disks)?;
        expect_nobody(&host::raw_users(&disks))?;
        let systems = host::file_systems(&disks)?;
        host::expect_whole(&systems)?;
        let freezer = Freezer::prepare(&systems, lease, &self.watchdog)?;
        Ok(Box::new(LinuxFreeze {
            step: Step::Ready(freezer, disks),
            unfrozen: Vec::new(),
            memory: None,
        }))
    }

    fn would_freeze(&self, disks: &[MachineDisk], folder: &Path) -> Result<bool> {
        let systems = host::file_systems(&again(disks)?)?;
        // Better known before hooks have stopped anything.
        host::expect_whole(&systems)?;
        Ok(host::file_system_of(folder, &systems).is_some())
    }

    fn volatile(&self, disks: &[MachineDisk]) -> Vec<(String, ByteRange)> {
        let disks = again(disks).unwrap_or_default();
        host::swaps(&disks).into_iter().filter_map(|swap| swap.range).collect()
    }
}

/// The disks that are `wished`, or all.
pub(super) fn find(wished: &[String]) -> Result<Vec<host::Disk>> {
    if wished.is_empty() {
        let disks = host::disks()?;
        if disks.is_empty() {
            return Err(Error::new(Kind::NotFound, "this system has no disk to migrate")
                .remedied_by("name the disks in the configuration: disks = [\"/dev/vda\"]"));
        }
        return Ok(disks);
    }
    // A path that begins at the root replaces the folder.
    let path = |name: &String| Path::new("/dev").join(name);
    let mut disks: Vec<host::Disk> = Vec::new();
    for name in wished {
        let disk = host::disk_at(&path(name))?;
        if disks.iter().any(|other| other.devno == disk.devno) {
            return Err(Error::new(Kind::Usage, format!("the disk {name} is named twice")));
        }
        disks.push(disk);
    }
    Ok(disks)
}

/// What is known of the same disks now.
fn again(disks: &[MachineDisk]) -> Result<Vec<host::Disk>> {
    let find = |disk: &MachineDisk| host::disk_at(&Path::new("/dev").join(&disk.tracked.name));
    disks.iter().map(find).collect()
}

/// Nothing could freeze a program that writes past the file systems.
fn expect_nobody(users: &[host::RawUser]) -> Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    let each = |user: &host::RawUser| format!("{} by {}", user.device, user.who());
    let list: Vec<_> = users.iter().map(each).collect();
    let text = format!("what no file system is on is open for writing: {}", list.join(", "));
    Err(Error::new(Kind::TargetUnusable, text)
        .during("prepare the freeze")
        .remedied_by("stop these programs, by a command in hooks.before for example"))
}

#[derive(Debug)]
struct LinuxFreeze {
    step: Step,
    unfrozen: Vec<String>,
    /// Last, so that it is let go after the thaw.
    memory: Option<KeptInMemory>,
}

#[derive(Debug)]
enum Step {
    Ready(Freezer, Vec<host::Disk>),
    Frozen(Frozen),
    Over,
}

impl LinuxFreeze {
    fn frozen(&mut self) -> Result<&mut Frozen> {
        match &mut self.step {
            Step::Frozen(frozen) => Ok(frozen),
            _ => Err(Error::new(Kind::Internal, "nothing is frozen")),
        }
    }

    fn take(&mut self) -> Result<Frozen> {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::Frozen(frozen) => Ok(frozen),
            _ => Err(Error::new(Kind::Internal, "nothing is frozen")),
        }
    }
}

impl Freezing for LinuxFreeze {
    fn freeze(&mut self) -> Result<()> {
        let Step::Ready(freezer, disks) = std::mem::replace(&mut self.step, Step::Over) else {
            return Err(Error::new(Kind::Internal, "it was frozen before"));
        };
        self.memory = host::keep_in_memory();
        let frozen = freezer.freeze()?;
        // What was mounted since the preparation is not frozen, and a volume may have grown.
        let now = host::file_systems(&disks)?;
        frozen.check_complete(&now)?;
        host::expect_whole(&now)?;
        self.unfrozen = changing(frozen.unfrozen(), &now);
        self.step = Step::Frozen(frozen);
        Ok(())
    }

    fn renew(&mut self) -> Result<()> {
        self.frozen()?.renew()
    }

    fn thaw(&mut self) -> Result<Duration> {
        let thawed = self.take()?.thaw();
        self.memory = None;
        thawed
    }

    fn stay(&mut self) -> Result<()> {
        self.take()?.release_to_stay_frozen()
    }

    fn unfrozen(&self) -> Vec<String> {
        self.unfrozen.clone()
    }
}

/// The mount points of those of `unfrozen` that are not read-only `now`.
fn changing(unfrozen: &[FileSystem], now: &[FileSystem]) -> Vec<String> {
    let quiet = |system: &FileSystem| {
        let same = now.iter().find(|other| other.devno == system.devno);
        same.is_some_and(|other| other.read_only)
    };
    let changing = unfrozen.iter().filter(|system| !quiet(system));
    changing.map(|system| system.mount_point.display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Freezable, RawUser};

    #[test]
    fn who_writes_past_file_systems_is_told_in_words() {
        let user = |device: &str, process, command: &str| RawUser {
            device: device.to_owned(),
            disks: vec!["sda".to_owned()],
            process,
            command: command.to_owned(),
        };
        assert!(expect_nobody(&[]).is_ok());
        let users = [user("/dev/sda2", Some(41), "ora\u{1b}cle"), user("/dev/sda3", None, "x")];
        let error = expect_nobody(&users).unwrap_err();
        assert_eq!(error.kind(), Kind::TargetUnusable);
        let expected = "/dev/sda2 by process 41 (ora\\u{1b}cle), /dev/sda3 by the kernel";
        assert!(error.detail().ends_with(expected), "{error}");
    }

    #[test]
    fn what_may_change_although_it_was_synchronised_is_listed() {
        let system = |minor, point: &str, read_only| FileSystem {
            mount_point: point.into(),
            kind: "vfat".to_owned(),
            source: String::new(),
            devno: (8, minor),
            disks: vec!["sda".to_owned()],
            missing: Vec::new(),
            copies: Vec::new(),
            freezable: Freezable::No("it is vfat".to_owned()),
            read_only,
        };
        let unfrozen =
            [system(1, "/boot/efi", true), system(2, "/ro", false), system(3, "/x", false)];
        // A hook may have changed how they are mounted.
        let now = [system(1, "/boot/efi", false), system(2, "/ro", true)];
        assert_eq!(changing(&unfrozen, &now), ["/boot/efi", "/x"]);
    }
}
