//! The two maps of a tracker and the header that says whose they are.

use crate::track::KernelCounts;
use crate::track::TrackedDisk;
use crate::track::audit::{AuditPoint, TrackedCounts};
use crate::track::layout::{ELEMENT, Layout, MAGIC, SLOT_WORDS, SLOTS, VERSION, header};
use crate::track::marks::Memory;
use crate::track::pins::Pin;
use crate::track::program::Event;
use carreto_error::{Error, IoSide, Result};
use carreto_kernel::bpf::{self, SharedMap};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

/// Another text for every start of the kernel (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Another text at every reading (random(4)).
const NEW_UUID: &str = "/proc/sys/kernel/random/uuid";

/// The maps, in the memory of this process.
#[derive(Debug)]
pub(super) struct State {
    layout: Layout,
    marks: SharedMap,
    pending: SharedMap,
}

impl State {
    /// New maps for `disk`.
    pub(super) fn create(disk: &TrackedDisk) -> Result<Self> {
        let layout = Layout::of(disk)?;
        let marks = create("carreto_marks", layout.elements())?;
        let pending = create("carreto_pending", layout.pending_elements())?;
        let state = Self { layout, marks, pending };
        for (word, value) in owner(disk)? {
            state.set(word, value);
        }
        let nonce = uuid(NEW_UUID)?;
        state.set(header::NONCE, nonce[0]);
        state.set(header::NONCE + 1, nonce[1]);
        Ok(state)
    }

    /// Maps that an earlier process made; `None` if they are not of this disk as it is now, or not
    /// complete.
    pub(super) fn reopen(
        disk: &TrackedDisk,
        marks: OwnedFd,
        pending: OwnedFd,
    ) -> Result<Option<Self>> {
        let layout = Layout::of(disk)?;
        let (Ok(marks), Ok(pending)) = (SharedMap::new(marks), SharedMap::new(pending)) else {
            return Ok(None);
        };
        let fits = |map: &SharedMap, elements: u32| {
            map.words().len() as u64 == u64::from(elements) * u64::from(ELEMENT / 8)
        };
        if !fits(&marks, layout.elements()) || !fits(&pending, layout.pending_elements()) {
            return Ok(None);
        }
        let state = Self { layout, marks, pending };
        let same = owner(disk)?.into_iter().all(|(word, value)| state.get(word) == value);
        Ok((same && state.get(header::READY) == 1).then_some(state))
    }

    fn get(&self, word: usize) -> u64 {
        self.marks.words()[word].load(Ordering::Acquire)
    }

    fn set(&self, word: usize, value: u64) {
        self.marks.words()[word].store(value, Ordering::Release);
    }

    /// Writes down the counters of the time when everything was attached.
    pub(super) fn remember(&self, point: &AuditPoint) {
        let (kernel, issued, completed) = (point.kernel_after, point.issued, point.completed);
        let flight = point.in_flight_sectors;
        let words = [
            kernel.write_sectors,
            kernel.discard_sectors,
            issued.write_sectors,
            issued.discard_sectors,
            completed.write_sectors,
            completed.discard_sectors,
            point.in_flight,
            flight[0],
            flight[1],
            point.unknown,
            u64::from(point.iostats),
        ];
        for (word, value) in (header::ATTACHED..).zip(words) {
            self.set(word, value);
        }
    }

    /// What [`Self::remember`] wrote, for a disk that is the same; counts of requests are left out.
    pub(super) fn remembered(&self, now: &AuditPoint) -> AuditPoint {
        let word = |index: usize| self.get(header::ATTACHED + index);
        let tracked = |index| TrackedCounts {
            write_sectors: word(index),
            discard_sectors: word(index + 1),
            ..TrackedCounts::default()
        };
        let kernel = KernelCounts {
            write_sectors: word(0),
            discard_sectors: word(1),
            ..KernelCounts::default()
        };
        AuditPoint {
            kernel,
            kernel_after: kernel,
            issued: tracked(2),
            completed: tracked(4),
            in_flight: word(6),
            in_flight_sectors: [word(7), word(8)],
            unknown: word(9),
            iostats: word(10) == 1,
            missed_runs: 0,
            ..now.clone()
        }
    }

