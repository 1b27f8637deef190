//! What is decided before the first write.

use crate::image::Opened;
use crate::inspect::{ImageFacts, WarningFacts};
use crate::target::TargetState;
use crate::{JobSpec, Role};
use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// The last two bytes of a boot sector (master boot record, also of GPT disks).
const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xAA];

/// Whether the text can be the path of a disk at all; looks at nothing.
pub(crate) fn path(target: &Path) -> Result<()> {
    let bytes = target.as_os_str().as_bytes();
    let name = target.display().to_string();
    let scheme = bytes.windows(3).position(|part| part == b"://").map(|at| &bytes[..at]);
    let is_scheme = |name: &[u8]| {
        name.first().is_some_and(u8::is_ascii_alphabetic)
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
    };
    let (text, remedy) = if scheme.is_some_and(is_scheme) {
        let text = "a URL cannot be the target, which is a block device, a file of this machine or an NBD \
                    export";
        (text, "name its path; one that looks like a URL is written with a leading ./")
    } else if bytes.ends_with(b"/") {
        ("the path ends with a slash, so it names a directory", "name a file or a block device")
    } else {
        return Ok(());
    };
    let name = if scheme.is_some() { crate::shown_location(&name) } else { name };
    Err(Error::new(Kind::Usage, text).during("check the target").path(name).remedied_by(remedy))
}

/// Whether the target can take the disk; returns what is doubtful.
pub(crate) fn target(
    target: &TargetState,
    image: &ImageFacts,
    zeroes_are_known: bool,
) -> Result<Option<WarningFacts>> {
    if let Some(obstacle) = target.obstacles.first() {
        return Err(obstacle.to_error(&target.path));
    }
    size(target, image)?;
    space(target, image, zeroes_are_known)
}

/// Whether the user agreed to lose what is on a device or an export.
pub(crate) fn confirmed(spec: &JobSpec, target: &TargetState) -> Result<()> {
    if !target.is_disk() || spec.confirmed {
        return Ok(());
    }
    let text = "everything on this disk would be overwritten";
    let error = Error::new(Kind::Usage, text).path(&target.path);
    Err(error.remedied_by("if that is what you want, add --yes"))
}

/// Whether the image says which of its bytes are zero. An object, or a device, of raw bytes does
/// not.
pub(crate) fn zeroes_are_known(image: &dyn Source, facts: &ImageFacts, stamp: &str) -> bool {
    let local = image.files().iter().all(|file| file.as_local().is_some());
    let device = stamp.split('|').any(|part| part.starts_with("device:"));
    facts.allocated_size < facts.virtual_size || (local && !device)
}

/// Whether the target is one of the files that are read.
pub(crate) fn not_the_image(target: &TargetState, image: &Opened) -> Result<()> {
    for (name, identity) in image.files() {
        if target.is_the_same_as(&identity)? {
            let text = format!("the target is {name}, a file of the image itself");
            let error = Error::new(Kind::Usage, text).path(&target.path);
            return Err(error.remedied_by("name another target"));
        }
    }
    Ok(())
}

fn size(target: &TargetState, image: &ImageFacts) -> Result<()> {
    let needed = image.virtual_size;
    match target.size {
        Some(size) if size < needed => {
            let text = format!("it has {size} bytes, the disk in the image needs {needed}");
            let remedy =
                format!("enlarge the system or data disk to at least {needed} bytes and retry");
            Err(Error::new(Kind::TargetTooSmall, text)
                .during("check the size")
                .path(&target.path)
                .needed(needed)
                .remedied_by(remedy))
        }
        _ => Ok(()),
    }
}

/// A sparse file needs room for the data. What it holds already will be reused.
fn space(
    target: &TargetState,
    image: &ImageFacts,
    zeroes_are_known: bool,
) -> Result<Option<WarningFacts>> {
    let Some(free) = target.free else {
        return Ok(None);
    };
    let needed = image.allocated_size.saturating_sub(target.allocated);
    if free >= needed {
        return Ok(None);
    }
    if !zeroes_are_known {
        let text = format!(
            "the file system of the target has {free} bytes free; the image has up to {needed} \
             bytes of data, less what turns out to be zero"
        );
        return Ok(Some(WarningFacts { code: "space_unknown", text, offset: None }));
    }
    let text = format!("its file system has {free} bytes free, the data needs {needed}");
    Err(Error::new(Kind::TargetUnusable, text)
        .during("check the space")
        .path(&target.path)
        .needed(needed)
        .remedied_by("free space on the file system of the target, or name another place"))
}

/// Whether an image for a system disk can boot at all.
pub(crate) async fn role(spec: &JobSpec, image: &dyn Source) -> Result<Vec<WarningFacts>> {
    if spec.role != Some(Role::System) {
        return Ok(Vec::new());
    }
    if image.size() >= 512 {
        let sector: [u8; 512] = image.read_array(0).await?;
        if sector.ends_with(&BOOT_SIGNATURE) {
            return Ok(Vec::new());
        }
    }
    let text = "the image has no boot sector, so a server will not boot from it".to_owned();
    Ok(vec![WarningFacts { code: "no_boot_sector", text, offset: Some(510) }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use carreto_testkit::MemSource;

    /// A sparse file that does not fit, made of an image of `bytes` with so many allocated.
    async fn room(image: MemSource, allocated: u64) -> Result<Option<WarningFacts>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.raw");
        std::fs::write(&path, vec![1; usize::try_from(image.size()).unwrap()]).unwrap();
        let spec = crate::ImageSpec::at(path.display().to_string());
        let facts = crate::inspect(&crate::Setup::default(), &spec).await?;
        let facts = ImageFacts { allocated_size: allocated, ..facts };
        let state = crate::target::inspect(&directory.path().join("target.raw"))?;
        let state = TargetState { free: Some(allocated - 1), ..state };
        let image = Files([std::sync::Arc::new(image)]);
        target(&state, &facts, zeroes_are_known(&image, &facts, "file:1:2:3"))
    }

    #[derive(Debug)]
    struct Files([std::sync::Arc<dyn Source>; 1]);

    #[async_trait::async_trait]
    impl Source for Files {
        fn name(&self) -> &str {
            self.0[0].name()
        }

        fn size(&self) -> u64 {
            self.0[0].size()
        }

        async fn extents(
            &self,
            range: carreto_block::ByteRange,
            limit: usize,
        ) -> Result<Vec<carreto_block::Extent>> {
            self.0[0].extents(range, limit).await
        }

        async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            self.0[0].read_at(offset, buf).await
        }

        fn files(&self) -> &[std::sync::Arc<dyn Source>] {
            &self.0
        }

        async fn stamp(&self) -> Result<carreto_block::Stamp> {
            self.0[0].stamp().await
        }
    }

    #[tokio::test]
    async fn too_little_space_is_refused_only_where_zeroes_are_known() {
        let disk = MemSource::new("disk", vec![1; 8192]);
        let error = room(disk.clone(), 8192).await.unwrap_err();
        assert_eq!((error.kind(), error.needed_bytes()), (Kind::TargetUnusable, Some(8192)));
        let warning = room(disk.clone().remote(), 8192).await.unwrap().unwrap();
        assert_eq!(warning.code, "space_unknown");
        assert!(room(disk.remote(), 4096).await.is_err(), "the map of the image knows holes");
    }
}
