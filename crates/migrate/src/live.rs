//! Online migration for front ends: the engines of `carreto-live` with the targets of this
//! workspace.

use crate::setup::Setup;
use crate::target::{self, Place, TargetState};
use crate::{ImageSpec, image};
use async_trait::async_trait;
use carreto_block::{ByteRange, Source, Target, Window};
use carreto_error::{Error, Kind, Result};
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
    FleetEntry, FleetStatus, Invited, Look, OpenedTarget, Receiver, ReceiverConfig, ReceiverEvent,
    ReceiverObserver, Targets, fleet_status,
};
pub use carreto_live::state::{CutoverReport, DiskReport, Report, State};
pub use carreto_live::trust::Fingerprint;
pub use tokio_util::sync::CancellationToken;

/// Block devices, files and NBD exports as the targets of a receiver.
#[derive(Debug)]
pub struct LiveTargets {
    setup: Setup,
    places: Mutex<HashMap<String, Arc<Slot>>>,
}

/// One target, by its name.
#[derive(Debug, Default)]
struct Slot {
    /// Held while it is looked at or opened: the server of an export may take no second client.
    turn: tokio::sync::Mutex<()>,
    /// What is open.
    open: Mutex<Option<Weak<dyn Target>>>,
}

impl Slot {
    fn open(&self) -> MutexGuard<'_, Option<Weak<dyn Target>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the target, if it is in use here. It is not kept open for the look.
    fn size_in_use(&self) -> Option<u64> {
        Some(self.open().as_ref()?.upgrade()?.size())
    }
}

impl LiveTargets {
    /// Events about stores go to the observer of `setup`.
    pub fn new(setup: Setup) -> Self {
        Self { setup, places: Mutex::default() }
    }

    fn slot(&self, name: &str) -> Arc<Slot> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry(name.to_owned()).or_default())
    }

    /// Cancel safe: a file system that hangs holds a thread up, and nobody else.
    async fn inspect(&self, name: &str) -> Result<TargetState> {
        match Place::of(Path::new(name))? {
            Place::Local(path) => {
                let looked = tokio::task::spawn_blocking(move || target::inspect(&path)).await;
                looked.map_err(|error| {
                    Error::new(Kind::Internal, format!("the look died: {error}"))
                })?
            }
            place @ Place::Nbd(_) => place.inspect(&self.setup).await,
        }
    }

    /// Who has a target open needs no second look at what stands in its way.
    async fn look_at_open(&self, name: &str, size: u64) -> Look {
        let is_export = matches!(Place::of(Path::new(name)), Ok(Place::Nbd(_)));
        let state = if is_export { None } else { self.inspect(name).await.ok() };
        let free = state.and_then(|state| room(&state));
        Look { size: Some(size), free, problem: None }
    }
}

/// Bytes that the file system of a file can hold for it.
fn room(state: &TargetState) -> Option<u64> {
    Some(state.free?.saturating_add(state.allocated))
}

#[async_trait]
impl Targets for LiveTargets {
    async fn look(&self, name: &str) -> Look {
        let slot = self.slot(name);
        if let Some(size) = slot.size_in_use() {
            return self.look_at_open(name, size).await;
        }
        let _turn = slot.turn.lock().await;
        if let Some(size) = slot.size_in_use() {
            return self.look_at_open(name, size).await;
        }
        match self.inspect(name).await {
            Ok(state) => {
                let problem = state.obstacles.first();
                let problem = problem.map(|obstacle| obstacle.to_error(&state.path));
                Look { size: state.size, free: room(&state), problem }
            }
            Err(error) if error.kind() == Kind::Unavailable => Look::failed(
                error.remedied_by("start the export's server, and let the receiver reach it"),
            ),
            Err(error) => Look::failed(error),
        }
    }

    async fn open(&self, name: &str, size: u64) -> Result<OpenedTarget> {
        let slot = self.slot(name);
        let _turn = slot.turn.lock().await;
        let state = self.inspect(name).await?;
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
        let opened = target::open(Path::new(name), &state, size)?;
        *slot.open() = Some(Arc::downgrade(&opened.target));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    #[tokio::test]
    async fn a_look_says_what_stands_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let targets = LiveTargets::new(Setup::default());
        let missing = targets.look(name(&folder.path().join("disk.raw"))).await;
        assert!(missing.problem.is_none() && missing.size.is_none(), "{missing:?}");
        assert!(missing.free.is_some_and(|free| free > 0));
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (target, kind) in [
            (format!("{}/none/disk.raw", name(folder.path())), Kind::NotFound),
            (name(folder.path()).to_owned(), Kind::Usage),
            (format!("nbd://{closed}/disk"), Kind::Unavailable),
        ] {
            let look = targets.look(&target).await;
            let problem = look.problem.unwrap();
            assert_eq!(problem.kind(), kind, "{target}: {problem:?}");
            assert!(!problem.remedy().contains("same command"), "{}", problem.remedy());
        }
    }

    #[tokio::test]
    async fn what_is_open_here_is_no_problem_and_its_space_is_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let targets = LiveTargets::new(Setup::default());
        let opened = targets.open(name(&path), 8 << 20).await.unwrap();
        opened.target.write_at(0, &vec![7; 4 << 20]).await.unwrap();
        opened.target.flush().await.unwrap();
        let look = targets.look(name(&path)).await;
        assert_eq!((look.size, look.problem.is_none()), (Some(8 << 20), true));
        let free = target::inspect(&path).unwrap().free.unwrap();
        assert!(look.free.unwrap() >= free.saturating_sub(1 << 20) + (4 << 20), "{look:?} {free}");
        // It goes by the target, whatever becomes of the path.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(targets.look(name(&path)).await.problem.is_none());
        drop(opened);
        assert!(targets.look(name(&path)).await.problem.is_some());
    }
}
