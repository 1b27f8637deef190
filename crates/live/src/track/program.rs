//! The program that runs in the kernel at every request of the block layer.
//!
//! It marks at issue and at completion. The completion is traced before the writer learns of it, so
//! whoever was told that a write is done finds the mark set. A mark at issue alone could be taken
//! before the device has the data; a completion alone would have to be seen without fail.
//!
//! Every operation but reads and flushes changes the disk, whatever its letters in traces say.
//! Where it does is not known for what passes the block layer as it is (`SG_IO`, commands of `NVMe`),
//! for zones, and for discards of several ranges, of which a request names the first one alone; those
//! only count, and the audit makes the epoch suspect.

use super::asm::{Alu, Assembler, Helper, If, Label, Reg, Size};
use super::fields::{Fields, TracePoint, WayToDisk};
use super::layout::{COARSE_SHIFT, ELEMENT_SHIFT, FINE_LIMIT, Layout, SLOTS, Side, header};
use carreto_error::Result;
use std::os::fd::BorrowedFd;

/// What happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Issue,
    Complete,
    /// An issue that is taken back; only counted.
    Requeue,
}

impl Event {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Issue, Self::Complete, Self::Requeue];

    /// The first word of this event in a set of counters: requests and sectors of writes, then
    /// requests and sectors of discards.
    pub(super) const fn counters(self) -> usize {
        match self {
            Self::Issue => 0,
            Self::Complete => 4,
            Self::Requeue => 8,
        }
    }

    const fn side(self) -> Option<Side> {
        match self {
            Self::Issue => Some(Side::Issued),
            Self::Complete => Some(Side::Completed),
            Self::Requeue => None,
        }
    }
}

/// What the program is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec<'a> {
    pub(super) event: Event,
    pub(super) point: TracePoint,
    pub(super) fields: Fields,
    /// A discard may have several ranges.
    pub(super) merges_discards: bool,
    /// Kernel memory is read through typed pointers; otherwise by a function of the kernel.
    pub(super) typed: bool,
    pub(super) marks: BorrowedFd<'a>,
    pub(super) layout: Layout,
    pub(super) devno: (u32, u32),
    /// Leaves out one of so many requests, to test the audit; 0 in earnest.
    pub(super) drop_one_in: u32,
}

/// Operations of requests, `enum req_op` (numbers that changed meaning are not named).
mod op {
    pub(super) const READ: i32 = 0;
    pub(super) const FLUSH: i32 = 2;
    pub(super) const DISCARD: i32 = 3;
    /// The last of the operations on a range of sectors: write zeroes. Those that write are odd.
    pub(super) const LAST_RANGE: i32 = 9;
    /// Commands past the block layer that read.
    pub(super) const PASSED_READS: [i32; 2] = [32, 34];
}

/// Processors to sets of counters.
const SLOT_MASK: i32 = 255;
const _: () = assert!(SLOTS == 256, "the mask is for 256 sets");

/// Stack: key of a lookup, scratch for reads, sectors to count.
const KEY: i16 = -4;
const SCRATCH: i16 = -16;
const SECTORS: i16 = -24;

/// Bits of a sector number above which arithmetic is not tried: 128 PiB.
const SECTOR_BITS: i32 = 48;

struct Builder<'a> {
    asm: Assembler,
    spec: Spec<'a>,
    out: Label,
    unknown: Label,
}

/// The instructions for `spec`.
///
/// # Errors
/// `Internal` if they do not fit together.
pub(super) fn assemble(spec: Spec<'_>) -> Result<Vec<u64>> {
    let mut asm = Assembler::default();
    let (out, unknown) = (asm.label(), asm.label());
    let mut builder = Builder { asm, spec, out, unknown };
    builder.arguments();
    builder.only_this_disk();
    builder.only_changes();
    builder.leave_out();
    builder.count();
    if let Some(side) = spec.event.side() {
        builder.range();
        builder.mark(side);
    }
    builder.endings();
    builder.asm.finish()
}

