//! What uses the disks: file systems that are frozen, swap that need not be, and the rest.

use super::super::config::HookConfig;
use super::super::machine::{Machine, MachineDisk};
use super::document::MountFacts;
use super::findings::Findings;
use crate::host::{FileSystem, Freezable, RawUser, Swap};
use std::time::Duration;

pub(super) fn look(
    systems: &[FileSystem],
    swaps: &[Swap],
    hooks: &HookConfig,
    findings: &mut Findings,
) -> Vec<MountFacts> {
    for swap in swaps {
        swapping(swap, hooks, findings);
    }
    systems.iter().map(|system| mount(system, findings)).collect()
}

/// Of swap in a file or on a volume it is not known which places of the disks it has.
fn swapping(swap: &Swap, hooks: &HookConfig, findings: &mut Findings) {
    let (path, disks) = (swap.path.display(), swap.disks.join(", "));
    let item = format!("swap {path}");
    if swap.range.is_some() {
        findings.ok(item, format!("on {disks}; its content is not compared"));
    } else if hooks.before.iter().any(|command| command.contains("swapoff")) {
        findings.ok(item, format!("on {disks}; a command in hooks.before is to end it"));
    } else {
        let text = format!(
            "on {disks}, in a file or on a volume: where it writes during the cutover is taken for a change, and the cutover is given up"
        );
        let remedy =
            format!("end it by hooks: before = [\"swapoff {path}\"], after = [\"swapon {path}\"]");
        findings.warning(item, text, remedy);
    }
}

fn mount(system: &FileSystem, findings: &mut Findings) -> MountFacts {
    let item = format!("mount {}", system.mount_point.display());
    let reason = match &system.freezable {
        Freezable::Yes => None,
        Freezable::No(reason) => Some(reason.clone()),
    };
    left_behind(system, &item, findings);
    match &reason {
        None if !system.missing.is_empty() => {}
        None => findings.ok(item, format!("{} can be frozen", system.kind)),
        Some(_) if system.read_only => {
            findings.ok(item, format!("{} is mounted read-only", system.kind));
        }
        Some(reason) => {
            let text = format!("{} cannot be frozen: {reason}", system.kind);
            let point = system.mount_point.display();
            let remedy = format!(
                "if it is written during the cutover, make it read-only by hooks: before = [\"mount -o remount,ro {point}\"], after = [\"mount -o remount,rw {point}\"]"
            );
            findings.warning(item, text, remedy);
        }
    }
    MountFacts {
        mount_point: system.mount_point.clone(),
        kind: system.kind.clone(),
        source: system.source.clone(),
        disks: system.disks.clone(),
        missing: system.missing.clone(),
        freezable: reason.is_none(),
        reason,
        read_only: system.read_only,
        used_bytes: used(system),
    }
}

/// Whether all of it comes along.
fn left_behind(system: &FileSystem, item: &str, findings: &mut Findings) {
    if let Some((text, remedy)) = system.left_behind() {
        findings.blocked(item, text, remedy);
    } else if !system.copies.is_empty() {
        let (copies, disks) = (system.copies.join(", "), system.disks.join(", "));
        let text = format!("only {disks} of a mirror is migrated, without {copies}");
        let remedy = "the target works on with one half: add another to the mirror there";
        findings.warning(item, text, remedy);
    }
}

/// Volumes that no file system is on, and of which only a part is migrated.
pub(super) fn volumes(split: &[(String, Vec<String>)], findings: &mut Findings) {
    for (volume, others) in split {
        let others = others.join(", ");
        let text = format!("it lies on {others} too: only a part of it would be migrated");
        let remedy =
            format!("if its content is needed, name {others} in `disks` beside the others");
        findings.warning(format!("volume {volume}"), text, remedy);
    }
}

fn used(system: &FileSystem) -> Option<u64> {
    let found = rustix::fs::statvfs(&system.mount_point).ok()?;
    found.f_blocks.checked_sub(found.f_bfree)?.checked_mul(found.f_frsize)
}

