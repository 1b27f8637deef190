//! The program runs in a small machine of its own, on the memory of a kernel made up.

use super::*;
use crate::track::TrackedDisk;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;

const CONTEXT: u64 = 0x1000;
const REQUEST: u64 = 0x10_000;
const QUEUE: u64 = 0x20_000;
const DISK: u64 = 0x30_000;
const STACK: u64 = 0x50_000;
const MARKS: u64 = 0x1000_0000;
/// The processor that runs the program.
const PROCESSOR: u64 = 3;

const FIELDS: Fields = Fields {
    sector: 48,
    data_len: 40,
    cmd_flags: 24,
    segments: Some(122),
    disk: WayToDisk::Queue { queue: 0, disk: 64 },
    major: 0,
    first_minor: 4,
};
const GRANULES: u64 = 1 << 20;

const WRITE: u32 = 1;
const WRITE_ZEROES: u32 = 9;

/// A request as the block layer would have it.
#[derive(Clone, Copy)]
struct Request {
    operation: u32,
    sector: u64,
    bytes: u32,
    segments: u16,
}

fn discard(sector: u64, bytes: u32, segments: u16) -> Request {
    Request { operation: op::DISCARD.cast_unsigned(), sector, bytes, segments }
}

/// Bytes by address; what was not written is zero.
#[derive(Default)]
struct Machine {
    bytes: BTreeMap<u64, u8>,
    registers: [u64; 11],
}

impl Machine {
    fn new(request: Request) -> Self {
        let mut machine = Self::default();
        let field = |offset: i16| REQUEST + u64::from(offset.unsigned_abs());
        for (address, size, value) in [
            (CONTEXT, 8, REQUEST),
            (CONTEXT + 16, 8, u64::from(request.bytes)),
            (REQUEST, 8, QUEUE),
            (QUEUE + 64, 8, DISK),
            (DISK, 4, 7),
            (DISK + 4, 4, 2),
            (field(FIELDS.sector), 8, request.sector),
            (field(FIELDS.data_len), 4, u64::from(request.bytes)),
            // Flags above the operation.
            (field(FIELDS.cmd_flags), 4, u64::from(request.operation) | 0x8800),
            (field(122), 2, u64::from(request.segments)),
            // What follows the field does not belong to it.
            (field(124), 4, u64::MAX),
        ] {
            machine.store(address, size, value);
        }
        machine
    }

    fn load(&self, address: u64, size: u64) -> u64 {
        (0..size).rev().fold(0, |value, at| {
            value << 8 | u64::from(self.bytes.get(&(address + at)).copied().unwrap_or(0))
        })
    }

    fn store(&mut self, address: u64, size: u64, value: u64) {
        for (at, byte) in (0..size).zip(value.to_le_bytes()) {
            self.bytes.insert(address + at, byte);
        }
    }

    fn run(&mut self, code: &[u64]) {
        (self.registers[1], self.registers[10]) = (CONTEXT, STACK);
        let mut at = 0;
        for _ in 0..100_000 {
            let bytes = code[at].to_le_bytes();
            let (opcode, dst, src) =
                (bytes[0], usize::from(bytes[1] & 15), usize::from(bytes[1] >> 4));
            let offset = i64::from(i16::from_le_bytes([bytes[2], bytes[3]]));
            let imm = i64::from(i32::from_le_bytes(bytes[4..].try_into().unwrap()));
            let imm = imm.cast_unsigned();
            at += 1;
            let operand = if opcode & 8 == 0 { imm } else { self.registers[src] };
            match opcode {
                0x95 => return,
                0x85 => self.call(imm),
                0x18 => {
                    self.registers[dst] = imm & 0xffff_ffff | code[at] & !0xffff_ffff;
                    at += 1;
                }
                0xbc => self.registers[dst] = self.registers[src] & 0xffff_ffff,
                _ => match opcode & 7 {
                    1 => {
                        let address = self.registers[src].wrapping_add_signed(offset);
                        self.registers[dst] = self.load(address, width(opcode));
                    }
                    2 | 3 => {
                        let address = self.registers[dst].wrapping_add_signed(offset);
                        let value = if opcode & 7 == 2 { imm } else { self.registers[src] };
                        let before = if opcode == 0xdb { self.load(address, 8) } else { 0 };
                        self.store(address, width(opcode), before.wrapping_add(value));
                    }
                    5 => {
                        if jumps(opcode, self.registers[dst], operand) {
                            at = at.strict_add_signed(offset.try_into().unwrap());
                        }
                    }
                    _ => self.registers[dst] = arithmetic(opcode, self.registers[dst], operand),
                },
            }
        }
        panic!("the program does not end");
    }

    fn call(&mut self, helper: u64) {
        let [_, first, second, third, ..] = self.registers;
        self.registers[0] = match helper {
            1 => MARKS + (self.load(second, 4) << ELEMENT_SHIFT),
            8 => PROCESSOR,
            113 => {
                (0..second).for_each(|at| self.store(first + at, 1, self.load(third + at, 1)));
                0
            }
            other => panic!("function {other}"),
        };
        // Calls lose their arguments.
        self.registers[1..6].fill(0xdead_dead);
    }

    fn unknown(&self) -> u64 {
        self.load(MARKS + header::UNKNOWN as u64 * 8, 8)
    }

    /// Requests and sectors of writes, then of discards.
    fn counted(&self, event: Event) -> [u64; 4] {
        let first = header::COUNTERS as u64 + PROCESSOR * 16 + event.counters() as u64;
        [0, 1, 2, 3].map(|word| self.load(MARKS + (first + word) * 8, 8))
    }

