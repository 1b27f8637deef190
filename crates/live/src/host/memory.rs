//! Keeping the agent in memory while file systems stand still.
//!
//! To be swapped out to a disk that is compared would be a write to it, and to be read back from one
//! takes time of the lease. What is not in memory yet is read from a frozen file system as from any
//! other: only changes wait.

use rustix::mm::MlockAllFlags;

/// All pages that this process has now stay in memory until this is dropped.
#[derive(Debug)]
pub struct KeptInMemory(());

/// Keeps this process in memory; none where it may not be, or before Linux 4.4.
///
/// Only what is there is kept: what was reserved and never used, such as stacks of threads and the
/// ledger's empty pages, takes no memory by it, and neither does what is asked for later.
pub fn keep_in_memory() -> Option<KeptInMemory> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(flags).ok().map(|()| KeptInMemory(()))
}

impl Drop for KeptInMemory {
    fn drop(&mut self) {
        let _ = rustix::mm::munlockall();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `proc_pid_status(5)` says in KiB.
    fn status(name: &str) -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    fn what_is_there_is_kept_and_let_go() {
        let reserved = vec![0_u8; 256 << 20];
        assert_eq!(status("VmLck"), 0);
        let before = status("VmRSS");
        let Some(kept) = keep_in_memory() else { return };
        assert!(status("VmLck") > 0);
        assert!(status("VmRSS") < before + (256 << 10), "what was never used takes no memory");
        drop(kept);
        assert_eq!(status("VmLck"), 0);
        drop(reserved);
    }
}
