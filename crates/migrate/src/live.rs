//! Online migration for front ends: the engines of `carreto-live` with the targets of this
//! workspace.

use crate::setup::Setup;
use crate::target::{self, Place, TargetState};
use crate::{ImageSpec, image};
use async_trait::async_trait;
use carreto_block::{ByteRange, Source, Target, Window};
use carreto_error::{Error, Kind, Result};
use carreto_store::NbdTarget;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use carreto_live::agent::{
    Agent, AgentConfig, AgentObserver, Cleaned, Finding, LinuxMachine, Machine, Order, Outcome,
    Prediction, Preflight, Remains, Severity, ask, check as preflight, cleanup, remains,
};
pub use carreto_live::certificate::{Certificate, Role, Statement, Verified};
pub use carreto_live::host::{WatchdogCommand, watchdog_main};
pub use carreto_live::receiver::{
    FleetEntry, FleetStatus, Invited, OpenedTarget, Receiver, ReceiverConfig, ReceiverEvent,
    ReceiverObserver, Targets, fleet_status,
};
pub use carreto_live::state::{CutoverReport, DiskReport, Report, State};
pub use carreto_live::trust::Fingerprint;
pub use tokio_util::sync::CancellationToken;

/// Block devices, files and NBD exports as the targets of a receiver.
#[derive(Debug)]
pub struct LiveTargets {
    setup: Setup,
    /// Exports that are in use, by name: their servers may take no second client.
    exports: Mutex<HashMap<String, Weak<NbdTarget>>>,
}

impl LiveTargets {
    /// Events about stores go to the observer of `setup`.
    pub fn new(setup: Setup) -> Self {
        Self { setup, exports: Mutex::default() }
    }

    async fn look(&self, name: &str) -> Result<(Place, TargetState)> {
        let place = Place::of(Path::new(name))?;
        let state = place.inspect(&self.setup).await?;
        Ok((place, state))
    }

    fn exports(&self) -> MutexGuard<'_, HashMap<String, Weak<NbdTarget>>> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the export `name`, if it is in use.
    fn size_in_use(&self, name: &str) -> Option<u64> {
        let export = self.exports().get(name)?.upgrade()?;
        Some(Target::size(export.as_ref()))
    }
}

#[async_trait]
impl Targets for LiveTargets {
    async fn size(&self, target: &str) -> Result<Option<u64>> {
        match self.size_in_use(target) {
            Some(size) => Ok(Some(size)),
            None => Ok(self.look(target).await?.1.size),
        }
    }

    async fn open(&self, name: &str, size: u64) -> Result<OpenedTarget> {
        let (_, state) = self.look(name).await?;
        if let Some(obstacle) = state.obstacles.first() {
            return Err(obstacle.to_error(&state.path));
        }
        if let Some(found) = state.size.filter(|found| *found < size) {
            let text = format!("it has {found} bytes, the disk of the source needs {size}");
            let remedy = format!("enlarge the disk to at least {size} bytes and run again");
            return Err(Error::new(Kind::TargetTooSmall, text)
                .during("check the size")
                .path(&state.path)
                .needed(size)
                .remedied_by(remedy));
        }
        if let Some((_, export)) = &state.export {
            self.exports().insert(name.to_owned(), Arc::downgrade(export));
        }
        let opened = target::open(Path::new(name), &state, size)?;
        let trusted_while = state.trusted_while();
        Ok(OpenedTarget { target: opened.target, identity: opened.identity, trusted_while })
    }
}

/// Reads the disk at `image` and compares it with what `certificate` says of the source's disk
/// `name`. What a larger target has behind the source's size does not count.
///
/// Cancel safe.
///
/// # Errors
/// `Usage` when the certificate has no such disk; `Mismatch`; what reading meets.
pub async fn compare_with_disk(
    setup: &Setup,
    certificate: &Certificate,
    name: &str,
    image: &ImageSpec,
) -> Result<()> {
    let disk = certificate.statement().disks.iter().find(|disk| disk.source == name);
    let disk = disk.ok_or_else(|| {
        Error::new(Kind::Usage, format!("the certificate has no disk {name}"))
            .remedied_by("see `carreto verify-certificate FILE` for their names")
    })?;
    let opened = image::open(setup, image).await?;
    let mut source: Arc<dyn Source> = opened.image.clone();
    if source.size() > disk.size {
        source = Arc::new(Window::new(source, ByteRange::whole(disk.size))?);
    }
    let mut alive = |_| setup.alive();
    let work = carreto_live::certificate::check_disk(disk, source.as_ref(), &mut alive);
    setup.stop.race(work).await
}
