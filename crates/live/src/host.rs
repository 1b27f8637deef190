//! What the source is made of, and holding it still.
//!
//! [`disks`] finds the disks, [`file_systems`], [`swaps`] and [`raw_users`] what uses them,
//! [`facts`] what a preflight asks for. [`DiskReader`] reads past the page cache. [`Freezer`] and
//! [`Frozen`] hold all file systems still under a lease that a process of its own keeps, so that
//! they thaw when the agent dies or hangs. [`run_hooks`] runs the operator's commands.
//!
//! Everything here blocks. Files of the kernel are parsed as hostile input: what is no line of
//! theirs is left out.

mod channel;
mod disk;
mod facts;
mod file_systems;
mod freezer;
mod hardware;
mod hooks;
mod idle;
mod journal;
mod machine;
mod memory;
mod mounts;
mod opened;
mod outside;
mod raw_users;
mod reader;
mod session;
mod stack;
mod swaps;
mod table;
#[cfg(test)]
mod testing;
mod thaw;
mod watchdog;

pub use disk::{Disk, boot_id, disk_at, disks, kernel_release};
pub use facts::{Facts, Privileges, facts};
pub use file_systems::{FileSystem, Freezable, file_systems};
pub use freezer::{Freezer, Frozen};
pub use hooks::{HookOutcome, run_hooks};
pub use idle::wait_for_writes;
pub use memory::{KeptInMemory, keep_in_memory};
pub use opened::file_system_of;
pub use outside::{expect_whole, split_volumes};
pub use raw_users::{RawUser, raw_users};
pub use reader::DiskReader;
pub use session::WatchdogCommand;
pub use swaps::{Swap, swaps};
pub use thaw::thaw_all;
pub use watchdog::watchdog_main;
