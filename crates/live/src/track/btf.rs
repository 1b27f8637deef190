//! The types of the running kernel (`/sys/kernel/btf/vmlinux`), as far as the tracker asks.
//!
//! Fields of `struct request` move between kernels, so their offsets are read where the program
//! runs. The format is that of `Documentation/bpf/btf.rst` of the kernel. The bytes are checked as
//! any others: everything has bounds, nothing is followed for ever.

use carreto_error::{Error, Kind, Result};

/// More than any kernel has; Debian's have about 6 MB.
pub(super) const MAX_BYTES: u64 = 256 << 20;
/// How many modifiers, names or anonymous members are gone through.
const MAX_DEPTH: u32 = 16;
/// How many members are looked at to find one; nested members could be a great many.
const MAX_MEMBERS: u32 = 1 << 18;
const MAGIC: u16 = 0xeb9f;

/// The number of a type; 0 is `void`.
pub(super) type TypeId = u32;

/// The kinds that the tracker tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeKind {
    Pointer,
    Struct,
    Typedef,
    FuncProto,
    /// `const`, `volatile`, `restrict` and tags.
    Modifier,
    Other,
}

/// The type information, indexed by number.
#[derive(Debug)]
pub(super) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    big: bool,
    /// Where each type begins in `types`; type 1 is first.
    starts: Vec<u32>,
}

/// One type.
#[derive(Debug, Clone, Copy)]
struct Type {
    name: u32,
    kind: TypeKind,
    /// Members or parameters.
    count: u32,
    /// Member offsets hold the width of a bit field in their upper byte.
    packed: bool,
    /// Size in bytes, or the number of the type that this one refers to.
    size_or_target: u32,
    /// Where its members begin.
    tail: usize,
}

