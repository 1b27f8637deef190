//! Buffers that direct I/O accepts.

use carreto_error::{Error, Kind, Result};
use std::ops::{Deref, DerefMut};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Start address and capacity of an [`AlignedBuf`] are multiples of this many bytes, enough for
/// direct I/O on disks with sectors of 512 and 4096 bytes.
pub const ALIGNMENT: usize = 4096;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; ALIGNMENT]);

/// A byte buffer whose memory starts on a page boundary.
///
/// The length can be any number of bytes up to the capacity; the capacity is whole pages.
pub struct AlignedBuf {
    pages: Vec<Page>,
    len: usize,
}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    ///
    /// # Errors
    /// [`Kind::Io`] when the system has not that much memory.
    pub fn zeroed(len: usize) -> Result<Self> {
        let pages = Page::new_vec_zeroed(len.div_ceil(ALIGNMENT)).map_err(|_| {
            Error::new(Kind::Io, format!("the system has no {len} bytes of memory left"))
                .remedied_by("free memory, or let fewer copies run at a time, and run again")
        })?;
        Ok(Self { pages, len })
    }

    /// The number of bytes that [`Self::set_len`] can reach.
    pub fn capacity(&self) -> usize {
        self.pages.len() * ALIGNMENT
    }

    /// Changes the length without touching the content: bytes beyond an earlier, shorter length
    /// are whatever the buffer last held there.
    ///
    /// # Errors
    /// [`Kind::Internal`] when `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) -> Result<()> {
        if len > self.capacity() {
            let capacity = self.capacity();
            let text = format!("a buffer of {capacity} bytes cannot hold {len}");
            return Err(Error::new(Kind::Internal, text));
        }
        self.len = len;
        Ok(())
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages.as_bytes()[..self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_bytes()[..self.len]
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::AlignedBuf;
    use carreto_error::Class;

    #[test]
    fn a_lack_of_memory_is_the_systems_fault() {
        let error = AlignedBuf::zeroed(usize::MAX / 4).unwrap_err();
        assert_eq!(error.class(), Class::SystemError);
    }
}
