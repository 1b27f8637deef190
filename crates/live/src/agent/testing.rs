//! A machine in memory for the tests of this module.

use super::config::AgentConfig;
use super::machine::{Freezing, Machine, MachineDisk};
use crate::granule::GranuleSet;
use crate::track::{Attached, TrackedDisk, TrackerChoice};
use crate::trust::{Fingerprint, JoinToken, Secret};
use carreto_block::{ByteRange, LocalRead};
use carreto_error::{Error, Kind, Result};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// `members` among the `count` granules of a disk.
pub(super) fn set_of(count: u64, members: &[u64]) -> GranuleSet {
    let mut set = GranuleSet::empty(count);
    for granule in members {
        set.insert(*granule);
    }
    set
}

/// Disks of bytes that nobody writes.
#[derive(Debug, Default)]
pub(super) struct Fake(pub(super) Vec<(String, Vec<u8>)>);

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl LocalRead for Bytes {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

impl Machine for Fake {
    fn would_freeze(&self, _: &[MachineDisk], _: &Path) -> Result<bool> {
        Ok(false)
    }

    fn disks(&self, _wished: &[String]) -> Result<Vec<MachineDisk>> {
        let disk = |(name, bytes): &(String, Vec<u8>)| MachineDisk {
            tracked: TrackedDisk {
                name: name.clone(),
                devno: (0, 0),
                diskseq: None,
                size: bytes.len() as u64,
            },
            identity: format!("name:{name}"),
            reader: Arc::new(Bytes(bytes.clone())),
        };
        Ok(self.0.iter().map(disk).collect())
    }

    fn attach(&self, disk: &TrackedDisk, _: TrackerChoice, _: &Path) -> Result<Attached> {
        let error = Error::new(Kind::Unsupported, "no tracker follows what is in memory");
        Err(error.path(disk.name.clone()))
    }

    fn prepare_freeze(&self, _: &[MachineDisk], _: Duration) -> Result<Box<dyn Freezing>> {
        Err(Error::new(Kind::Unsupported, "nothing can be frozen"))
    }

    fn volatile(&self, _: &[MachineDisk]) -> Vec<(String, ByteRange)> {
        Vec::new()
    }
}

/// A configuration whose folders are in `place`, with a token for `server`.
pub(super) fn config(place: &Path, server: &str) -> AgentConfig {
    let token = JoinToken {
        addresses: vec!["127.0.0.1:1".to_owned()],
        receiver: Fingerprint::from_bytes([7; 32]),
        server: server.to_owned(),
        secret: Secret::random().unwrap(),
        expires: None,
    };
    with_token(place, &token)
}

/// A configuration whose folders are in `place`.
pub(super) fn with_token(place: &Path, token: &JoinToken) -> AgentConfig {
    let run = place.join("run");
    let text = format!("token = '{token}'\nstate = {place:?}\nrun = {run:?}\n");
    AgentConfig::parse(&text).unwrap()
}