    fn marked(&self, first_element: u32) -> Vec<u64> {
        let start = MARKS + (u64::from(first_element) << ELEMENT_SHIFT);
        let end = start + GRANULES;
        self.bytes
            .range(start..end)
            .filter(|(_, mark)| **mark == 1)
            .map(|(at, _)| at - start)
            .collect()
    }
}

fn width(opcode: u8) -> u64 {
    match opcode & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

fn jumps(opcode: u8, left: u64, right: u64) -> bool {
    match opcode & 0xf0 {
        0x00 => true,
        0x10 => left == right,
        0x20 => left > right,
        0x30 => left >= right,
        0x40 => left & right != 0,
        0x50 => left != right,
        other => panic!("jump {other:#x}"),
    }
}

fn arithmetic(opcode: u8, left: u64, right: u64) -> u64 {
    match opcode & 0xf0 {
        0x00 => left.wrapping_add(right),
        0x10 => left.wrapping_sub(right),
        0x20 => left.wrapping_mul(right),
        0x50 => left & right,
        0x60 => left << right,
        0x70 => left >> right,
        0x90 => left % right,
        0xb0 => right,
        other => panic!("operation {other:#x}"),
    }
}

fn layout() -> Layout {
    Layout::of(&TrackedDisk::named("x", GRANULES << 16)).unwrap()
}

/// Runs the program of `event` once.
fn ran(event: Event, request: Request, change: impl Fn(&mut Spec<'_>)) -> Machine {
    let mut machine = Machine::new(request);
    let marks = File::open("/dev/null").unwrap();
    let mut spec = Spec {
        event,
        point: TracePoint { name: "", btf_id: 1, request: 0 },
        fields: FIELDS,
        merges_discards: true,
        typed: true,
        marks: marks.as_fd(),
        layout: layout(),
        devno: (7, 2),
        drop_one_in: 0,
    };
    change(&mut spec);
    machine.run(&assemble(spec).unwrap());
    machine
}

/// Every way to make the program.
fn all(request: Request, check: impl Fn(Event, &Machine), change: impl Fn(&mut Spec<'_>)) {
    for event in Event::ALL {
        for typed in [true, false] {
            let machine = ran(event, request, |spec| {
                spec.typed = typed;
                change(spec);
            });
            check(event, &machine);
        }
    }
}

fn nothing(machine: &Machine) -> bool {
    [Side::Issued, Side::Completed]
        .into_iter()
        .all(|side| machine.marked(layout().fine(side)).is_empty())
}

#[test]
fn a_write_marks_its_granules_whatever_its_segments() {
    let request = Request { operation: WRITE, sector: 127, bytes: 65_536 + 512, segments: 9 };
    let check = |event: Event, machine: &Machine| {
        assert_eq!((machine.counted(event), machine.unknown()), ([1, 129, 0, 0], 0));
        for side in [Side::Issued, Side::Completed] {
            let expected: &[u64] = if event.side() == Some(side) { &[0, 1] } else { &[] };
            assert_eq!(machine.marked(layout().fine(side)), expected, "{event:?}");
        }
    };
    all(request, check, |_| {});
}

#[test]
fn a_discard_of_one_range_is_marked_exactly() {
    for segments in [0, 1] {
        let check = |event: Event, machine: &Machine| {
            assert_eq!((machine.counted(event), machine.unknown()), ([0, 0, 1, 256], 0));
            if let Some(side) = event.side() {
                assert_eq!(machine.marked(layout().fine(side)), [10, 11]);
            }
        };
        all(discard(1280, 131_072, segments), check, |_| {});
    }
}

#[test]
fn a_discard_of_several_ranges_is_at_an_unknown_place() {
    let unknown = |event: Event, machine: &Machine| {
        assert!(nothing(machine), "{event:?}");
        assert_eq!((machine.counted(event), machine.unknown()), ([0; 4], 1));
    };
    for segments in [2, 256, u16::MAX] {
        all(discard(1280, 131_072, segments), unknown, |_| {});
    }
    // Where the kernel does not say how many it has, any discard may have several.
    all(discard(1280, 131_072, 1), unknown, |spec| spec.fields.segments = None);
}

#[test]
fn a_disk_that_never_merges_discards_counts_segments_of_one_range() {
    for fields in [FIELDS, Fields { segments: None, ..FIELDS }] {
        let check = |event: Event, machine: &Machine| {
            assert_eq!((machine.counted(event), machine.unknown()), ([0, 0, 1, 256], 0));
            if let Some(side) = event.side() {
                assert_eq!(machine.marked(layout().fine(side)), [10, 11]);
            }
        };
        all(discard(1280, 131_072, 5), check, |spec| {
            (spec.merges_discards, spec.fields) = (false, fields);
        });
    }
}

#[test]
fn long_requests_mark_coarsely_and_those_past_the_end_are_unknown() {
    let long = Request { operation: WRITE_ZEROES, sector: 0, bytes: 200 << 20, segments: 1 };
    let machine = ran(Event::Issue, long, |_| {});
    assert_eq!(machine.marked(layout().coarse(Side::Issued)), [0, 1, 2, 3]);
    let past = Request { sector: GRANULES * 128 - 1, bytes: 4096, ..long };
    let machine = ran(Event::Complete, past, |_| {});
    assert!(nothing(&machine));
    assert_eq!(machine.unknown(), 1);
}

#[test]
fn reads_and_other_disks_leave_nothing() {
    let request = Request { operation: WRITE, sector: 0, bytes: 4096, segments: 1 };
    let check = |event: Event, machine: &Machine| {
        assert!(nothing(machine));
        assert_eq!((machine.counted(event), machine.unknown()), ([0; 4], 0));
    };
    all(request, check, |spec| spec.devno = (7, 3));
    all(Request { operation: 0, ..request }, check, |_| {});
    all(Request { bytes: 0, ..request }, check, |_| {});
}
