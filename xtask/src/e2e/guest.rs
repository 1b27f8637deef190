//! Suite `guests`: Debian in QEMU, booted from its own disks, with databases under load. Its disks
//! are copied while it is frozen, and migrated by the agent inside, which loses its network and then
//! its power on the way; some meet more than that. The copies, the targets and the source are
//! booted, and every transaction that was acknowledged must be there.
//!
//! Variables: `CARRETO_E2E_GUESTS` names the guests to run, with commas between; all by default.
//! `CARRETO_E2E_ACCEL` is `tcg` or `kvm`. `CARRETO_E2E_DEBIAN` names another mirror than apt's.

mod layout;
mod ledger;
mod machine;
mod migrate;
mod shell;
mod template;
mod trial;

use super::report::Tally;
use super::{Lab, process};
use crate::Result;
use crate::debian::Served;
use layout::{LAYOUTS, Layout, Release};
use machine::{Guest, SHORT};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use template::Template;

/// The release of all guests but the oldest.
const USUAL: &str = "bookworm";
const WANTED: &str = "CARRETO_E2E_GUESTS";

/// Transactions before the disks are copied, and after that.
const BEFORE: usize = 200;
const AFTER: usize = 100;
/// Freezing waits for what is on its way to the disks.
const FREEZE_LIMIT: Duration = Duration::from_mins(3);

/// What all guests of the suite share.
struct Stage<'a> {
    /// Where disks are kept from run to run.
    cache: &'a Path,
    /// For the disks of this run.
    disks: &'a Path,
    /// For consoles, and for what was acknowledged; kept until the next run.
    logs: &'a Path,
    /// The static binary.
    program: &'a Path,
}

/// Disks elsewhere that a guest was moved to, and what it had acknowledged by then.
#[derive(Clone)]
struct Moved {
    disks: Vec<PathBuf>,
    acknowledged: String,
    /// How often its power was cut before.
    interrupted: usize,
}

pub(crate) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let target = process::target_directory(&lab.root)?;
    let program = crate::dist::program(&lab.root, &target)?;
    let cache = target.join("e2e/guests");
    std::fs::create_dir_all(&cache)?;
    for layout in wanted()? {
        // Only while they are needed: disks are large.
        let disks = tempfile::Builder::new().prefix("run-").tempdir_in(&cache)?;
        let logs = cache.join("logs").join(layout.name);
        if logs.exists() {
            std::fs::remove_dir_all(&logs)?;
        }
        let (cache, disks) = (cache.as_path(), disks.path());
        let stage = Stage { cache, disks, logs: &logs, program: &program };
        let done = release(layout, tally)
            .and_then(|release| template::template(release, cache))
            .and_then(|template| stage.story(layout, &template, tally));
        tally.check(layout.name, done);
    }
    Ok(())
}

/// The release that a guest runs.
fn release(layout: &Layout, tally: &mut Tally) -> Result<&'static str> {
    if layout.release == Release::Usual {
        return Ok(USUAL);
    }
    let served = Served::ask()?;
    tally.note(&format!("the mirror has {:?} and no longer {:?}", served.there, served.gone));
    served.oldest()
}

/// The layouts that the user named.
fn wanted() -> Result<Vec<&'static Layout>> {
    let named = std::env::var(WANTED).unwrap_or_default();
    choose(&named)
}

fn choose(named: &str) -> Result<Vec<&'static Layout>> {
    if named.is_empty() {
        return Ok(LAYOUTS.iter().collect());
    }
    let find = |name: &str| LAYOUTS.iter().find(|layout| layout.name == name);
    let found = named.split(',').map(|name| find(name).ok_or_else(|| format!("no guest {name}")));
    Ok(found.collect::<std::result::Result<_, _>>()?)
}

/// The fingerprint of what something is made from.
fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    super::sign::hex(&hasher.finalize())
}

