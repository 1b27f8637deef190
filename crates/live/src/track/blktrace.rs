//! Following changes by the kernel's block tracing, for kernels without what the BPF program needs.
//!
//! Every event passes through a buffer, so a burst can overflow it; the kernel counts what it
//! dropped, and the audit makes such an epoch suspect. A trace outlives its process without being
//! readable by another, therefore marks are lost with the process, and a killed agent leaves a trace
//! behind that [`end_blktrace`] ends.

mod reader;
mod records;

use super::attach::Attached;
use super::audit::{AuditPoint, Flight};
use super::marks::Drained;
use super::sysdisk::SysDisk;
use super::{TrackedDisk, Tracker, TrackerKind};
use crate::granule::{GranuleSet, granules_in};
use carreto_error::{Error, IoSide, Kind, Result, ResultExt as _};
use carreto_kernel::blktrace::{self, TraceBuffers};
use reader::Reader;
use records::Tracked;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// Issue, completion and requeue of requests; reads pass too, categories cannot be combined.
const CATEGORIES: u16 = 1 << 5 | 1 << 6 | 1 << 7;
/// 4 MiB for each processor: half a second of 80 000 requests a second on one.
const BUFFERS: TraceBuffers = TraceBuffers { categories: CATEGORIES, size: 512 << 10, count: 8 };

/// A trace of one disk and the thread that reads it.
#[derive(Debug)]
pub(super) struct BlktraceTracker {
    disk: TrackedDisk,
    sys: SysDisk,
    flight: Flight,
    // Closes the files of the trace before that ends.
    reader: Reader,
    trace: Trace,
}

/// A trace that ends with this value.
#[derive(Debug)]
struct Trace {
    device: File,
    /// Its files in debugfs.
    folder: PathBuf,
    ended: bool,
}

/// Starts tracing `disk`.
pub(super) fn attach(disk: &TrackedDisk) -> Result<Attached> {
    let sys = SysDisk::open(disk)?;
    sys.makes_plain_requests()?;
    let trace = Trace::start(disk)?;
    let granules = granules_in(disk.size);
    let reader = Reader::start(&trace.folder, Tracked::new(granules, sys.merges_discards()))?;
    let flight = Flight::new(sys.in_flight());
    blktrace::start(trace.device.as_fd()).map_err(|error| failed("start tracing", disk, error))?;
    let tracker = BlktraceTracker { disk: disk.clone(), sys, flight, reader, trace };
    let text = "traces cannot be pinned, a restart of the agent loses what they marked";
    let unpinned = Some(Error::new(Kind::Unsupported, text));
    Ok(Attached { unpinned, ..Attached::new(tracker) })
}

/// Ends the trace of `disk` that a killed agent left, and says whether there was one. It may also be
/// somebody else's: the kernel does not tell, so only a caller that knows may ask for this.
///
/// # Errors
/// If the disk cannot be opened or the kernel refuses.
pub fn end_blktrace(disk: &TrackedDisk) -> Result<bool> {
    let device = open(disk)?;
    // What is being read cannot be removed by all kernels.
    drop(blktrace::stop(device.as_fd()));
    match blktrace::teardown(device.as_fd()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(failed("end the trace", disk, error)),
    }
}

impl Trace {
    fn start(disk: &TrackedDisk) -> Result<Self> {
        let debugfs = debugfs().ok_or_else(|| {
            let error = Error::new(Kind::Unsupported, "debugfs is not mounted");
            error.remedied_by("mount it: mount -t debugfs debugfs /sys/kernel/debug")
        })?;
        let device = open(disk)?;
        let name =
            blktrace::setup(device.as_fd(), BUFFERS).map_err(|error| refused(disk, error))?;
        let folder = debugfs.join("block").join(name);
        Ok(Self { device, folder, ended: false })
    }

    fn end(&mut self) -> io::Result<()> {
        self.ended = true;
        drop(blktrace::stop(self.device.as_fd()));
        blktrace::teardown(self.device.as_fd())
    }

    /// How many events did not fit.
    fn dropped(&self) -> Result<u64> {
        let path = self.folder.join("dropped");
        let text = fs::read_to_string(&path).map_err(|error| {
            Error::io(IoSide::Source, "read", path.display().to_string(), error)
        })?;
        text.trim().parse().map_err(|_| {
            let error = Error::new(Kind::Unsupported, format!("{text:?} is no number"));
            error.path(path.display().to_string())
        })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if !self.ended {
            drop(self.end());
        }
    }
}

impl Tracker for BlktraceTracker {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Blktrace
    }

    fn identity(&self) -> Option<&str> {
        None
    }

    fn drain(&mut self) -> Result<Drained> {
        self.reader.drain().or_path(&self.disk.name)
    }

    fn settle(&mut self, _done: &GranuleSet) -> Result<()> {
        Ok(())
    }

    fn pending(&self) -> GranuleSet {
        GranuleSet::empty(granules_in(self.disk.size))
    }

    fn audit(&mut self) -> Result<AuditPoint> {
        let mut tally = None;
        let (flight, reader) = (&mut self.flight, &self.reader);
        let point = AuditPoint::take(TrackerKind::Blktrace, &self.sys, flight, || {
            let found = reader.tally()?;
            tally = Some(found);
            Ok((found.issued.without(found.requeued), found.completed))
        })?;
        let dropped = self.trace.dropped();
        let attached = tally.is_some() && dropped.is_ok();
        let tally = tally.unwrap_or_default();
        // A record that cannot be read is as good as lost.
        let dropped = dropped.unwrap_or(0).saturating_add(tally.garbled);
        Ok(AuditPoint { unknown: tally.unknown, dropped, attached, ..point })
    }

    fn detach(mut self: Box<Self>) -> Result<()> {
        self.reader.stop();
        self.trace.end().map_err(|error| failed("end the trace", &self.disk, error))
    }
}

fn open(disk: &TrackedDisk) -> Result<File> {
    let path = Path::new("/dev").join(disk.name.replace('!', "/"));
    let device = File::open(&path);
    let device = device
        .map_err(|error| Error::io(IoSide::Source, "open", path.display().to_string(), error))?;
    let number = rustix::fs::fstat(&device).map_or(0, |found| found.st_rdev);
    if (rustix::fs::major(number), rustix::fs::minor(number)) != disk.devno {
        let error = Error::new(Kind::SourceChanged, "it is another device than the disk");
        return Err(error.path(path.display().to_string()));
    }
    Ok(device)
}

fn refused(disk: &TrackedDisk, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ResourceBusy => {
            let text = "somebody traces the disk, or a killed agent left a trace";
            let error = Error::new(Kind::Locked, text).caused_by(error).path(disk.name.clone());
            error.remedied_by(format!(
                "end it if nobody needs it: blktrace -k -d /dev/{}",
                disk.name
            ))
        }
        _ => failed("trace", disk, error),
    }
}

fn failed(what: &'static str, disk: &TrackedDisk, error: io::Error) -> Error {
    Error::io(IoSide::Source, what, disk.name.clone(), error)
}

/// Where debugfs is mounted.
fn debugfs() -> Option<PathBuf> {
    mounted(&fs::read_to_string("/proc/self/mounts").ok()?)
}

fn mounted(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        (kind == "debugfs").then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debugfs_is_found_among_the_mounts() {
        let mounts = "proc /proc proc rw 0 0\nnone /my\\040debug debugfs rw 0 0\n";
        assert_eq!(mounted(mounts), Some(PathBuf::from("/my debug")));
        assert_eq!(mounted("debugfs / ext4 rw 0 0\nshort"), None);
    }
}
