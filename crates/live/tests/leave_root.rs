//! Looking changes nothing, and cleaning up leaves nothing: with real disks, programs and freezes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod track_support;

use carreto_kernel::blktrace;
use carreto_live::agent::{AgentConfig, LinuxMachine, Machine, Severity, check, cleanup, remains};
use carreto_live::host::{WatchdogCommand, watchdog_main};
use carreto_live::track::TrackerKind;
use carreto_live::trust::{Fingerprint, JoinToken, Secret};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use track_support::{Disk, Mounted, allowed, folder, run, say};

const SERVER: &str = "leave.root-test";
/// The kernel refuses names with dots.
const PINS: &str = "/sys/fs/bpf/carreto/leave+root-test";

/// A BPF file system where agents look for it.
fn bpf() -> Option<Mounted> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let is_there = mounts.lines().any(|line| line.contains(" /sys/fs/bpf bpf "));
    (!is_there).then(|| Mounted::new(&["-t", "bpf", "bpf"], Path::new("/sys/fs/bpf")))
}

fn config(place: &Path, disk: &Disk) -> AgentConfig {
    let token = JoinToken {
        addresses: vec!["127.0.0.1:1".to_owned()],
        receiver: Fingerprint::from_bytes([7; 32]),
        server: SERVER.to_owned(),
        secret: Secret::random().unwrap(),
        expires: None,
    };
    let (run, device) = (place.join("run"), &disk.device);
    let text = format!(
        "token = '{token}'\nstate = '{}'\nrun = '{}'\ndisks = ['{device}']",
        place.display(),
        run.display()
    );
    AgentConfig::parse(&text).unwrap()
}

/// This test binary as the watchdog.
fn machine() -> LinuxMachine {
    let arguments = ["--exact", "child::watchdog", "--nocapture"].map(Into::into).into();
    let program = std::env::current_exe().unwrap();
    LinuxMachine { watchdog: WatchdogCommand { program, arguments } }
}

#[test]
fn cleanup_after_a_killed_agent_leaves_nothing() {
    let Some(_alone) = allowed("cleanup_after_a_killed_agent_leaves_nothing") else {
        return;
    };
    let place = folder();
    let _bpf = bpf();
    let disk = Disk::sparse(place.path(), 64 << 20);
    let config = config(place.path(), &disk);
    assert!(remains(&config).unwrap().is_empty(), "{:?}", remains(&config).unwrap());
    assert!(child::attach_and_die(&disk, place.path()));
    let before = remains(&config).unwrap();
    say(&format!("before: {:?}", before.listed()));
    assert_eq!((before.pins.len(), before.programs.len()), (6, 3), "{before:?}");
    assert_eq!(before.files.len(), 4, "{before:?}");
    let cleaned = cleanup(&config, &machine(), None).unwrap();
    say(&format!("removed: {:?}\nafter: {:?}", cleaned.removed, cleaned.after.listed()));
    assert!(cleaned.after.is_empty() && cleaned.after.unseen.is_empty(), "{cleaned:?}");
    assert!(!Path::new(PINS).exists());
}

#[test]
fn cleanup_thaws_what_a_cutover_left_frozen() {
    let Some(_alone) = allowed("cleanup_thaws_what_a_cutover_left_frozen") else {
        return;
    };
    let place = folder();
    let disk = Disk::sparse(place.path(), 64 << 20);
    run("mkfs.ext4", &["-q", &disk.device]);
    let mounted = Mounted::new(&[&disk.device], &place.path().join("mounted"));
    let config = config(place.path(), &disk);
    let run_folder = config.run_folder(SERVER);
    std::fs::create_dir_all(&run_folder).unwrap();
    let state =
        r#"{"version":1,"migration":"m","process":1,"established":{},"frozen":true,"report":null}"#;
    std::fs::write(run_folder.join("state.json"), state).unwrap();
    let _thaw = Thaw(mounted.0.clone());
    run("fsfreeze", &["-f", mounted.0.to_str().unwrap()]);
    assert!(remains(&config).unwrap().frozen);
    let cleaned = cleanup(&config, &machine(), None).unwrap();
    say(&format!("removed: {:?}", cleaned.removed));
    assert!(cleaned.removed[0].starts_with("freeze of "), "{:?}", cleaned.removed);
    std::fs::write(mounted.0.join("written"), "again").unwrap();
}

