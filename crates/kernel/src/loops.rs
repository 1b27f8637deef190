//! What a loop device is over (`loop(4)`, `linux/loop.h`).

use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl};

const LOOP_GET_STATUS64: Opcode = 0x4C05;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    real_device: u64,
    offset: u64,
    size_limit: u64,
    numbers: [u32; 4],
    names_and_key: [u8; 160],
    init: [u64; 2],
}

/// Major and minor number of the file system that holds the file of an open loop device, as
/// `stat` says it for the file.
///
/// # Errors
/// `NXIO` when the loop device has no file; `NOTTY` for other devices.
pub fn file_system_of_loop(device: impl AsFd) -> Result<(u32, u32), Errno> {
    // SAFETY: LOOP_GET_STATUS64 stores one `loop_info64`, whose fields are integers without gaps;
    // `LoopInfo` has its layout.
    let info = unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) }?;
    Ok(numbers(info.device))
}

/// Undoes `huge_encode_dev` of the kernel.
fn numbers(device: u64) -> (u32, u32) {
    let low = |bits: u64| u32::try_from(bits & 0xF_FFFF).unwrap_or(0);
    (low((device & 0xF_FF00) >> 8), low((device & 0xFF) | ((device >> 12) & 0xF_FF00)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(std::mem::offset_of!(LoopInfo, names_and_key), 56);
        assert_eq!(std::mem::offset_of!(LoopInfo, init), 216);
    }

    /// Linux packs the numbers as the C library does for 12 and 20 bits.
    #[test]
    fn numbers_are_unpacked() {
        for (major, minor) in [(8, 1), (254, 0), (0, 44), (259, 1_048_575), (4095, 256)] {
            assert_eq!(numbers(libc::makedev(major, minor)), (major, minor));
        }
    }

    #[test]
    fn what_is_no_loop_device_is_refused() {
        assert!(file_system_of_loop(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
