//! Work for a file system that changes its disk in every way.

use super::run;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Makes a file system of `kind` on `device`, discarding nothing.
pub(crate) fn make(kind: &str, device: &str) {
    match kind {
        // Lazy initialisation goes on after the mount, which is what is wanted.
        "ext4" => run("mkfs.ext4", &["-q", "-F", "-E", "nodiscard,lazy_itable_init=1", device]),
        "xfs" => run("mkfs.xfs", &["-q", "-f", "-K", device]),
        "btrfs" => run("mkfs.btrfs", &["-q", "-f", "-K", device]),
        other => unreachable!("{other}"),
    };
}

/// Files to be changed later.
pub(crate) fn prepare(folder: &Path) {
    for name in ["deleted", "punched", "zeroed", "mapped"] {
        let mut random = File::open("/dev/urandom").unwrap();
        let mut file = File::create(folder.join(name)).unwrap();
        std::io::copy(&mut std::io::Read::take(&mut random, 24 << 20), &mut file).unwrap();
    }
    run("sync", &["-f", folder.to_str().unwrap()]);
}

/// Random writes of 4 KiB for some seconds; direct ones, or through a mapping.
pub(crate) fn fio(folder: &Path, engine: &str, seconds: u32) -> Child {
    let direct = if engine == "mmap" { "--direct=0" } else { "--direct=1" };
    Command::new("fio")
        .args(["--name=load", "--rw=randwrite", "--bs=4k", "--size=64m", "--iodepth=16"])
        .args(["--time_based", "--refill_buffers", direct, "--output-format=terse"])
        .arg(format!("--runtime={seconds}"))
        .arg(format!("--ioengine={engine}"))
        .arg(format!("--filename={}", folder.join(format!("fio-{engine}")).display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Holes, zeroed ranges, deletions and a trim, while other things go on.
pub(crate) fn holes(folder: &Path) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    run("fallocate", &["--punch-hole", "-o", "1m", "-l", "9m", &path("punched")]);
    run("fallocate", &["--zero-range", "-o", "2m", "-l", "8m", &path("zeroed")]);
    fs::remove_file(folder.join("deleted")).unwrap();
    run("sync", &["-f", folder.to_str().unwrap()]);
    run("fstrim", &[folder.to_str().unwrap()]);
}

/// The same on what is left, at the end.
pub(crate) fn holes_again(folder: &Path) {
    fs::remove_file(folder.join("fio-mmap")).unwrap();
    fs::remove_file(folder.join("mapped")).unwrap();
    run("sync", &["-f", folder.to_str().unwrap()]);
    run("fstrim", &[folder.to_str().unwrap()]);
}

/// Direct random writes of 4 KiB to `device` itself, many at a time.
pub(crate) fn raw(device: &str, seconds: u32) -> Child {
    Command::new("fio")
        .args(["--name=raw", "--rw=randwrite", "--bs=4k", "--iodepth=64", "--direct=1"])
        .args(["--ioengine=libaio", "--time_based", "--output-format=terse"])
        .arg(format!("--runtime={seconds}"))
        .arg(format!("--filename={device}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Somebody else's BPF program on every system call, of the old kind that gets in the way of others.
pub(crate) struct Foreign {
    child: Child,
    _tracefs: Option<super::Mounted>,
}

impl Foreign {
    /// `None` if bpftrace is not installed.
    pub(crate) fn start() -> Option<Self> {
        let version = Command::new("bpftrace").arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let tracing = Path::new("/sys/kernel/tracing");
        let mounted = tracing.join("events").is_dir();
        let tracefs =
            (!mounted).then(|| super::Mounted::new(&["-t", "tracefs", "tracefs"], tracing));
        let program = "tracepoint:raw_syscalls:sys_enter { @[cpu] = count(); }";
        let mut child = Command::new("bpftrace")
            .args(["-e", program])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_secs(4));
        assert!(child.try_wait().unwrap().is_none(), "bpftrace did not stay");
        Some(Self { child, _tracefs: tracefs })
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many random writes of 4 KiB `device` takes a second.
pub(crate) fn iops(device: &str, seconds: u32) -> f64 {
    let output = Command::new("fio")
        .args(["--name=iops", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--direct=1"])
        .args(["--ioengine=libaio", "--time_based", "--output-format=json"])
        .arg(format!("--runtime={seconds}"))
        .arg(format!("--filename={device}"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    report["jobs"][0]["write"]["iops"].as_f64().unwrap()
}
