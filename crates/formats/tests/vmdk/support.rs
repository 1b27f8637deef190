//! Gates over memory and over a directory, and shorthands.

use async_trait::async_trait;
use carreto_block::{Grant, OpenBeneath, OpenGate, OpenedFile, Source};
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_formats::{Format, Image, OpenOptions, open};
use carreto_testkit::MemSource;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Files in memory below `/images`, and the names that were asked for.
#[derive(Debug, Default)]
pub(crate) struct MemFolder {
    files: HashMap<String, Vec<u8>>,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl MemFolder {
    pub(crate) fn new<N: Into<String>>(files: impl IntoIterator<Item = (N, Vec<u8>)>) -> Arc<Self> {
        Arc::new(Self {
            files: files.into_iter().map(|(name, bytes)| (name.into(), bytes)).collect(),
            asked: Mutex::default(),
        })
    }

    pub(crate) fn gate(self: &Arc<Self>) -> OpenGate {
        self.gate_in("/images", "the top")
    }

    /// The gate for the image `identity` in `directory`.
    pub(crate) fn gate_in(self: &Arc<Self>, directory: &str, identity: &str) -> OpenGate {
        let grants = vec![Grant("/images".into())];
        OpenGate::new(Arc::clone(self) as Arc<dyn OpenBeneath>, grants, directory, identity)
    }
}

#[async_trait]
impl OpenBeneath for MemFolder {
    async fn open_beneath(&self, _directory: &str, relative: &str) -> Result<OpenedFile> {
        self.asked.lock().unwrap().push(relative.to_owned());
        let bytes =
            self.files.get(relative).ok_or_else(|| Error::new(Kind::NotFound, "no such file"))?;
        Ok(OpenedFile {
            source: Arc::new(MemSource::new(relative, bytes.clone())),
            identity: relative.to_owned(),
        })
    }
}

/// Opens `bytes` as a VMDK.
pub(crate) async fn open_with(bytes: Vec<u8>, gate: &OpenGate) -> Result<Arc<dyn Image>> {
    open_source(Arc::new(MemSource::new("disk.vmdk", bytes)), gate).await
}

/// Opens `bytes` as a VMDK with a closed gate.
pub(crate) async fn open_alone(bytes: Vec<u8>) -> Result<Arc<dyn Image>> {
    open_with(bytes, &OpenGate::closed()).await
}

/// Opens any source as a VMDK.
pub(crate) async fn open_source(
    source: Arc<dyn Source>,
    gate: &OpenGate,
) -> Result<Arc<dyn Image>> {
    let options = OpenOptions { format: Some(Format::Vmdk), ..OpenOptions::default() };
    open(source, &options, gate).await
}

/// A file of the machine.
#[derive(Debug)]
pub(crate) struct FileSource {
    name: String,
    file: std::fs::File,
    size: u64,
}

impl FileSource {
    pub(crate) fn open(path: &std::path::Path) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |error| Error::io(IoSide::Source, "open", &name, error);
        let file = std::fs::File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Ok(Self { name, file, size })
    }
}

#[async_trait]
impl Source for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(
        &self,
        range: carreto_block::ByteRange,
        _limit: usize,
    ) -> Result<Vec<carreto_block::Extent>> {
        use carreto_block::{Extent, Placement, SourceExt as _};
        self.check_range(range.start(), range.len())?;
        let all = (!range.is_empty()).then(|| Extent::new(range, Placement::Opaque));
        Ok(all.into_iter().collect())
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        use carreto_block::SourceExt as _;
        use std::os::unix::fs::FileExt as _;
        self.check_range(offset, buf.len() as u64)?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| Error::io(IoSide::Source, "read", &self.name, error))
    }

    async fn stamp(&self) -> Result<carreto_block::Stamp> {
        Ok(carreto_block::Stamp(self.name.clone()))
    }
}

/// Opens files of one directory of the machine.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn gate(self) -> OpenGate {
        let grants = vec![Grant("/images".into())];
        OpenGate::new(Arc::new(self), grants, "/images", "the top")
    }
}

#[async_trait]
impl OpenBeneath for Folder {
    async fn open_beneath(&self, _directory: &str, relative: &str) -> Result<OpenedFile> {
        assert!(!relative.contains(".."), "the gate let {relative:?} through");
        let path = self.0.join(relative);
        Ok(OpenedFile {
            source: Arc::new(FileSource::open(&path)?),
            identity: path.display().to_string(),
        })
    }
}
