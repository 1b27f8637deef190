//! From what the user typed to an opened image.

use crate::{ImageSpec, RunEvent, Setup};
use carreto_block::{Grant, OpenBeneath, OpenGate, Source};
use carreto_error::{Error, Kind, Result};
use carreto_formats::{Image, OpenOptions};
use carreto_store::{
    DirectoryGate, LocalFile, Location, ObjectStores, ObjectUrl, StoreEvent, StoreObserver,
    directory_of, grant,
};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// An image that is open for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) image: Arc<dyn Image>,
}

/// Opens the image that `spec` names, and through the gate what the image names.
pub(crate) async fn open(setup: &Setup, spec: &ImageSpec) -> Result<Opened> {
    let (file, gate) = match spec.location.parse()? {
        Location::File(path) => open_file(&path, spec)?,
        Location::Object(url) => open_object(setup, &url, spec).await?,
    };
    let options = OpenOptions {
        format: spec.format,
        snapshot: spec.snapshot.clone(),
        ignore_checksum: spec.ignore_checksum,
        ..spec.bounds()
    };
    spec.expect_allowed(file.as_ref()).await?;
    let name = file.name().to_owned();
    let image = carreto_formats::open(file, &options, &gate).await;
    Ok(Opened { image: image.map_err(|error| error.or_path(&name))? })
}

fn open_file(path: &Path, spec: &ImageSpec) -> Result<(Arc<dyn Source>, OpenGate)> {
    let file = LocalFile::open(path)?;
    let grants = spec.allow_dirs.iter().map(grant).collect::<Result<Vec<Grant>>>()?;
    let gate = OpenGate::new(Arc::new(DirectoryGate), grants, directory_of(path)?, file.identity());
    Ok((Arc::new(file), gate))
}

async fn open_object(
    setup: &Setup,
    url: &ObjectUrl,
    spec: &ImageSpec,
) -> Result<(Arc<dyn Source>, OpenGate)> {
    let observer = Arc::new(Forward(Arc::clone(&setup.observer)));
    let stores = Arc::new(ObjectStores::new(setup.stores.clone(), observer));
    let file = stores.open(url).await?;
    let grants = spec.allow_dirs.iter().map(|prefix| Grant(prefix.clone())).collect();
    let opener: Arc<dyn OpenBeneath> = stores;
    let gate = OpenGate::new(opener, grants, url.directory(), file.identity());
    Ok((Arc::new(file), gate))
}

/// The image is no longer the one that was opened.
pub(crate) fn changed(location: &str) -> Error {
    Error::new(Kind::SourceChanged, "the image changed while it was read").path(location)
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
