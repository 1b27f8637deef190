//! The vocabulary that every other crate of Carreto speaks.
//!
//! A [`Source`] is anything with a size whose bytes can be read by range: a file, a device, an
//! object in a store, an NBD export, and a disk image of any format, which is a `Source` over
//! another `Source`. A [`Target`] is a disk that can be written.
//!
//! What makes copying fast is that *mapping* and *payload* are two steps. [`Source::extents`]
//! reads metadata only and says for each piece of a range where its bytes are ([`Placement`]).
//! A [`FetchPlan`] turns the extents of one work item into few large reads of the files
//! underneath and decodes every compressed unit straight into one output buffer. A plain
//! [`Source::read_at`] of an image runs the same plan for one range, so library users and the
//! copy engine cannot disagree.
//!
//! The crate does no I/O of its own and knows no format, no store and no engine. A second file
//! that an image names passes the [`OpenGate`], which is closed by default.
//!
//! ```
//! use carreto_block::{ByteRange, Extent, Placement};
//!
//! let disk = ByteRange::from_len(0, 1 << 20).expect("no overflow");
//! let (boot, rest) = disk.split_at(512);
//! let map = [
//!     Extent::new(boot, Placement::Opaque),
//!     Extent::new(rest, Placement::Zero),
//! ];
//! assert_eq!(map.iter().map(|extent| extent.range.len()).sum::<u64>(), 1 << 20);
//! ```

mod aligned;
mod extent;
mod fetch;
mod gate;
mod layered;
mod range;
mod source;
mod target;
mod window;

pub use aligned::{ALIGNMENT, AlignedBuf};
pub use extent::{Decode, Extent, FileId, Packed, Placement, merge_extents};
pub use fetch::{FetchPlan, FetchTuning, fetch_range};
pub use gate::{Grant, OpenBeneath, OpenGate, OpenRequest, OpenedFile, ReferenceRole};
pub use layered::Layered;
pub use range::ByteRange;
pub use source::{LocalRead, ReadHint, Source, SourceExt, Stamp};
pub use target::{LocalWrite, Target, TargetCaps, TargetExt};
pub use window::Window;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
