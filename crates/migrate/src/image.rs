//! From what the user typed to an opened image.

use crate::{ImageSpec, RunEvent, Setup, shown_location};
use async_trait::async_trait;
use carreto_block::{Grant, OpenBeneath, OpenGate, OpenedFile, Source, Stamp};
use carreto_error::{Error, Kind, Result};
use carreto_formats::{Image, OpenOptions};
use carreto_store::{
    DirectoryGate, LocalFile, Location, ObjectStores, ObjectUrl, StoreEvent, StoreObserver,
    directory_of, grant,
};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// An image that is open for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) image: Arc<dyn Image>,
    /// Its files as they were before their first byte was read.
    stamps: Arc<Stamps>,
    location: String,
}

impl Opened {
    /// Makes sure that no file of the image changed since before it was looked into.
    pub(crate) async fn expect_unchanged(&self) -> Result<()> {
        for (file, before) in self.stamps.list() {
            if file.stamp().await? != before {
                let text = "the image changed while it was read";
                let error = Error::new(Kind::SourceChanged, text);
                return Err(error.path(shown_location(&self.location)));
            }
        }
        Ok(())
    }

    /// The name of every file that was opened, descriptors and parents too, and the stamp it had.
    pub(crate) fn files(&self) -> Vec<(String, Stamp)> {
        let list = self.stamps.list();
        list.into_iter().map(|(file, stamp)| (file.name().to_owned(), stamp)).collect()
    }
}

/// Every file that was opened, with its state at that time.
#[derive(Debug, Default)]
struct Stamps(Mutex<Vec<(Arc<dyn Source>, Stamp)>>);

impl Stamps {
    async fn add(&self, file: &Arc<dyn Source>) -> Result<()> {
        let stamp = file.stamp().await?;
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.push((Arc::clone(file), stamp));
        Ok(())
    }

    fn list(&self) -> Vec<(Arc<dyn Source>, Stamp)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Opens as `inner` does, and stamps what it opened.
#[derive(Debug)]
struct Stamping {
    inner: Arc<dyn OpenBeneath>,
    stamps: Arc<Stamps>,
}

#[async_trait]
impl OpenBeneath for Stamping {
    async fn open_beneath(&self, directory: &str, relative: &str) -> Result<OpenedFile> {
        let opened = self.inner.open_beneath(directory, relative).await?;
        self.stamps.add(&opened.source).await?;
        Ok(opened)
    }
}

/// Opens the image that `spec` names, and through the gate what the image names.
pub(crate) async fn open(setup: &Setup, spec: &ImageSpec) -> Result<Opened> {
    let stamps = Arc::new(Stamps::default());
    let (file, gate) = match spec.location.parse()? {
        Location::File(path) => open_file(&path, spec, &stamps)?,
        Location::Object(url) => open_object(setup, &url, spec, &stamps).await?,
    };
    stamps.add(&file).await?;
    let options = OpenOptions {
        format: spec.format,
        snapshot: spec.snapshot.clone(),
        ignore_checksum: spec.ignore_checksum,
        ..spec.bounds()
    };
    spec.expect_allowed(file.as_ref()).await?;
    let name = file.name().to_owned();
    let image = carreto_formats::open(file, &options, &gate).await;
    let image = image.map_err(|error| error.or_path(&name))?;
    Ok(Opened { image, stamps, location: spec.location.clone() })
}

fn open_file(
    path: &Path,
    spec: &ImageSpec,
    stamps: &Arc<Stamps>,
) -> Result<(Arc<dyn Source>, OpenGate)> {
    let file = LocalFile::open(path)?;
    let grants = spec.allow_dirs.iter().map(grant).collect::<Result<Vec<Grant>>>()?;
    let opener = Stamping { inner: Arc::new(DirectoryGate), stamps: Arc::clone(stamps) };
    let gate = OpenGate::new(Arc::new(opener), grants, directory_of(path)?, file.identity());
    Ok((Arc::new(file), gate))
}

async fn open_object(
    setup: &Setup,
    url: &ObjectUrl,
    spec: &ImageSpec,
    stamps: &Arc<Stamps>,
) -> Result<(Arc<dyn Source>, OpenGate)> {
    let observer = Arc::new(Forward(Arc::clone(&setup.observer)));
    let stores = Arc::new(ObjectStores::new(setup.stores.clone(), observer));
    let file = stores.open(url).await?;
    let grants = spec.allow_dirs.iter().map(|prefix| Grant(prefix.clone())).collect();
    let opener = Stamping { inner: stores, stamps: Arc::clone(stamps) };
    let gate = OpenGate::new(Arc::new(opener), grants, url.directory(), file.identity());
    Ok((Arc::new(file), gate))
}

/// Hands a store's events to the front end.
struct Forward(Arc<dyn crate::Observer>);

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forward")
    }
}

impl StoreObserver for Forward {
    fn observe(&self, event: StoreEvent) {
        self.0.event(&RunEvent::Store(event));
    }
}