#[test]
fn cleanup_ends_the_trace_of_a_killed_agent() {
    let Some(_alone) = allowed("cleanup_ends_the_trace_of_a_killed_agent") else {
        return;
    };
    let place = folder();
    let _debugfs = Mounted::new(&["-t", "debugfs", "debugfs"], &place.path().join("debug"));
    let disk = Disk::sparse(place.path(), 1 << 20);
    let config = config(place.path(), &disk);
    // As a killed agent leaves it. A locked down kernel lets nobody read it, but has it.
    let buffers = blktrace::TraceBuffers { categories: 1 << 6, size: 64 << 10, count: 2 };
    let device = std::fs::File::open(&disk.device).unwrap();
    blktrace::setup(device.as_fd(), buffers).unwrap();
    drop(device);
    std::fs::create_dir_all(config.run_folder(SERVER)).unwrap();
    let name = disk.tracked().name;
    assert!(remains(&config).unwrap().traces.is_empty(), "it may be anybody's");
    let disks = serde_json::json!([{
        "name": name, "size": 1 << 20, "target": "", "tracker": "blktrace",
        "refused_trackers": [], "backlog_bytes": 0
    }]);
    let report = serde_json::json!({
        "schema_version": 1, "server": SERVER, "migration": "m", "state": "STALLED",
        "next_action": "", "running_seconds": 1.0, "backlog_bytes": 0, "lag_seconds": 0.0,
        "rate": 0.0, "change_rate": 0.0, "eta_seconds": null, "predicted_pause_seconds": null,
        "totals": carreto_live::state::Totals::default(), "disks": disks
    });
    let state = serde_json::json!({
        "version": 1, "migration": "m", "process": 1, "established": {}, "report": report
    });
    std::fs::write(config.run_folder(SERVER).join("state.json"), state.to_string()).unwrap();
    assert_eq!(remains(&config).unwrap().traces, [name]);
    let cleaned = cleanup(&config, &machine(), None).unwrap();
    say(&format!("removed: {:?}", cleaned.removed));
    assert!(cleaned.removed[0].starts_with("block trace of ") && cleaned.after.is_empty());
}

#[test]
fn processes_are_named_and_a_running_agent_is_left_alone() {
    let Some(_alone) = allowed("processes_are_named_and_a_running_agent_is_left_alone") else {
        return;
    };
    let place = folder();
    let disk = Disk::sparse(place.path(), 1 << 20);
    let config = config(place.path(), &disk);
    let lock = config.run_folder(SERVER).join("lock");
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    // Each ends with its standard input, and so with this test.
    let start = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).stdin(Stdio::piped()).spawn().unwrap()
    };
    let mut agent = start("flock", &["-F", lock.to_str().unwrap(), "sh", "-c", "read x"]);
    let mut watchdog = start("sh", &["-c", "read x", "agent", "watchdog"]);
    let wanted = [format!("{} (agent)", agent.id()), format!("{} (watchdog)", watchdog.id())];
    let found = (0..50).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let found = remains(&config).unwrap().processes;
        (found == wanted).then_some(found)
    });
    let locked = cleanup(&config, &machine(), None).map_err(|error| error.kind());
    for child in [&mut agent, &mut watchdog] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(found, Some(wanted.to_vec()), "{:?}", remains(&config));
    assert_eq!(locked.err(), Some(carreto_error::Kind::Locked));
    let cleaned = cleanup(&config, &machine(), None).unwrap();
    assert!(cleaned.before.processes.is_empty() && cleaned.after.is_empty());
}

/// Thaws before the mount goes away, whatever happens.
struct Thaw(PathBuf);

