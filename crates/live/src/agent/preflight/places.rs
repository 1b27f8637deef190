//! Folders, commands and files that the agent relies on.

use super::super::config::{After, AgentConfig};
use super::super::files::RunFolder;
use super::findings::Findings;
use crate::host::{FileSystem, file_system_of, run_hooks};
use rustix::fs::Access;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the status of an agent takes, at most.
const RUN_BYTES: u64 = 4 << 20;
/// How long a shell may take to look for a command.
const SHELL: Duration = Duration::from_secs(10);

/// Whether an agent of this server is at work.
pub(super) fn agent(folder: &Path, findings: &mut Findings) -> bool {
    let running = RunFolder::at(folder.to_owned()).is_taken();
    if running {
        let text = "an agent of this server runs; its trackers were left alone";
        findings.warning("agent", text, "ask it with `carreto agent status`");
    }
    running
}

pub(super) fn look(
    config: &AgentConfig,
    server: &str,
    systems: &[FileSystem],
    findings: &mut Findings,
) {
    run_folder(&config.run_folder(server), systems, findings);
    state_folder(&config.state, findings);
    hooks(&config.hooks.before, "hooks.before", findings);
    hooks(&config.hooks.after, "hooks.after", findings);
    lease(config, findings);
    if config.cutover.after == After::PowerOff {
        power_off(findings);
    }
}

/// The agent writes there while everything is frozen: on a frozen file system it would stop.
fn run_folder(folder: &Path, systems: &[FileSystem], findings: &mut Findings) {
    let Some(place) = existing(folder) else { return };
    let item = "run folder";
    let text = format!("{} is on", folder.display());
    let remedy = "set `run` to a folder in memory, such as /run/carreto";
    if let Some(system) = file_system_of(&place, systems) {
        let point = system.mount_point.display();
        let text = format!("{text} {point}, which would be frozen: the agent would block itself");
        return findings.blocked(item, text, remedy);
    }
    if rustix::fs::access(&place, Access::WRITE_OK).is_err() {
        let text = format!("{} cannot be written", place.display());
        return findings.blocked(
            item,
            text,
            "run the agent as root, or set `run` to another folder",
        );
    }
    let free = rustix::fs::statvfs(&place).ok().map(|it| it.f_bavail.saturating_mul(it.f_frsize));
    if free.is_some_and(|free| free < RUN_BYTES) {
        let text = format!("{} has less than 4 MiB of space", place.display());
        return findings.blocked(item, text, "make room there");
    }
    if is_memory(&place) {
        findings.ok(item, format!("{text} a file system in memory"));
    } else {
        findings.warning(item, format!("{text} no file system in memory"), remedy);
    }
}

fn is_memory(path: &Path) -> bool {
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a 32-bit magic")]
    rustix::fs::statfs(path).is_ok_and(|found| [TMPFS, RAMFS].contains(&(found.f_type as u32)))
}

/// The folder, or the nearest one above it that exists.
fn existing(folder: &Path) -> Option<PathBuf> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    here.ancestors().find(|folder| folder.exists()).map(Path::to_owned)
}

fn state_folder(folder: &Path, findings: &mut Findings) {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let name = folder.display();
    if !folder.is_dir() {
        let text = format!("{name} does not exist");
        findings.blocked("state folder", text, format!("make it: mkdir -p {name}"));
    } else if folder.join("agent.key").exists() {
        findings.ok("state folder", format!("{name} has the agent's key"));
    } else if rustix::fs::access(folder, Access::WRITE_OK).is_err() {
        let text = format!("{name} cannot be written");
        let remedy = "set `state` to a folder that can be written";
        findings.blocked("state folder", text, remedy);
    } else {
        findings.ok("state folder", format!("the agent's key will be made in {name}"));
    }
}

/// Whether the shell understands the commands and finds the first word of each. None is run.
fn hooks(commands: &[String], item: &str, findings: &mut Findings) {
    for command in commands {
        let whole = format!("sh -n -c {}", quoted(command));
        let first = word(command).map(|word| format!("command -v -- {}", quoted(word)));
        let tried = run_hooks("check", &[whole], SHELL)
            .map_err(|_| "the shell does not understand it".to_owned())
            .and_then(|_| match first {
                Some(first) => run_hooks("check", &[first], SHELL)
                    .map(drop)
                    .map_err(|_| "its command is not found".to_owned()),
                None => Ok(()),
            });
        match tried {
            Ok(()) => findings.ok(item, format!("`{command}` can be run")),
            Err(why) => {
                let remedy = format!("correct {item} in the configuration, or install it");
                findings.blocked(item, format!("`{command}`: {why}"), remedy);
            }
        }
    }
}

