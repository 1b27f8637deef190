//! Opening images of the tests.

use async_trait::async_trait;
use carreto_block::{Grant, OpenBeneath, OpenGate, OpenedFile, Source};
use carreto_error::{Error, Kind, Result};
use carreto_formats::{Format, Image, OpenOptions, open};
use carreto_testkit::MemSource;
use std::collections::HashMap;
use std::sync::Arc;

/// Options that name the format.
pub(crate) fn qcow2() -> OpenOptions {
    OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::default() }
}

/// Opens `file` with a closed gate.
pub(crate) async fn open_bytes(file: &[u8]) -> Result<Arc<dyn Image>> {
    let file = Arc::new(MemSource::new("test.qcow2", file.to_vec()));
    open(file, &qcow2(), &OpenGate::closed()).await
}

/// Opens and checks; the kind of what goes wrong.
pub(crate) async fn verdict(file: &[u8]) -> Result<Vec<&'static str>> {
    let image = open_bytes(file).await?;
    let report = image.check(&qcow2().limits).await?;
    let all = image.info().warnings.iter().chain(&report.warnings);
    Ok(all.map(|warning| warning.code).collect())
}

/// A directory in memory, all of which the user allowed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Folder(pub(crate) HashMap<String, Arc<dyn Source>>);

impl Folder {
    pub(crate) fn with(mut self, name: &str, bytes: &[u8]) -> Self {
        let source = Arc::new(MemSource::new(name, bytes.to_vec()));
        self.0.insert(name.to_owned(), source);
        self
    }

    pub(crate) fn gate(&self, identity: &str) -> OpenGate {
        let grant = Grant("/images".into());
        OpenGate::new(Arc::new(self.clone()), vec![grant], "/images", identity)
    }

    /// Opens `name` of the folder as the image the user names.
    pub(crate) async fn open(&self, name: &str) -> Result<Arc<dyn Image>> {
        open(self.0[name].clone(), &qcow2(), &self.gate(name)).await
    }
}

#[async_trait]
impl OpenBeneath for Folder {
    async fn open_beneath(&self, _directory: &str, relative: &str) -> Result<OpenedFile> {
        let source = self
            .0
            .get(relative)
            .ok_or_else(|| Error::new(Kind::NotFound, "it does not exist").path(relative))?;
        Ok(OpenedFile { source: source.clone(), identity: relative.to_owned() })
    }
}
