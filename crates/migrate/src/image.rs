//! From what the user typed to an opened image.

use crate::{ImageSpec, RunEvent, Setup, shown_location};
use async_trait::async_trait;
use carreto_block::{Grant, OpenBeneath, OpenGate, OpenedFile, Source, Stamp};
use carreto_error::{Error, Kind, Result};
use carreto_formats::{Image, OpenOptions};
use carreto_store::{
    DirectoryGate, LocalFile, Location, NbdAddress, NbdOptions, NbdSource, ObjectStores, ObjectUrl,
    StoreEvent, StoreObserver, directory_of, grant,
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
        for seen in self.stamps.list() {
            if seen.file.stamp().await? != seen.stamp {
                let text = "the image changed while it was read";
                let error = Error::new(Kind::SourceChanged, text);
                return Err(error.path(shown_location(&self.location)));
            }
        }
        Ok(())
    }

    /// Name and identity of every file that was opened, descriptors and parents too.
    pub(crate) fn files(&self) -> Vec<(String, String)> {
        let list = self.stamps.list();
        list.into_iter().map(|seen| (seen.file.name().to_owned(), seen.identity)).collect()
    }
}

/// A file that was opened.
#[derive(Debug, Clone)]
struct Seen {
    file: Arc<dyn Source>,
    /// The same text for the same file, whatever its name.
    identity: String,
    /// Its state at that time.
    stamp: Stamp,
}

/// Every file that was opened.
#[derive(Debug, Default)]
struct Stamps(Mutex<Vec<Seen>>);

impl Stamps {
    async fn add(&self, file: &Arc<dyn Source>, identity: &str) -> Result<()> {
        let (file, identity) = (Arc::clone(file), identity.to_owned());
        let stamp = file.stamp().await?;
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(Seen { file, identity, stamp });
        Ok(())
    }

    fn list(&self) -> Vec<Seen> {
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
        self.stamps.add(&opened.source, &opened.identity).await?;
        Ok(opened)
    }
}

/// Opens the image that `spec` names, and through the gate what the image names.
pub(crate) async fn open(setup: &Setup, spec: &ImageSpec) -> Result<Opened> {
    let stamps = Arc::new(Stamps::default());
    let (file, identity, gate) = match spec.location.parse()? {
        Location::File(path) => open_file(&path, spec, &stamps)?,
        Location::Object(url) => open_object(setup, &url, spec, &stamps).await?,
        Location::Nbd(address) => open_export(setup, address).await?,
    };
    stamps.add(&file, &identity).await?;
    let options = OpenOptions {
        format: spec.format,
        snapshot: spec.snapshot.clone(),
        ignore_checksum: spec.ignore_checksum,
        ..spec.bounds()
    };
    spec.expect_allowed(file.as_ref()).await?;
    let name = file.name().to_owned();
    let image = carreto_formats::open(file, &options, &gate).await;
    let image = image.map_err(|error| {
        let of_export = NbdAddress::is_meant(&spec.location) && error.kind() == Kind::Unsafe;
        let error = error.or_path(&name);
        if of_export {
            return error.remedied_by(
                "an image in an export may name no other files: export the disk that it stands \
                 for, with qemu-nbd --format",
            );
        }
        error
    })?;
    Ok(Opened { image, stamps, location: spec.location.clone() })
}

fn open_file(
    path: &Path,
    spec: &ImageSpec,
    stamps: &Arc<Stamps>,
) -> Result<(Arc<dyn Source>, String, OpenGate)> {
    let file = LocalFile::open(path)?;
    let grants = spec.allow_dirs.iter().map(grant).collect::<Result<Vec<Grant>>>()?;
    let opener = Stamping { inner: Arc::new(DirectoryGate), stamps: Arc::clone(stamps) };
    let identity = file.identity().to_owned();
    let gate = OpenGate::new(Arc::new(opener), grants, directory_of(path)?, identity.clone());
    Ok((Arc::new(file), identity, gate))
}

/// An export has no directory, and what an image in it names lies on another host: nothing of it
/// is ever opened.
async fn open_export(
    setup: &Setup,
    address: NbdAddress,
) -> Result<(Arc<dyn Source>, String, OpenGate)> {
    let export = NbdSource::open(address, NbdOptions::default(), observer(setup)).await?;
    let identity = export.identity();
    Ok((Arc::new(export), identity, OpenGate::closed()))
}

/// Tells the front end what stores tell.
pub(crate) fn observer(setup: &Setup) -> Arc<dyn StoreObserver> {
    Arc::new(Forward(Arc::clone(&setup.observer)))
}

/// The stores that the settings describe.
pub(crate) fn stores(setup: &Setup) -> ObjectStores {
    ObjectStores::new(setup.stores.clone(), observer(setup))
}

async fn open_object(
    setup: &Setup,
    url: &ObjectUrl,
    spec: &ImageSpec,
    stamps: &Arc<Stamps>,
) -> Result<(Arc<dyn Source>, String, OpenGate)> {
    let stores = Arc::new(stores(setup));
    let file = stores.open(url).await?;
    let grants = spec.allow_dirs.iter().map(|prefix| Grant(prefix.clone())).collect();
    let opener = Stamping { inner: stores, stamps: Arc::clone(stamps) };
    let identity = file.identity().to_owned();
    let gate = OpenGate::new(Arc::new(opener), grants, url.directory(), identity.clone());
    Ok((Arc::new(file), identity, gate))
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
