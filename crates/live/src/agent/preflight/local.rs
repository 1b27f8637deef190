//! Everything that is looked at on the source, on a thread that may block.

use super::super::config::AgentConfig;
use super::super::machine::{Machine, MachineDisk};
use super::document::{DiskFacts, MountFacts, SwapFacts, SystemFacts};
use super::findings::Findings;
use super::{disks, mounts, places, system};
use crate::host;
use std::path::Path;

/// What was found on the source.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) findings: Findings,
    pub(super) facts: SystemFacts,
    pub(super) disks: Vec<DiskFacts>,
    pub(super) mounts: Vec<MountFacts>,
    pub(super) swaps: Vec<SwapFacts>,
}

impl Local {
    pub(super) fn look(config: &AgentConfig, machine: &dyn Machine, server: &str) -> Self {
        let mut findings = Findings::default();
        let facts = host::facts();
        system::look(&facts, &mut findings);
        let running = places::agent(&config.run_folder(server), &mut findings);
        let found = found(config, machine, &mut findings);
        let hardware = hardware(&found);
        let systems = host::file_systems(&hardware).unwrap_or_else(|error| {
            findings.error("mounts", &error);
            Vec::new()
        });
        let swaps = host::swaps(&hardware);
        let raw = host::raw_users(&hardware);
        let mounts = mounts::look(&systems, &swaps, &config.hooks, &mut findings);
        mounts::volumes(&host::split_volumes(&hardware), &mut findings);
        mounts::raw_users(&raw, &config.hooks, &mut findings);
        let look = disks::Look { config, machine, facts: &facts, hardware: &hardware, running };
        let disks = look.at(&found, &mounts, &mut findings);
        let is_whole = host::expect_whole(&systems).is_ok();
        if raw.is_empty() && is_whole && !found.is_empty() && !running {
            mounts::rehearse(machine, &found, config.lease(), &mut findings);
        }
        places::look(config, server, &systems, &mut findings);
        let swaps = swaps.into_iter().map(|swap| SwapFacts { path: swap.path, disks: swap.disks });
        Self { findings, facts: facts.into(), disks, mounts, swaps: swaps.collect() }
    }
}

/// The disks to migrate; none with a finding that says why.
fn found(config: &AgentConfig, machine: &dyn Machine, findings: &mut Findings) -> Vec<MachineDisk> {
    match machine.disks(&config.disks) {
        Ok(found) if found.is_empty() => {
            let remedy = "name the disks in the configuration: disks = [\"/dev/vda\"]";
            findings.blocked("disks", "there is no disk to migrate", remedy);
            found
        }
        Ok(found) => {
            let names: Vec<_> = found.iter().map(|disk| disk.tracked.name.as_str()).collect();
            findings.ok("disks", names.join(", "));
            found
        }
        Err(error) => {
            findings.error("disks", &error);
            Vec::new()
        }
    }
}

/// What the system says about the disks.
fn hardware(found: &[MachineDisk]) -> Vec<host::Disk> {
    let at = |disk: &MachineDisk| host::disk_at(&Path::new("/dev").join(&disk.tracked.name)).ok();
    found.iter().filter_map(at).collect()
}