impl Drop for Thaw {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_preflight_changes_nothing() {
    let Some(_alone) = allowed("a_preflight_changes_nothing") else {
        return;
    };
    let place = folder();
    let _bpf = bpf();
    let disk = Disk::sparse(place.path(), 256 << 20);
    run("mkfs.ext4", &["-q", &disk.device]);
    let mounted = Mounted::new(&[&disk.device], &place.path().join("mounted"));
    std::fs::write(mounted.0.join("file"), vec![b'x'; 20 << 20]).unwrap();
    run("sync", &["-f", mounted.0.to_str().unwrap()]);
    let config = config(place.path(), &disk);
    let machine: Arc<dyn Machine> = Arc::new(machine());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let found = runtime.block_on(check(&config, &machine)).unwrap();
    for finding in &found.findings {
        say(&format!("{:?} {}: {}", finding.severity, finding.item, finding.detail));
    }
    let blocked: Vec<_> = found.of_severity(Severity::Blocked).map(|it| it.item.as_str()).collect();
    assert_eq!(blocked, ["receiver"], "nobody listens there");
    assert_eq!(found.disks[0].tracker.kind, Some(TrackerKind::Bpf));
    assert!(found.disks[0].tracker.survives_restart && found.disks[0].counted == Some(true));
    assert!(found.disks[0].used_bytes.unwrap() > 20 << 20);
    assert!(found.mounts.len() == 1 && found.mounts[0].freezable);
    assert!(found.estimate.wire_bytes.high < 20 << 20, "{:?}", found.estimate);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(remains(&config).unwrap().is_empty(), "{:?}", remains(&config).unwrap());
    // A pinned tracker of an agent is left alone.
    assert!(child::attach_and_die(&disk, place.path()));
    let before = remains(&config).unwrap();
    runtime.block_on(check(&config, &machine)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(remains(&config).unwrap(), before);
    cleanup(&config, machine.as_ref(), None).unwrap();
}

/// This test binary, run once more.
mod child {
    use super::*;
    use carreto_live::track::TrackerChoice;
    use std::io::{BufRead as _, Write as _};

    const DISK: &str = "CARRETO_TEST_LEAVE_DISK";
    const PLACE: &str = "CARRETO_TEST_LEAVE_PLACE";

    /// Lets a process attach its tracker, leave files as an agent does, and die.
    /// Whether it could attach.
    pub(crate) fn attach_and_die(disk: &Disk, place: &Path) -> bool {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::agent", "--nocapture"])
            .env(DISK, format!("{} {}", disk.device, disk.file.display()))
            .env(PLACE, place)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.unwrap().contains("attached"));
        child.kill().unwrap();
        child.wait().unwrap();
        ready
    }

    #[test]
    fn agent() {
        let (Ok(disk), Some(place)) = (std::env::var(DISK), std::env::var_os(PLACE)) else {
            return;
        };
        let (device, file) = disk.split_once(' ').unwrap();
        let disk = std::mem::ManuallyDrop::new(Disk { device: device.into(), file: file.into() });
        let config = config(Path::new(&place), &disk);
        let run_folder = config.run_folder(SERVER);
        std::fs::create_dir_all(&run_folder).unwrap();
        std::fs::write(run_folder.join("lock"), "").unwrap();
        std::fs::write(Path::new(&place).join("agent.key"), "").unwrap();
        let choice = TrackerChoice::Only(TrackerKind::Bpf);
        let attached = machine().attach(&disk.tracked(), choice, Path::new(PINS)).unwrap();
        assert!(attached.unpinned.is_none(), "{attached:?}");
        std::fs::write(run_folder.join("state.json"), "{}").unwrap();
        std::io::stdout().write_all(b"attached\n").unwrap();
        std::thread::sleep(std::time::Duration::from_mins(1));
    }

    #[test]
    fn watchdog() {
        // Only an agent gives the channel; as a test this has nothing to do.
        let _ = watchdog_main(std::io::stdin());
    }
}
