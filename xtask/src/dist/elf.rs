//! What an executable says of itself: whether it asks for a loader or for libraries, and for which
//! kernel it was made. Layouts from `elf(5)`.

use crate::Result;
use std::fmt;

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const AMD64: u16 = 62;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
/// The note of the C library about the kernel that it needs.
const NT_GNU_ABI_TAG: u32 = 1;

/// What the headers say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Whether another program has to load it.
    pub(crate) interpreter: bool,
    /// How many libraries it asks for.
    pub(crate) needed: usize,
    /// The oldest Linux that its C library was made for.
    pub(crate) kernel: Option<[u32; 3]>,
}

impl Look {
    /// An error unless it needs neither a loader nor a library.
    pub(crate) fn must_be_static(&self) -> Result<()> {
        if self.interpreter || self.needed > 0 {
            return Err(format!("it is not static: {self}").into());
        }
        Ok(())
    }
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loader = if self.interpreter { "a loader" } else { "no loader (PT_INTERP)" };
        write!(f, "ELF for x86-64, {loader}, {} libraries (DT_NEEDED)", self.needed)?;
        if let Some([major, minor, patch]) = self.kernel {
            write!(f, ", for Linux {major}.{minor}.{patch} or newer")?;
        }
        Ok(())
    }
}

/// Reads the headers of the executable `file`.
pub(crate) fn look(file: &[u8]) -> Result<Look> {
    if !file.starts_with(MAGIC) || u16_at(file, 18)? != AMD64 {
        return Err("it is no ELF file for x86-64".into());
    }
    let table = usize::try_from(u64_at(file, 32)?)?;
    let (size, count) = (usize::from(u16_at(file, 54)?), usize::from(u16_at(file, 56)?));
    let mut look = Look { interpreter: false, needed: 0, kernel: None };
    for index in 0..count {
        let start = index.checked_mul(size).and_then(|skip| skip.checked_add(table));
        let header = start.and_then(|start| file.get(start..)).ok_or(CUT)?;
        match u32_at(header, 0)? {
            PT_INTERP => look.interpreter = true,
            PT_DYNAMIC => look.needed += needed(content(file, header)?)?,
            PT_NOTE => look.kernel = look.kernel.or(kernel(content(file, header)?)),
            _ => {}
        }
    }
    Ok(look)
}

const CUT: &str = "the ELF file is cut off";

/// What the program header `header` is about.
fn content<'a>(file: &'a [u8], header: &[u8]) -> Result<&'a [u8]> {
    let start = usize::try_from(u64_at(header, 8)?)?;
    let end = start.checked_add(usize::try_from(u64_at(header, 32)?)?).ok_or(CUT)?;
    Ok(file.get(start..end).ok_or(CUT)?)
}

/// Counts the libraries that the dynamic section asks for.
fn needed(section: &[u8]) -> Result<usize> {
    let mut count = 0;
    for entry in section.chunks_exact(16) {
        match u64_at(entry, 0)? {
            DT_NULL => break,
            DT_NEEDED => count += 1,
            _ => {}
        }
    }
    Ok(count)
}

/// The kernel of the first note of GNU about it, if the notes are whole.
fn kernel(mut notes: &[u8]) -> Option<[u32; 3]> {
    loop {
        let word = |at: usize| u32_at(notes, at).ok();
        let name = usize::try_from(word(0)?).ok()?.checked_next_multiple_of(4)?;
        let size = usize::try_from(word(4)?).ok()?.checked_next_multiple_of(4)?;
        let value = 12_usize.checked_add(name)?;
        if word(8)? == NT_GNU_ABI_TAG && notes.get(12..16)? == b"GNU\0" {
            let part = |index: usize| word(value + 4 * index);
            return Some([part(1)?, part(2)?, part(3)?]);
        }
        notes = notes.get(value.checked_add(size)?..)?;
    }
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let found = at.checked_add(N).and_then(|end| file.get(at..end)).ok_or(CUT)?;
    Ok(found.try_into()?)
}

fn u16_at(file: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(file, at)?))
}

fn u32_at(file: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(file, at)?))
}

fn u64_at(file: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(file, at)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of program headers alone, each with its content.
    fn file(parts: &[(u32, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(MAGIC);
        head[18..20].copy_from_slice(&AMD64.to_le_bytes());
        head[32..40].copy_from_slice(&64_u64.to_le_bytes());
        head[54..56].copy_from_slice(&56_u16.to_le_bytes());
        let count = u16::try_from(parts.len()).expect("few");
        head[56..58].copy_from_slice(&count.to_le_bytes());
        let mut body = Vec::new();
        for (kind, content) in parts {
            let mut header = [0; 56];
            let start = u64::try_from(64 + 56 * parts.len() + body.len()).expect("small");
            let size = u64::try_from(content.len()).expect("small");
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&start.to_le_bytes());
            header[32..40].copy_from_slice(&size.to_le_bytes());
            head.extend_from_slice(&header);
            body.extend_from_slice(content);
        }
        [head, body].concat()
    }

    fn words64(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn note(kind: u32, words: &[u32]) -> Vec<u8> {
        let size = u32::try_from(4 * words.len()).expect("small");
        let mut note: Vec<u8> =
            [4, size, kind].iter().flat_map(|word| word.to_le_bytes()).collect();
        note.extend_from_slice(b"GNU\0");
        note.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        note
    }

    #[test]
    fn a_static_file_asks_for_nothing() {
        let dynamic = words64(&[30, 8, DT_NULL, 0, DT_NEEDED, 1]);
        let notes = [note(3, &[7]), note(1, &[0, 3, 2, 0])].concat();
        let look = look(&file(&[(1, b"code"), (PT_DYNAMIC, &dynamic), (PT_NOTE, &notes)]));
        let look = look.expect("whole");
        let wanted = Look { interpreter: false, needed: 0, kernel: Some([3, 2, 0]) };
        assert_eq!(look, wanted);
        assert!(look.must_be_static().is_ok());
        assert!(look.to_string().ends_with("for Linux 3.2.0 or newer"));
    }

    #[test]
    fn a_loader_and_libraries_are_seen() {
        let dynamic = words64(&[DT_NEEDED, 1, DT_NEEDED, 9, DT_NULL, 0]);
        let libraries = look(&file(&[(PT_DYNAMIC, &dynamic)])).expect("whole");
        assert_eq!(libraries.needed, 2);
        assert!(libraries.must_be_static().is_err());
        let loaded = look(&file(&[(PT_INTERP, b"/lib/ld.so\0")])).expect("whole");
        assert!(loaded.interpreter && loaded.must_be_static().is_err());
    }

    #[test]
    fn broken_files_are_refused_and_broken_notes_ignored() {
        assert!(look(b"").is_err() && look(b"#!/bin/sh\n").is_err());
        let whole = file(&[(PT_DYNAMIC, &words64(&[DT_NULL, 0]))]);
        for length in 0..whole.len() {
            assert!(look(&whole[..length]).is_err(), "{length}");
        }
        let mut note = note(3, &[7]);
        note[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(look(&file(&[(PT_NOTE, &note)])).expect("whole").kernel, None);
    }

    #[test]
    fn this_test_is_seen_as_it_is() {
        let own = std::env::current_exe().expect("a path");
        let look = look(&std::fs::read(own).expect("readable")).expect("an ELF file");
        assert_eq!(look.interpreter, look.needed > 0);
    }
}
