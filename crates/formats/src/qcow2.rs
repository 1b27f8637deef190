//! qcow2, QEMU's copy-on-write format, versions 2 and 3.
//!
//! Two levels of tables map guest clusters to host clusters: the L1 table points at L2 tables,
//! whose entries say where a cluster is, that it is compressed, or that it reads as zeros.
//! Mapping reads these tables lazily and never touches payload; an empty region costs nothing but
//! its L1 entries. Format facts come from the qcow2 specification (QEMU's
//! `docs/interop/qcow2.rst`) and are named where they are used.
//!
//! Read in the order `header`, `entry`, `l2`, `map`; `check` walks everything at once.

mod check;
mod codec;
mod entry;
mod extensions;
mod features;
mod header;
mod l2;
mod map;
mod references;
mod snapshot;
mod tables;

use crate::{
    BackingInfo, Chained, CheckReport, Format, Image, ImageInfo, Limits, OpenOptions, Warning,
};
use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, OpenGate, ReadHint, Source, SourceExt as _, Stamp, fetch_range,
};
use carreto_error::{Error, Kind, Result, ResultExt as _};
use codec::Compression;
use entry::Layout;
use header::{Header, TableRef};
use l2::Tables;
use std::sync::Arc;

/// One qcow2 file (with its external data file, if it has one), without its backing file.
#[derive(Debug)]
struct Qcow2 {
    /// The image file, then the external data file.
    files: Vec<Arc<dyn Source>>,
    header: Header,
    layout: Layout,
    tables: Tables,
    /// The L1 table of the disk that is read: the active one or a snapshot's.
    l1: TableRef,
    compression: Compression,
    has_backing: bool,
    /// The data file is a raw image of the disk that is read.
    raw_data: bool,
    info: ImageInfo,
}

/// Opens the image in `file`, its external data file and its backing chain.
///
/// Reads the header, the snapshot table if `options` names a snapshot, and the same of every
/// backing file; no other table and no payload. Cancel safe.
///
/// # Errors
/// As [`crate::open`]. `Unsafe` also for a backing file whose format the image does not record;
/// `NotFound` when there is no such snapshot.
pub async fn open(
    file: Arc<dyn Source>,
    options: &OpenOptions,
    gate: &OpenGate,
) -> Result<Arc<dyn Image>> {
    let name = file.name().to_owned();
    let limits = &options.limits;
    let header = Header::read(file.as_ref(), limits).await.or_path(&name)?;
    let backing = references::backing_info(&header).or_path(&name)?;
    if backing.is_some() && header.has_raw_data() {
        let text = "the data file is said to be a raw image by itself, which rules out the \
                    backing file that the image names";
        return Err(Error::new(Kind::Corrupt, text).path(&name).offset(88));
    }
    let data_file = references::open_data_file(&name, &header, gate).await.or_path(&name)?;
    let (l1, size) = match &options.snapshot {
        None => (header.l1, header.virtual_size),
        Some(wanted) => {
            let found =
                snapshot::find(file.as_ref(), &header, limits, wanted).await.or_path(&name)?;
            (found.l1, found.disk_size(header.virtual_size))
        }
    };
    let mut files = vec![file];
    files.extend(data_file);
    let image = Arc::new(Qcow2::new(files, header, (l1, size), backing.clone()));
    match backing {
        None => Ok(image),
        Some(backing) => {
            let parent = references::open_backing(&name, &backing, options, gate).await?;
            Ok(Arc::new(Chained::new(image, parent)))
        }
    }
}

impl Qcow2 {
    fn new(
        files: Vec<Arc<dyn Source>>,
        header: Header,
        (l1, size): (TableRef, u64),
        backing: Option<BackingInfo>,
    ) -> Self {
        let file_size = files[0].size();
        let data_size = files.last().map_or(file_size, |file| file.size());
        let layout = Layout::new(&header, size, file_size, data_size);
        Self {
            layout,
            tables: Tables::new(layout, l1),
            l1,
            compression: header.compression,
            has_backing: backing.is_some(),
            // A snapshot is in other clusters.
            raw_data: files.len() > 1 && header.has_raw_data() && l1 == header.l1,
            info: info(&files, &header, size, backing),
            files,
            header,
        }
    }

    /// The image file.
    fn file(&self) -> &dyn Source {
        self.files[0].as_ref()
    }
}

fn info(
    files: &[Arc<dyn Source>],
    header: &Header,
    virtual_size: u64,
    backing: Option<BackingInfo>,
) -> ImageInfo {
    let bits = header.features;
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let mut details = vec![
        ("compression", header.compression.name().to_owned()),
        ("refcount_bits", (1u32 << header.refcounts.order).to_string()),
        ("extended_l2", yes(bits.has(features::EXTENDED_L2))),
        ("lazy_refcounts", yes(bits.compatible & 1 == 1)),
        ("snapshots", header.snapshots.entries.to_string()),
    ];
    if let Some(data_file) = files.get(1) {
        details.push(("data_file", data_file.name().to_owned()));
        details.push(("data_file_raw", yes(header.has_raw_data())));
    }
    ImageInfo {
        format: Format::Qcow2,
        subformat: format!("v{}", header.version),
        virtual_size,
        file_size: files.iter().map(|file| file.size()).sum(),
        cluster_size: Some(header.cluster_size()),
        backing,
        warnings: header_warnings(header),
        details,
    }
}

fn header_warnings(header: &Header) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if header.features.has(features::DIRTY) {
        let text = "the dirty bit is set: the image was not closed, its refcounts may be stale";
        warnings.push(Warning::new("dirty_bit", text).offset(72));
    }
    if header.features.has(features::CORRUPT) {
        let text = "the corrupt bit is set: whoever wrote the image found damage in its metadata";
        warnings.push(Warning::new("corrupt_bit", text).offset(72));
    }
    warnings
}

#[async_trait]
impl Source for Qcow2 {
    fn name(&self) -> &str {
        self.file().name()
    }

    fn size(&self) -> u64 {
        self.layout.virtual_size
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        let range = self.check_range(range.start(), range.len())?;
        self.map(range, limit).await.or_path(self.name())
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        fetch_range(self, offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn hint(&self) -> ReadHint {
        self.file().hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        Stamp::of_files(&self.files).await
    }
}

#[async_trait]
impl Image for Qcow2 {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    async fn check(&self, limits: &Limits) -> Result<CheckReport> {
        check::check(self, limits).await.or_path(self.name())
    }
}
