//! The way to the receiver, and what it has for this server.

use super::super::config::AgentConfig;
use super::super::link::Link;
use super::document::{BandwidthFacts, DiskFacts, ReceiverFacts, TargetFacts};
use super::findings::Findings;
use super::line;
use crate::receiver::state_needed;
use crate::trust::{Dialer, Identity, JoinToken};
use crate::wire::{Hello, PROTOCOL, Planned, Welcome};
use carreto_error::{Error, Kind, Result};
use jiff::{Timestamp, Zoned};

/// Seconds that the clocks may differ.
const CLOCKS: u64 = 60;

/// Asks the receiver and measures the line to it.
pub(super) async fn look(
    config: &AgentConfig,
    token: &JoinToken,
    identity: Option<Identity>,
    host: &str,
    disks: &[DiskFacts],
    findings: &mut Findings,
) -> (Option<ReceiverFacts>, Option<BandwidthFacts>) {
    let Some(identity) = identity else { return (None, None) };
    let link = match connect(config, token, &identity, host).await {
        Ok(link) => link,
        Err(error) => {
            unreachable(config, token, &error, findings);
            return (None, None);
        }
    };
    let welcome = &link.welcome;
    let text = format!("carreto {}, protocol {}", welcome.version, welcome.protocol);
    findings.ok("receiver", text);
    let facts = facts(welcome, disks);
    clock(facts.clock_difference_seconds, findings);
    if facts.committed {
        // Its targets may be at work already.
        let text = "the receiver has committed this migration: nothing is left to be done";
        let remedy = format!("if a new one is meant, {}", crate::remedy::BEGIN_ANEW);
        findings.warning("migration", text, remedy);
    } else {
        targets(&facts.targets, disks, findings);
        state(facts.state_room, disks, findings);
    }
    let streams = config.streams.unwrap_or(welcome.streams).min(welcome.streams).max(1);
    let bandwidth = match line::measure(&link, streams).await {
        Ok(measured) => {
            let configured = config.bandwidth.rate_at(Zoned::now().datetime());
            let rate = measured.bytes_per_second / 1e6;
            findings.ok("bandwidth", format!("{rate:.2} MB/s over {streams} data connections"));
            Some(BandwidthFacts { configured, ..measured })
        }
        Err(error) => {
            findings.error("bandwidth", &error);
            None
        }
    };
    (Some(facts), bandwidth)
}

async fn connect(
    config: &AgentConfig,
    token: &JoinToken,
    identity: &Identity,
    host: &str,
) -> Result<Link> {
    let dialer = Dialer::new(identity, token.receiver, config.proxy.clone())?;
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        server: token.server.clone(),
        secret: Some(token.secret.to_text()),
        host: host.to_owned(),
        preflight: true,
    };
    Link::open(&dialer, &token.addresses, hello, config.streams).await
}

fn unreachable(config: &AgentConfig, token: &JoinToken, error: &Error, findings: &mut Findings) {
    let way = if config.proxy.is_some() { " through the proxy" } else { "" };
    let to = token.addresses.join(", ");
    let text = format!("{to}{way}: {}", carreto_error::chain_text(error));
    let remedy = match error.kind() {
        Kind::Unavailable | Kind::Timeout | Kind::Io => format!(
            "start `carreto receive` there, and let this system reach {to} by TCP{way}; set `proxy` if only a proxy leads there"
        ),
        _ => error.remedy().to_owned(),
    };
    findings.blocked("receiver", text, remedy);
}

fn facts(welcome: &Welcome, disks: &[DiskFacts]) -> ReceiverFacts {
    let target = |planned: &Planned| TargetFacts {
        disk: disks.iter().find(|disk| is_for(&planned.source, disk)).map(|disk| disk.name.clone()),
        source: planned.source.clone(),
        target: planned.target.clone(),
        size: planned.size,
        free: planned.free,
        problem: planned.problem.clone(),
    };
    ReceiverFacts {
        version: welcome.version.clone(),
        protocol: welcome.protocol,
        migration: welcome.migration.clone(),
        streams: welcome.streams,
        clock_difference_seconds: welcome.clock.saturating_sub(Timestamp::now().as_second()),
        committed: welcome.committed.is_some(),
        state_room: welcome.state_room,
        targets: welcome.targets.iter().map(target).collect(),
    }
}

fn is_for(source: &str, disk: &DiskFacts) -> bool {
    source == disk.name
        || source == disk.identity
        || source.strip_prefix("/dev/") == Some(&disk.name)
}

fn clock(difference: i64, findings: &mut Findings) {
    let text = format!("the receiver's clock is {difference} s ahead");
    if difference.unsigned_abs() > CLOCKS {
        let remedy = "set both clocks by a time service; tokens and certificates carry times";
        findings.warning("clock difference", text, remedy);
    } else {
        findings.ok("clock difference", text);
    }
}