impl Builder<'_> {
    /// R6 = the request; the bytes that completed go to the stack.
    fn arguments(&mut self) {
        let at = self.spec.point.request * 8;
        self.asm.load(Size::Double, Reg::R6, Reg::R1, at);
        if self.spec.event == Event::Complete {
            // Arguments: request, status, bytes.
            self.asm.load(Size::Double, Reg::R2, Reg::R1, at + 16);
            self.asm.truncate(Reg::R2);
            self.asm.alu_imm(Alu::RightShift, Reg::R2, 9);
            self.asm.store(Size::Double, Reg::R10, SECTORS, Reg::R2);
        }
    }

    /// `dst = *(base + offset)` in kernel memory. `base` must be kept in calls.
    fn read(&mut self, size: Size, dst: Reg, base: Reg, offset: i16) {
        if self.spec.typed {
            self.asm.load(size, dst, base, offset);
            return;
        }
        self.asm.alu(Alu::Move, Reg::R1, Reg::R10);
        self.asm.alu_imm(Alu::Add, Reg::R1, i32::from(SCRATCH));
        self.asm.alu_imm(Alu::Move, Reg::R2, size.bytes());
        self.asm.alu(Alu::Move, Reg::R3, base);
        self.asm.alu_imm(Alu::Add, Reg::R3, i32::from(offset));
        self.asm.call(Helper::ProbeReadKernel);
        self.asm.load(size, dst, Reg::R10, SCRATCH);
    }

    fn only_this_disk(&mut self) {
        let fields = self.spec.fields;
        match fields.disk {
            WayToDisk::Queue { queue, disk } => {
                self.read(Size::Double, Reg::R7, Reg::R6, queue);
                self.read(Size::Double, Reg::R7, Reg::R7, disk);
            }
            WayToDisk::Request(disk) => self.read(Size::Double, Reg::R7, Reg::R6, disk),
        }
        let (major, minor) = self.spec.devno;
        for (offset, number) in [(fields.major, major), (fields.first_minor, minor)] {
            self.read(Size::Word, Reg::R8, Reg::R7, offset);
            self.asm.jump_if_imm(If::NotEqual, Reg::R8, number.cast_signed(), self.out);
        }
    }

    /// R7 = the operation, R8 = its bytes, R9 = its first sector.
    fn only_changes(&mut self) {
        let fields = self.spec.fields;
        self.read(Size::Word, Reg::R7, Reg::R6, fields.cmd_flags);
        self.asm.alu_imm(Alu::And, Reg::R7, 0xff);
        for reads in [op::READ, op::FLUSH].into_iter().chain(op::PASSED_READS) {
            self.asm.jump_if_imm(If::Equal, Reg::R7, reads, self.out);
        }
        self.asm.jump_if_imm(If::Above, Reg::R7, op::LAST_RANGE, self.unknown);
        let odd = self.asm.label();
        self.asm.jump_if_imm(If::AnyBit, Reg::R7, 1, odd);
        self.asm.jump(self.unknown);
        self.asm.place(odd);
        self.only_one_range();
        self.read(Size::Word, Reg::R8, Reg::R6, fields.data_len);
        // The steps of a flush are requests without data.
        self.asm.jump_if_imm(If::Equal, Reg::R8, 0, self.out);
        self.read(Size::Double, Reg::R9, Reg::R6, fields.sector);
    }

    /// What a discard of several ranges changed is not known. R7 = the operation.
    fn only_one_range(&mut self) {
        if !self.spec.merges_discards {
            return;
        }
        let Some(segments) = self.spec.fields.segments else {
            self.asm.jump_if_imm(If::Equal, Reg::R7, op::DISCARD, self.unknown);
            return;
        };
        let known = self.asm.label();
        self.asm.jump_if_imm(If::NotEqual, Reg::R7, op::DISCARD, known);
        self.read(Size::Half, Reg::R8, Reg::R6, segments);
        self.asm.jump_if_imm(If::Above, Reg::R8, 1, self.unknown);
        self.asm.place(known);
    }

    /// Leaves the same requests out at issue and completion, as a loss that matters would be.
    fn leave_out(&mut self) {
        if self.spec.drop_one_in == 0 {
            return;
        }
        self.asm.alu(Alu::Move, Reg::R1, Reg::R9);
        self.asm.alu_imm(Alu::RightShift, Reg::R1, 3);
        self.asm.alu_imm(Alu::Mul, Reg::R1, 0x2545_f491);
        self.asm.alu_imm(Alu::RightShift, Reg::R1, 12);
        self.asm.alu_imm(Alu::Modulo, Reg::R1, self.spec.drop_one_in.cast_signed());
        self.asm.jump_if_imm(If::Equal, Reg::R1, 0, self.out);
    }

    /// Adds to the counters of this processor. R6 is lost; R7 to R9 stay.
    fn count(&mut self) {
        if self.spec.event != Event::Complete {
            self.asm.alu(Alu::Move, Reg::R2, Reg::R8);
            self.asm.alu_imm(Alu::RightShift, Reg::R2, 9);
            self.asm.store(Size::Double, Reg::R10, SECTORS, Reg::R2);
        }
        self.asm.call(Helper::ProcessorId);
        self.asm.alu(Alu::Move, Reg::R6, Reg::R0);
        self.asm.alu_imm(Alu::And, Reg::R6, SLOT_MASK);
        self.asm.alu_imm(Alu::LeftShift, Reg::R6, 7);
        self.asm.store_imm(Size::Word, Reg::R10, KEY, 0);
        self.look_up();
        self.asm.alu(Alu::Add, Reg::R0, Reg::R6);
        let write = self.asm.label();
        self.asm.jump_if_imm(If::NotEqual, Reg::R7, op::DISCARD, write);
        self.asm.alu_imm(Alu::Add, Reg::R0, 16);
        self.asm.place(write);
        let first = bytes_of_word(header::COUNTERS + self.spec.event.counters());
        self.asm.alu_imm(Alu::Move, Reg::R1, 1);
        self.asm.atomic_add(Reg::R0, first, Reg::R1);
        self.asm.load(Size::Double, Reg::R1, Reg::R10, SECTORS);
        self.asm.atomic_add(Reg::R0, first + 8, Reg::R1);
    }

    /// R0 = the element whose number is on the stack.
    fn look_up(&mut self) {
        self.asm.alu(Alu::Move, Reg::R2, Reg::R10);
        self.asm.alu_imm(Alu::Add, Reg::R2, i32::from(KEY));
        self.asm.map(Reg::R1, self.spec.marks);
        self.asm.call(Helper::MapLookup);
        self.asm.jump_if_imm(If::Equal, Reg::R0, 0, self.out);
    }

    /// R9 = the first granule, R8 = the last.
    fn range(&mut self) {
        self.asm.alu(Alu::Move, Reg::R1, Reg::R9);
        self.asm.alu_imm(Alu::RightShift, Reg::R1, SECTOR_BITS);
        self.asm.jump_if_imm(If::NotEqual, Reg::R1, 0, self.unknown);
        self.asm.alu_imm(Alu::Add, Reg::R8, 511);
        self.asm.alu_imm(Alu::RightShift, Reg::R8, 9);
        self.asm.alu(Alu::Add, Reg::R8, Reg::R9);
        self.asm.alu_imm(Alu::Sub, Reg::R8, 1);
        // 128 sectors of 512 bytes are a granule.
        self.asm.alu_imm(Alu::RightShift, Reg::R8, 7);
        self.asm.alu_imm(Alu::RightShift, Reg::R9, 7);
        self.asm.constant(Reg::R1, self.spec.layout.granules);
        self.asm.jump_if(If::AtLeast, Reg::R8, Reg::R1, self.unknown);
    }

    fn mark(&mut self, side: Side) {
        let coarse = self.asm.label();
        self.asm.alu(Alu::Move, Reg::R1, Reg::R8);
        self.asm.alu(Alu::Sub, Reg::R1, Reg::R9);
        self.asm.jump_if_imm(If::Above, Reg::R1, FINE_LIMIT, coarse);
        // R8 - R9 marks, FINE_LIMIT + 1 at most.
        self.mark_all(self.spec.layout.fine(side), FINE_LIMIT);
        self.asm.place(coarse);
        self.asm.alu_imm(Alu::RightShift, Reg::R8, COARSE_SHIFT);
        self.asm.alu_imm(Alu::RightShift, Reg::R9, COARSE_SHIFT);
        // A request has less than 4 GiB, which touches 65 pieces of 64 MiB at most.
        self.mark_all(self.spec.layout.coarse(side), 65);
    }

    /// Sets the marks R9 to R8, counted in R6 so that the verifier sees an end.
    fn mark_all(&mut self, first_element: u32, more: i32) {
        let again = self.asm.label();
        self.asm.alu_imm(Alu::Move, Reg::R6, 0);
        self.asm.place(again);
        self.asm.alu(Alu::Move, Reg::R1, Reg::R9);
        self.asm.alu_imm(Alu::RightShift, Reg::R1, ELEMENT_SHIFT);
        self.asm.alu_imm(Alu::Add, Reg::R1, first_element.cast_signed());
        self.asm.store(Size::Word, Reg::R10, KEY, Reg::R1);
        self.look_up();
        self.asm.alu(Alu::Move, Reg::R1, Reg::R9);
        self.asm.alu_imm(Alu::And, Reg::R1, (1 << ELEMENT_SHIFT) - 1);
        self.asm.alu(Alu::Add, Reg::R0, Reg::R1);
        self.asm.store_imm(Size::Byte, Reg::R0, 0, 1);
        self.asm.jump_if(If::AtLeast, Reg::R9, Reg::R8, self.out);
        self.asm.alu_imm(Alu::Add, Reg::R9, 1);
        self.asm.alu_imm(Alu::Add, Reg::R6, 1);
        let stop = self.asm.label();
        self.asm.jump_if_imm(If::Above, Reg::R6, more, stop);
        self.asm.jump(again);
        self.asm.place(stop);
        // Not reached: a request that does not fit its loop would be lost silently.
        self.asm.jump(self.unknown);
    }

    fn endings(&mut self) {
        if self.spec.event.side().is_none() {
            // Marking ends with a jump of its own, and the verifier refuses what is not reached.
            self.asm.jump(self.out);
        }
        self.asm.place(self.unknown);
        self.asm.store_imm(Size::Word, Reg::R10, KEY, 0);
        self.look_up();
        self.asm.alu_imm(Alu::Move, Reg::R1, 1);
        self.asm.atomic_add(Reg::R0, bytes_of_word(header::UNKNOWN), Reg::R1);
        self.asm.place(self.out);
        self.asm.alu_imm(Alu::Move, Reg::R0, 0);
        self.asm.exit();
    }
}

/// Offsets in the header are far below 32 KiB.
fn bytes_of_word(word: usize) -> i16 {
    i16::try_from(word * 8).unwrap_or(i16::MAX)
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests;