/// Programs that write to a disk without a file system: nothing can freeze them.
pub(super) fn raw_users(users: &[RawUser], hooks: &HookConfig, findings: &mut Findings) {
    for user in users {
        let who = user.who();
        let item = format!("raw {}", user.device);
        let text = format!("{who} has it open for writing, and no file system to be frozen");
        if hooks.before.is_empty() {
            let remedy = "stop it before the cutover, by a command in hooks.before for example";
            findings.blocked(item, text, remedy);
        } else {
            let remedy =
                "see that a command in hooks.before stops it; the cutover is given up otherwise";
            findings.warning(item, text, remedy);
        }
    }
}

/// Gets everything ready for a freeze and lets go: the watchdog starts, and the mount points open.
pub(super) fn rehearse(
    machine: &dyn Machine,
    disks: &[MachineDisk],
    lease: Duration,
    findings: &mut Findings,
) {
    match machine.prepare_freeze(disks, lease) {
        Ok(_let_go) => findings.ok("watchdog", "it starts and holds every mount point"),
        Err(error) => findings.error("watchdog", &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::preflight::document::Severity;

    fn system(freezable: Freezable, read_only: bool) -> FileSystem {
        FileSystem {
            mount_point: "/".into(),
            kind: "vfat".into(),
            source: "x".into(),
            devno: (8, 1),
            disks: vec!["sda".into()],
            missing: Vec::new(),
            copies: Vec::new(),
            freezable,
            read_only,
        }
    }

    #[test]
    fn what_is_left_behind_blocks() {
        let mut system = system(Freezable::Yes, false);
        let found = |system: &FileSystem| {
            let mut findings = Findings::default();
            let facts =
                look(std::slice::from_ref(system), &[], &HookConfig::default(), &mut findings);
            (facts[0].missing.clone(), findings.into_list())
        };
        system.copies = vec!["sdc".into()];
        let (_, findings) = found(&system);
        assert_eq!(findings[0].severity, Severity::Warning);
        system.missing = vec!["sdb".into()];
        let (missing, findings) = found(&system);
        assert_eq!(missing, ["sdb"]);
        assert_eq!((&*findings[0].item, findings[0].severity), ("mount /", Severity::Blocked));
        assert!(findings[0].detail.contains("/dev/sdb"), "{findings:?}");
    }

    #[test]
    fn what_cannot_be_frozen_is_a_warning_while_it_is_written() {
        for (freezable, read_only, severity) in [
            (Freezable::Yes, false, Severity::Ok),
            (Freezable::No("no".into()), true, Severity::Ok),
            (Freezable::No("no".into()), false, Severity::Warning),
        ] {
            let system = system(freezable, read_only);
            let mut findings = Findings::default();
            let found = look(&[system], &[], &HookConfig::default(), &mut findings);
            assert_eq!(findings.about("mount /"), Some(severity));
            assert_eq!(found[0].freezable, found[0].reason.is_none());
            assert!(found[0].used_bytes.is_some());
        }
    }

    #[test]
    fn swap_whose_places_are_not_known_needs_a_hook() {
        let range = carreto_block::ByteRange::from_len(0, 4096).unwrap();
        let swap = |range| Swap { path: "/swap".into(), disks: vec!["sda".into()], range };
        let severity = |swap, before: &[&str]| {
            let before = before.iter().map(|text| (*text).to_owned()).collect();
            let hooks = HookConfig { before, ..HookConfig::default() };
            let mut findings = Findings::default();
            look(&[], &[swap], &hooks, &mut findings);
            findings.about("swap /swap")
        };
        assert_eq!(severity(swap(Some(("sda".into(), range))), &[]), Some(Severity::Ok));
        assert_eq!(severity(swap(None), &["true"]), Some(Severity::Warning));
        assert_eq!(severity(swap(None), &["/sbin/swapoff /swap"]), Some(Severity::Ok));
    }

    #[test]
    fn who_writes_past_file_systems_needs_a_hook() {
        let user = RawUser {
            device: "/dev/sdb".into(),
            disks: vec!["sdb".into()],
            process: Some(7),
            command: "asm".into(),
        };
        let mut hooks = HookConfig::default();
        let mut findings = Findings::default();
        raw_users(std::slice::from_ref(&user), &hooks, &mut findings);
        assert_eq!(findings.about("raw /dev/sdb"), Some(Severity::Blocked));
        hooks.before.push("systemctl stop asm".into());
        raw_users(&[user], &hooks, &mut findings);
        assert_eq!(findings.about("raw /dev/sdb"), Some(Severity::Warning));
    }
}