impl<'a> Btf<'a> {
    /// Indexes `bytes`.
    ///
    /// # Errors
    /// `Corrupt` if they break the format, `Unsupported` for a version or kind of the future.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let magic = bytes.get(..2).ok_or_else(|| damaged("it has no header"))?;
        let big = match (
            u16::from_le_bytes([magic[0], magic[1]]),
            u16::from_be_bytes([magic[0], magic[1]]),
        ) {
            (MAGIC, _) => false,
            (_, MAGIC) => true,
            _ => return Err(damaged("it does not begin with 0xeb9f")),
        };
        if bytes.get(2) != Some(&1) {
            return Err(Error::new(Kind::Unsupported, "its version is not 1").during(READ));
        }
        let field = |at| word(bytes, at, big).ok_or_else(|| damaged("its header is cut"));
        let header = field(4)?;
        let section = |start: u32, len: u32| {
            let start = usize::try_from(header.checked_add(start)?).ok()?;
            bytes.get(start..)?.get(..usize::try_from(len).ok()?)
        };
        let types = section(field(8)?, field(12)?).ok_or_else(|| damaged("its types are cut"))?;
        let strings =
            section(field(16)?, field(20)?).ok_or_else(|| damaged("its names are cut"))?;
        let mut btf = Self { types, strings, big, starts: Vec::new() };
        btf.index()?;
        Ok(btf)
    }

    fn index(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.types.len() {
            let head = self.head(at).ok_or_else(|| damaged("a type is cut"))?;
            let raw_kind = self.word(at + 4).unwrap_or(0) >> 24 & 0x1f;
            let tail = tail_bytes(raw_kind, head.count).ok_or_else(|| {
                let text = format!("kind {raw_kind} of a type is not known");
                Error::new(Kind::Unsupported, text).during(READ)
            })?;
            self.starts.push(u32::try_from(at).map_err(|_| damaged("it is too large"))?);
            at = head.tail.checked_add(tail).ok_or_else(|| damaged("a type is too large"))?;
        }
        if at == self.types.len() { Ok(()) } else { Err(damaged("the last type is cut")) }
    }

    fn word(&self, at: usize) -> Option<u32> {
        word(self.types, at, self.big)
    }

    fn head(&self, at: usize) -> Option<Type> {
        let info = self.word(at.checked_add(4)?)?;
        let kind = match info >> 24 & 0x1f {
            2 => TypeKind::Pointer,
            4 | 5 => TypeKind::Struct,
            8 => TypeKind::Typedef,
            9 | 10 | 11 | 18 => TypeKind::Modifier,
            13 => TypeKind::FuncProto,
            _ => TypeKind::Other,
        };
        Some(Type {
            name: self.word(at)?,
            kind,
            count: info & 0xffff,
            packed: info >> 31 == 1,
            size_or_target: self.word(at.checked_add(8)?)?,
            tail: at.checked_add(12)?,
        })
    }

    fn get(&self, id: TypeId) -> Option<Type> {
        let index = usize::try_from(id.checked_sub(1)?).ok()?;
        self.head(usize::try_from(*self.starts.get(index)?).ok()?)
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let text = usize::try_from(offset).ok().and_then(|at| self.strings.get(at..));
        let rest = text.and_then(|text| text.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The first type of `kind` that is called `name`.
    pub(super) fn find(&self, kind: TypeKind, name: &str) -> Option<TypeId> {
        (1..).zip(&self.starts).find_map(|(id, start)| {
            let found = self.head(usize::try_from(*start).ok()?)?;
            (found.kind == kind && self.name_is(found.name, name)).then_some(id)
        })
    }

    /// What `id` stands for, without modifiers and names.
    fn resolve(&self, mut id: TypeId) -> Option<(TypeId, Type)> {
        for _ in 0..MAX_DEPTH {
            let found = self.get(id)?;
            match found.kind {
                TypeKind::Modifier | TypeKind::Typedef => id = found.size_or_target,
                _ => return Some((id, found)),
            }
        }
        None
    }

    /// The structure that the pointer type `id` points to.
    pub(super) fn pointee(&self, id: TypeId) -> Option<TypeId> {
        let (_, pointer) = self.resolve(id)?;
        let (target, what) = self.resolve(pointer.size_or_target)?;
        (pointer.kind == TypeKind::Pointer && what.kind == TypeKind::Struct).then_some(target)
    }

    /// Whether the structure `id` is called `name`.
    pub(super) fn is_named(&self, id: TypeId, name: &str) -> bool {
        self.get(id).is_some_and(|found| self.name_is(found.name, name))
    }

    /// Offset in bytes and type of the member `name` of the structure `id`, also inside members
    /// without names.
    pub(super) fn member(&self, id: TypeId, name: &str) -> Option<(u32, TypeId)> {
        self.member_within(id, name, 4, &mut { MAX_MEMBERS })
    }

    fn member_within(
        &self,
        id: TypeId,
        name: &str,
        depth: u32,
        left: &mut u32,
    ) -> Option<(u32, TypeId)> {
        let (_, owner) = self.resolve(id)?;
        if owner.kind != TypeKind::Struct {
            return None;
        }
        (0..owner.count).find_map(|index| {
            *left = left.checked_sub(1)?;
            let at = owner.tail.checked_add(usize::try_from(index).ok()?.checked_mul(12)?)?;
            let (label, kind, bits) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let bits = whole_bytes(bits, owner.packed)?;
            if self.name_is(label, name) {
                return Some((bits, kind));
            }
            if depth == 0 || !self.name_is(label, "") {
                return None;
            }
            let (inner, found) = self.member_within(kind, name, depth - 1, left)?;
            Some((bits.checked_add(inner)?, found))
        })
    }

    /// The types of the parameters of the function that the pointer or name `id` stands for.
    pub(super) fn parameters(&self, id: TypeId) -> Option<Vec<TypeId>> {
        let (_, mut found) = self.resolve(id)?;
        if found.kind == TypeKind::Pointer {
            found = self.resolve(found.size_or_target)?.1;
        }
        if found.kind != TypeKind::FuncProto {
            return None;
        }
        let at = |index: u32| found.tail.checked_add(usize::try_from(index).ok()?.checked_mul(8)?);
        (0..found.count).map(|index| self.word(at(index)?.checked_add(4)?)).collect()
    }

    /// The size of a number or structure in bytes.
    pub(super) fn size(&self, id: TypeId) -> Option<u32> {
        let (_, found) = self.resolve(id)?;
        match found.kind {
            TypeKind::Pointer => Some(8),
            TypeKind::FuncProto => None,
            _ => Some(found.size_or_target),
        }
    }
}

const READ: &str = "read the types of the kernel";

fn damaged(what: &'static str) -> Error {
    Error::new(Kind::Corrupt, what).during(READ)
}

/// Bit offsets as bytes; `None` for bit fields.
fn whole_bytes(bits: u32, packed: bool) -> Option<u32> {
    let (width, bits) = if packed { (bits >> 24, bits & 0x00ff_ffff) } else { (0, bits) };
    (width == 0 && bits.is_multiple_of(8)).then_some(bits / 8)
}

/// The bytes that follow the head of a type.
fn tail_bytes(raw_kind: u32, count: u32) -> Option<usize> {
    let each = match raw_kind {
        2 | 7..=12 | 16 | 18 => return Some(0),
        1 | 14 | 17 => return Some(4),
        3 => return Some(12),
        4 | 5 | 15 | 19 => 12,
        6 | 13 => 8,
        _ => return None,
    };
    usize::try_from(count).ok()?.checked_mul(each)
}

fn word(bytes: &[u8], at: usize, big: bool) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(if big { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) })
}

#[cfg(test)]
mod tests;
