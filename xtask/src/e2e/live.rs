//! Suite `loops`: servers are migrated while they work. Their disks are loop devices with file
//! systems under every kind of load; whether a target is the source is found without Carreto.
//!
//! Only file systems that the suite made are ever frozen: every agent is told its disks.
//!
//! `CARRETO_E2E_LIVE` leaves out every check whose name does not contain it, for whoever works on
//! one of them.

mod disks;
mod ends;
mod failures;
mod fleet;
mod loads;
mod network;
pub(super) mod program;
mod proof;
mod systems;
mod traces;

use super::needs::Need;
use super::report::Tally;
use super::{Lab, process, root_tests};
use crate::Result;
use proof::Oracle;

pub(super) const TOOLS: Need = Need::Programs {
    programs: &[
        "losetup",
        "fstrim",
        "fsfreeze",
        "nsenter",
        "fallocate",
        "mkfs.ext4",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mksquashfs",
        "fio",
        "ip",
        "tc",
        "bpftrace",
        "strip",
        "sfdisk",
        "pgrep",
    ],
    packages: &[
        "mount",
        "util-linux",
        "e2fsprogs",
        "xfsprogs",
        "btrfs-progs",
        "squashfs-tools",
        "fio",
        "iproute2",
        "bpftrace",
        "binutils",
        "fdisk",
        "procps",
    ],
    version: Some(&["fio", "--version"]),
};

pub(super) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    if wanted("tests of the crate") {
        match crate_tests(lab) {
            Ok(passed) => tally.add_passed(passed),
            Err(error) => tally.check("tests of the crate", Err(error)),
        }
    }
    let target = process::target_directory(&lab.root)?;
    let (oracle, provided) = Oracle::provide(&target.join("e2e/blake3"))?;
    lab.add(provided);
    let folder = lab.folder("loops")?;
    systems::run_all(&lab.carreto, &oracle, &folder, tally);
    failures::run_all(&lab.carreto, &oracle, &folder, tally);
    fleet::run_all(&lab.carreto, &oracle, &folder, tally);
    Ok(())
}

/// Runs the check `name`, unless others are meant, and notes what it says.
fn check(tally: &mut Tally, name: &str, check: impl FnOnce() -> Result<Vec<String>>) {
    if !wanted(name) {
        return;
    }
    match check() {
        Ok(lines) => {
            for line in lines {
                tally.note(&format!("{name}: {line}"));
            }
            tally.check(name, Ok(()));
        }
        Err(error) => tally.check(name, Err(error)),
    }
}

/// Whether the check `name` is meant.
fn wanted(name: &str) -> bool {
    std::env::var("CARRETO_E2E_LIVE").map_or(true, |part| name.contains(&part))
}

/// The tests of the crate that need root: trackers, freezing.
fn crate_tests(lab: &Lab) -> Result<usize> {
    let mut cargo = process::cargo(&lab.root);
    cargo.args(["test", "-p", "carreto-live"]);
    for test in ["host_root", "track_root", "leave_root", "lossy_root"] {
        cargo.args(["--test", test]);
    }
    let outcome = process::run(cargo.env("CARRETO_ROOT_TESTS", "1"))?;
    if !outcome.status.success() {
        return Err(outcome.said().into());
    }
    Ok(root_tests::passed(&outcome.stdout))
}
