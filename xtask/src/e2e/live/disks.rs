//! Disks that are files, the file systems on them, and how both go away whatever happens.

use super::super::carreto::text;
use super::super::process;
use super::ends;
use super::program::Program;
use crate::Result;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long a write to a file system that is not frozen may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Runs a command that must succeed.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let text = process::succeed(Command::new(program).args(arguments))?;
    Ok(text.trim().to_owned())
}

/// A loop device; detached when dropped.
pub(super) struct LoopDisk {
    pub(super) device: PathBuf,
}

impl LoopDisk {
    /// A disk of `size` bytes in the file `file`, full of random bytes.
    pub(super) fn random(file: &Path, size: u64) -> Result<Self> {
        let mut random = File::open("/dev/urandom")?.take(size);
        std::io::copy(&mut random, &mut File::create(file)?)?;
        Self::attach(file)
    }

    pub(super) fn attach(file: &Path) -> Result<Self> {
        let device = run("losetup", &["--find", "--show", "--direct-io=on", text(file)?])?;
        Ok(Self { device: PathBuf::from(device) })
    }

    /// As the kernel calls it.
    pub(super) fn name(&self) -> Result<&str> {
        text(&self.device)?.strip_prefix("/dev/").ok_or_else(|| "not in /dev".into())
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A device that stays attached to a deleted file harms nobody.
        let _ = process::run(Command::new("losetup").arg("-d").arg(&self.device));
    }
}

/// A mounted file system; thawed and unmounted when dropped.
pub(super) struct Mounted(pub(super) PathBuf);

impl Mounted {
    pub(super) fn new(arguments: &[&str], at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        run("mount", &[arguments, &[text(at)?]].concat())?;
        Ok(Self(at.to_owned()))
    }

    /// Lets it work again, if it is frozen.
    fn thaw(&self) {
        // It fails for what is not frozen.
        let _ = process::run(Command::new("fsfreeze").arg("-u").arg(&self.0));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.thaw();
        // Whoever was held up by the freeze may need a moment to let go.
        for _ in 0..50 {
            let unmounted = process::run(Command::new("umount").arg(&self.0));
            if unmounted.is_ok_and(|outcome| outcome.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The machine apart from its disks: a BPF file system where pins go. When it is dropped, what an
/// agent left that could not clean up goes too.
pub(super) struct Machine {
    /// It was mounted for this and nobody else.
    mounted: bool,
}

/// Where pins go.
const PINS: &str = "/sys/fs/bpf";

impl Machine {
    pub(super) fn prepare() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mounted = !mounts.lines().any(|line| line.contains(" /sys/fs/bpf bpf "));
        if mounted {
            run("mount", &["-t", "bpf", "bpf", PINS])?;
        }
        Ok(Self { mounted })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let pins = Path::new(PINS).join("carreto");
        for number in 0..=9 {
            // Usually there is nothing.
            let _ = std::fs::remove_dir_all(pins.join(ends::server(number)));
        }
        let _ = std::fs::remove_dir_all(ends::run_folder());
        let _ = std::fs::remove_dir(pins);
        let is_empty = std::fs::read_dir(PINS).is_ok_and(|entries| {
            entries.flatten().all(|entry| entry.file_name().to_string_lossy().ends_with(".debug"))
        });
        if self.mounted && is_empty {
            let _ = process::run(Command::new("umount").arg(PINS));
        }
    }
}

/// A server's disk with a mounted file system and programs that work on it.
pub(super) struct Source {
    pub(super) folder: PathBuf,
    // In the order in which they have to go.
    loads: Vec<Program>,
    mounted: Option<Mounted>,
    pub(super) disk: LoopDisk,
}

impl Source {
    /// A disk of `size` random bytes in `folder`, with a file system of `kind` made without
    /// discarding anything: what is not used is not zero.
    pub(super) fn make(folder: &Path, kind: &str, size: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Self::on(LoopDisk::random(&folder.join("source.img"), size)?, folder, kind)
    }

    /// The same, on a disk that was never used.
    pub(super) fn blank(folder: &Path, kind: &str, size: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = folder.join("source.img");
        File::create(&file)?.set_len(size)?;
        Self::on(LoopDisk::attach(&file)?, folder, kind)
    }

    fn on(disk: LoopDisk, folder: &Path, kind: &str) -> Result<Self> {
        let device = text(&disk.device)?;
        match kind {
            // Lazy initialisation goes on after the mount, which is what is wanted.
            "ext4" => {
                let options = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
                run("mkfs.ext4", &["-q", "-F", "-E", options, device])?
            }
            "xfs" => run("mkfs.xfs", &["-q", "-f", "-K", device])?,
            _ => run("mkfs.btrfs", &["-q", "-f", "-K", device])?,
        };
        let mounted = Mounted::new(&[device], &folder.join("source"))?;
        let folder = folder.to_owned();
        Ok(Self { folder, loads: Vec::new(), mounted: Some(mounted), disk })
    }

    /// Where it is mounted.
    pub(super) fn point(&self) -> PathBuf {
        self.folder.join("source")
    }

    /// Ends `load` with the source.
    pub(super) fn keep(&mut self, load: Program) {
        self.loads.push(load);
    }

    /// Whether a write ends; how long it took.
    pub(super) fn works(&self) -> Result<Duration> {
        let mut write = Command::new("dd");
        write.args(["if=/dev/zero", "bs=4096", "count=1", "conv=fsync", "status=none"]);
        write.arg(format!("of={}", self.point().join("probe").display()));
        let begun = std::time::Instant::now();
        Program::start(&mut write, &self.folder, "probe")?.wait(SOON)?.expect(0)?;
        Ok(begun.elapsed())
    }

    /// Whether a write waits.
    pub(super) fn is_frozen(&mut self) -> Result<bool> {
        let mut write = Command::new("dd");
        write.args(["if=/dev/zero", "bs=4096", "count=1", "conv=fsync", "status=none"]);
        write.arg(format!("of={}", self.point().join("frozen").display()));
        let mut probe = Program::start(&mut write, &self.folder, "frozen")?;
        std::thread::sleep(Duration::from_millis(700));
        let waits = !probe.has_ended()?;
        // It ends with the thaw, and nobody can wait for it before.
        self.loads.push(probe);
        Ok(waits)
    }

    /// Ends everything but the disk.
    pub(super) fn unmount(&mut self) {
        if let Some(mounted) = &self.mounted {
            mounted.thaw();
        }
        self.loads.clear();
        self.mounted = None;
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Whether the file system on `device` is in order.
pub(super) fn check_file_system(kind: &str, device: &Path) -> Result<()> {
    let device = text(device)?;
    match kind {
        "ext4" => run("e2fsck", &["-f", "-n", device])?,
        "xfs" => run("xfs_repair", &["-n", device])?,
        _ => run("btrfs", &["check", "--readonly", device])?,
    };
    Ok(())
}
