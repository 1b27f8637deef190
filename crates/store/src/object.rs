//! Objects in remote stores as sources.
//!
//! The requests themselves are made by the crate `object_store`; this module is the shell around
//! it that never lets a wrong byte through:
//!
//! - `transport` is the only HTTP client. It follows no redirect and no environment, and checks
//!   every answer's status, range and length before `object_store` sees it.
//! - `source` pins every read to the `version` that was opened and resumes a `body` that breaks.
//! - `retry` is the only place that tries again, by an allow list that `failure` keeps.
//! - `build` and `stores` turn settings and URLs into stores; `gate` opens what images name.

mod admin;
mod answer;
mod body;
mod build;
mod clock;
mod event;
mod failure;
mod gate;
mod handle;
mod keys;
mod probe;
mod raw;
mod redact;
mod retry;
mod source;
mod stores;
mod throttle;
mod time;
mod transport;
mod upload;
mod uploads;
mod version;
mod xml;

pub use admin::{StoreAdmin, StorePlace};
pub use event::{SilentObserver, StoreEvent, StoreObserver};
pub use handle::ObjectStoreHandle;
pub use probe::{Finding, StoreProbe, Verdict};
pub use source::ObjectSource;
pub use stores::ObjectStores;
pub use upload::{MAX_PARTS, MIN_PART, ObjectFacts, ObjectUpload};
pub use uploads::{PendingUpload, PendingUploads, SentParts};
