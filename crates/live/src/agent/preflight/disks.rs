//! The disks: what they are, how their changes would be followed, what is on them.

use super::super::config::AgentConfig;
use super::super::machine::{Machine, MachineDisk};
use super::document::{DiskFacts, MountFacts, TrackerFacts};
use super::findings::Findings;
use super::sample;
use crate::granule::GRANULE;
use crate::host::{self, Facts};
use crate::track::TrackerKind;
use std::path::Path;

/// In no BPF file system, so that nothing is pinned and no pins of an agent are found.
const NO_PINS: &str = "/proc/carreto-preflight";

/// What is needed to look at the disks.
pub(super) struct Look<'a> {
    pub(super) config: &'a AgentConfig,
    pub(super) machine: &'a dyn Machine,
    pub(super) facts: &'a Facts,
    pub(super) hardware: &'a [host::Disk],
    /// An agent of this server is at work, whose trackers are left alone.
    pub(super) running: bool,
}

impl Look<'_> {
    pub(super) fn at(
        &self,
        disks: &[MachineDisk],
        mounts: &[MountFacts],
        findings: &mut Findings,
    ) -> Vec<DiskFacts> {
        disks.iter().map(|disk| self.one(disk, mounts, findings)).collect()
    }

    fn one(&self, disk: &MachineDisk, mounts: &[MountFacts], findings: &mut Findings) -> DiskFacts {
        let name = &disk.tracked.name;
        let hardware = self.hardware.iter().find(|known| known.name == *name);
        let read_only = hardware.is_some_and(|known| known.read_only);
        kind(disk, read_only, findings);
        let tracker = self.tracker(disk, findings);
        let sample = sample::of(disk.reader.as_ref(), disk.tracked.size, &disk.identity);
        let sample = sample.map_err(|error| findings.error(format!("read {name}"), &error));
        DiskFacts {
            name: name.clone(),
            identity: disk.identity.clone(),
            size: disk.tracked.size,
            used_bytes: used(name, mounts),
            read_only,
            counted: counted(name, tracker.kind, findings),
            tracker,
            sample: sample.ok(),
        }
    }

    fn tracker(&self, disk: &MachineDisk, findings: &mut Findings) -> TrackerFacts {
        if self.running {
            return TrackerFacts::default();
        }
        let item = format!("tracker {}", disk.tracked.name);
        let choice = self.config.tracker();
        let attached = match self.machine.attach(&disk.tracked, choice, Path::new(NO_PINS)) {
            Ok(attached) => attached,
            Err(error) => {
                findings.error(item, &error);
                return TrackerFacts::default();
            }
        };
        let kind = attached.tracker.kind();
        let refused: Vec<_> = attached
            .refused
            .iter()
            .map(|(kind, error)| format!("{}: {}", kind.name(), carreto_error::chain_text(error)))
            .collect();
        match attached.tracker.detach() {
            Ok(()) => judge(item, kind, &refused, findings),
            Err(error) => findings.error(item, &error),
        }
        let survives_restart = kind == TrackerKind::Bpf && self.facts.bpf_folder.is_some();
        TrackerFacts { kind: Some(kind), refused, survives_restart }
    }
}

fn kind(disk: &MachineDisk, read_only: bool, findings: &mut Findings) {
    let item = format!("disk {}", disk.tracked.name);
    let (size, identity) = (disk.tracked.size, &disk.identity);
    let text = format!("{identity}, {size} bytes");
    if size <= GRANULE {
        let remedy = "leave it out: name the other disks in the configuration";
        findings.blocked(item, format!("{text}: too small"), remedy);
    } else if read_only {
        let remedy = "leave it out unless it is to be copied";
        findings.warning(item, format!("{text}, the kernel refuses writes"), remedy);
    } else if identity.starts_with("name:") {
        let remedy = "give it a serial number or a partition table, or migrate without a restart";
        let text = format!("{text}: nothing tells it from another disk after a restart");
        findings.warning(item, text, remedy);
    } else {
        findings.ok(item, text);
    }
}

fn judge(item: String, kind: TrackerKind, refused: &[String], findings: &mut Findings) {
    let why = refused.join("; ");
    match kind {
        TrackerKind::Bpf => findings.ok(item, "bpf"),
        TrackerKind::Blktrace => {
            let remedy =
                "remove what the text names to use bpf, or let the agent run until the end";
            let text = format!("blktrace: a restart of the agent reads the disk again ({why})");
            findings.warning(item, text, remedy);
        }
        TrackerKind::Rescan => {
            let remedy = "remove what the text names, or accept a long pause and a busy disk";
            let text = format!("rescan: every epoch and the cutover read the whole disk ({why})");
            findings.warning(item, text, remedy);
        }
    }
}

/// Whether the kernel counts requests; without it, tracking cannot be audited, and what is not
/// tracked cannot be said to stand still.
fn counted(name: &str, tracker: Option<TrackerKind>, findings: &mut Findings) -> Option<bool> {
    let path = Path::new("/sys/block").join(name.replace('/', "!")).join("queue/iostats");
    let counted = std::fs::read_to_string(&path).ok().map(|text| text.trim() == "1");
    let (item, remedy) = (format!("counters {name}"), format!("echo 1 > {}", path.display()));
    match (counted, tracker) {
        (Some(true), _) => findings.ok(item, "the kernel counts requests"),
        (_, Some(TrackerKind::Rescan)) => {
            let text = "the kernel does not count requests and nothing follows changes, so whether the disk stands still in the cutover cannot be told";
            findings.blocked(item, text, remedy);
        }
        (Some(false), _) => {
            let text = "the kernel does not count requests, so tracking cannot be audited and the cutover reads the whole disk";
            findings.warning(item, text, remedy);
        }
        (None, _) => {}
    }
    counted
}

/// Bytes that file systems use on the disk; what lies on several is shared out evenly.
fn used(name: &str, mounts: &[MountFacts]) -> Option<u64> {
    let on = mounts.iter().filter(|mount| mount.disks.iter().any(|disk| disk == name));
    let shares: Vec<_> =
        on.filter_map(|mount| mount.used_bytes?.checked_div(mount.disks.len() as u64)).collect();
    (!shares.is_empty()).then(|| shares.into_iter().fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::preflight::document::Severity;

    /// A disk of which nothing says that it is counted, as no disk is called so.
    #[test]
    fn what_is_not_tracked_has_to_be_counted() {
        for (tracker, severity) in [
            (Some(TrackerKind::Rescan), Some(Severity::Blocked)),
            (Some(TrackerKind::Bpf), None),
            (None, None),
        ] {
            let mut findings = Findings::default();
            assert_eq!(counted("no/disk", tracker, &mut findings), None);
            assert_eq!(findings.about("counters no/disk"), severity, "{tracker:?}");
        }
    }
}
