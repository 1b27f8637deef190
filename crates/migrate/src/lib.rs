//! The composition root of Carreto: everything that a front end does goes through here.
//!
//! A [`JobSpec`] becomes pre-checks, a plan, a run, a verification and a [`Report`]
//! ([`migrate`]). Beside it are the smaller questions one asks about an image: [`inspect`],
//! [`check`], [`map`], [`measure`], [`digest`], [`compare`].
//!
//! The crate reads no environment and prints nothing: settings come in through [`Setup`], progress
//! goes out through [`Observer`].
//!
//! ```
//! use carreto_migrate::{ImageSpec, JobSpec, Setup, Status, migrate};
//! # let directory = tempfile::tempdir()?;
//! # let image = directory.path().join("disk.raw");
//! # std::fs::write(&image, [7; 4096])?;
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
//! let image = ImageSpec::at(image.display().to_string());
//! let target = directory.path().join("target.raw");
//! let job = JobSpec::new(image, &target, directory.path().join("state"));
//! let (report, outcome) = migrate(&Setup::default(), &job).await;
//! outcome?;
//! assert_eq!(report.status, Status::Done);
//! # Ok::<(), carreto_error::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bounds;
mod check;
mod content;
mod encode;
mod image;
mod inspect;
mod job;
pub mod live;
mod location;
mod manifest;
mod map;
mod measure;
mod precheck;
mod prepare;
mod report;
mod run;
mod setup;
mod spec;
mod store_admin;
mod store_probe;
mod system;
mod target;
mod watchdog;

pub use carreto_formats::write::{OutputFormat, PackCodec, WriteOptions};
pub use carreto_formats::{Format, Warning};
pub use carreto_store::{StoreConfig, StoreEvent};
pub use carreto_transfer::{Counters, Difference, Event, Phase, Stop, StopReason, Wait};
pub use check::{CheckOutcome, check};
pub use content::{Algorithm, compare, digest};
pub use encode::{EncodeReport, EncodeSpec, encode};
pub use inspect::{BackingFacts, WarningFacts};
pub use inspect::{ImageFacts, inspect};
pub use location::shown_location;
pub use map::{MapEntry, MapKind, map};
pub use measure::{Measurement, measure};
pub use prepare::{Plan, plan};
pub use report::{CopyTotals, ErrorReport, Report, Status, VerifyTotals};
pub use run::migrate;
pub use setup::{Observer, Quiet, RunEvent, Setup};
pub use spec::{ImageSpec, JobSpec, Role, Verify};
pub use store_admin::{GcReport, GcSpec, UploadEntry, UploadFate, store_gc};
pub use store_probe::{ProbeFinding, ProbeReport, store_probe};
pub use target::TargetState;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
