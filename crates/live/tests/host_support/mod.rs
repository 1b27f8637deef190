//! Loop devices, file systems and processes that go away with the test, whatever happens in it.
#![allow(clippy::unwrap_used, reason = "a helper of tests that cannot go on ends the test")]

use carreto_live::host::{Disk, FileSystem, Freezer, WatchdogCommand, disk_at, file_systems};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The part that a process of this test binary plays.
pub(crate) const ROLE: &str = "CARRETO_TEST_ROLE";

/// How long what is not frozen may take to write.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Lets one test at a time attach devices and freeze file systems, if that is wanted at all: it
/// needs root. Says so where it is not wanted.
pub(crate) fn allowed(test: &str) -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    if std::env::var_os("CARRETO_ROOT_TESTS").is_none_or(|value| value != "1") {
        tell(&format!("SKIPPED {test}: it needs root and CARRETO_ROOT_TESTS=1"));
        return None;
    }
    Some(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Says something that is shown though the test passes.
pub(crate) fn tell(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Runs a command that must succeed and returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A folder, and what was attached and mounted for it; undone in reverse.
pub(crate) struct Scene {
    undo: Vec<(&'static str, PathBuf)>,
    guards: Vec<Child>,
    pub(crate) place: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let place = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { undo: Vec::new(), guards: Vec::new(), place }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// A new file of zeros.
    pub(crate) fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create_new(&path).unwrap().set_len(size).unwrap();
        path
    }

    /// A file as a block device.
    pub(crate) fn attach(&mut self, file: &Path) -> PathBuf {
        let device = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        self.undo.push(("losetup -d", PathBuf::from(&device)));
        PathBuf::from(device)
    }

    /// Detaches a loop device that somebody else attached.
    pub(crate) fn adopt(&mut self, device: &Path) {
        self.undo.push(("losetup -d", device.to_owned()));
    }

    /// Has the kernel know the partitions of a device, also one that reads no partition tables.
    pub(crate) fn read_partitions(&mut self, device: &Path) {
        run("partx", &["-u", device.to_str().unwrap()]);
        self.undo.push(("partx -d", device.to_owned()));
    }

    /// A loop device over a new file.
    pub(crate) fn device(&mut self, name: &str, size: u64) -> PathBuf {
        let file = self.file(name, size);
        self.attach(&file)
    }

    /// Mounts; whatever happens, the file system is thawed after a minute and a half.
    pub(crate) fn mount(&mut self, arguments: &[&str], name: &str) -> PathBuf {
        let point = self.path(name);
        std::fs::create_dir_all(&point).unwrap();
        let mut arguments = arguments.to_vec();
        arguments.push(point.to_str().unwrap());
        run("mount", &arguments);
        self.undo.push(("umount", point.clone()));
        let guard = format!("sleep 90; fsfreeze -u '{}'", point.display());
        // In a process group of its own, so that it can be ended with its `sleep`.
        let mut command = Command::new("sh");
        command.args(["-c", &guard]).stderr(Stdio::null()).process_group(0);
        self.guards.push(command.spawn().unwrap());
        point
    }

    /// A new file system of a kind on a new device, mounted; the device and the mount point.
    pub(crate) fn file_system(&mut self, kind: &str, size: u64, name: &str) -> (PathBuf, PathBuf) {
        let device = self.device(&format!("{name}.img"), size);
        run(&format!("mkfs.{kind}"), &[device.to_str().unwrap()]);
        let point = self.mount(&[device.to_str().unwrap()], name);
        (device, point)
    }

    /// The file systems on devices, which must all be below this folder.
    pub(crate) fn systems(&self, devices: &[&Path]) -> Vec<FileSystem> {
        let disks: Vec<Disk> = devices.iter().map(|device| disk_at(device).unwrap()).collect();
        let systems = file_systems(&disks).unwrap();
        let inside = |system: &FileSystem| system.mount_point.starts_with(self.place.path());
        assert!(!systems.is_empty() && systems.iter().all(inside), "{systems:?}");
        systems
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for (how, what) in self.undo.drain(..).rev() {
            if how == "umount" {
                let _ =
                    Command::new("fsfreeze").arg("-u").arg(&what).stderr(Stdio::null()).status();
            }
            let words: Vec<_> = how.split(' ').collect();
            // What was blocked by a freeze may need a moment to let go.
            for _ in 0..20 {
                let status = Command::new(words[0]).args(&words[1..]).arg(&what).status();
                if status.is_ok_and(|status| status.success()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        for guard in &mut self.guards {
            let group = format!("-{}", guard.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ = guard.wait();
        }
    }
}

/// A shell that prints a line, and then waits until it is dropped.
pub(crate) struct Shell {
    process: Child,
    pub(crate) line: String,
}

impl Shell {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { process, line: line.trim().to_owned() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process that writes to a file and has it written to the disk.
pub(crate) struct Writer(Child);

impl Writer {
    pub(crate) fn start(file: &Path) -> Self {
        let of = format!("of={}", file.display());
        let arguments = ["if=/dev/zero", &of, "bs=4096", "count=1", "conv=fsync", "status=none"];
        Self(Command::new("dd").args(arguments).spawn().unwrap())
    }

    /// Whether it ended within `limit`.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success());
                return true;
            }
            if begun.elapsed() >= limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether a write to the file system at `point` waits: it does not end within a time that is long
/// for one block.
pub(crate) fn is_frozen(point: &Path) -> bool {
    !Writer::start(&point.join("probe")).ends_within(Duration::from_millis(700))
}

/// Whether a write to the file system at `point` ends, however busy the machine is.
pub(crate) fn works(point: &Path) -> bool {
    Writer::start(&point.join("probe")).ends_within(SOON)
}

/// This test binary in the role of the watchdog.
pub(crate) fn watchdog(binary: &Path) -> WatchdogCommand {
    let mut arguments = vec![OsString::from(format!("{ROLE}=watchdog")), binary.into()];
    arguments.extend(["--exact", "role", "--nocapture"].map(OsString::from));
    WatchdogCommand { program: PathBuf::from("/usr/bin/env"), arguments }
}

pub(crate) fn this_binary() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// A freezer over the file systems on devices.
pub(crate) fn freezer(scene: &Scene, devices: &[&Path], lease: Duration) -> Freezer {
    Freezer::prepare(&scene.systems(devices), lease, &watchdog(&this_binary())).unwrap()
}

/// An agent in a process of its own that freezes and goes on when it is told to.
pub(crate) struct Agent {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Agent {
    pub(crate) fn start(binary: &Path, devices: &[&Path], lease: Duration) -> Self {
        let devices: Vec<_> = devices.iter().map(|device| device.to_str().unwrap()).collect();
        let mut process = Command::new(binary)
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE, "agent")
            .env("CARRETO_TEST_DEVICES", devices.join(":"))
            .env("CARRETO_TEST_LEASE", lease.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines }
    }

    /// Waits until it prints a line that begins with `word`.
    pub(crate) fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        while !line.starts_with(word) {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it never said {word}");
        }
        line
    }

    /// Whether a process that has ended had printed such a line.
    pub(crate) fn says_now(&mut self, word: &str) -> bool {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        rest.lines().any(|line| line.starts_with(word))
    }

    pub(crate) fn signal(&self, name: &str) {
        run("kill", &[&format!("-{name}"), &self.process.id().to_string()]);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&mut self) {
        drop(self.process.stdin.take());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the agent's process does: freeze, say so, wait, renew, say what came of it.
pub(crate) fn agent() {
    let devices = std::env::var("CARRETO_TEST_DEVICES").unwrap();
    let lease = std::env::var("CARRETO_TEST_LEASE").unwrap().parse().unwrap();
    let disks: Vec<_> =
        devices.split(':').map(|device| disk_at(Path::new(device)).unwrap()).collect();
    let systems = file_systems(&disks).unwrap();
    let lease = Duration::from_millis(lease);
    let freezer = Freezer::prepare(&systems, lease, &watchdog(&this_binary())).unwrap();
    say("freezing\n");
    let mut frozen = freezer.freeze().unwrap();
    say("frozen\n");
    let _ = std::io::stdin().read_line(&mut String::new());
    let renewed = frozen.renew().map_err(|error| error.to_string());
    say(&format!("renewed {renewed:?}\n"));
    let thawed = frozen.thaw().map(drop).map_err(|error| error.to_string());
    say(&format!("thawed {thawed:?}\n"));
}

fn say(line: &str) {
    let mut output = std::io::stdout();
    output.write_all(line.as_bytes()).unwrap();
    output.flush().unwrap();
}
