//! Where this kernel keeps what the program reads: fields of a request, arguments of trace points.

use super::btf::{Btf, TypeId, TypeKind};
use carreto_error::{Error, Kind, Result};

/// A trace point of the block layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TracePoint {
    /// Its name without `trace_`.
    pub(super) name: &'static str,
    /// The type of its function.
    pub(super) btf_id: TypeId,
    /// Which argument is the request; kernels before 5.11 pass the queue first.
    pub(super) request: i16,
}

/// From a request to its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WayToDisk {
    /// `rq->q->disk`, since Linux 5.15.
    Queue { queue: i16, disk: i16 },
    /// `rq->rq_disk`, until Linux 5.16.
    Request(i16),
}

/// Offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) sector: i16,
    pub(super) data_len: i16,
    pub(super) cmd_flags: i16,
    /// `nr_phys_segments`, which for a discard is how many ranges it has (0 means one).
    pub(super) segments: Option<i16>,
    pub(super) disk: WayToDisk,
    pub(super) major: i16,
    pub(super) first_minor: i16,
}

/// What the program needs to know of this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KernelFacts {
    pub(super) fields: Fields,
    pub(super) issue: TracePoint,
    pub(super) complete: TracePoint,
    pub(super) requeue: TracePoint,
}

impl KernelFacts {
    /// Reads them from the types of the kernel.
    ///
    /// # Errors
    /// `Unsupported` naming what this kernel has not, or has in another shape.
    pub(super) fn read(btf: &Btf<'_>) -> Result<Self> {
        let (issue, request) = trace_point(btf, "block_rq_issue")?;
        let (complete, _) = trace_point(btf, "block_rq_complete")?;
        let (requeue, _) = trace_point(btf, "block_rq_requeue")?;
        Ok(Self { fields: Fields::read(btf, request)?, issue, complete, requeue })
    }
}

impl Fields {
    fn read(btf: &Btf<'_>, request: TypeId) -> Result<Self> {
        let (disk, gendisk) = way_to_disk(btf, request)?;
        Ok(Self {
            sector: sized(btf, request, "__sector", 8)?,
            data_len: sized(btf, request, "__data_len", 4)?,
            cmd_flags: sized(btf, request, "cmd_flags", 4)?,
            segments: sized(btf, request, "nr_phys_segments", 2).ok(),
            disk,
            major: sized(btf, gendisk, "major", 4)?,
            first_minor: sized(btf, gendisk, "first_minor", 4)?,
        })
    }
}

fn way_to_disk(btf: &Btf<'_>, request: TypeId) -> Result<(WayToDisk, TypeId)> {
    if let Ok((offset, gendisk)) = pointer(btf, request, "rq_disk") {
        return Ok((WayToDisk::Request(offset), gendisk));
    }
    let (queue, queue_type) = pointer(btf, request, "q")?;
    let (disk, gendisk) = pointer(btf, queue_type, "disk")?;
    Ok((WayToDisk::Queue { queue, disk }, gendisk))
}

fn member(btf: &Btf<'_>, owner: TypeId, name: &str) -> Result<(i16, TypeId)> {
    let found = btf.member(owner, name);
    let found = found.and_then(|(offset, kind)| Some((i16::try_from(offset).ok()?, kind)));
    found.ok_or_else(|| missing(format!("the block layer of this kernel has no field {name}")))
}

fn sized(btf: &Btf<'_>, owner: TypeId, name: &str, bytes: u32) -> Result<i16> {
    let (offset, kind) = member(btf, owner, name)?;
    match btf.size(kind) {
        Some(size) if size == bytes => Ok(offset),
        _ => Err(missing(format!("the field {name} has not {bytes} bytes in this kernel"))),
    }
}

fn pointer(btf: &Btf<'_>, owner: TypeId, name: &str) -> Result<(i16, TypeId)> {
    let (offset, kind) = member(btf, owner, name)?;
    let target = btf.pointee(kind);
    Ok((offset, target.ok_or_else(|| missing(format!("the field {name} is no pointer")))?))
}

/// The trace point and the type of the request that it passes.
fn trace_point(btf: &Btf<'_>, name: &'static str) -> Result<(TracePoint, TypeId)> {
    let absent = || missing(format!("this kernel has no trace point {name}"));
    let btf_id = btf.find(TypeKind::Typedef, &format!("btf_trace_{name}")).ok_or_else(absent)?;
    let parameters = btf.parameters(btf_id).ok_or_else(absent)?;
    // The first parameter belongs to the tracer, not to the event.
    let arguments = parameters.iter().skip(1).map(|kind| btf.pointee(*kind));
    let mut requests = (0..).zip(arguments).filter_map(|(index, target)| Some((index, target?)));
    let found = requests.find(|(_, target)| btf.is_named(*target, "request"));
    let (request, target) = found.ok_or_else(absent)?;
    Ok((TracePoint { name, btf_id, request }, target))
}

fn missing(what: String) -> Error {
    Error::new(Kind::Unsupported, what).during("read the types of the kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the kernel tells its types, the fields of its own block layer must be there; an
    /// ordinary user may read them.
    #[test]
    fn the_running_kernel_is_understood() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            return;
        };
        let facts = KernelFacts::read(&Btf::parse(&bytes).unwrap()).unwrap();
        assert_eq!(facts.complete.name, "block_rq_complete");
        assert!(facts.fields.segments.is_some());
        assert!(facts.fields.sector > 0 && facts.fields.sector != facts.fields.data_len);
    }
}
