//! The `bpf` system call: maps, programs, links, pins.
//!
//! Layouts and numbers are those of `include/uapi/linux/bpf.h`, which the kernel keeps stable. The
//! kernel verifies every program before it runs, so loading one is safe whatever its instructions.

mod attr;
mod shared;

pub use shared::SharedMap;

use attr::Attr;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Commands of `bpf(2)`.
mod command {
    pub(super) const MAP_CREATE: u32 = 0;
    pub(super) const PROG_LOAD: u32 = 5;
    pub(super) const OBJ_PIN: u32 = 6;
    pub(super) const OBJ_GET: u32 = 7;
    pub(super) const PROG_GET_NEXT_ID: u32 = 11;
    pub(super) const PROG_GET_FD_BY_ID: u32 = 13;
    pub(super) const OBJ_GET_INFO_BY_FD: u32 = 15;
    pub(super) const RAW_TRACEPOINT_OPEN: u32 = 17;
}

/// `BPF_MAP_TYPE_ARRAY`.
pub(crate) const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_F_MMAPABLE`: the map can be mapped into a process (since Linux 5.5).
pub(crate) const F_MMAPABLE: u32 = 1 << 10;
/// Bytes of the verifier's report that are kept.
const LOG_BYTES: usize = 64 << 10;

/// How a program hooks into a trace point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook<'a> {
    /// `BPF_PROG_TYPE_TRACING` with `BPF_TRACE_RAW_TP`: arguments are typed, so that the program
    /// may follow their pointers. The number is the BTF type of the trace point's function.
    TypedTracepoint(u32),
    /// `BPF_PROG_TYPE_RAW_TRACEPOINT` on the trace point of this name.
    RawTracepoint(&'a str),
}

impl Hook<'_> {
    const fn program_type(self) -> u32 {
        match self {
            Self::TypedTracepoint(_) => 26,
            Self::RawTracepoint(_) => 17,
        }
    }
}

/// What the kernel says about a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its number in this run of the kernel.
    pub id: u32,
    /// Its name, at most 15 characters.
    pub name: String,
    /// How often it was not run because it was running already on that processor.
    pub recursion_misses: u64,
}

/// A program that the verifier refused, or could not look at.
#[derive(Debug)]
pub struct Refused {
    /// The kernel's answer.
    pub error: io::Error,
    /// The last line of the verifier's report; empty if it said nothing.
    pub reason: String,
}

/// Makes an array map that can be mapped: `entries` elements of `value_size` bytes, all zero.
///
/// # Errors
/// The kernel's answer; `EPERM` also where locked memory is limited (kernels before 5.11).
pub fn create_shared_array(name: &str, value_size: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr::new();
    attr.u32(0, MAP_TYPE_ARRAY).u32(4, 4).u32(8, value_size).u32(12, entries).u32(16, F_MMAPABLE);
    attr.name(28, name);
    attr.call_fd(command::MAP_CREATE, 44)
}

/// Loads a program of 8-byte instructions for `hook`.
///
/// # Errors
/// The kernel's answer, with the verifier's last words.
pub fn load_program(name: &str, hook: Hook<'_>, code: &[u64]) -> Result<OwnedFd, Refused> {
    let first = load(name, hook, code, &mut []);
    first.map_err(|error| {
        let mut log = vec![0; LOG_BYTES];
        // Asking for a report costs time and can itself fail, so it is the second try.
        drop(load(name, hook, code, &mut log));
        Refused { error, reason: last_line(&log) }
    })
}

fn load(name: &str, hook: Hook<'_>, code: &[u64], log: &mut [u8]) -> io::Result<OwnedFd> {
    // Helpers that read kernel memory are open only to licences that the kernel finds compatible.
    let license = c"Dual MIT/GPL";
    let count = u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut attr = Attr::new();
    attr.u32(0, hook.program_type()).u32(4, count);
    attr.pointer(8, code.as_ptr().cast()).pointer(16, license.as_ptr().cast());
    if !log.is_empty() {
        attr.u32(24, 1).u32(28, u32::try_from(log.len()).unwrap_or(0));
        attr.pointer(32, log.as_mut_ptr().cast_const());
    }
    attr.name(48, name);
    if let Hook::TypedTracepoint(btf_id) = hook {
        // BPF_TRACE_RAW_TP
        attr.u32(68, 23).u32(108, btf_id);
    }
    attr.call_fd(command::PROG_LOAD, 120)
}

fn last_line(log: &[u8]) -> String {
    let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let said = |line: &&str| !line.is_empty() && !line.starts_with("processed ");
    text.lines().rev().find(said).unwrap_or_default().to_owned()
}

/// Attaches `program`; it stays attached while the returned link, or a pin of it, exists.
///
/// # Errors
/// The kernel's answer.
pub fn attach(program: BorrowedFd<'_>, hook: Hook<'_>) -> io::Result<OwnedFd> {
    let name = match hook {
        Hook::RawTracepoint(name) => Some(CString::new(name)?),
        Hook::TypedTracepoint(_) => None,
    };
    let mut attr = Attr::new();
    if let Some(name) = &name {
        attr.pointer(0, name.as_ptr().cast());
    }
    attr.fd(8, program);
    attr.call_fd(command::RAW_TRACEPOINT_OPEN, 16)
}

/// Gives `object` (a map, program or link) a name in a BPF file system.
///
/// # Errors
/// The kernel's answer; `EINVAL` for links before Linux 5.7.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr::new();
    attr.pointer(0, path.as_ptr().cast()).fd(8, object);
    attr.call(command::OBJ_PIN, 16).map(drop)
}

/// Opens what is pinned at `path`.
///
/// # Errors
/// The kernel's answer; `ENOENT` where nothing is.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr::new();
    attr.pointer(0, path.as_ptr().cast());
    attr.call_fd(command::OBJ_GET, 16)
}

/// The program that a link attaches.
///
/// # Errors
/// The kernel's answer.
pub fn program_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = [0; 32];
    info_of(link, &mut info)?;
    Ok(attr::u32_at(&info, 8))
}

/// Opens the program with number `id`.
///
/// # Errors
/// The kernel's answer.
pub fn open_program(id: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr::new();
    attr.u32(0, id);
    attr.call_fd(command::PROG_GET_FD_BY_ID, 12)
}

/// What the kernel says about `program`. Counters that it does not have are zero.
///
/// # Errors
/// The kernel's answer.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut info = [0; 224];
    info_of(program, &mut info)?;
    Ok(ProgramInfo {
        id: attr::u32_at(&info, 4),
        name: attr::name_at(&info, 64),
        recursion_misses: attr::u64_at(&info, 208),
    })
}

/// The number of the program after `id`; `None` after the last. The first is after 0.
///
/// # Errors
/// The kernel's answer.
pub fn next_program(id: u32) -> io::Result<Option<u32>> {
    let mut attr = Attr::new();
    attr.u32(0, id);
    match attr.call(command::PROG_GET_NEXT_ID, 12) {
        Ok(_) => Ok(Some(attr.get_u32(4))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fills `info` as far as the kernel knows that much; the rest stays zero.
fn info_of(object: BorrowedFd<'_>, info: &mut [u8]) -> io::Result<()> {
    let mut attr = Attr::new();
    attr.fd(0, object).u32(4, u32::try_from(info.len()).unwrap_or(0));
    attr.pointer(8, info.as_mut_ptr().cast_const());
    attr.call(command::OBJ_GET_INFO_BY_FD, 16).map(drop)
}

/// `bpf` takes descriptors as unsigned numbers.
fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_fd().as_raw_fd()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_last_words_are_kept() {
        assert_eq!(last_line(b"a\nR1 bad\nprocessed 3 insns\n\0\0"), "R1 bad");
        assert_eq!(last_line(b"\0\0"), "");
    }
}
