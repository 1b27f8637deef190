//! What a preflight asks of the machine.

use super::machine::Machine;
use super::mounts::{Mount, mounts};
use rustix::thread::CapabilitySet;
use std::path::PathBuf;
use std::time::Duration;

/// What is known of the running system. What the system hides is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The network name.
    pub host_name: String,
    /// The release of the running kernel.
    pub kernel: String,
    /// Another text for every start of the kernel.
    pub boot_id: String,
    /// The machine's architecture, as the kernel names it.
    pub architecture: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory that can be had without swapping.
    pub available_memory: Option<u64>,
    /// Processes that ran or waited for a disk, on average over 1, 5 and 15 minutes.
    pub load: Option<[f64; 3]>,
    /// Since the system started.
    pub uptime: Option<Duration>,
    /// Whether the clock follows a time source.
    pub clock_synchronised: Option<bool>,
    /// The name of the time zone, like `Europe/Lisbon`.
    pub time_zone: Option<String>,
    /// What this process may do.
    pub privileges: Privileges,
    /// The mode of the kernel's lockdown, `none` where there is none.
    pub lockdown: String,
    /// Whether the kernel describes its own types, which BPF programs need.
    pub btf: bool,
    /// Where a BPF file system is mounted.
    pub bpf_folder: Option<PathBuf>,
    /// Where the file system of block tracing is mounted.
    pub debug_folder: Option<PathBuf>,
    /// Where the file system of tracepoints is mounted.
    pub trace_folder: Option<PathBuf>,
}

/// The effective capabilities of this process that a migration uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Privileges {
    /// `CAP_SYS_ADMIN`: freezing, block tracing, and BPF before Linux 5.8.
    pub admin: bool,
    /// `CAP_BPF`.
    pub bpf: bool,
    /// `CAP_PERFMON`.
    pub perfmon: bool,
    /// `CAP_DAC_OVERRIDE`: opening disks and files of others.
    pub any_file: bool,
    /// `CAP_IPC_LOCK`: keeping the watchdog in memory.
    pub lock_memory: bool,
}

/// Looks at the running system.
pub fn facts() -> Facts {
    let machine = Machine::here();
    let name = rustix::system::uname();
    Facts {
        host_name: name.nodename().to_string_lossy().into_owned(),
        architecture: name.machine().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        clock_synchronised: carreto_kernel::process::clock_is_synchronised().ok(),
        privileges: privileges(),
        ..of_files(&machine)
    }
}

