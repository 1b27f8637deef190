//! Disks of other hosts and processes over NBD, as source and target.
//!
//! The client speaks the fixed newstyle handshake, asks for structured replies and for the
//! `base:allocation` context, keeps many requests under way on each connection, and opens more
//! connections where the server says that they see one another's writes. Every reply is checked:
//! a read whose chunks do not cover its range exactly is an error, never zeros.
//!
//! Facts: the NBD protocol specification of the NBD project, "Newstyle
//! negotiation", "Transmission phase" and "Reply types".

mod address;
mod assembly;
mod connection;
mod export;
mod handshake;
mod moved;
mod reply;
mod source;
mod target;
mod wire;

pub use address::NbdAddress;
pub use export::NbdOptions;
pub use source::NbdSource;
pub use target::NbdTarget;
