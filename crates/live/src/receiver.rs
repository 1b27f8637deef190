//! The receiving end: serves many sources at once, each disk onto its own target.
//!
//! A batch counts when its granules' leaves are in the journal: *forget, write, remember* is the
//! order, so a receiver that is killed in between asks for those granules again. What a power cut
//! may have taken is not asked of the journal: after a restart of the system every target is read
//! again, and only what differs crosses the wire.
//!
//! The first MiB of a disk is kept beside the journal and given to the target when the migration is
//! committed, so that a target never looks complete early.

mod admission;
mod apply;
mod check;
mod commit;
mod config;
mod control;
mod data;
mod disk;
mod head;
mod journal;
mod opening;
mod registry;
mod room;
mod serve;
mod session;
mod sessions;
mod shelf;

pub use admission::Invited;
pub use config::{ReceiverConfig, ServerConfig, TargetConfig};
pub use control::{FleetEntry, FleetStatus, fleet_status};
pub use disk::{Look, OpenedTarget, Targets};
pub(crate) use room::needed as state_needed;
pub use serve::{Receiver, ReceiverEvent, ReceiverObserver};

use carreto_error::{Error, Kind};

/// The other side does what the protocol does not allow.
fn violation(text: impl Into<String>) -> Error {
    Error::new(Kind::Unavailable, text.into())
        .remedied_by("use the same version of carreto on both sides")
}
