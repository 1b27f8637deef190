//! The argument of `bpf(2)`: a union whose members are fields at fixed offsets.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

/// Bytes that hold the largest argument in use here.
const SIZE: usize = 128;
/// `BPF_OBJ_NAME_LEN`, with the final zero.
const NAME: usize = 16;

/// An argument under construction; what is not set is zero.
#[repr(C, align(8))]
pub(super) struct Attr([u8; SIZE]);

impl Attr {
    pub(super) fn new() -> Self {
        Self([0; SIZE])
    }

    pub(super) fn u32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn pointer(&mut self, offset: usize, value: *const u8) -> &mut Self {
        let value = value.expose_provenance() as u64;
        self.0[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn fd(&mut self, offset: usize, fd: BorrowedFd<'_>) -> &mut Self {
        self.u32(offset, super::fd_number(fd))
    }

    /// A name of letters, digits and underscores, cut to what fits.
    pub(super) fn name(&mut self, offset: usize, name: &str) -> &mut Self {
        let fits = &name.as_bytes()[..name.len().min(NAME - 1)];
        self.0[offset..offset + fits.len()].copy_from_slice(fits);
        self
    }

    pub(super) fn get_u32(&self, offset: usize) -> u32 {
        u32_at(&self.0, offset)
    }

    /// Calls the kernel with the first `size` bytes, again if a signal came between.
    pub(super) fn call(&mut self, command: u32, size: u32) -> io::Result<i64> {
        debug_assert!(size as usize <= SIZE, "the argument is larger than its buffer");
        loop {
            // SAFETY: the argument lives for the call and has at least `size` bytes. Pointers in it
            // were made by the callers in `bpf.rs` from slices and strings that live for the call,
            // with their own lengths.
            let answer = unsafe {
                libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(&mut self.0), size)
            };
            if answer >= 0 {
                return Ok(answer);
            }
            let error = io::Error::last_os_error();
            // The verifier answers EAGAIN when a signal interrupts it.
            if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
                return Err(error);
            }
        }
    }

    /// As [`Self::call`], for commands that answer with a new descriptor (closed on exec).
    pub(super) fn call_fd(&mut self, command: u32, size: u32) -> io::Result<OwnedFd> {
        let fd = i32::try_from(self.call(command, size)?)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        // SAFETY: the command made this descriptor, so nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_ne_bytes(field)
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_ne_bytes(field)
}

pub(super) fn name_at(bytes: &[u8], offset: usize) -> String {
    let field = &bytes[offset..offset + NAME];
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_land_at_their_offsets() {
        let mut attr = Attr::new();
        attr.u32(4, 0x0102_0304).name(28, "a_name_that_is_too_long");
        assert_eq!(attr.get_u32(4), 0x0102_0304);
        assert_eq!(name_at(&attr.0, 28), "a_name_that_is_");
        assert_eq!(u64_at(&attr.0, 48), 0);
    }
}
