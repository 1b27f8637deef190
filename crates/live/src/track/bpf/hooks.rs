//! The programs and what attaches them.

use super::{BpfOptions, State};
use crate::track::TrackedDisk;
use crate::track::btf::{Btf, MAX_BYTES};
use crate::track::fields::KernelFacts;
use crate::track::pins::Pin;
use crate::track::program::{Event, Spec, assemble};
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_kernel::bpf::{self, Refused};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Types of the running kernel, since Linux 5.4 where it was built with them.
const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// One attached program.
#[derive(Debug)]
struct Hook {
    event: Event,
    link: OwnedFd,
    program: OwnedFd,
    id: u32,
}

/// The attached programs of a tracker.
#[derive(Debug)]
pub(super) struct Hooks(Vec<Hook>);

impl Hooks {
    /// Loads and attaches the programs of `disk`. Typed pointers are tried first.
    pub(super) fn attach(disk: &TrackedDisk, state: &State, options: BpfOptions) -> Result<Self> {
        let facts = kernel_facts()?;
        let all = |typed: bool| -> Result<Self> {
            let hook = |event| attach_one(disk, state, options, &facts, event, typed);
            Event::ALL.into_iter().map(hook).collect::<Result<_>>().map(Self)
        };
        if options.untyped {
            return all(false);
        }
        all(true).or_else(|refused| all(false).map_err(|_| refused))
    }

    /// Hooks that an earlier process attached.
    pub(super) fn reopen(links: Vec<(Event, OwnedFd)>) -> io::Result<Self> {
        let hook = |(event, link): (Event, OwnedFd)| {
            let id = bpf::program_of(link.as_fd())?;
            Ok(Hook { event, program: bpf::open_program(id)?, id, link })
        };
        links.into_iter().map(hook).collect::<io::Result<_>>().map(Self)
    }

    pub(super) fn links(&self) -> impl Iterator<Item = (Pin, BorrowedFd<'_>)> {
        self.0.iter().map(|hook| (Pin::Link(hook.event), hook.link.as_fd()))
    }

    /// How many runs the kernel left out, and whether all programs are attached.
    pub(super) fn health(&self) -> (u64, bool) {
        let missed = |hook: &Hook| bpf::program_info(hook.program.as_fd()).ok();
        let missed: Option<Vec<u64>> =
            self.0.iter().map(|hook| Some(missed(hook)?.recursion_misses)).collect();
        // Kernels before 5.8 say nothing about links; they cannot be detached from outside either.
        let attached = |hook: &Hook| {
            bpf::program_of(hook.link.as_fd()).map_or_else(
                |error| error.raw_os_error() == Some(EINVAL),
                |program| program == hook.id,
            )
        };
        let attached = missed.is_some() && self.0.iter().all(attached);
        (missed.unwrap_or_default().iter().sum(), attached)
    }
}

fn kernel_facts() -> Result<KernelFacts> {
    let failed = |error| {
        let error = Error::io(IoSide::Source, "read the types of the kernel", TYPES, error);
        error.remedied_by("nothing is needed: the next way to follow changes is taken")
    };
    let mut bytes = Vec::new();
    let file = File::open(TYPES).map_err(failed)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    KernelFacts::read(&Btf::parse(&bytes)?)
}

fn attach_one(
    disk: &TrackedDisk,
    state: &State,
    options: BpfOptions,
    facts: &KernelFacts,
    event: Event,
    typed: bool,
) -> Result<Hook> {
    let (name, point) = match event {
        Event::Issue => ("carreto_issue", facts.issue),
        Event::Complete => ("carreto_done", facts.complete),
        Event::Requeue => ("carreto_requeue", facts.requeue),
    };
    let code = assemble(Spec {
        event,
        point,
        fields: facts.fields,
        merges_discards: options.merges_discards,
        typed,
        marks: state.marks(),
        layout: state.layout(),
        devno: disk.devno,
        drop_one_in: options.drop_one_in,
    })?;
    let place = if typed {
        bpf::Hook::TypedTracepoint(point.btf_id)
    } else {
        bpf::Hook::RawTracepoint(point.name)
    };
    let program =
        bpf::load_program(name, place, &code).map_err(|refused| verdict(name, refused))?;
    let failed = |error| Error::io(IoSide::Source, "attach the program", name, error);
    let link = bpf::attach(program.as_fd(), place).map_err(failed)?;
    let id = bpf::program_info(program.as_fd()).map_err(failed)?.id;
    Ok(Hook { event, link, program, id })
}

fn verdict(name: &str, refused: Refused) -> Error {
    let Refused { error, reason } = refused;
    if error.kind() == io::ErrorKind::PermissionDenied && reason.is_empty() {
        return Error::io(IoSide::Source, "load the program", name, error);
    }
    let text = if reason.is_empty() { "the kernel refused it".to_owned() } else { reason };
    Error::new(Kind::Unsupported, text).during("load the program").path(name).caused_by(error)
}

/// "Invalid argument" on Linux.
const EINVAL: i32 = 22;
