//! An assembler for the few BPF instructions that the tracker needs.
//!
//! The source server has no compiler, and the program depends on its kernel and its disk: offsets
//! of fields, numbers of the device, size of the map. So the program is put together at run time.
//! The encoding is that of `Documentation/bpf/standardization/instruction-set.rst` of the kernel.

use carreto_error::{Error, Kind, Result};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// A register. `R0` returns, `R1` to `R5` are arguments and lost in calls, `R6` to `R9` are kept,
/// `R10` is the end of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R6 = 6,
    R7,
    R8,
    R9,
    R10,
}

/// The width of a load or store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Byte,
    Half,
    Word,
    Double,
}

impl Size {
    const fn bits(self) -> u8 {
        match self {
            Self::Word => 0x00,
            Self::Half => 0x08,
            Self::Byte => 0x10,
            Self::Double => 0x18,
        }
    }

    pub(super) const fn bytes(self) -> i32 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
            Self::Double => 8,
        }
    }
}

/// 64-bit arithmetic, by the number of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    And = 0x50,
    LeftShift = 0x60,
    RightShift = 0x70,
    Modulo = 0x90,
    Move = 0xb0,
}

/// Comparisons of 64 bits without sign, by the number of the jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum If {
    Equal = 0x10,
    Above = 0x20,
    AtLeast = 0x30,
    AnyBit = 0x40,
    NotEqual = 0x50,
}

/// Functions of the kernel that programs may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Helper {
    MapLookup = 1,
    ProcessorId = 8,
    ProbeReadKernel = 113,
}

/// A place in the program to jump to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program under construction.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<u64>,
    /// Where each label was placed.
    labels: Vec<Option<usize>>,
    /// Jumps whose distance is not known yet.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn emit(&mut self, opcode: u8, dst: Reg, src: u8, offset: i16, imm: i32) {
        let mut bytes = [0; 8];
        bytes[0] = opcode;
        let (low, high) = (dst as u8, src);
        bytes[1] = if cfg!(target_endian = "little") { high << 4 | low } else { low << 4 | high };
        bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
        bytes[4..].copy_from_slice(&imm.to_ne_bytes());
        self.code.push(u64::from_ne_bytes(bytes));
    }

    /// `dst = dst OP src`.
    pub(super) fn alu(&mut self, op: Alu, dst: Reg, src: Reg) {
        self.emit(op as u8 | 0x0f, dst, src as u8, 0, 0);
    }

    /// `dst = dst OP imm`, with the sign extended.
    pub(super) fn alu_imm(&mut self, op: Alu, dst: Reg, imm: i32) {
        self.emit(op as u8 | 0x07, dst, 0, 0, imm);
    }

    /// Keeps the lower 32 bits of `reg`.
    pub(super) fn truncate(&mut self, reg: Reg) {
        self.emit(Alu::Move as u8 | 0x0c, reg, reg as u8, 0, 0);
    }

    /// `dst = value`, of any size.
    pub(super) fn constant(&mut self, dst: Reg, value: u64) {
        self.wide(dst, 0, value);
    }

    /// `dst` = the map behind `map`.
    pub(super) fn map(&mut self, dst: Reg, map: BorrowedFd<'_>) {
        // BPF_PSEUDO_MAP_FD
        self.wide(dst, 1, u64::try_from(map.as_raw_fd()).unwrap_or(0));
    }

    #[expect(clippy::cast_possible_truncation, reason = "cut into two halves")]
    fn wide(&mut self, dst: Reg, src: u8, value: u64) {
        self.emit(0x18, dst, src, 0, (value as u32).cast_signed());
        self.emit(0x00, Reg::R0, 0, 0, ((value >> 32) as u32).cast_signed());
    }

    /// `dst = *(base + offset)`.
    pub(super) fn load(&mut self, size: Size, dst: Reg, base: Reg, offset: i16) {
        self.emit(0x61 | size.bits(), dst, base as u8, offset, 0);
    }

    /// `*(base + offset) = src`.
    pub(super) fn store(&mut self, size: Size, base: Reg, offset: i16, src: Reg) {
        self.emit(0x63 | size.bits(), base, src as u8, offset, 0);
    }

    /// `*(base + offset) = imm`.
    pub(super) fn store_imm(&mut self, size: Size, base: Reg, offset: i16, imm: i32) {
        self.emit(0x62 | size.bits(), base, 0, offset, imm);
    }

    /// `*(base + offset) += src`, 64 bits, at once for all processors.
    pub(super) fn atomic_add(&mut self, base: Reg, offset: i16, src: Reg) {
        self.emit(0xdb, base, src as u8, offset, 0);
    }

    /// Calls `helper`.
    pub(super) fn call(&mut self, helper: Helper) {
        self.emit(0x85, Reg::R0, 0, 0, helper as i32);
    }

    /// Returns `R0`.
    pub(super) fn exit(&mut self) {
        self.emit(0x95, Reg::R0, 0, 0, 0);
    }

    /// A label to be placed later.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places `label` before the next instruction.
    pub(super) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    /// Jumps to `to`.
    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(0x05, Reg::R0, 0, 0, 0);
    }

    /// Jumps to `to` if `left` compares so with `right`.
    pub(super) fn jump_if(&mut self, how: If, left: Reg, right: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(how as u8 | 0x0d, left, right as u8, 0, 0);
    }

    /// Jumps to `to` if `left` compares so with `right`, with the sign extended.
    pub(super) fn jump_if_imm(&mut self, how: If, left: Reg, right: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(how as u8 | 0x05, left, 0, 0, right);
    }

    /// The instructions.
    ///
    /// # Errors
    /// `Internal` if a label was not placed or a jump is too far.
    pub(super) fn finish(mut self) -> Result<Vec<u64>> {
        for (at, label) in std::mem::take(&mut self.jumps) {
            let target = self.labels.get(label.0).copied().flatten();
            let distance = target.and_then(|target| distance(at, target));
            let Some(distance) = distance else {
                return Err(Error::new(
                    Kind::Internal,
                    "a jump of the tracking program leads nowhere",
                ));
            };
            let mut bytes = self.code[at].to_ne_bytes();
            bytes[2..4].copy_from_slice(&distance.to_ne_bytes());
            self.code[at] = u64::from_ne_bytes(bytes);
        }
        Ok(self.code)
    }
}

