//! Waiting for writes that are under way: a discard may still run when a freeze has returned.
//!
//! `/sys/block/<disk>/inflight` counts reads and writes, discards among the writes
//! (`Documentation/ABI/stable/sysfs-block` of the kernel).

use super::disk::Disk;
use super::machine::Machine;
use carreto_error::{Error, Kind, Result};
use std::time::{Duration, Instant};

/// Between two looks.
const TICK: Duration = Duration::from_millis(2);

/// Waits until each disk has been without a write under way for a moment: all writes that began
/// before the call have ended then.
///
/// # Errors
/// `Timeout` when a disk was busy at every look for `limit`; `SourceChanged` when it is gone.
pub fn wait_for_writes(disks: &[Disk], limit: Duration) -> Result<()> {
    wait(&Machine::here(), disks, limit)
}

fn wait(machine: &Machine, disks: &[Disk], limit: Duration) -> Result<()> {
    let begun = Instant::now();
    for disk in disks {
        loop {
            let writes = writes(machine, disk).ok_or_else(|| gone(disk))?;
            if writes == 0 {
                break;
            }
            if begun.elapsed() >= limit {
                let seconds = limit.as_secs_f64();
                let text = format!("{writes} writes were still under way after {seconds} s");
                let error = Error::new(Kind::Timeout, text).path(disk.path.to_string_lossy());
                return Err(
                    error.remedied_by("find out what writes to the disk past its file systems")
                );
            }
            std::thread::sleep(TICK);
        }
    }
    Ok(())
}

fn writes(machine: &Machine, disk: &Disk) -> Option<u64> {
    let text = machine.device(disk.devno)?.text("inflight")?;
    text.split_whitespace().nth(1)?.parse().ok()
}

fn gone(disk: &Disk) -> Error {
    let text = "the system does not say any more what is under way: the disk is gone";
    Error::new(Kind::SourceChanged, text).path(disk.path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::disk::disks_of;
    use crate::host::testing::Fake;

    #[test]
    fn reads_are_no_writes() {
        let fake = Fake::new();
        fake.disk("vda", (254, 0), 1 << 20).attribute("vda", "inflight", "       7        0\n");
        let disks = disks_of(&fake.machine()).unwrap();
        wait(&fake.machine(), &disks, Duration::ZERO).unwrap();
        fake.attribute("vda", "inflight", "       0        3\n");
        let error = wait(&fake.machine(), &disks, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout);
        for text in ["", "1", "x y"] {
            fake.attribute("vda", "inflight", text);
            let error = wait(&fake.machine(), &disks, Duration::ZERO).unwrap_err();
            assert_eq!(error.kind(), Kind::SourceChanged);
        }
    }
}
