//! Moving a guest to other disks while it works: the agent inside, the receiver outside. On the way
//! its network goes away for a while, and its power is cut once.

use super::layout::{Layout, Trial};
use super::machine::{Guest, HOST, SHORT};
use super::{Moved, Stage, ledger, trial};
use crate::Result;
use crate::e2e::carreto::text;
use crate::e2e::live::program::Program;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Under emulation everything takes long: reading and hashing the disks, too.
const MIGRATION_LIMIT: Duration = Duration::from_mins(30);
/// The agent notices after a minute that nobody answers.
const STALL_LIMIT: Duration = Duration::from_mins(5);
const POLL: Duration = Duration::from_secs(3);
const PROGRAM: &str = "/usr/local/bin/carreto";
/// On the disk that is migrated, and so is the agent's key: both are there after the power cut.
const CONFIG: &str = "/etc/carreto/agent.toml";
const SERVER: &str = "guest";
/// States in which every disk was read once. Under emulation a busy guest may change more than it
/// sends, until it is frozen.
const FOLLOWING: &[&str] = &["CATCHING_UP", "CONTINUOUS", "READY", "NOT_CONVERGING", "RESCAN"];

/// A guest that was moved.
pub(super) struct Migrated {
    /// Frozen, unless it switched itself off.
    pub(super) guest: Option<Guest>,
    pub(super) moved: Moved,
    /// What agent and certificate say.
    pub(super) report: String,
}

/// Moves `guest`, which runs from the disks `source`, through trouble. Its first disk cannot be read
/// at `bad`.
pub(super) fn migrate(
    stage: &Stage<'_>,
    mut guest: Guest,
    bad: Option<u64>,
    layout: &Layout,
    source: &[PathBuf],
) -> Result<Migrated> {
    let folder = stage.logs.join("migration");
    let targets = stage.disks.join("targets");
    for folder in [&folder, &targets] {
        std::fs::create_dir_all(folder)?;
    }
    let disks = layout.trial.targets(layout, &targets);
    let (receiver, token) = start_receiver(stage, &folder, &disks)?;
    configure(&mut guest, &token, disks.len(), layout.trial)?;
    start_agent(&mut guest)?;
    let failed = bad.map(|bad| fail_to_read(&mut guest, bad)).transpose()?.unwrap_or_default();
    let first = until(&mut guest, FOLLOWING, MIGRATION_LIMIT)?;
    let offline = go_offline(&mut guest)?;
    let before = guest.power_cut()?;
    let mut guest = layout.boot(source, &stage.logs.join("source-again"))?;
    ledger::begin(&mut guest, layout)?;
    layout.trial.begin(&mut guest)?;
    start_agent(&mut guest)?;
    let again = until(&mut guest, FOLLOWING, MIGRATION_LIMIT)?;
    ledger::wait_for(&mut guest, layout, super::AFTER)?;
    guest.succeed(&format!("{PROGRAM} agent cutover -c {CONFIG}"), SHORT)?;
    let received = receiver.wait(MIGRATION_LIMIT).and_then(|ended| ended.expect(0));
    received.map_err(|error| format!("{error}; the agent: {}", log(&mut guest)))?;
    let certificate = folder.join("state/servers").join(SERVER).join("certificate.json");
    let (guest, acknowledged, end) = if layout.trial == Trial::StickAndPowerOff {
        let end = certified(&certificate)?;
        (None, guest.ended()?, format!("switched itself off, {end}"))
    } else {
        let acknowledged = guest.acknowledged()?;
        let end = report(&mut guest)?;
        if guest.acknowledged()? != acknowledged {
            return Err("transactions were acknowledged after the commit".into());
        }
        (Some(guest), acknowledged, end)
    };
    verify(stage.program, &certificate, &disks)?;
    let report = format!(
        "{failed}{:.0} MB over the line at first; {offline}; after a power cut another {:.1} MB; {end}",
        megabytes(&first["totals"]["wire_bytes"]),
        megabytes(&again["totals"]["wire_bytes"])
    );
    let moved = Moved { disks, acknowledged: before + &acknowledged, interrupted: 1 };
    Ok(Migrated { guest, moved, report })
}

fn start_receiver(
    stage: &Stage<'_>,
    folder: &Path,
    disks: &[PathBuf],
) -> Result<(Program, String)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    std::fs::write(folder.join("receive.toml"), receiver(port, folder, disks)?)?;
    let mut command = Command::new(stage.program);
    command.args(["receive", "--until-committed", "-c", text(&folder.join("receive.toml"))?]);
    let mut receiver = Program::start(&mut command, folder, "receive")?;
    let token = receiver.wait_for(SHORT, |said| {
        said.lines().find_map(|line| line.strip_prefix("token for guest: ").map(str::to_owned))
    })?;
    Ok((receiver, token))
}

