//! What the running system allows and has.

use super::document::SystemFacts;
use super::findings::Findings;
use crate::host::Facts;

impl From<Facts> for SystemFacts {
    fn from(facts: Facts) -> Self {
        Self {
            host_name: facts.host_name,
            kernel: facts.kernel,
            architecture: facts.architecture,
            boot_id: facts.boot_id,
            cpus: facts.cpus,
            memory_bytes: facts.memory,
            available_memory_bytes: facts.available_memory,
            load: facts.load,
            uptime_seconds: facts.uptime.map(|uptime| uptime.as_secs_f64()),
            clock_synchronised: facts.clock_synchronised,
            time_zone: facts.time_zone,
            lockdown: facts.lockdown,
            btf: facts.btf,
            bpf_folder: facts.bpf_folder,
            debug_folder: facts.debug_folder,
        }
    }
}

pub(super) fn look(facts: &Facts, findings: &mut Findings) {
    privileges(facts, findings);
    kernel(facts, findings);
    load(facts, findings);
    clock(facts, findings);
}

fn privileges(facts: &Facts, findings: &mut Findings) {
    let has = facts.privileges;
    let needed = [(has.admin, "CAP_SYS_ADMIN"), (has.any_file, "CAP_DAC_OVERRIDE")];
    let missing: Vec<_> =
        needed.iter().filter(|(there, _)| !there).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        findings.ok("privileges", "disks can be read and file systems frozen");
    } else {
        let text = format!("this process lacks {}", missing.join(" and "));
        findings.blocked("privileges", text, "run the agent as root");
    }
    if !has.lock_memory {
        let text = "agent and watchdog cannot be kept in memory (CAP_IPC_LOCK)";
        findings.warning("privileges", text, "run the agent as root, in no container");
    }
}

/// What the best tracker needs. Without it there are others.
fn kernel(facts: &Facts, findings: &mut Findings) {
    if facts.btf && (facts.privileges.bpf || facts.privileges.admin) {
        findings.ok("kernel bpf", "the kernel describes its types, and programs may be loaded");
    } else {
        let text = "no BPF program can follow changes: the kernel does not describe its types, or CAP_BPF is missing";
        let remedy = "accept block tracing or rescans, or use a kernel with CONFIG_DEBUG_INFO_BTF";
        findings.warning("kernel bpf", text, remedy);
    }
    if let Some(folder) = &facts.bpf_folder {
        findings.ok("bpf file system", folder.display().to_string());
    } else {
        let text = "there is no BPF file system: a restart of the agent reads the disks again";
        let remedy = "mount one: mount -t bpf bpf /sys/fs/bpf";
        findings.warning("bpf file system", text, remedy);
    }
    match &facts.debug_folder {
        Some(folder) => findings.ok("debug file system", folder.display().to_string()),
        None if facts.btf => {
            findings.ok("debug file system", "not mounted; only block tracing needs it");
        }
        None => {
            let text = "it is not mounted, and without it blocks cannot be traced";
            let remedy = "mount it: mount -t debugfs debugfs /sys/kernel/debug";
            findings.warning("debug file system", text, remedy);
        }
    }
    if facts.lockdown == "none" {
        findings.ok("kernel lockdown", "the system tells of none");
    } else {
        let text =
            format!("the kernel is locked down ({}): trackers may be refused", facts.lockdown);
        findings.warning("kernel lockdown", text, "see which tracker each disk gets");
    }
}

fn load(facts: &Facts, findings: &mut Findings) {
    let Some([now, ..]) = facts.load else { return };
    let text = format!("{now:.2} with {} processors", facts.cpus);
    if now > facts.cpus as f64 {
        let remedy = "migrate at a quieter time, or set threads = 1";
        findings.warning("load", text, remedy);
    } else {
        findings.ok("load", text);
    }
}

fn clock(facts: &Facts, findings: &mut Findings) {
    match facts.clock_synchronised {
        Some(true) => findings.ok("clock", "it follows a time source"),
        Some(false) => {
            let text = "it follows no time source; times in the certificate may be wrong";
            findings.warning("clock", text, "start a time service, such as systemd-timesyncd");
        }
        None => findings.ok("clock", "the system does not say whether it follows a time source"),
    }
}

/// Whether there is enough memory for the agent.
pub(super) fn memory(facts: &SystemFacts, needed: u64, findings: &mut Findings) {
    let Some(available) = facts.available_memory_bytes else { return };
    let text = format!(
        "the agent needs about {} MiB, {} MiB are available",
        needed.div_ceil(1 << 20),
        available >> 20
    );
    if available < needed {
        let remedy = "stop something, add memory, or migrate fewer disks at a time";
        findings.blocked("memory", text, remedy);
    } else if available < needed.saturating_mul(2) {
        findings.warning("memory", text, "stop something, or set threads = 1");
    } else {
        findings.ok("memory", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::preflight::document::Severity;
    use crate::host::Privileges;

    fn facts() -> Facts {
        let privileges =
            Privileges { admin: true, bpf: true, perfmon: true, any_file: true, lock_memory: true };
        Facts {
            privileges,
            cpus: 2,
            load: Some([0.5, 0.0, 0.0]),
            clock_synchronised: Some(true),
            lockdown: "none".into(),
            btf: true,
            bpf_folder: Some("/sys/fs/bpf".into()),
            debug_folder: None,
            ..crate::host::facts()
        }
    }

    fn severity(facts: &Facts, item: &str) -> Option<Severity> {
        let mut findings = Findings::default();
        look(facts, &mut findings);
        findings.about(item)
    }

    #[test]
    fn a_good_system_is_good() {
        let mut findings = Findings::default();
        look(&facts(), &mut findings);
        let list = findings.into_list();
        assert!(list.iter().all(|finding| finding.severity == Severity::Ok), "{list:?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut poor = facts();
        poor.privileges.admin = false;
        assert_eq!(severity(&poor, "privileges"), Some(Severity::Blocked));
        poor.privileges.lock_memory = false;
        let warned = [
            (Facts { btf: false, ..facts() }, "kernel bpf"),
            (Facts { btf: false, ..facts() }, "debug file system"),
            (Facts { bpf_folder: None, ..facts() }, "bpf file system"),
            (Facts { lockdown: "integrity".into(), ..facts() }, "kernel lockdown"),
            (Facts { load: Some([2.5, 0.0, 0.0]), ..facts() }, "load"),
            (Facts { clock_synchronised: Some(false), ..facts() }, "clock"),
            (poor, "privileges"),
        ];
        for (facts, item) in warned {
            assert_eq!(severity(&facts, item), Some(Severity::Warning), "{item}");
        }
    }

    #[test]
    fn memory_is_compared() {
        for (available, severity) in
            [(99, Severity::Blocked), (150, Severity::Warning), (200, Severity::Ok)]
        {
            let mut system = SystemFacts::from(facts());
            system.available_memory_bytes = Some(available << 20);
            let mut findings = Findings::default();
            memory(&system, 100 << 20, &mut findings);
            assert_eq!(findings.about("memory"), Some(severity));
        }
    }
}
