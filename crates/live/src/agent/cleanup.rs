//! Leaving: what the agent made on the source goes away, and a look afterwards proves it.

mod processes;
mod programs;
mod remains;
#[cfg(test)]
mod tests;

use super::config::AgentConfig;
use super::machine::Machine;
use crate::host;
use crate::storage::write_whole;
use crate::track::{self, TrackedDisk};
use carreto_error::{Error, IoSide, Kind, Result, ResultExt as _};
use remains::Place;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use remains::{Remains, remains};

/// How long programs and processes that end by themselves may take.
const SOON: Duration = Duration::from_secs(10);
/// Between two looks.
const TICK: Duration = Duration::from_millis(200);
/// Longest certificate that is taken into the answer.
const MOST_BYTES: u64 = 4 << 20;

/// What a cleanup found and did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cleaned {
    /// The version of this document: fields are only added.
    pub schema_version: u32,
    /// `cleaned`.
    #[serde(rename = "type")]
    pub document: &'static str,
    /// The name of the server.
    pub server: String,
    /// What was there before.
    pub before: Remains,
    /// What is there now: nothing.
    pub after: Remains,
    /// What was removed, ended or thawed, in this order.
    pub removed: Vec<String>,
    /// The certificate that lay in the run folder.
    pub certificate: Option<serde_json::Value>,
    /// Where a copy of it was kept.
    pub kept_certificate: Option<PathBuf>,
}

/// Removes everything that agents of this migration made on this system: it thaws file systems
/// that a committed cutover left frozen, removes pins, block traces, the run folder and the
/// agent's key. The configuration and the token's file are the operator's and stay. Blocking.
///
/// With `keep_certificate` the certificate is copied there first. Calling it again is harmless.
///
/// # Errors
/// `Usage` without a token, which names the server; `Locked` while an agent of this server runs;
/// what cannot be removed; `Io` naming what is still there although everything was removed.
pub fn cleanup(
    config: &AgentConfig,
    machine: &dyn Machine,
    keep_certificate: Option<&Path>,
) -> Result<Cleaned> {
    let place = Place::of(config)?;
    let is_there = place.folder.is_dir();
    let lock = is_there.then(|| place.files.take()).transpose()?;
    let before = place.look();
    let mut removed = Vec::new();
    if place.frozen {
        removed.extend(thaw(config, machine)?);
    }
    let certificate = certificate(&place.files.certificate());
    if let Some(path) = keep_certificate {
        keep(&place.files.certificate(), path)?;
    }
    let pins = track::remove_pins(&place.pins)?;
    removed.extend(pins.iter().map(|pin| pin.display().to_string()));
    removed.extend(place.remove_pins_parent());
    removed.extend(end_traces(config, machine, &place)?);
    removed.extend(place.remove_files()?);
    drop(lock);
    let after = settle(&place)?;
    Ok(Cleaned {
        schema_version: 1,
        document: "cleaned",
        server: place.server,
        before,
        after,
        removed,
        certificate,
        kept_certificate: keep_certificate.map(Path::to_owned),
    })
}

/// What is left once everything had time to end.
fn settle(place: &Place) -> Result<Remains> {
    let begun = Instant::now();
    loop {
        let after = place.look();
        if after.is_empty() {
            return Ok(after);
        }
        if begun.elapsed() > SOON {
            let text = format!("not everything is gone: {}", after.listed().join(", "));
            return Err(Error::new(Kind::Io, text).during("clean up").remedied_by(
                "end or remove what is named, restart the system where nothing else helps, and run the cleanup again",
            ));
        }
        std::thread::sleep(TICK);
    }
}

/// Thaws what a committed cutover left frozen.
fn thaw(config: &AgentConfig, machine: &dyn Machine) -> Result<Vec<String>> {
    let work = || {
        let disks = machine.disks(&config.disks)?;
        let disks: Result<Vec<_>> = disks
            .iter()
            .map(|disk| host::disk_at(&Path::new("/dev").join(&disk.tracked.name)))
            .collect();
        host::thaw_all(&host::file_systems(&disks?)?)
    };
    let thawed = work().wrap_err(|| "thaw what the cutover left frozen".into())?;
    Ok(thawed.iter().map(|point| format!("freeze of {}", point.display())).collect())
}

fn certificate(path: &Path) -> Option<serde_json::Value> {
    let is_fit = std::fs::metadata(path).is_ok_and(|found| found.len() <= MOST_BYTES);
    serde_json::from_slice(&is_fit.then(|| std::fs::read(path).ok())??).ok()
}

fn keep(from: &Path, to: &Path) -> Result<()> {
    let name = from.display().to_string();
    let text = std::fs::read(from).map_err(|error| {
        Error::io(IoSide::State, "read the certificate", name, error).remedied_by(
            "run the cleanup without keeping a certificate if the migration was not committed",
        )
    })?;
    write_whole(to, &text)
}

/// Ends the block traces of this migration's disks that a killed agent left.
fn end_traces(config: &AgentConfig, machine: &dyn Machine, place: &Place) -> Result<Vec<String>> {
    let traced = place.traces();
    if traced.is_empty() {
        return Ok(Vec::new());
    }
    let disks: Vec<TrackedDisk> =
        machine.disks(&config.disks)?.into_iter().map(|disk| disk.tracked).collect();
    let ours = disks.iter().filter(|disk| traced.contains(&disk.name));
    let mut ended = Vec::new();
    for disk in ours {
        if track::end_blktrace(disk)? {
            ended.push(format!("block trace of {}", disk.name));
        }
    }
    Ok(ended)
}
