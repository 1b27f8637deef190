//! Calls of the Linux kernel that no library wraps safely.
//!
//! Online migration needs a few system calls for which no well-kept crate has a safe function:
//! loading BPF instructions that were assembled at run time and sharing their maps, freezing file
//! systems, tracing a block device. Each gets a safe function here, so that every other crate
//! forbids unsafe code (`docs/decisions/0008-unsafe-in-one-crate.md`).
//!
//! Nothing here decides anything: errors carry the kernel's answer, and the caller knows what it
//! means.
#![allow(unsafe_code, reason = "the one crate that calls the kernel by itself; see decision 0008")]

pub mod blktrace;
pub mod bpf;
pub mod freeze;
pub mod loops;
pub mod process;