/// Jumps count from the instruction after them.
fn distance(at: usize, target: usize) -> Option<i16> {
    let (at, target) = (i64::try_from(at).ok()?, i64::try_from(target).ok()?);
    i16::try_from(target - at - 1).ok()
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn words(build: impl FnOnce(&mut Assembler)) -> Vec<u64> {
        let mut asm = Assembler::default();
        build(&mut asm);
        asm.finish().unwrap_or_default()
    }

    /// Words as `llvm-objdump -d` prints them for the same instructions.
    #[test]
    fn instructions_have_the_known_encoding() {
        let all = words(|asm| {
            asm.alu(Alu::Move, Reg::R6, Reg::R1);
            asm.alu_imm(Alu::Move, Reg::R0, 0);
            asm.alu_imm(Alu::Add, Reg::R2, -4);
            asm.alu_imm(Alu::RightShift, Reg::R3, 7);
            asm.truncate(Reg::R3);
            asm.load(Size::Double, Reg::R6, Reg::R1, 8);
            asm.load(Size::Word, Reg::R2, Reg::R6, 24);
            asm.load(Size::Half, Reg::R1, Reg::R6, 26);
            asm.store(Size::Word, Reg::R10, -4, Reg::R1);
            asm.store_imm(Size::Byte, Reg::R0, 0, 1);
            asm.atomic_add(Reg::R0, 16, Reg::R3);
            asm.call(Helper::MapLookup);
            asm.exit();
        });
        let known: [[u8; 8]; 13] = [
            [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
            [0xb7, 0x00, 0, 0, 0, 0, 0, 0],
            [0x07, 0x02, 0, 0, 0xfc, 0xff, 0xff, 0xff],
            [0x77, 0x03, 0, 0, 7, 0, 0, 0],
            [0xbc, 0x33, 0, 0, 0, 0, 0, 0],
            [0x79, 0x16, 8, 0, 0, 0, 0, 0],
            [0x61, 0x62, 24, 0, 0, 0, 0, 0],
            [0x69, 0x61, 26, 0, 0, 0, 0, 0],
            [0x63, 0x1a, 0xfc, 0xff, 0, 0, 0, 0],
            [0x72, 0x00, 0, 0, 1, 0, 0, 0],
            [0xdb, 0x30, 16, 0, 0, 0, 0, 0],
            [0x85, 0, 0, 0, 1, 0, 0, 0],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(all, known.map(u64::from_le_bytes));
    }

    #[test]
    fn jumps_count_from_the_next_instruction() {
        let all = words(|asm| {
            let (back, out) = (asm.label(), asm.label());
            asm.place(back);
            asm.jump_if_imm(If::Equal, Reg::R0, 0, out);
            asm.jump_if(If::AtLeast, Reg::R9, Reg::R8, out);
            asm.jump(back);
            asm.place(out);
            asm.exit();
        });
        assert_eq!(all[0].to_le_bytes(), [0x15, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(all[1].to_le_bytes(), [0x3d, 0x89, 1, 0, 0, 0, 0, 0]);
        assert_eq!(all[2].to_le_bytes(), [0x05, 0, 0xfd, 0xff, 0, 0, 0, 0]);
    }

    #[test]
    fn wide_constants_take_two_words() {
        let all = words(|asm| asm.constant(Reg::R1, 0x1122_3344_5566_7788));
        assert_eq!(all[0].to_le_bytes(), [0x18, 1, 0, 0, 0x88, 0x77, 0x66, 0x55]);
        assert_eq!(all[1].to_le_bytes(), [0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11]);
    }

    #[test]
    fn a_label_that_was_not_placed_is_an_error() {
        let mut asm = Assembler::default();
        let nowhere = asm.label();
        asm.jump(nowhere);
        assert_eq!(asm.finish().unwrap_err().kind(), Kind::Internal);
    }
}
