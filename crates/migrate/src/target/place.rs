//! Where a disk is written: a path of this machine, or an NBD export.
//!
//! An export is looked at and written through one handle, so that a server that ends with its
//! last client is there for the whole run.

use super::{TargetState, inspect as inspect_path};
use crate::{Setup, image, precheck, system};
use carreto_error::Result;
use carreto_store::{NbdAddress, NbdOptions, NbdTarget};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a target's text names.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A file or device.
    Local(PathBuf),
    /// A disk of another host or process.
    Nbd(NbdAddress),
}

impl Place {
    /// Understands `target`; looks at nothing.
    ///
    /// # Errors
    /// `Usage`; `Unsupported` for NBD over TLS.
    pub(crate) fn of(target: &Path) -> Result<Self> {
        match target.to_str().filter(|text| NbdAddress::is_meant(text)) {
            Some(text) => text.parse().map(Self::Nbd),
            None => precheck::path(target).map(|()| Self::Local(target.to_owned())),
        }
    }

    /// Looks at the target without changing it.
    ///
    /// Cancel safe.
    pub(crate) async fn inspect(&self, setup: &Setup) -> Result<TargetState> {
        match self {
            Self::Local(path) => inspect_path(path),
            Self::Nbd(address) => inspect_export(setup, address).await,
        }
    }
}

async fn inspect_export(setup: &Setup, address: &NbdAddress) -> Result<TargetState> {
    let options = NbdOptions::default();
    let export = NbdTarget::open(address.clone(), options, image::observer(setup)).await?;
    let size = carreto_block::Target::size(&export);
    Ok(TargetState {
        path: address.to_string(),
        kind: "export",
        size: Some(size),
        free: None,
        location: PathBuf::new(),
        allocated: 0,
        identity: Some(format!("{}:{size}", export.identity())),
        obstacles: Vec::new(),
        export: Some((address.clone(), Arc::new(export))),
    })
}

impl TargetState {
    /// What an earlier run's unflushed writes may be trusted for: the life of the system for a
    /// disk of this machine; nothing for an export, whose server may have been started anew since.
    pub(crate) fn trusted_while(&self) -> String {
        if self.export.is_none() {
            return system::boot_id();
        }
        format!("connection of process {} at {}", std::process::id(), system::nanos())
    }

    /// The export's name for locks.
    pub(crate) fn export_identity(&self) -> Option<String> {
        self.export.as_ref().map(|(_, export)| export.identity())
    }

    /// A connection broke, so what was not flushed may be lost.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.export.as_ref().is_some_and(|(_, export)| export.is_interrupted())
    }
}
