//! VHD, the format of Virtual PC, Hyper-V and Azure; QEMU calls it `vpc`.
//!
//! A fixed disk is its bytes followed by a footer. Dynamic and differencing disks have a table of
//! blocks, each with a bitmap of the sectors that are its own; what a differencing disk does not
//! have is its parent's. The format is described in Microsoft's "Virtual Hard Disk Image Format
//! Specification" 1.0.

mod bitmap;
mod blocks;
mod check;
mod copies;
mod footer;
mod header;
mod info;
mod parent;

use crate::{Chained, CheckReport, Format, Image, ImageInfo, Limits, OpenOptions};
use crate::{Warning, raw::own_extents};
use async_trait::async_trait;
use blocks::Blocks;
use carreto_block::{
    ByteRange, Extent, LocalRead, OpenGate, Placement, ReadHint, Source, SourceExt as _, Stamp,
    fetch_range,
};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use copies::Found;
use footer::{Checksum, DiskType, Footer, UniqueId};
use header::{HEADER_LEN, Header};
use std::sync::Arc;

const CHECKSUM_REMEDY: &str = "check how the image was made; if you trust the rest of it, read it \
                               with --ignore-checksum";

/// Whether `tail`, the last bytes of a file of `size` bytes, is a footer that can be believed
/// without more: a guest, or a file system in an image, may have the signature in any sector.
pub(crate) fn is_footer(tail: &[u8], size: u64) -> bool {
    let mut bytes = [0; footer::FOOTER_LEN];
    let Some(place) = bytes.get_mut(..tail.len()) else {
        return false;
    };
    place.copy_from_slice(tail);
    match Footer::parse(&bytes) {
        Ok(Some(footer)) => footer.fits(size.saturating_sub(tail.len() as u64)),
        _ => false,
    }
}

/// Whether disks of this type have a table of blocks.
fn is_sparse(kind: DiskType) -> bool {
    kind != DiskType::Fixed
}

/// One VHD file, without its parent.
#[derive(Debug)]
struct Vhd {
    files: [Arc<dyn Source>; 1],
    info: ImageInfo,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    /// The bytes of the disk from the start of the file on.
    Fixed,
    Sparse(Box<Sparse>),
}

#[derive(Debug)]
struct Sparse {
    header_at: u64,
    header: Header,
    blocks: Blocks,
}

/// An image with what a child compares of it.
struct Layer {
    image: Arc<dyn Image>,
    unique_id: UniqueId,
    time_stamp: u32,
}

/// Opens the image in `file`, and its parents through `gate`.
///
/// Reads the footer, its copy, the dynamic disk header and the parent locators. Cancel safe.
///
/// # Errors
/// `Truncated` when the footer is missing or the metadata reaches past the end; `Corrupt` for
/// wrong checksums and impossible fields; `Unsupported` for other disk types; `Limit` for tables
/// and sizes above the limits; `Unsafe` when the gate does not open the parent; what reading
/// meets.
pub async fn open(
    file: Arc<dyn Source>,
    options: &OpenOptions,
    gate: &OpenGate,
) -> Result<Arc<dyn Image>> {
    options.refuse_snapshot(file.as_ref(), Format::Vhd)?;
    Ok(layer(file, options, gate).await?.image)
}

async fn layer(file: Arc<dyn Source>, options: &OpenOptions, gate: &OpenGate) -> Result<Layer> {
    let name = file.name().to_owned();
    open_layer(file, options, gate).await.or_path(&name)
}

async fn open_layer(
    file: Arc<dyn Source>,
    options: &OpenOptions,
    gate: &OpenGate,
) -> Result<Layer> {
    let found = copies::find(file.as_ref(), options).await?;
    let kind = found.footer.disk_type()?;
    let mut info = info::describe(file.as_ref(), &found, kind, options)?;
    let (unique_id, time_stamp) = (found.footer.unique_id, found.footer.time_stamp);
    let mut below = None;
    let layout = if is_sparse(kind) {
        let sparse = sparse(file.as_ref(), &found, kind, options, &mut info).await?;
        if kind == DiskType::Differencing {
            below =
                Some(parent::open(file.as_ref(), &sparse.header, options, gate, &mut info).await?);
        }
        Layout::Sparse(Box::new(sparse))
    } else {
        fixed(file.as_ref(), &found, &mut info).await?;
        Layout::Fixed
    };
    let top: Arc<dyn Image> = Arc::new(Vhd { files: [file], info, layout });
    let image = match below {
        Some(parent) => Arc::new(Chained::new(top, parent)),
        None => top,
    };
    Ok(Layer { image, unique_id, time_stamp })
}

async fn fixed(file: &dyn Source, found: &Found, info: &mut ImageInfo) -> Result<()> {
    let at = found.footer.data_offset;
    let inside = at.checked_add(8).is_some_and(|end| end <= found.data_end);
    if inside && &file.read_array::<8>(at).await? == header::COOKIE {
        let text = format!(
            "disk type 2 (fixed), but there is a dynamic disk header at data offset {at:#x}"
        );
        return Err(Error::new(Kind::Corrupt, text).offset(at));
    }
    let (size, there) = (info.virtual_size, found.data_end);
    if size > there {
        let text =
            format!("a fixed disk of {size} bytes, but only {there} bytes precede the footer");
        return Err(Error::new(Kind::Truncated, text).offset(there));
    }
    if size < there {
        let text = format!("{} bytes lie between the disk and the footer", there - size);
        info.warnings.push(Warning::new("trailing_data", text).offset(size));
    }
    Ok(())
}

