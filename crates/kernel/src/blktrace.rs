//! The requests of block devices that control block tracing (`include/uapi/linux/blktrace_api.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct blk_user_trace_setup`.
#[repr(C)]
struct Setup {
    name: [u8; 32],
    act_mask: u16,
    buf_size: u32,
    buf_nr: u32,
    start_lba: u64,
    end_lba: u64,
    pid: u32,
}

/// What to trace, and how much the kernel keeps for a reader that is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceBuffers {
    /// Categories of events, `BLK_TC_*`; an event passes if it is in one of them.
    pub categories: u16,
    /// Bytes of a buffer.
    pub size: u32,
    /// Buffers of each processor.
    pub count: u32,
}

/// Prepares tracing of the block device `disk` and returns its name in debugfs.
///
/// The preparation outlives the process; [`teardown`] ends it.
///
/// # Errors
/// The kernel's answer: `EBUSY` if somebody traces the device, `ENOTTY` without block tracing.
pub fn setup(disk: BorrowedFd<'_>, buffers: TraceBuffers) -> io::Result<String> {
    let mut setup = Setup {
        name: [0; 32],
        act_mask: buffers.categories,
        buf_size: buffers.size,
        buf_nr: buffers.count,
        start_lba: 0,
        end_lba: 0,
        pid: 0,
    };
    // SAFETY: the request reads and writes one `struct blk_user_trace_setup`, which `Setup` is.
    let answer = unsafe { libc::ioctl(disk.as_raw_fd(), SETUP, std::ptr::from_mut(&mut setup)) };
    check(answer)?;
    let end = setup.name.iter().position(|byte| *byte == 0).unwrap_or(setup.name.len());
    Ok(String::from_utf8_lossy(&setup.name[..end]).into_owned())
}

/// Lets events flow.
///
/// # Errors
/// The kernel's answer.
pub fn start(disk: BorrowedFd<'_>) -> io::Result<()> {
    without_argument(disk, START)
}

/// Holds events back. What is in the buffers can be read.
///
/// # Errors
/// The kernel's answer.
pub fn stop(disk: BorrowedFd<'_>) -> io::Result<()> {
    without_argument(disk, STOP)
}

/// Removes the buffers and the files of debugfs.
///
/// # Errors
/// The kernel's answer: `EINVAL` if nobody traces the device.
pub fn teardown(disk: BorrowedFd<'_>) -> io::Result<()> {
    without_argument(disk, TEARDOWN)
}

fn without_argument(disk: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<()> {
    // SAFETY: these requests take no argument.
    check(unsafe { libc::ioctl(disk.as_raw_fd(), request) })
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const SETUP: libc::Ioctl = libc::_IOWR::<Setup>(0x12, 115);
const START: libc::Ioctl = libc::_IO(0x12, 116);
const STOP: libc::Ioctl = libc::_IO(0x12, 117);
const TEARDOWN: libc::Ioctl = libc::_IO(0x12, 118);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        // blktrace(8) asks for 0xc0481273 on x86-64.
        assert_eq!(size_of::<Setup>(), 72);
        assert_eq!(std::mem::offset_of!(Setup, start_lba), 48);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(SETUP, 0xc048_1273);
        }
    }
}
