//! What is refused although it can be understood: devices, encrypted disks, single parts.

use super::corrupt;
use super::descriptor::Descriptor;
use super::line::{Access, ExtentLine, ExtentType};
use carreto_error::{Error, Kind, Result};

/// The most files of a whole chain: a `FileId` has 16 bits.
pub(super) const MAX_FILES: usize = 60_000;

/// Refuses what is not a disk image: encrypted disks and descriptors of devices.
pub(super) fn refuse_kind(descriptor: &Descriptor, strict: bool) -> Result<()> {
    if descriptor.is_encrypted() {
        let text = "the disk is encrypted by VMware";
        return Err(Error::new(Kind::Encrypted, text));
    }
    let shown = &descriptor.create_type;
    let known = match descriptor.kind().as_str() {
        "fulldevice"
        | "partitioneddevice"
        | "custom"
        | "vmfsraw"
        | "vmfsrdm"
        | "vmfsrdmp"
        | "vmfsrawdevicemap"
        | "vmfspassthroughrawdevicemap" => {
            let text = format!("createType {shown:?} is a device, not an image");
            return Err(Error::new(Kind::Unsupported, text));
        }
        "monolithicsparse"
        | "monolithicflat"
        | "twogbmaxextentsparse"
        | "twogbmaxextentflat"
        | "vmfs"
        | "vmfsthin"
        | "vmfspreallocated"
        | "vmfseagerzeroedthick"
        | "vmfssparse"
        | "sesparse"
        | "streamoptimized" => true,
        _ => false,
    };
    if strict && !known {
        let text = format!("createType {shown:?} is unknown");
        return Err(Error::new(Kind::Unsupported, text));
    }
    if descriptor.extents.iter().any(|line| line.kind == ExtentType::Device) {
        let text = "an extent is a raw device mapping, not an image";
        return Err(Error::new(Kind::Unsupported, text));
    }
    Ok(())
}

/// What a guest may not touch has no content that could be copied, unless it has none at all.
pub(super) fn refuse_access(line: &ExtentLine) -> Result<()> {
    if line.access == Access::None && line.kind != ExtentType::Zero {
        let text = "an extent with data is marked NOACCESS";
        return Err(Error::new(Kind::Unsupported, text));
    }
    Ok(())
}

pub(super) fn lone_part(what: &str) -> Error {
    let text = format!("the {what} extent holds no descriptor: it is one part of a disk");
    corrupt(text)
        .remedied_by("name the descriptor file (a short text) instead of one of its extents")
}

pub(super) fn too_many_files() -> Error {
    Error::new(Kind::Limit, format!("the disk consists of more than {MAX_FILES} files"))
}
