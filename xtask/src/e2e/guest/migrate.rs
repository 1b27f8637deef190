//! Moving a guest to other disks while it works: the agent inside, the receiver outside.

use super::layout::Layout;
use super::machine::{Guest, HOST, SHORT};
use super::{Moved, Stage};
use crate::Result;
use crate::e2e::carreto::text;
use crate::e2e::live::program::Program;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Under emulation everything takes long: reading and hashing the disks, too.
const MIGRATION_LIMIT: Duration = Duration::from_mins(30);
const PROGRAM: &str = "/usr/local/bin/carreto";
/// In memory, so that it can be read while the disks are frozen.
const CONFIG: &str = "/run/agent.toml";
const SERVER: &str = "guest";

/// Moves `guest` and says what the agent and the certificate say. The guest is left frozen.
pub(super) fn migrate(
    stage: &Stage<'_>,
    guest: &mut Guest,
    layout: &Layout,
) -> Result<(Moved, String)> {
    let folder = stage.logs.join("migration");
    let targets = stage.disks.join("targets");
    for folder in [&folder, &targets] {
        std::fs::create_dir_all(folder)?;
    }
    let disks = layout.paths(&targets);
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    std::fs::write(folder.join("receive.toml"), receiver(port, &folder, &disks)?)?;
    let mut command = Command::new(stage.program);
    command.args(["receive", "--until-committed", "-c", text(&folder.join("receive.toml"))?]);
    let mut receiver = Program::start(&mut command, &folder, "receive")?;
    let token = receiver.wait_for(SHORT, |said| {
        said.lines().find_map(|line| line.strip_prefix("token for guest: ").map(str::to_owned))
    })?;
    start_agent(guest, &token, disks.len())?;
    let received = receiver.wait(MIGRATION_LIMIT).and_then(|ended| ended.expect(0));
    let said = guest.run("tail -n 30 /run/agent.log", SHORT)?;
    received.map_err(|error| format!("{error}; the agent: {}", said.output))?;
    let acknowledged = guest.acknowledged()?;
    let report = report(guest)?;
    if guest.acknowledged()? != acknowledged {
        return Err("transactions were acknowledged after the commit".into());
    }
    verify(stage.program, &folder, &disks)?;
    Ok((Moved { disks, acknowledged }, report))
}

fn receiver(port: u16, folder: &Path, disks: &[PathBuf]) -> Result<String> {
    let state = text(folder)?;
    let mut config = format!(
        "listen = \"127.0.0.1:{port}\"\nadvertise = [\"{HOST}:{port}\"]\n\
         state = \"{state}/state\"\n[[server]]\nname = \"{SERVER}\"\n"
    );
    for (disk, target) in names(disks.len()).zip(disks) {
        let target = text(target)?;
        write!(config, "[[server.disk]]\nsource = \"{disk}\"\ntarget = \"{target}\"\n")?;
    }
    Ok(config)
}

/// What the guest calls its disks.
fn names(count: usize) -> impl Iterator<Item = String> {
    ('a'..='z').take(count).map(|letter| format!("vd{letter}"))
}

fn start_agent(guest: &mut Guest, token: &str, disks: usize) -> Result<()> {
    let disks: Vec<String> = names(disks).map(|name| format!("\"/dev/{name}\"")).collect();
    let disks = disks.join(", ");
    let config = format!(
        "cat >{CONFIG} <<'END'\ntoken = \"{token}\"\ndisks = [{disks}]\nstate = \"/run\"\n\
         [cutover]\nwhen = \"ready\"\nmax_pause_seconds = 600\nlease_seconds = 600\nEND"
    );
    guest.succeed(&config, SHORT)?;
    let run = format!("setsid {PROGRAM} agent run -c {CONFIG} >/run/agent.log 2>&1 </dev/null &");
    guest.succeed(&run, SHORT).map(|_| ())
}

/// What `agent status` has to say after the end.
fn report(guest: &mut Guest) -> Result<String> {
    let status = format!("{PROGRAM} agent status -c {CONFIG} --output json");
    let report: Value = serde_json::from_str(&guest.succeed(&status, SHORT)?)?;
    let (totals, cutover) = (&report["totals"], &report["cutover"]);
    let trackers: Vec<&str> = report["disks"]
        .as_array()
        .map(|disks| disks.iter().filter_map(|disk| disk["tracker"].as_str()).collect())
        .unwrap_or_default();
    Ok(format!(
        "{}, by {}, {} epochs ({} suspect), {} granules sent again, pause {:.1} s \
         ({} granules compared, {} sent, {} missed)",
        report["state"],
        trackers.join(" and "),
        totals["epochs"],
        totals["suspect_epochs"],
        totals["resent_granules"],
        cutover["pause_seconds"].as_f64().unwrap_or(f64::NAN),
        cutover["compared_granules"],
        cutover["sent_granules"],
        cutover["missed_granules"],
    ))
}

/// The certificate fits the targets as they are, before they are booted.
fn verify(program: &Path, folder: &Path, disks: &[PathBuf]) -> Result<()> {
    let certificate = folder.join("state/servers").join(SERVER).join("certificate.json");
    let mut command = Command::new(program);
    command.args(["verify-certificate", text(&certificate)?]);
    for (name, disk) in names(disks.len()).zip(disks) {
        command.args(["--disk", &format!("{name}={}", text(disk)?)]);
    }
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("the certificate does not fit the targets: {}", said.trim()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_disk_gets_its_target() {
        let disks = [PathBuf::from("/t/disk0.raw"), PathBuf::from("/t/disk1.raw")];
        let config = receiver(7, Path::new("/f"), &disks).expect("a configuration");
        assert!(config.contains("source = \"vdb\"\ntarget = \"/t/disk1.raw\""), "{config}");
        assert!(config.contains("advertise = [\"10.0.2.2:7\"]"), "{config}");
    }
}
