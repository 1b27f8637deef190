//! Classifying an operating-system error by the side it happened on.

use crate::{Error, Kind};
use std::borrow::Cow;
use std::io;

/// Which end of a copy a system call belongs to: the same `errno` needs another remedy on the
/// image than on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoSide {
    /// An image or another file that is only read.
    Source,
    /// The disk or file that is written.
    Target,
    /// Carreto's own state: checkpoints, reports, locks.
    State,
}

impl Error {
    /// Classifies `error` of a system call on `path`, made during `operation` (a verb phrase).
    pub fn io(
        side: IoSide,
        operation: impl Into<Cow<'static, str>>,
        path: impl Into<String>,
        error: io::Error,
    ) -> Self {
        let (kind, detail) = classify(side, &error);
        let remedy = (kind == Kind::Io && side == IoSide::State).then_some(STATE_REMEDY);
        let classified = Self::new(kind, detail).during(operation).path(path).caused_by(error);
        remedy.into_iter().fold(classified, Self::remedied_by)
    }
}

fn classify(side: IoSide, error: &io::Error) -> (Kind, &'static str) {
    use io::ErrorKind as E;
    match (error.kind(), side) {
        (E::NotFound, _) => (Kind::NotFound, "it does not exist"),
        (E::PermissionDenied, _) => (Kind::Denied, "the system denies access"),
        (E::StorageFull | E::QuotaExceeded | E::FileTooLarge, side) => {
            (unusable(side), "there is no space left")
        }
        (E::ReadOnlyFilesystem, side) => (unusable(side), "it is read-only"),
        (E::ResourceBusy | E::ExecutableFileBusy, IoSide::Target) => {
            (Kind::TargetUnusable, "it is in use")
        }
        (E::IsADirectory | E::NotADirectory | E::InvalidFilename, _) => {
            (Kind::Usage, "the path does not name a file")
        }
        (E::UnexpectedEof, IoSide::Source) => (Kind::Truncated, "it ends too early"),
        _ if error.raw_os_error() == Some(ENXIO) || error.raw_os_error() == Some(ENODEV) => {
            (unusable(side), "the device is gone")
        }
        _ => (Kind::Io, "the system call failed"),
    }
}

/// What cannot be used is a target that the user can choose anew, or a fault of the system.
fn unusable(side: IoSide) -> Kind {
    match side {
        IoSide::Target => Kind::TargetUnusable,
        IoSide::Source | IoSide::State => Kind::Io,
    }
}

/// What to do when Carreto cannot keep its own state.
const STATE_REMEDY: &str =
    "free space in the state directory and make it writable, or name another with --state-dir";

/// "No such device or address" on Linux.
const ENXIO: i32 = 6;
/// "No such device" on Linux.
const ENODEV: i32 = 19;
