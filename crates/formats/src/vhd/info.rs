//! What the footer tells about the disk.

use super::copies::Found;
use super::footer::DiskType;
use crate::{Format, ImageInfo, OpenOptions, Warning};
use carreto_block::Source;
use carreto_error::{Error, Kind, Result};

/// What the footer says, with warnings about its sizes.
pub(super) fn describe(
    file: &dyn Source,
    found: &Found,
    kind: DiskType,
    options: &OpenOptions,
) -> Result<ImageInfo> {
    let footer = &found.footer;
    let size = footer.disk_size();
    let max = options.limits.max_virtual_size;
    if size.bytes > max {
        let text = format!("a disk of {} bytes is above the bound of {max}", size.bytes);
        return Err(Error::new(Kind::Limit, text));
    }
    if size.bytes == 0 {
        return Err(Error::new(
            Kind::Corrupt,
            "geometry and current size both say that the disk has 0 bytes",
        ));
    }
    let mut info = ImageInfo {
        format: Format::Vhd,
        subformat: kind.name().into(),
        virtual_size: size.bytes,
        file_size: file.size(),
        cluster_size: None,
        backing: None,
        warnings: found.warnings.clone(),
        details: vec![
            ("creator", footer.creator()),
            ("current_size", footer.current_size.to_string()),
            ("original_size", footer.original_size.to_string()),
            ("geometry", footer.geometry.to_string()),
            ("geometry_size", footer.geometry.size().to_string()),
            ("size_from", size.rule.into()),
            ("unique_id", footer.unique_id.to_string()),
        ],
    };
    warn_of_size(found, &mut info);
    Ok(info)
}

fn warn_of_size(found: &Found, info: &mut ImageInfo) {
    let footer = &found.footer;
    if footer.size_is_doubtful() {
        let text = format!(
            "the geometry {} means {} bytes, the current size is {}; {} decides, as the creator \
             {:?} has it",
            footer.geometry,
            footer.geometry.size(),
            footer.current_size,
            footer.disk_size().rule,
            footer.creator(),
        );
        info.warnings.push(Warning::new("size_differs", text).offset(found.data_end));
    }
    if !info.virtual_size.is_multiple_of(512) {
        let text = format!("the size {} is not a multiple of 512", info.virtual_size);
        info.warnings.push(Warning::new("odd_size", text));
    }
    if footer.saved_state {
        let text = "the disk belongs to a machine in saved state: its last writes may be missing";
        info.warnings.push(Warning::new("saved_state", text));
    }
}
