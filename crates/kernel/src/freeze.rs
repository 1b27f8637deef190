//! Freezing mounted file systems, and what an open block device says of itself.
//!
//! `FIFREEZE` and `FITHAW` are described in `ioctl_fs(4)` and the kernel's `fs/ioctl.c`; the block
//! device calls in `linux/fs.h`.

use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::ioctl::{Getter, NoArg, Opcode, ioctl, opcode};

const FIFREEZE: Opcode = opcode::read_write::<libc::c_int>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<libc::c_int>(b'X', 120);
const BLKGETSIZE64: Opcode = opcode::read::<libc::size_t>(0x12, 114);
const BLKGETDISKSEQ: Opcode = opcode::read::<u64>(0x12, 128);

/// Freezes the file system that `file` lies on: what is dirty is written out, then every change
/// waits until somebody thaws.
///
/// Blocks until running changes have ended and everything is written; a signal does not end it.
///
/// # Errors
/// `BUSY` when it is frozen already, `OPNOTSUPP` when the file system cannot be frozen, `PERM`
/// without `CAP_SYS_ADMIN`.
pub fn freeze(file: impl AsFd) -> Result<(), Errno> {
    // SAFETY: FIFREEZE takes no argument: the kernel reads and writes no memory of ours.
    unsafe { ioctl(file, NoArg::<FIFREEZE>::new()) }
}

/// Thaws the file system that `file` lies on, whoever froze it.
///
/// # Errors
/// `INVAL` when it is not frozen, or is still becoming so; `PERM` without `CAP_SYS_ADMIN`.
pub fn thaw(file: impl AsFd) -> Result<(), Errno> {
    // SAFETY: FITHAW takes no argument: the kernel reads and writes no memory of ours.
    unsafe { ioctl(file, NoArg::<FITHAW>::new()) }
}

/// The size of an open block device in bytes.
///
/// # Errors
/// `NOTTY` for what is no block device.
pub fn device_size(device: impl AsFd) -> Result<u64, Errno> {
    // SAFETY: BLKGETSIZE64 stores one u64, whatever the `size_t` of its number says.
    unsafe { ioctl(device, Getter::<BLKGETSIZE64, u64>::new()) }
}

/// The kernel's number of this attachment of an open block device; no other gets it until the
/// next start of the system.
///
/// # Errors
/// `NOTTY` before Linux 5.15 and for what is no block device.
pub fn disk_sequence(device: impl AsFd) -> Result<u64, Errno> {
    // SAFETY: BLKGETDISKSEQ stores one u64.
    unsafe { ioctl(device, Getter::<BLKGETDISKSEQ, u64>::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_headers() {
        // From `linux/fs.h`, as the compiler's preprocessor evaluates it on x86-64.
        assert_eq!(FIFREEZE, 0xC004_5877);
        assert_eq!(FITHAW, 0xC004_5878);
        assert_eq!(BLKGETDISKSEQ, 0x8008_1280);
        #[cfg(target_pointer_width = "64")]
        assert_eq!(BLKGETSIZE64, 0x8008_1272);
    }

    #[test]
    fn what_cannot_be_frozen_or_is_no_device_is_refused() {
        let pipe = std::io::pipe().unwrap();
        assert!(freeze(&pipe.0).is_err());
        assert!(thaw(&pipe.0).is_err());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(device_size(&null).is_err());
        assert!(disk_sequence(&null).is_err());
    }
}
