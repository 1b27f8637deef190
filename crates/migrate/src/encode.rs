//! Making an image file of another image, a disk or a device: locally, or straight into a store.
//!
//! The guest's bytes are read and compressed in parallel, laid out in the order of the disk, and
//! leave as parts of a fixed size; there is no temporary copy. What is laid out and which parts
//! have arrived is kept in a checkpoint, so that any later process goes on: it lays out again from
//! the checkpoint, reads only what has not arrived, and gets the same bytes.

mod assembly;
mod dense;
mod guest;
mod publish;
mod run;
mod sink;
mod spec;
mod start;
mod writer;

pub use run::encode;
pub use spec::{EncodeReport, EncodeSpec};
