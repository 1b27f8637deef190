//! What a migration would meet: `carreto agent check`.
//!
//! Nothing is changed by looking, at neither end: trackers are attached without pins and detached
//! again, file systems are made ready to be frozen and let go, the receiver is told that this is
//! only a preflight, and the agent's key is read, never made.

mod disks;
mod document;
mod estimate;
mod findings;
mod line;
mod local;
mod mounts;
mod places;
mod receiver;
mod sample;
mod system;
#[cfg(test)]
mod tests;

use super::config::AgentConfig;
use super::machine::Machine;
use crate::trust::{Identity, JoinToken};
use carreto_error::{Error, Kind, Result};
use estimate::{Measured, estimate};
use findings::Findings;
use jiff::Timestamp;
use local::Local;
use std::sync::Arc;

pub use document::{
    BandwidthFacts, CostRange, DiskFacts, Finding, MountFacts, Prediction, Preflight, Range,
    ReceiverFacts, SampleFacts, Severity, SwapFacts, SystemFacts, TargetFacts, TrackerFacts,
};

/// Looks at this system, the way to the receiver and the receiver, and says what a migration would
/// meet. What stands in its way is a finding, not an error. The line is measured for about three
/// seconds without regard to the configured bandwidth.
///
/// # Errors
/// `Usage` for a configuration without a token that can be read or with prices that cannot be;
/// `Internal` when a thread of this process died.
pub async fn check(config: &AgentConfig, machine: &Arc<dyn Machine>) -> Result<Preflight> {
    let token = config.token()?;
    let local = {
        let (config, machine, server) = (config.clone(), Arc::clone(machine), token.server.clone());
        let look = move || Local::look(&config, machine.as_ref(), &server);
        let looked = tokio::task::spawn_blocking(look).await;
        looked.map_err(|error| Error::new(Kind::Internal, format!("the look died: {error}")))?
    };
    let Local { mut findings, facts, disks, mounts, swaps } = local;
    let identity = token_and_key(config, &token, &mut findings);
    let found = receiver::look(config, &token, identity, &facts.host_name, &disks, &mut findings);
    let (receiver, bandwidth) = found.await;
    let rate = bandwidth.as_ref().map(|measured| measured.bytes_per_second);
    let measured = Measured { disks: &disks, rate };
    let estimate = estimate(config, &measured, &mut findings)?;
    system::memory(&facts, estimate.memory_bytes, &mut findings);
    Ok(Preflight {
        schema_version: 1,
        document: "preflight",
        server: token.server,
        blocked: findings.are_blocking(),
        findings: findings.into_list(),
        system: facts,
        disks,
        mounts,
        swaps,
        receiver,
        bandwidth,
        estimate,
    })
}

/// The key with which to ask the receiver: the agent's, or one for this time only.
fn token_and_key(
    config: &AgentConfig,
    token: &JoinToken,
    findings: &mut Findings,
) -> Option<Identity> {
    match Identity::load(&config.state, "agent") {
        Ok(Some(identity)) => {
            findings.ok("token", "the agent has a key of its own already");
            return Some(identity);
        }
        Err(error) => {
            findings.error("token", &error);
            return None;
        }
        Ok(None) => {}
    }
    match token.expires {
        Some(end) if token.is_expired(Timestamp::now()) => {
            let text = format!("the join token expired at {end} by the clock of this system");
            findings.blocked("token", text, crate::remedy::NEW_TOKEN);
        }
        Some(end) => findings.ok("token", format!("the join token is good until {end}")),
        None => findings.ok("token", "the join token does not expire"),
    }
    Identity::generate().map_err(|error| findings.error("token", &error)).ok()
}
