//! What was migrated and how it was proved, signed by both ends.
//!
//! A [`Certificate`] is a JSON document around a [`Statement`], which it holds as a text. Each end
//! signs the very bytes of that text behind a prefix that no other signature of Carreto has, so
//! nobody needs a canonical form of JSON, and any program that knows Ed25519 can check it:
//!
//! ```text
//! signature = Ed25519(key, "carreto-certificate-v1\n" + statement)
//! ```
//!
//! The roots in the statement are the plain BLAKE3 of the whole disks: `b3sum` of a target prints
//! the same digits.

mod disk;
mod document;
mod root;
mod statement;
mod text;

#[cfg(test)]
mod tests;

pub use disk::check_disk;
pub use document::{Certificate, Role, Signed, Signer, Verified};
pub use root::Root;
pub use statement::{Audits, Disk, Mode, Statement};
