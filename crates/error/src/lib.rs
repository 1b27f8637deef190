//! The one error type of Carreto.
//!
//! Everything that can fail in Carreto fails with an [`Error`]: a small [`Kind`] that a program
//! branches on, and the context a person needs (what was being done, to which file or URL, at
//! which byte, what was found and what was expected). The kind decides the [`Class`] that the
//! user of a migration task is told, the process exit code, the HTTP status, whether trying
//! again can help ([`Retry`]) and the remedy that is printed.
//!
//! The crate depends on the standard library alone, so every other crate can use it.
//!
//! ```
//! use carreto_error::{Class, Error, Kind};
//!
//! let error = Error::new(Kind::TargetTooSmall, "the target has 1048064 bytes, 1048576 are needed")
//!     .during("check the target")
//!     .path("/dev/vdb");
//!
//! assert_eq!(error.class(), Class::ImageVerificationFailed);
//! assert_eq!(error.class().message(), "image file verification failed");
//! assert_eq!(error.kind().exit_code(), 6);
//! ```
//!
//! There is deliberately no `From<std::io::Error>`: the place of the call knows the operation and
//! the path, and says them through [`Error::io`].

mod chain;
mod error;
mod io;
mod kind;

pub use chain::{Chain, chain_text};
pub use error::{Error, ResultExt};
pub use io::IoSide;
pub use kind::{Class, Kind, Retry};

/// The result of everything in Carreto that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests;

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
