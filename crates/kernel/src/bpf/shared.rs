//! An array map in the memory of this process.

use super::{F_MMAPABLE, MAP_TYPE_ARRAY, attr, info_of};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A map made by [`super::create_shared_array`], or a pin of one, mapped for reading and writing.
///
/// Programs in the kernel and other processes change the same memory at any time, therefore it is
/// reached through atomic words only.
pub struct SharedMap {
    fd: OwnedFd,
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to this value alone, and its memory is only reached through atomics.
unsafe impl Send for SharedMap {}
// SAFETY: as above; `&SharedMap` gives out nothing but `&[AtomicU64]`.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Maps `fd`, all of its elements one after the other.
    ///
    /// # Errors
    /// The kernel's answer; `InvalidData` if `fd` is no array map that can be mapped.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let bytes = mapped_bytes(fd.as_fd())?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            mmap(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED, &fd, 0)?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { fd, start, words: bytes / size_of::<u64>() })
    }

    /// The whole memory. Elements begin at multiples of the element size, rounded up to words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is page aligned, `words` words are mapped until `self` is dropped, an
        // array map never shrinks, any bits are a valid u64, and atomics may be shared.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl AsFd for SharedMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made; nothing borrows from it any more.
        // An error would mean that it is not mapped, which leaves nothing to undo.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}

impl fmt::Debug for SharedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMap").field("words", &self.words).finish_non_exhaustive()
    }
}

/// The bytes of the elements of the map `fd`.
fn mapped_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut info = [0; 80];
    info_of(fd, &mut info)?;
    let field = |offset| attr::u32_at(&info, offset);
    let (kind, value_size, entries, flags) = (field(0), field(12), field(16), field(20));
    if kind != MAP_TYPE_ARRAY || flags & F_MMAPABLE == 0 || value_size == 0 || entries == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let element = u64::from(value_size).next_multiple_of(8);
    let bytes = element.checked_mul(u64::from(entries)).and_then(|all| usize::try_from(all).ok());
    bytes.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
