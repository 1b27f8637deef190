//! BPF programs of trackers in the kernel.
//!
//! All agents of a system load programs of the same names. One is another agent's when a pin of
//! another server leads to it, or a process that is not this migration's has it open.

use super::processes;
use crate::track;
use carreto_error::{Error, IoSide, Result};
use carreto_kernel::bpf;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

/// The names that the tracker gives its programs.
const NAMES: [&str; 3] = ["carreto_issue", "carreto_done", "carreto_requeue"];
/// Names of pins that lead to programs end so.
const LINKS: [&str; 3] = ["-issue", "-complete", "-requeue"];

/// The trackers' programs that are this migration's or nobody's. `pins` are this migration's, and
/// `agents` its processes.
pub(super) fn of(pins: &Path, agents: &[u32]) -> Result<Vec<String>> {
    let fail = |error| Error::io(IoSide::Source, "list the BPF programs", "the kernel", error);
    let all = all().map_err(fail)?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let mut others = pinned_by_others(pins);
    others.extend(open_elsewhere(agents));
    let ours = all.into_iter().filter(|(id, _)| !others.contains(id));
    Ok(ours.map(|(id, name)| format!("{id} {name}")).collect())
}

/// The number and name of every program of a tracker.
fn all() -> io::Result<Vec<(u32, String)>> {
    let (mut found, mut id) = (Vec::new(), 0);
    while let Some(next) = bpf::next_program(id)? {
        id = next;
        // It may be gone since.
        let Ok(info) = bpf::open_program(id).and_then(|it| bpf::program_info(it.as_fd())) else {
            continue;
        };
        if NAMES.contains(&info.name.as_str()) {
            found.push((id, info.name));
        }
    }
    Ok(found)
}

fn pinned_by_others(own: &Path) -> BTreeSet<u32> {
    let folders = own.parent().and_then(|parent| fs::read_dir(parent).ok());
    let folders = folders.into_iter().flatten().flatten().map(|entry| entry.path());
    let pins = folders
        .filter(|folder| folder != own)
        .flat_map(|folder| track::list_pins(&folder).unwrap_or_default());
    pins.filter(|pin| LINKS.iter().any(|end| pin.to_string_lossy().ends_with(end)))
        .filter_map(|pin| bpf::program_of(bpf::open_pin(&pin).ok()?.as_fd()).ok())
        .collect()
}

/// Programs that processes other than `agents` and this one have open.
fn open_elsewhere(agents: &[u32]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for process in processes::all().into_iter().filter(|process| !agents.contains(process)) {
        let folder = format!("/proc/{process}/fd");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_bpf = fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("anon_inode:bpf"));
            if !is_bpf {
                continue;
            }
            let name = entry.file_name();
            let info = Path::new("/proc").join(process.to_string()).join("fdinfo").join(name);
            found.extend(program_in(&processes::text(&info)));
        }
    }
    found
}

/// `prog_id:\t12` of a program or of a link to one.
fn program_in(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_an_open_program() {
        assert_eq!(program_in("pos:\t0\nlink_id:\t3\nprog_id:\t12\n"), Some(12));
        assert_eq!(program_in("pos:\t0\nprog_id:\tx\n"), None);
    }
}
