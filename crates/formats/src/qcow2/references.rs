//! The other files that an image names: its backing file and its external data file.
//!
//! Both names were written by whoever made the image, so both pass the gate, and neither file is
//! ever probed: the backing file's format is what the image records, or nothing is opened.

use super::features;
use super::header::Header;
use crate::{BackingInfo, Format, Image, OpenOptions};
use carreto_block::{OpenGate, OpenRequest, ReferenceRole, Source};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

/// What the header says about the backing file.
///
/// # Errors
/// `Unsafe` when the name is no text, or when there is no format for it; `Unsupported` when the
/// format is none that is read.
pub(super) fn backing_info(header: &Header) -> Result<Option<BackingInfo>> {
    let Some(bytes) = &header.backing else {
        return Ok(None);
    };
    let name = text("backing file", bytes)?;
    let Some(recorded) = header.extensions.backing_format.as_deref() else {
        let text = format!("it names the backing file {name:?} and records no format for it");
        let remedy = "if you know the format, record it: \
             qemu-img rebase -u -b NAME -F qcow2 (or raw) IMAGE";
        return Err(Error::new(Kind::Unsafe, text).remedied_by(remedy));
    };
    let format: Format = recorded.parse().map_err(|error: Error| {
        let text = format!("the backing file {name:?} has the format {recorded:?}");
        Error::new(Kind::Unsupported, text).caused_by(error)
    })?;
    Ok(Some(BackingInfo { name, format: Some(format) }))
}

/// Opens the backing file through `gate`, with all its parents.
///
/// # Errors
/// As [`OpenGate::open`] and [`crate::open`].
pub(super) async fn open_backing(
    referrer: &str,
    backing: &BackingInfo,
    options: &OpenOptions,
    gate: &OpenGate,
) -> Result<Arc<dyn Image>> {
    let request = OpenRequest { referrer, name: &backing.name, role: ReferenceRole::Backing };
    let (source, inner) = gate.open(request).await?;
    let format = backing.format.unwrap_or(Format::Raw);
    crate::open(source, &options.for_reference(format), &inner).await.map_err(|error| {
        let text = format!("the backing file {:?} of {referrer} cannot be read", backing.name);
        error.wrap(text)
    })
}

/// Opens the external data file through `gate`, if the image has one.
///
/// # Errors
/// `Unsafe` when the image needs one and does not name it, or when the gate is closed for it; as
/// [`OpenGate::open`].
pub(super) async fn open_data_file(
    referrer: &str,
    header: &Header,
    gate: &OpenGate,
) -> Result<Option<Arc<dyn Source>>> {
    if !header.features.has(features::DATA_FILE) {
        return Ok(None);
    }
    let Some(bytes) = &header.extensions.data_file else {
        let text = "the guest's data is in another file, which the image does not name";
        let remedy = "convert the image where its data file is known: \
             qemu-img convert -O qcow2 'json:{...,\"data-file\":...}' NEW";
        return Err(Error::new(Kind::Unsafe, text).path(referrer).remedied_by(remedy));
    };
    let name = text("data file", bytes)?;
    let request = OpenRequest { referrer, name: &name, role: ReferenceRole::DataFile };
    let (source, _) = gate.open(request).await?;
    Ok(Some(source))
}

fn text(role: &str, bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| {
        let text = format!("the name of its {role} is not UTF-8");
        Error::new(Kind::Unsafe, text).caused_by(error)
    })
}