impl Stage<'_> {
    /// One guest from its first boot to the examination of its copies.
    fn story(&self, layout: &Layout, template: &Template, tally: &mut Tally) -> Result<()> {
        let name = layout.name;
        let prepared = layout.prepare(template, self.cache, &self.logs.join("install"))?;
        let made = prepared.took.map_or("kept from before".to_owned(), |took| {
            format!("made in {:.0} s", took.as_secs_f32())
        });
        let size = layout::allocated(&prepared.disks)?;
        tally.note(&format!("{name}: Debian {}, disks of {size} MiB, {made}", template.release));

        let folder = self.disks.join("source");
        let mut source = layout.copy(&prepared.disks, &folder)?;
        source.extend(layout.trial.more_disks(&folder)?);
        let (mut guest, bad) = layout.trial.boot(layout, &source, &self.logs.join("source"))?;
        tally.note(&format!("{name}: {}", describe(&mut guest, self.program)?));
        tally.add_passed(1);

        ledger::begin(&mut guest, layout)?;
        ledger::wait_for(&mut guest, layout, BEFORE)?;
        let moved = copy_frozen(&mut guest, layout, &source, &self.disks.join("frozen"))?;
        ledger::wait_for(&mut guest, layout, AFTER)?;
        layout.trial.begin(&mut guest)?;
        let migrated = migrate::migrate(self, guest, bad, layout, &source).and_then(|migrated| {
            // The source is frozen: what a power cut leaves of it is the same.
            if let Some(guest) = migrated.guest {
                drop(guest.power_cut()?);
            }
            let found = self.prove("migrated", layout, template, &migrated.moved)?;
            Ok((format!("{}; {found}", migrated.report), migrated.moved))
        });
        let cut = migrated.as_ref().ok().map(|(_, moved)| Moved { disks: source, ..moved.clone() });
        let migrated = migrated.map(|(told, _)| told);
        tell(tally, &format!("{name}: migrated while it worked"), migrated);
        let frozen = self.prove("frozen-copy", layout, template, &moved);
        tell(tally, &format!("{name}: disks copied while frozen"), frozen);
        if let Some(cut) = cut {
            let cut = self.prove("source-left", layout, template, &cut);
            tell(tally, &format!("{name}: the source as it was left"), cut);
        }
        Ok(())
    }

    /// Boots the disks that a guest was moved to, and looks for every transaction; shuts the guest
    /// down, and looks at its file systems.
    fn prove(
        &self,
        what: &str,
        layout: &Layout,
        template: &Template,
        moved: &Moved,
    ) -> Result<String> {
        let logs = self.logs.join(what);
        let mut guest = layout.boot(&moved.disks, &logs)?;
        let boot = guest.boot.as_secs_f32();
        let counts = ledger::check(&mut guest, layout, moved)?;
        let more = layout.trial.check(&mut guest, &moved.disks)?;
        is_healthy(&mut guest)?;
        let console = guest.console();
        guest.power_off()?;
        let replayed = replays(&std::fs::read_to_string(&console).unwrap_or_default());
        layout.examine(template, &moved.disks, &self.logs.join(format!("{what}-examined")))?;
        Ok(format!(
            "{counts}, integrity ok{more}, file systems clean, journals replayed {replayed}, \
             boot {boot:.0} s"
        ))
    }
}

/// Counts a check, and tells what it found.
fn tell(tally: &mut Tally, label: &str, found: Result<String>) {
    let found = found.map(|found| tally.note(&format!("{label}: {found}")));
    tally.check(label, found);
}

/// What runs there, and that the static binary runs there too.
fn describe(guest: &mut Guest, program: &Path) -> Result<String> {
    is_healthy(guest)?;
    guest.put(program, "/usr/local/bin/carreto")?;
    let carreto = guest.succeed("/usr/local/bin/carreto --version", SHORT)?;
    let look = "uname -r; findmnt -nro SOURCE,FSTYPE /; systemd-detect-virt; \
                test -e /sys/kernel/btf/vmlinux && echo BTF || echo no BTF";
    let look = guest.succeed(look, SHORT)?;
    let lines = look.lines().collect::<Vec<_>>().join(", ");
    let boot = guest.boot.as_secs_f32();
    Ok(format!("boots in {boot:.0} s: {lines}; runs {}", carreto.trim()))
}

