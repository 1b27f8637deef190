//! The server dies, again and again, and comes back; or stays away until the run gives up.

use super::super::carreto::{Carreto, text};
use super::super::disk;
use super::super::images::{self, Image};
use super::super::process::Running;
use super::super::report::Tally;
use super::checkpoint::Job;
use super::{Stage, number};
use crate::Result;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

const OUTAGES: usize = 4;
/// Slow enough that a run takes some seconds.
const SLOW: [&str; 2] = ["--limit-rate", "4M"];
const OPTIONS: &[&str] = &["--as", "raw", "--part-size", "5M"];
const JSON: [&str; 2] = ["--output", "json"];

pub(super) fn run(stage: &mut Stage, tally: &mut Tally) -> Result<()> {
    if !stage.server.is_own() {
        tally.note("NOT RUN: server killed during uploads and migrations: it is not ours to kill");
        return Ok(());
    }
    let image = images::find(&stage.images, "even/v3.qcow2")?.clone();
    let impatient = stage.folder.join("impatient.toml");
    std::fs::write(&impatient, "[store.s3]\nretry_for = \"1s\"\n")?;
    let note = upload_rides_out(stage, &image).map(|text| tally.note(&text));
    tally.check("server killed during an upload", note);
    let note = migrate_rides_out(stage, &image).map(|text| tally.note(&text));
    tally.check("server killed during a migration", note);
    tally.check("an upload that gives up resumes", upload_gives_up(stage, &image, &impatient));
    let result = migrate_gives_up(stage, &image, &impatient);
    tally.check("a migration that gives up resumes", result);
    Ok(())
}

/// Kills the server while `run` is under way; says how often.
fn outages(
    stage: &mut Stage,
    run: &mut Running,
    mut died: impl FnMut() -> Result<()>,
) -> Result<usize> {
    let mut deaths = 0;
    for _ in 0..OUTAGES {
        sleep(Duration::from_millis(900));
        if run.has_ended()? {
            break;
        }
        stage.server.kill()?;
        deaths += 1;
        died()?;
        sleep(Duration::from_millis(300));
        stage.server.come_back()?;
    }
    if deaths < 2 {
        return Err(format!("the server was killed {deaths} times only").into());
    }
    Ok(deaths)
}

fn upload_rides_out(stage: &mut Stage, image: &Image) -> Result<String> {
    let mut job = Job::new(stage, "outage", &image.path, OPTIONS)?;
    let mut run = job.spawn(stage, &[SLOW, JSON].concat())?;
    let deaths = outages(stage, &mut run, || job.note_death())?;
    let report = Job::report(&run.wait()?, 0)?;
    let size = number(&report, "file_size")?;
    let left = job.expect_nothing_left(stage)?;
    let url = stage.url("outage");
    stage.carreto.migrate_and_compare(image, &url, &stage.folder.join("back"), &[])?;
    let twice = job.sent().unwrap_or(0).saturating_sub(size);
    let retries = number(&report, "retries")?;
    Ok(format!(
        "server killed {deaths} times during an upload: ridden out with {retries} retries, \
         {twice} bytes sent twice, uploads left {left}"
    ))
}

fn migrate_rides_out(stage: &mut Stage, image: &Image) -> Result<String> {
    let url = stage.url("even/v3.qcow2");
    let target = new_target(stage)?;
    let carreto = stage.carreto.clone();
    let mut run = carreto.spawn(&carreto.migration(&url, &target, &[SLOW, JSON].concat())?)?;
    let deaths = outages(stage, &mut run, || Ok(()))?;
    let report = Job::report(&run.wait()?, 0)?;
    disk::compare(&target, &image.disk)?;
    Ok(format!(
        "server killed {deaths} times during a migration: ridden out with {} retries",
        report["copied"]["retries"]
    ))
}

fn upload_gives_up(stage: &mut Stage, image: &Image, impatient: &Path) -> Result<()> {
    let mut job = Job::new(stage, "given-up", &image.path, OPTIONS)?;
    let config = ["--config", text(impatient)?];
    let run = job.spawn(stage, &[SLOW, JSON, config].concat())?;
    sleep(Duration::from_millis(2500));
    let given_up = away(stage, run, || job.note_death())?;
    Job::report(&given_up, 5)?;
    let report = Job::report(&job.spawn(stage, &JSON)?.wait()?, 0)?;
    let (sent, resumed) = (number(&report, "sent_bytes")?, number(&report, "resumed_bytes")?);
    if resumed == 0 || sent + resumed != number(&report, "file_size")? {
        return Err(format!("{resumed} bytes resumed, {sent} sent: {report}").into());
    }
    job.expect_nothing_left(stage)?;
    let url = stage.url("given-up");
    stage.carreto.migrate_and_compare(image, &url, &stage.folder.join("back"), &[])
}

fn migrate_gives_up(stage: &mut Stage, image: &Image, impatient: &Path) -> Result<()> {
    let url = stage.url("even/v3.qcow2");
    let target = new_target(stage)?;
    let carreto: Carreto = stage.carreto.clone();
    let config = ["--config", text(impatient)?];
    let arguments = carreto.migration(&url, &target, &[SLOW, JSON, config].concat())?;
    let run = carreto.spawn(&arguments)?;
    sleep(Duration::from_millis(2500));
    let given_up = away(stage, run, || Ok(()))?;
    Job::report(&given_up, 5)?;
    let outcome = carreto.expect(0, &carreto.migration(&url, &target, &JSON)?)?;
    let report = Job::report(&outcome, 0)?;
    if report["copied"]["resumed_bytes"].as_u64().unwrap_or(0) == 0 {
        return Err(format!("nothing was resumed: {report}").into());
    }
    disk::compare(&target, &image.disk)
}

/// The server stays away until `run` has ended.
fn away(
    stage: &mut Stage,
    run: Running,
    mut died: impl FnMut() -> Result<()>,
) -> Result<super::process::Outcome> {
    stage.server.kill()?;
    died()?;
    let outcome = run.wait();
    stage.server.come_back()?;
    outcome
}

fn new_target(stage: &Stage) -> Result<PathBuf> {
    let target = stage.folder.join("outage-target");
    if target.exists() {
        std::fs::remove_file(&target)?;
    }
    Ok(target)
}
