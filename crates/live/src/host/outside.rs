//! What of a file system lies on disks that are not migrated.
//!
//! A volume group, an array or a file system itself may reach over several disks. With some of
//! them only, the copy lacks a part, though every disk that was copied is equal to its source.

use super::disk::Disk;
use super::file_systems::{FileSystem, all_mounts};
use super::machine::{BlockDevice, Machine, Number};
use super::mounts::Mount;
use super::stack::Stack;
use super::swaps::swap_devices;
use crate::remedy;
use carreto_error::{Error, Kind, Result};
use std::collections::BTreeSet;

/// The whole disks below a file system that are not among those that were asked for.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// What is on them is nowhere else.
    pub(super) needed: BTreeSet<String>,
    /// They mirror a disk that was asked for.
    pub(super) copies: BTreeSet<String>,
}

impl Outside {
    /// What is outside of `disks` below a mounted file system. What cannot be found out counts as
    /// needed.
    pub(super) fn of(stack: &Stack<'_>, mount: &Mount, disks: &[Disk]) -> Self {
        let mut outside = Self::default();
        // ZFS does not say on which disks it lies, and nothing else mounts without a device.
        for number in stack.devices_of(mount) {
            outside.add(below(stack, disks, number, &mut Vec::new()));
        }
        outside.needed.extend(stack.lost_names(mount));
        outside
    }

    fn only(name: String) -> Self {
        Self { needed: BTreeSet::from([name]), copies: BTreeSet::new() }
    }

    fn add(&mut self, other: Self) {
        self.needed.extend(other.needed);
        self.copies.extend(other.copies);
        self.copies.retain(|name| !self.needed.contains(name));
    }
}

/// `path` are the devices above, so that a circle ends.
fn below(stack: &Stack<'_>, disks: &[Disk], number: Number, path: &mut Vec<Number>) -> Outside {
    // What is below a disk that is migrated comes along with it.
    if disks.iter().any(|disk| disk.devno == number) || path.contains(&number) {
        return Outside::default();
    }
    let Some(device) = stack.machine.device(number) else {
        return Outside::only(format!("{}:{}", number.0, number.1));
    };
    let under = members(stack, &device);
    if under.is_empty() {
        return Outside::only(device.name().replace('!', "/"));
    }
    path.push(number);
    let is_mirror = is_clean_mirror(&device);
    let (mut outside, mut is_enough) = (Outside::default(), false);
    for number in under {
        let part = below(stack, disks, number, path);
        is_enough |= is_mirror && part.needed.is_empty() && is_sound(stack, &device, number);
        outside.add(part);
    }
    path.pop();
    if is_enough {
        outside.copies.append(&mut outside.needed);
    }
    outside
}

/// What holds the content of a device. Members of an array that are spare or failed hold none.
fn members(stack: &Stack<'_>, device: &BlockDevice) -> Vec<Number> {
    if !device.has("md") {
        return stack.under(device).devices.into_iter().collect();
    }
    let idle = |member: &BlockDevice| {
        let state = state(device, member);
        state.split(',').any(|word| word == "spare" || word == "faulty")
    };
    let slaves = device.slaves().into_iter().filter(|member| !idle(member));
    slaves.filter_map(|member| member.number()).collect()
}

/// Whether every sound member of an array has everything. While it is synchronised, only some do.
/// (`Documentation/admin-guide/md.rst` of the kernel.)
fn is_clean_mirror(device: &BlockDevice) -> bool {
    let says = |attribute: &str, text: &str| device.text(attribute).is_some_and(|is| is == text);
    says("md/level", "raid1") && says("md/resync_start", "none")
}

/// Whether a member of an array takes every write at once and has no bad places.
fn is_sound(stack: &Stack<'_>, array: &BlockDevice, member: Number) -> bool {
    stack.machine.device(member).is_some_and(|member| {
        let bad = array.text(&format!("md/dev-{}/bad_blocks", member.name()));
        state(array, &member) == "in_sync" && bad.is_none()
    })
}

fn state(array: &BlockDevice, member: &BlockDevice) -> String {
    array.text(&format!("md/dev-{}/state", member.name())).unwrap_or_default()
}

impl FileSystem {
    /// What of it would be left behind, and what to do about it; none when nothing would.
    pub fn left_behind(&self) -> Option<(String, String)> {
        (!self.missing.is_empty()).then_some(())?;
        let paths: Vec<_> = self.missing.iter().map(|name| shown(name)).collect();
        let text = format!(
            "{} of {} lies on {} too, and only {} would be migrated",
            self.kind,
            self.source,
            paths.join(", "),
            self.disks.join(", ")
        );
        let remedy = format!(
            "unmount the file system; or name {} in `disks` beside the others, give targets to all, and {}",
            paths.join(", "),
            remedy::BEGIN_ANEW
        );
        Some((text, remedy))
    }
}

/// The volumes and arrays that lie on some of `disks` and on others too, and that no mounted file
/// system is on, each with the names of the others. Nothing tells whether their content is needed.
pub fn split_volumes(disks: &[Disk]) -> Vec<(String, Vec<String>)> {
    volumes_on(&Machine::here(), disks)
}

fn volumes_on(machine: &Machine, disks: &[Disk]) -> Vec<(String, Vec<String>)> {
    let mounts = all_mounts(machine);
    let stack = Stack { machine, mounts: &mounts };
    let mut known: BTreeSet<_> = mounts.iter().flat_map(|one| stack.devices_of(one)).collect();
    known.extend(swap_devices(machine));
    let names = machine.names("/sys/class/block");
    let devices: Vec<_> = names.iter().filter_map(|name| machine.device_named(name)).collect();
    // Of a device with partitions those are used.
    let whole = known.iter().filter_map(|number| machine.device(*number)?.disk()?.number());
    let known: BTreeSet<_> = whole.chain(known.iter().copied()).collect();
    let volumes = devices.iter().filter(|device| {
        !device.slaves().is_empty()
            && device.holders().is_empty()
            && device.number().is_some_and(|number| !known.contains(&number))
    });
    let split = volumes.filter_map(|device| {
        let number = device.number()?;
        let outside = below(&stack, disks, number, &mut Vec::new());
        let is_on_them = !stack.below(vec![number]).names_of(disks).is_empty();
        let name = device.text("dm/name").map(|name| format!("/dev/mapper/{name}"));
        let name = name.unwrap_or_else(|| device.node().to_string_lossy().into_owned());
        (is_on_them && !outside.needed.is_empty())
            .then(|| (name, outside.needed.into_iter().collect()))
    });
    split.collect()
}

fn shown(name: &str) -> String {
    if name.starts_with('/') || name.contains(':') {
        return name.to_owned();
    }
    format!("/dev/{name}")
}

/// Makes sure that no part of `systems` would be left behind.
///
/// # Errors
/// `SourceChanged` names the first of them that has a part on another disk.
pub fn expect_whole(systems: &[FileSystem]) -> Result<()> {
    for system in systems {
        if let Some((text, remedy)) = system.left_behind() {
            let point = system.mount_point.to_string_lossy().into_owned();
            return Err(Error::new(Kind::SourceChanged, text).path(point).remedied_by(remedy));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