/// No unit has failed, and the kernel has seen no broken file system.
fn is_healthy(guest: &mut Guest) -> Result<()> {
    // Neither is an error when the guest is still booting, only when it has failed.
    guest.run("timeout 120 systemctl is-system-running --wait", Duration::from_mins(3))?;
    let failed = guest.succeed("systemctl list-units --failed --plain --no-legend", SHORT)?;
    let broken = "dmesg | grep -E 'EXT4-fs (error|warning)|XFS.*(orrupt|rror)|BTRFS (error|crit)\
                  |I/O error|Kernel panic|Oops' || true";
    let said = guest.succeed(broken, SHORT)?;
    if failed.trim().is_empty() && said.trim().is_empty() {
        return Ok(());
    }
    Err(format!("failed units: {failed:?}, the kernel: {said:?}").into())
}

/// How often the kernel recovered a journal, by what it said on its console.
fn replays(console: &str) -> usize {
    let words = ["recovering journal", "recovery complete", "Ending recovery", "tree-log replay"];
    console.lines().filter(|line| words.iter().any(|words| line.contains(words))).count()
}

/// Moves a guest by copying its disks while all its file systems are frozen. It works on.
fn copy_frozen(
    guest: &mut Guest,
    layout: &Layout,
    source: &[PathBuf],
    folder: &Path,
) -> Result<Moved> {
    let freeze = for_each(layout.freeze.iter(), "fsfreeze --freeze");
    guest.succeed(&freeze, FREEZE_LIMIT)?;
    let begin = Instant::now();
    // Whatever was committed before has been acknowledged by now or never will be in this state.
    std::thread::sleep(Duration::from_secs(1));
    let acknowledged = guest.acknowledged()?;
    let disks = layout.copy(source, folder)?;
    if guest.acknowledged()? != acknowledged {
        return Err("transactions were acknowledged while everything was frozen".into());
    }
    let thaw = for_each(layout.freeze.iter().rev(), "fsfreeze --unfreeze");
    guest.succeed(&thaw, FREEZE_LIMIT)?;
    println!("{}: frozen for {:.1} s", layout.name, begin.elapsed().as_secs_f32());
    Ok(Moved { disks, acknowledged, interrupted: 0 })
}

/// A line that runs `command` on each of `mounts` in turn, and ends with the first that fails.
fn for_each<'a>(mounts: impl Iterator<Item = &'a &'static str>, command: &str) -> String {
    mounts.map(|mount| format!("{command} {mount}")).collect::<Vec<_>>().join(" && ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_chosen_by_name() {
        let names = |named| -> Result<Vec<_>> {
            Ok(choose(named)?.iter().map(|layout| layout.name).collect())
        };
        assert_eq!(names("").expect("all"), ["plain", "lvm", "raid", "oldest"]);
        assert_eq!(names("raid,plain").expect("two"), ["raid", "plain"]);
        assert!(names("windows").is_err());
    }

    #[test]
    fn replays_are_counted() {
        let console = "[ 1.0] EXT4-fs (vda1): recovery complete\n[ 2.0] XFS (vdb1): Mounting\n\
                       [ 2.1] XFS (vdb1): Ending recovery (logdev: internal)\n";
        assert_eq!(replays(console), 2);
        assert_eq!(replays(""), 0);
    }

    #[test]
    fn commands_run_in_the_order_of_the_mounts() {
        assert_eq!(for_each(["/data", "/"].iter(), "freeze"), "freeze /data && freeze /");
    }

    #[test]
    fn parts_of_a_fingerprint_do_not_run_together() {
        assert_ne!(hash(["ab", "c"].into_iter()), hash(["a", "bc"].into_iter()));
    }
}