    /// Says that everything is attached and pinned.
    pub(super) fn set_ready(&self) {
        self.set(header::READY, 1);
    }

    /// Tells these maps from all others of all boots.
    pub(super) fn identity(&self) -> String {
        let words = [header::BOOT, header::BOOT + 1, header::NONCE, header::NONCE + 1];
        words.iter().fold("bpf".to_owned(), |text, word| format!("{text}-{:016x}", self.get(*word)))
    }

    /// How many requests changed the disk at unknown places.
    pub(super) fn unknown(&self) -> u64 {
        self.get(header::UNKNOWN)
    }

    /// What was counted at issue and at completion.
    pub(super) fn sums(&self) -> (TrackedCounts, TrackedCounts) {
        // Requests that are taken back are read first, so that none counts that was not issued.
        let back = self.counts(Event::Requeue);
        let completed = self.counts(Event::Complete);
        (self.counts(Event::Issue).without(back), completed)
    }

    /// The sum of all processors.
    fn counts(&self, event: Event) -> TrackedCounts {
        let mut sums = [0u64; 4];
        for slot in 0..SLOTS {
            let first = header::COUNTERS + slot * SLOT_WORDS + event.counters();
            for (sum, word) in sums.iter_mut().zip(first..) {
                *sum = sum.wrapping_add(self.get(word));
            }
        }
        let [writes, write_sectors, discards, discard_sectors] = sums;
        TrackedCounts { writes, write_sectors, discards, discard_sectors }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn marks(&self) -> BorrowedFd<'_> {
        self.marks.as_fd()
    }

    pub(super) fn objects(&self) -> [(Pin, BorrowedFd<'_>); 2] {
        [(Pin::Marks, self.marks.as_fd()), (Pin::Pending, self.pending.as_fd())]
    }

    pub(super) fn memory(&self) -> Memory<'_> {
        Memory { layout: self.layout, marks: self.marks.words(), pending: self.pending.words() }
    }
}

/// What the header holds for `disk` in this run of the kernel.
fn owner(disk: &TrackedDisk) -> Result<[(usize, u64); 8]> {
    let boot = uuid(BOOT_ID)?;
    Ok([
        (header::MAGIC, MAGIC),
        (header::VERSION, VERSION),
        (header::MAJOR, u64::from(disk.devno.0)),
        (header::MINOR, u64::from(disk.devno.1)),
        (header::DISKSEQ, disk.diskseq.unwrap_or(0)),
        (header::SIZE, disk.size),
        (header::BOOT, boot[0]),
        (header::BOOT + 1, boot[1]),
    ])
}

fn uuid(path: &str) -> Result<[u64; 2]> {
    let text =
        fs::read_to_string(path).map_err(|error| Error::io(IoSide::Source, "read", path, error))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |range| digits.get(range).and_then(|text| u64::from_str_radix(text, 16).ok());
    Ok([half(0..16).unwrap_or(0), half(16..32).unwrap_or(0)])
}

fn create(name: &str, elements: u32) -> Result<SharedMap> {
    let make = || bpf::create_shared_array(name, ELEMENT, elements);
    let made = make().or_else(|error| {
        // Before Linux 5.11 maps count as locked memory, of which a process gets 64 KiB.
        if error.raw_os_error() == Some(EPERM) && raise_locked_memory().is_ok() {
            return make();
        }
        Err(error)
    });
    let map = made.and_then(SharedMap::new);
    map.map_err(|error| Error::io(IoSide::State, "make a shared map", name, error))
}

fn raise_locked_memory() -> io::Result<()> {
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?;
    Ok(())
}

/// "Operation not permitted" on Linux.
const EPERM: i32 = 1;
