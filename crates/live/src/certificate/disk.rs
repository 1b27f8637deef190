//! Comparing a disk with what a certificate says of it.

use super::Disk;
use carreto_block::{AlignedBuf, Source};
use carreto_error::{Error, Kind, Result};

/// Bytes that are read and hashed at a time.
const STEP: usize = 4 << 20;

/// Reads all of `source` and compares its size and its BLAKE3 with `disk`, as `b3sum` would.
/// `progress` is told the bytes that are done.
///
/// Cancel safe. Hashing happens on the calling thread, 4 MiB between two awaits.
///
/// # Errors
/// `Mismatch` naming both sizes or both roots; what reading meets.
pub async fn check_disk(
    disk: &Disk,
    source: &dyn Source,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<()> {
    let size = source.size();
    if size != disk.size {
        let wanted = disk.size;
        return Err(mismatch(source, format!("it has {size} bytes, the certificate {wanted}")));
    }
    let mut buffer = AlignedBuf::zeroed(STEP)?;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at).unwrap_or(STEP).min(STEP);
        let part = &mut buffer[..len];
        source.read_at(at, part).await?;
        hasher.update(part);
        at = at.saturating_add(len as u64);
        progress(at);
    }
    let found = super::Root::from(hasher.finalize());
    if found != disk.root {
        let wanted = disk.root;
        return Err(mismatch(source, format!("its BLAKE3 is {found}, the certificate's {wanted}")));
    }
    Ok(())
}

fn mismatch(source: &dyn Source, detail: String) -> Error {
    Error::new(Kind::Mismatch, detail)
        .during("compare with the certificate")
        .path(source.name())
        .remedied_by("check that it is the right disk and that nothing has written to it since, a boot included")
}
