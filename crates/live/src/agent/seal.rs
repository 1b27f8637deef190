//! The certificate of a cutover, from the agent's side.

use super::run::Engine;
use crate::certificate::{Audits, Certificate, Disk, Mode, Role, Root, Statement};
use carreto_error::{Error, Kind, Result};
use jiff::Timestamp;
use std::time::Duration;

/// What a cutover found, disk by disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Proof {
    pub(super) strict: bool,
    /// Granules read again while everything stood still, of each disk.
    pub(super) rehashed: Vec<u64>,
    /// Granules sent while everything stood still, of each disk.
    pub(super) sent: Vec<u64>,
    /// Mount points of what could only be synchronised.
    pub(super) unfrozen: Vec<String>,
}

impl Engine {
    /// What both ends sign, signed by this one.
    ///
    /// # Errors
    /// `Internal` when a granule is unknown after all.
    pub(super) fn certificate(
        &mut self,
        proof: &Proof,
        frozen_at: Timestamp,
        paused: Duration,
    ) -> Result<Certificate> {
        let totals = self.sender.meter.totals(0);
        let mut disks = Vec::new();
        for (index, disk) in self.disks.iter_mut().enumerate() {
            let root = disk.shared.compute_root();
            let root =
                root.ok_or_else(|| Error::new(Kind::Internal, "a granule is still unknown"))?;
            disk.root = Some(crate::trust::hex::encode(&root));
            disks.push(Disk {
                source: disk.name().to_owned(),
                identity: disk.machine.identity.clone(),
                size: disk.size(),
                root: Root::from_bytes(root),
                rehashed: proof.rehashed.get(index).copied().unwrap_or(0),
                sent_frozen: proof.sent.get(index).copied().unwrap_or(0),
                target: disk.target.clone(),
            });
        }
        let trackers =
            self.disks.iter().map(|disk| disk.tracker.kind().name().to_owned()).collect();
        let mut certificate = Certificate::new(Statement {
            version: Statement::VERSION,
            migration: self.state.migration.clone(),
            server: self.token.server.clone(),
            carreto: env!("CARGO_PKG_VERSION").to_owned(),
            mode: if proof.strict { Mode::Strict } else { Mode::Tracked },
            disks,
            frozen_at,
            committed_at: Timestamp::now(),
            pause_ms: u64::try_from(paused.as_millis()).unwrap_or(u64::MAX),
            audits: Audits {
                epochs: totals.epochs,
                suspect: totals.suspect_epochs,
                rescans: totals.rescans,
            },
            trackers,
            unfrozen: proof.unfrozen.clone(),
            agent: self.identity.fingerprint(),
            receiver: self.token.receiver,
        })?;
        certificate.sign(Role::Agent, &self.identity)?;
        Ok(certificate)
    }
}
