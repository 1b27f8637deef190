//! What is decided before the first write.

use crate::inspect::{ImageFacts, WarningFacts};
use crate::target::TargetState;
use crate::{JobSpec, Role};
use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result};

/// The last two bytes of a boot sector (master boot record, also of GPT disks).
const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xAA];

/// Whether the target can take the disk.
pub(crate) fn target(spec: &JobSpec, target: &TargetState, image: &ImageFacts) -> Result<()> {
    if let Some(obstacle) = target.obstacles.first() {
        return Err(obstacle.to_error(&target.path));
    }
    size(target, image)?;
    if target.is_device() && !spec.confirmed {
        let text = "everything on this device would be overwritten";
        let error = Error::new(Kind::Usage, text).path(&target.path);
        return Err(error.remedied_by("if that is what you want, add --yes"));
    }
    space(target, image)
}

/// Whether the target is one of the files that are read.
pub(crate) async fn not_the_image(target: &TargetState, image: &dyn Source) -> Result<()> {
    let files = image.files().iter().map(AsRef::as_ref).chain([image]);
    for file in files {
        if target.is_file(file).await? {
            let text = format!("the target is {}, a file of the image itself", file.name());
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
fn space(target: &TargetState, image: &ImageFacts) -> Result<()> {
    let Some(free) = target.free else {
        return Ok(());
    };
    let needed = image.allocated_size.saturating_sub(target.allocated);
    if free >= needed {
        return Ok(());
    }
    let text = format!("its file system has {free} bytes free, the data needs {needed}");
    Err(Error::new(Kind::TargetUnusable, text)
        .during("check the space")
        .path(&target.path)
        .needed(needed))
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