async fn sparse(
    file: &dyn Source,
    found: &Found,
    kind: DiskType,
    options: &OpenOptions,
    info: &mut ImageInfo,
) -> Result<Sparse> {
    let at = found.footer.data_offset;
    check_header_place(at, found.data_end)?;
    let bytes = file.read_array::<HEADER_LEN>(at).await?;
    let has_parent = kind == DiskType::Differencing;
    let header = Header::parse(&bytes, has_parent).map_err(|error| error.offset(at))?;
    accept_checksum(&header, at, options, info)?;
    header
        .validate(info.virtual_size, found.data_end, &options.limits)
        .map_err(|error| error.offset(at))?;
    let own = ByteRange::from_len(at, HEADER_LEN as u64).unwrap_or(ByteRange::whole(0));
    for (what, other) in [("the header", own), ("the footer's copy", ByteRange::whole(512))] {
        if !header.table().intersect(other).is_empty() {
            let text =
                format!("the block allocation table at {:?} overlaps {what}", header.table());
            return Err(Error::new(Kind::Corrupt, text).offset(at));
        }
    }
    info.cluster_size = Some(u64::from(header.block_size));
    let hole = match kind {
        DiskType::Differencing => Placement::Absent,
        _ => Placement::Zero,
    };
    Ok(Sparse {
        header_at: at,
        blocks: Blocks::new(&header, info.virtual_size, found.data_end, hole),
        header,
    })
}

fn check_header_place(at: u64, data_end: u64) -> Result<()> {
    let Some(end) = at.checked_add(HEADER_LEN as u64) else {
        let text = format!("data offset {at:#x} plus {HEADER_LEN} overflows");
        return Err(Error::new(Kind::Corrupt, text));
    };
    if at < 512 || !at.is_multiple_of(512) {
        let text =
            format!("data offset {at:#x} is not a multiple of 512 behind the copy of the footer");
        return Err(Error::new(Kind::Corrupt, text));
    }
    if end > data_end {
        let text = format!(
            "the header at data offset {at:#x} lies past the end of the data at {data_end}"
        );
        return Err(Error::new(Kind::Truncated, text).offset(at));
    }
    Ok(())
}

fn accept_checksum(
    header: &Header,
    at: u64,
    options: &OpenOptions,
    info: &mut ImageInfo,
) -> Result<()> {
    let warning = match header.checksum {
        Checksum::Good => return Ok(()),
        Checksum::Stale => Warning::new(
            "stale_checksum",
            "the dynamic disk header checksum is that of the header before its parent was written",
        ),
        Checksum::Bad { stored, computed } => {
            let text = format!(
                "dynamic disk header checksum {stored:#010x} is wrong, expected {computed:#010x}"
            );
            if !options.ignore_checksum {
                let error = Error::new(Kind::Corrupt, text).offset(at);
                return Err(error.remedied_by(CHECKSUM_REMEDY));
            }
            Warning::new("wrong_checksum", text)
        }
    };
    info.warnings.push(warning.offset(at));
    Ok(())
}

#[async_trait]
impl Source for Vhd {
    fn name(&self) -> &str {
        self.files[0].name()
    }

    fn size(&self) -> u64 {
        self.info.virtual_size
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        let range = self.check_range(range.start(), range.len())?;
        let file = self.files[0].as_ref();
        match &self.layout {
            Layout::Fixed => Ok(own_extents(file.extents(range, limit).await?)),
            Layout::Sparse(sparse) => {
                let list = sparse.blocks.extents(file, range, limit).await;
                list.or_path(file.name())
            }
        }
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &self.layout {
            Layout::Fixed => {
                self.check_range(offset, buf.len() as u64)?;
                self.files[0].read_at(offset, buf).await
            }
            Layout::Sparse(_) => fetch_range(self, offset, buf).await,
        }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        let local = matches!(self.layout, Layout::Fixed) && self.files[0].as_local().is_some();
        local.then_some(self as &dyn LocalRead)
    }

    fn hint(&self) -> ReadHint {
        self.files[0].hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.files[0].stamp().await
    }
}

/// Fixed disks only.
impl LocalRead for Vhd {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        match (&self.layout, self.files[0].as_local()) {
            (Layout::Fixed, Some(local)) => local.read_local(offset, buf),
            _ => Err(Error::new(
                Kind::Internal,
                "a source without a blocking path was read with system calls",
            )),
        }
    }
}

#[async_trait]
impl Image for Vhd {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    async fn check(&self, limits: &Limits) -> Result<CheckReport> {
        match &self.layout {
            Layout::Fixed => Ok(CheckReport::default()),
            Layout::Sparse(sparse) => {
                let file = self.files[0].as_ref();
                check::run(file, sparse, limits).await.or_path(file.name())
            }
        }
    }
}