/// Every disk needs a target that is large enough, and every target a disk.
fn targets(targets: &[TargetFacts], disks: &[DiskFacts], findings: &mut Findings) {
    for disk in disks {
        let item = format!("target {}", disk.name);
        match targets.iter().find(|target| target.disk.as_ref() == Some(&disk.name)) {
            None => {
                let text = format!("no target is configured for {} ({})", disk.name, disk.identity);
                let remedy = "add a [[server.disk]] to the receiver's configuration, or name the disks in the agent's";
                findings.blocked(item, text, remedy);
            }
            Some(target) => fitness(item, target, disk, findings),
        }
    }
    for target in targets.iter().filter(|target| target.disk.is_none()) {
        let text = format!("this system has no disk {}, which has a target", target.source);
        let remedy = "name the disks in the agent's configuration, or drop the target";
        findings.blocked(format!("target {}", target.source), text, remedy);
    }
}

/// Whether `target` can be used for `disk`.
fn fitness(item: String, target: &TargetFacts, disk: &DiskFacts, findings: &mut Findings) {
    let (name, needed) = (&target.target, disk.size);
    if let Some(problem) = &target.problem {
        let remedy = problem.remedy.as_deref().unwrap_or("make it usable at the receiver");
        let text = format!("the receiver cannot use {name}: {}", problem.detail);
        return findings.blocked(item, text, format!("at the receiver: {remedy}"));
    }
    match target.size {
        Some(size) if size < needed => {
            let text = format!("{name} has {size} bytes, the disk has {needed}");
            return findings.blocked(item, text, "give the receiver a larger target");
        }
        Some(size) => findings.ok(item.clone(), format!("{name} has {size} bytes")),
        None => findings.ok(item.clone(), format!("{name} does not exist yet and will be made")),
    }
    if let Some(free) = target.free {
        space(&item, name, free, disk, findings);
    }
}

/// Files are sparse: they take what is not zero, at least what the file systems use.
fn space(item: &str, name: &str, free: u64, disk: &DiskFacts, findings: &mut Findings) {
    let item = format!("{item} space");
    let remedy = "make room at the receiver, or give it a target with more space";
    let used = disk.used_bytes.unwrap_or(0);
    if free < used {
        let text = format!(
            "{name} can take {free} bytes, and the file systems of the disk use {used} already"
        );
        findings.blocked(item, text, remedy);
    } else if free < disk.size {
        let text = format!(
            "{name} can take {free} bytes, the disk has {}: it fails when more is not zero",
            disk.size
        );
        findings.warning(item, text, remedy);
    } else {
        findings.ok(item, format!("{name} can take {free} bytes"));
    }
}

/// Journals fill as the first pass goes on: what does not fit is better known before.
fn state(room: Option<u64>, disks: &[DiskFacts], findings: &mut Findings) {
    let Some(room) = room else { return };
    let needed = disks.iter().map(|disk| state_needed(disk.size)).fold(0, u64::saturating_add);
    let item = "receiver state";
    let text = format!("the journals need up to {needed} bytes, there is room for {room}");
    if room < needed {
        findings.blocked(item, text, "free space in the receiver's state folder");
    } else {
        findings.ok(item, text);
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::{Severity, TrackerFacts};
    use super::*;

    fn disk(size: u64, used_bytes: Option<u64>) -> DiskFacts {
        DiskFacts {
            name: "vda".to_owned(),
            identity: "serial:1".to_owned(),
            size,
            used_bytes,
            read_only: false,
            counted: None,
            tracker: TrackerFacts::default(),
            sample: None,
        }
    }

    #[test]
    fn what_is_used_already_has_to_fit() {
        for (free, used, severity) in [
            (100, None, Severity::Ok),
            (99, None, Severity::Warning),
            (99, Some(99), Severity::Warning),
            (99, Some(100), Severity::Blocked),
            (200, Some(150), Severity::Ok),
        ] {
            let mut findings = Findings::default();
            space("target vda", "/a/file", free, &disk(100, used), &mut findings);
            assert_eq!(findings.about("target vda space"), Some(severity), "{free} {used:?}");
        }
    }

    #[test]
    fn journals_have_to_fit() {
        let disks = [disk(1 << 40, None), disk(1 << 30, None)];
        let needed = state_needed(1 << 40) + state_needed(1 << 30);
        for (room, severity) in [
            (None, None),
            (Some(needed), Some(Severity::Ok)),
            (Some(needed - 1), Some(Severity::Blocked)),
        ] {
            let mut findings = Findings::default();
            state(room, &disks, &mut findings);
            assert_eq!(findings.about("receiver state"), severity);
        }
    }
}