/// The first word, if it can only be the name of a command.
fn word(command: &str) -> Option<&str> {
    let word = command.split_whitespace().next()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte);
    word.bytes().all(plain).then_some(word)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The lease is renewed while the receiver answers; it has to outlast a hiccup, not the pause.
fn lease(config: &AgentConfig, findings: &mut Findings) {
    let (lease, pause) = (config.cutover.lease_seconds, config.cutover.max_pause_seconds);
    let text = format!("{lease} s, for a pause of up to {pause} s");
    if (lease as f64) < pause {
        let remedy = "set cutover.lease_seconds to more than cutover.max_pause_seconds";
        findings.warning("lease", text, remedy);
    } else {
        findings.ok("lease", text);
    }
}

fn power_off(findings: &mut Findings) {
    match rustix::fs::access("/proc/sysrq-trigger", Access::WRITE_OK) {
        Ok(()) => findings.ok("power off", "/proc/sysrq-trigger can be written"),
        Err(errno) => {
            let text = format!("/proc/sysrq-trigger cannot be written: {errno}");
            let remedy = "set cutover.after = \"frozen\" and switch the source off from outside";
            findings.blocked("power off", text, remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::preflight::document::Severity;
    use crate::agent::testing::config;
    use crate::host::Freezable;

    #[test]
    fn a_run_folder_that_would_be_frozen_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let system = |devno| FileSystem {
            mount_point: "/".into(),
            kind: "ext4".into(),
            source: "x".into(),
            devno,
            disks: vec!["vda".into()],
            missing: Vec::new(),
            copies: Vec::new(),
            freezable: Freezable::Yes,
            read_only: false,
        };
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let number = |line: &str| {
            let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        let all: Vec<_> = mounts.lines().filter_map(number).map(system).collect();
        let mut findings = Findings::default();
        run_folder(&place.path().join("a/b"), &all, &mut findings);
        assert_eq!(findings.about("run folder"), Some(Severity::Blocked));
        run_folder(&place.path().join("a/b"), &[], &mut findings);
        assert_ne!(findings.about("run folder"), Some(Severity::Blocked));
        assert!(!place.path().join("a").exists());
    }

    #[test]
    fn commands_are_looked_for_and_not_run() {
        let place = tempfile::tempdir().unwrap();
        let mark = place.path().join("mark");
        for (command, severity) in [
            (format!("touch '{}'", mark.display()), Severity::Ok),
            ("A=1 true".into(), Severity::Ok),
            ("no-such-command-anywhere -x".into(), Severity::Blocked),
            ("echo 'open".into(), Severity::Blocked),
            ("if true; then :; fi".into(), Severity::Ok),
        ] {
            let mut findings = Findings::default();
            hooks(std::slice::from_ref(&command), "hooks.before", &mut findings);
            assert_eq!(findings.about("hooks.before"), Some(severity), "{command}");
        }
        assert!(!mark.exists());
    }

    #[test]
    fn the_state_folder_is_there_or_not() {
        let place = tempfile::tempdir().unwrap();
        let mut findings = Findings::default();
        state_folder(place.path(), &mut findings);
        assert_eq!(findings.about("state folder"), Some(Severity::Ok));
        state_folder(&place.path().join("none"), &mut findings);
        assert_eq!(findings.about("state folder"), Some(Severity::Blocked));
    }

    #[test]
    fn a_running_agent_is_noticed() {
        let place = tempfile::tempdir().unwrap();
        let folder = config(place.path(), "s").run_folder("s");
        let mut findings = Findings::default();
        assert!(!agent(&folder, &mut findings));
        assert!(!folder.exists());
        std::fs::create_dir_all(&folder).unwrap();
        let lock = RunFolder::at(folder.clone()).take().unwrap();
        assert!(agent(&folder, &mut findings));
        drop(lock);
        assert!(!agent(&folder, &mut findings));
    }
}