/// What is read from files.
fn of_files(machine: &Machine) -> Facts {
    let mounts = mounts(machine);
    Facts {
        host_name: String::new(),
        architecture: String::new(),
        cpus: 1,
        clock_synchronised: None,
        privileges: Privileges::from(CapabilitySet::empty()),
        kernel: super::kernel_release(),
        boot_id: machine.text("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        memory: memory(machine, "MemTotal:"),
        available_memory: memory(machine, "MemAvailable:"),
        load: load(machine),
        uptime: uptime(machine),
        time_zone: time_zone(machine),
        lockdown: lockdown(machine),
        btf: machine.path("/sys/kernel/btf/vmlinux").exists(),
        bpf_folder: mounted(&mounts, "bpf"),
        debug_folder: mounted(&mounts, "debugfs"),
        trace_folder: mounted(&mounts, "tracefs"),
    }
}

fn privileges() -> Privileges {
    let sets = rustix::thread::capabilities(None);
    Privileges::from(sets.map_or(CapabilitySet::empty(), |sets| sets.effective))
}

impl From<CapabilitySet> for Privileges {
    fn from(effective: CapabilitySet) -> Self {
        Self {
            admin: effective.contains(CapabilitySet::SYS_ADMIN),
            bpf: effective.contains(CapabilitySet::BPF),
            perfmon: effective.contains(CapabilitySet::PERFMON),
            any_file: effective.contains(CapabilitySet::DAC_OVERRIDE),
            lock_memory: effective.contains(CapabilitySet::IPC_LOCK),
        }
    }
}

fn memory(machine: &Machine, field: &str) -> Option<u64> {
    let text = machine.text("/proc/meminfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn load(machine: &Machine) -> Option<[f64; 3]> {
    let text = machine.text("/proc/loadavg")?;
    let mut fields =
        text.split(' ').map(|field| field.parse::<f64>().ok().filter(|load| *load >= 0.));
    Some([fields.next()??, fields.next()??, fields.next()??])
}

fn uptime(machine: &Machine) -> Option<Duration> {
    let text = machine.text("/proc/uptime")?;
    Duration::try_from_secs_f64(text.split(' ').next()?.parse().ok()?).ok()
}

/// `/etc/localtime` links into the database of zones; Debian writes the name down too.
fn time_zone(machine: &Machine) -> Option<String> {
    let link = std::fs::read_link(machine.path("/etc/localtime")).ok();
    let named = link.and_then(|path| Some(path.to_str()?.split_once("zoneinfo/")?.1.to_owned()));
    named.or_else(|| machine.text("/etc/timezone"))
}

/// `none [integrity] confidentiality`, the mode in brackets.
fn lockdown(machine: &Machine) -> String {
    let text = machine.text("/sys/kernel/security/lockdown").unwrap_or_default();
    let mode = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    mode.map_or("none", |(mode, _)| mode).to_owned()
}

fn mounted(mounts: &[Mount], kind: &str) -> Option<PathBuf> {
    mounts.iter().find(|mount| mount.kind == kind).map(|mount| mount.point.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::Fake;

    #[test]
    fn files_of_the_kernel_are_read() {
        let fake = Fake::new();
        fake.file("/proc/meminfo", "MemTotal:  2048 kB\nMemAvailable:\t1024 kB\n");
        fake.file("/proc/loadavg", "0.50 1.25 2.00 1/100 42\n").file("/proc/uptime", "12.5 3.0\n");
        fake.file("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        fake.file("/sys/kernel/btf/vmlinux", "x");
        fake.link("/etc/localtime", "/usr/share/zoneinfo/Europe/Lisbon");
        fake.mounted("1 0 0:9 / /sys/fs/bpf rw - bpf bpf rw\n2 0 0:8 / /d rw - debugfs none rw\n");
        let facts = of_files(&fake.machine());
        assert_eq!((facts.memory, facts.available_memory), (Some(2 << 20), Some(1 << 20)));
        assert_eq!(facts.load, Some([0.5, 1.25, 2.0]));
        assert_eq!(facts.uptime, Some(Duration::from_millis(12500)));
        assert_eq!((facts.lockdown.as_str(), facts.btf), ("integrity", true));
        assert_eq!(facts.time_zone.as_deref(), Some("Europe/Lisbon"));
        assert_eq!(facts.bpf_folder, Some(PathBuf::from("/sys/fs/bpf")));
        assert_eq!(facts.debug_folder, Some(PathBuf::from("/d")));
        assert_eq!(facts.trace_folder, None);
    }

    #[test]
    fn hostile_files_tell_nothing() {
        let fake = Fake::new();
        fake.file("/proc/meminfo", "MemTotal: 99999999999999999999 kB\nMemAvailable: -1 kB\n");
        fake.file("/proc/loadavg", "nan 1 2").file("/proc/uptime", "-5");
        fake.file("/sys/kernel/security/lockdown", "[");
        let facts = of_files(&fake.machine());
        assert_eq!((facts.memory, facts.available_memory, facts.uptime), (None, None, None));
        assert_eq!((facts.load, facts.lockdown.as_str(), facts.btf), (None, "none", false));
    }

    #[test]
    fn this_machine_tells_something() {
        let facts = facts();
        assert!(facts.cpus > 0 && !facts.kernel.is_empty() && !facts.architecture.is_empty());
    }
}
