//! What guests go through besides a lost network and a power cut: a place of a disk that cannot be
//! read, a stick that cannot be frozen.

use super::layout::{Layout, Trial};
use super::machine::{Guest, SHORT};
use crate::Result;
use crate::e2e::carreto::text;
use crate::e2e::process;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const STICK: &str = include_str!("files/stick.sh");
const STICK_FILE: &str = "stick.raw";
const STICK_MIB: &str = "64";
/// Read by the agent at a time, at most, in bytes.
const READ: u64 = 4 << 20;
const CHECK_LIMIT: Duration = Duration::from_mins(2);

/// What the guest writes into its file while it is quiesced is the last that the target may have.
const HOOKS: &str = "[hooks]\nbefore = [\"bash /run/stick.sh end\"]\n";

impl Trial {
    /// Disks that the guest gets besides those it is installed on, made in `folder`.
    pub(super) fn more_disks(self, folder: &Path) -> Result<Vec<PathBuf>> {
        if self != Self::StickAndPowerOff {
            return Ok(Vec::new());
        }
        let stick = stick(folder);
        let mut command = Command::new("truncate");
        process::succeed(command.args(["-s", &format!("{STICK_MIB}M"), text(&stick)?]))?;
        process::succeed(Command::new("mkfs.vfat").args(["-n", "STICK"]).arg(&stick))?;
        Ok(vec![stick])
    }

    /// Where targets of all its disks are, in `folder`.
    pub(super) fn targets(self, layout: &Layout, folder: &Path) -> Vec<PathBuf> {
        let mut targets = layout.paths(folder);
        if self == Self::StickAndPowerOff {
            targets.push(stick(folder));
        }
        targets
    }

    /// Boots the source for the first time; says where its first disk cannot be read.
    pub(super) fn boot(
        self,
        layout: &Layout,
        disks: &[PathBuf],
        logs: &Path,
    ) -> Result<(Guest, Option<u64>)> {
        if self != Self::BadSector {
            return Ok((layout.boot(disks, logs)?, None));
        }
        let disk = disks.first().ok_or("there is no disk")?;
        let bad = largest_hole(disk)?;
        Ok((layout.boot_with_bad_sector(disks, bad, logs)?, Some(bad)))
    }

    /// What the agent's configuration says before its tables, in its table `cutover`, and after it.
    pub(super) const fn settings(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Nothing | Self::BadSector => ("", "", ""),
            Self::BlockTracing => ("tracker = \"blktrace\"\n", "", ""),
            Self::StickAndPowerOff => ("", "after = \"power_off\"\n", HOOKS),
        }
    }

    /// Begins what goes on beside the databases. To be called after each boot of the source.
    pub(super) fn begin(self, guest: &mut Guest) -> Result<()> {
        if self == Self::StickAndPowerOff {
            let script =
                format!("cat >/run/stick.sh <<'END'\n{STICK}\nEND\nbash /run/stick.sh begin");
            guest.succeed(&script, SHORT)?;
        }
        Ok(())
    }

    /// Looks at what a guest with `disks` has besides the databases. The copy that was taken while
    /// frozen has no stick, as that could not be frozen.
    pub(super) fn check(self, guest: &mut Guest, disks: &[PathBuf]) -> Result<String> {
        if self != Self::StickAndPowerOff || !disks.iter().any(|disk| disk.ends_with(STICK_FILE)) {
            return Ok(String::new());
        }
        let script = format!("cat >/run/stick.sh <<'END'\n{STICK}\nEND\nbash /run/stick.sh check");
        let found = guest.succeed(&script, CHECK_LIMIT)?;
        Ok(format!(", the stick has {}", found.trim()))
    }
}

/// Whether the agent's last report is about the place `bad` of the first disk; what it says.
pub(super) fn names_bad_place(report: &Value, bad: u64) -> Result<String> {
    let detail = report["error"]["detail"].as_str().unwrap_or_default();
    let numbers = detail.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok());
    let is_near = |number: u64| number <= bad && bad - number < READ;
    if report["state"] == "FAILED" && detail.contains("vda") && numbers.into_iter().any(is_near) {
        return Ok(detail.to_owned());
    }
    Err(format!("byte {bad} of vda cannot be read, and the agent says {report}").into())
}

fn stick(folder: &Path) -> PathBuf {
    folder.join(STICK_FILE)
}

/// The middle of the largest hole of `disk`: a place that nobody but the agent reads.
fn largest_hole(disk: &Path) -> Result<u64> {
    let mut command = Command::new("qemu-img");
    command.args(["map", "-f", "raw", "--output=json", text(disk)?]);
    middle_of_hole(&serde_json::from_str(&process::succeed(&mut command)?)?)
        .ok_or_else(|| "the disk has no hole".into())
}

fn middle_of_hole(map: &Value) -> Option<u64> {
    let holes = map.as_array()?.iter().filter(|extent| extent["data"] == false);
    let holes = holes.filter_map(|hole| Some((hole["length"].as_u64()?, hole["start"].as_u64()?)));
    let (length, start) = holes.max()?;
    Some((start + length / 2) / 4096 * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_largest_hole_is_found() {
        let map = json!([
            {"start": 0, "length": 1 << 20, "data": false},
            {"start": 1 << 20, "length": 9 << 20, "data": true},
            {"start": 10 << 20, "length": 2 << 20, "data": false},
        ]);
        assert_eq!(middle_of_hole(&map), Some(11 << 20));
        assert_eq!(middle_of_hole(&json!([])), None);
    }

    #[test]
    fn an_error_has_to_name_the_place() {
        let report = |detail: &str| json!({"state": "FAILED", "error": {"detail": detail}});
        assert!(names_bad_place(&report("read /dev/vda (offset 1048576)"), 1_050_000).is_ok());
        for wrong in ["read /dev/vda", "read /dev/vda (offset 9048576)", "offset 1048576"] {
            assert!(names_bad_place(&report(wrong), 1_050_000).is_err(), "{wrong}");
        }
        let works = json!({"state": "READY", "error": {"detail": "/dev/vda 1048576"}});
        assert!(names_bad_place(&works, 1_048_576).is_err());
    }
}