/// Waits until the agent gives up because of the place `bad`, and starts it again.
fn fail_to_read(guest: &mut Guest, bad: u64) -> Result<String> {
    let report = until(guest, &["FAILED"], MIGRATION_LIMIT)?;
    let said = trial::names_bad_place(&report, bad)?;
    let sent = megabytes(&report["totals"]["wire_bytes"]);
    start_agent(guest)?;
    // Until then it is the last one that speaks.
    let begin = Instant::now();
    while status(guest)?["state"] == "FAILED" {
        if begin.elapsed() > SHORT {
            return Err(format!("the agent does not go on: {}", log(guest)).into());
        }
        sleep(POLL);
    }
    Ok(format!("FAILED after {sent:.0} MB ({said}), and again: "))
}

/// Takes the network away until the agent says so, and waits until it follows again.
fn go_offline(guest: &mut Guest) -> Result<String> {
    guest.link(false)?;
    let begin = Instant::now();
    let stalled = until(guest, &["STALLED"], STALL_LIMIT)?;
    let noticed = begin.elapsed().as_secs_f32();
    let before = megabytes(&stalled["totals"]["wire_bytes"]);
    guest.link(true)?;
    let follows = until(guest, FOLLOWING, MIGRATION_LIMIT)?;
    let more = megabytes(&follows["totals"]["wire_bytes"]) - before;
    let all = begin.elapsed().as_secs_f32();
    Ok(format!(
        "no network: noticed after {noticed:.0} s, follows again after {all:.0} s and {more:.1} MB"
    ))
}

/// Polls the agent until it is in one of `states`.
fn until(guest: &mut Guest, states: &[&str], limit: Duration) -> Result<Value> {
    let begin = Instant::now();
    loop {
        let report = status(guest)?;
        let state = report["state"].as_str().unwrap_or_default();
        if states.contains(&state) {
            return Ok(report);
        }
        if state == "FAILED" || begin.elapsed() > limit {
            let said = log(guest);
            return Err(format!("the agent is {state}, wanted {states:?}: {said}").into());
        }
        sleep(POLL);
    }
}

/// The agent's report; null while it has none.
fn status(guest: &mut Guest) -> Result<Value> {
    let answer = guest.run(&format!("{PROGRAM} agent status -c {CONFIG} --output json"), SHORT)?;
    Ok(serde_json::from_str(&answer.output).unwrap_or(Value::Null))
}

/// The end of what the agent says.
fn log(guest: &mut Guest) -> String {
    let said = guest.run("tail -n 30 /run/agent.log", SHORT);
    said.map_or_else(|error| error.to_string(), |answer| answer.output)
}

fn megabytes(bytes: &Value) -> f64 {
    bytes.as_f64().unwrap_or(f64::NAN) / 1e6
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

fn configure(guest: &mut Guest, token: &str, disks: usize, trial: Trial) -> Result<()> {
    let disks: Vec<String> = names(disks).map(|name| format!("\"/dev/{name}\"")).collect();
    let disks = disks.join(", ");
    let (first, cutover, last) = trial.settings();
    let config = format!(
        "mkdir -p /etc/carreto && cat >{CONFIG} <<'END'\ntoken = \"{token}\"\n\
         disks = [{disks}]\n{first}[cutover]\nmax_pause_seconds = 600\nlease_seconds = 600\n\
         {cutover}{last}END\nsync"
    );
    guest.succeed(&config, SHORT).map(|_| ())
}

fn start_agent(guest: &mut Guest) -> Result<()> {
    let run = format!("setsid {PROGRAM} agent run -c {CONFIG} >/run/agent.log 2>&1 </dev/null &");
    guest.succeed(&run, SHORT).map(|_| ())
}

/// What `agent status` has to say after the end.
fn report(guest: &mut Guest) -> Result<String> {
    let report = status(guest)?;
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

/// What the certificate says of the cutover.
fn certified(certificate: &Path) -> Result<String> {
    let document: Value = serde_json::from_slice(&std::fs::read(certificate)?)?;
    let statement = document["statement"].as_str().ok_or("the certificate has no statement")?;
    let statement: Value = serde_json::from_str(statement)?;
    let trackers = statement["trackers"].as_array().ok_or("the certificate has no trackers")?;
    let trackers: Vec<&str> = trackers.iter().filter_map(Value::as_str).collect();
    let pause = statement["pause_ms"].as_f64().unwrap_or(f64::NAN) / 1e3;
    Ok(format!("certified, by {}, pause {pause:.1} s", trackers.join(" and ")))
}

/// The certificate fits the targets as they are, before they are booted.
fn verify(program: &Path, certificate: &Path, disks: &[PathBuf]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["verify-certificate", text(certificate)?]);
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
