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
        Self::new(kind, detail).during(operation).path(path).caused_by(error)
    }
}

fn classify(side: IoSide, error: &io::Error) -> (Kind, &'static str) {
    use io::ErrorKind as E;
    match (error.kind(), side) {
        (E::NotFound, _) => (Kind::NotFound, "it does not exist"),
        (E::PermissionDenied, _) => (Kind::Denied, "the system denies access"),
        (E::StorageFull | E::QuotaExceeded | E::FileTooLarge, _) => {
            (Kind::TargetUnusable, "there is no space left")
        }
        (E::ReadOnlyFilesystem, _) => (Kind::TargetUnusable, "it is read-only"),
        (E::ResourceBusy | E::ExecutableFileBusy, IoSide::Target) => {
            (Kind::TargetUnusable, "it is in use")
        }
        (E::IsADirectory | E::NotADirectory | E::InvalidFilename, _) => {
            (Kind::Usage, "the path does not name a file")
        }
        (E::UnexpectedEof, IoSide::Source) => (Kind::Truncated, "it ends too early"),
        _ if error.raw_os_error() == Some(ENXIO) || error.raw_os_error() == Some(ENODEV) => {
            (Kind::TargetUnusable, "the device is gone")
        }
        _ => (Kind::Io, "the system call failed"),
    }
}

/// "No such device or address" on Linux.
const ENXIO: i32 = 6;
/// "No such device" on Linux.
const ENODEV: i32 = 19;
