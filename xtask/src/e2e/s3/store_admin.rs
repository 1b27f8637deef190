//! Looking after the store: an upload whose process died is listed, kept as long as a checkpoint
//! needs it, and aborted when the user insists; a probe finds what works and leaves nothing.

use super::super::images::{self, Image};
use super::super::report::Tally;
use super::checkpoint::Job;
use super::{Stage, number};
use crate::Result;
use serde_json::Value;
use std::thread::sleep;
use std::time::Duration;

const KEY: &str = "abandoned";
const PART: u64 = 5 << 20;
const OPTIONS: &[&str] = &["--as", "raw", "--part-size", "5M"];
const JSON: [&str; 2] = ["--output", "json"];
/// Slow enough that a run is killed between its first part and its last one.
const SLOW: [&str; 2] = ["--limit-rate", "4M"];

/// What every server of the suites can do.
const ABILITIES: &[&str] =
    &["write", "range", "range_suffix", "multipart", "list_uploads", "list_parts", "abort"];

pub(super) fn run(stage: &mut Stage, tally: &mut Tally) -> Result<()> {
    let usual = stage.bucket.clone();
    stage.bucket = stage.make_bucket()?;
    let source = images::find(&stage.images, "even/v3.qcow2")?.clone();
    tally.check("store gc", collect(stage, &source));
    tally.check("store probe", probe(stage));
    stage.bucket = usual;
    Ok(())
}

fn collect(stage: &Stage, source: &Image) -> Result<()> {
    let job = Job::new(stage, KEY, &source.path, OPTIONS)?;
    die_after_a_part(stage, &job)?;
    let here = |more: &[&str]| expect_one(&job.run(&gc(stage, more).as_words())?.stdout);

    let entry = here(&[])?;
    let sent = number(&entry, "bytes")?;
    if entry["state"] != "needed" || !entry["job"].as_str().is_some_and(|job| job.contains(KEY)) {
        return Err(format!("no checkpoint needs it: {entry}").into());
    }
    if sent < PART || Some(sent) != job.arrived(stage)? {
        return Err(format!("the server has other parts: {entry}").into());
    }
    expect_state(&elsewhere(stage)?, "abandoned")?;
    expect_state(&here(&["--yes"])?, "needed")?;
    expect_uploads(stage, 1)?;
    expect_state(&here(&["--yes", "--force-needed"])?, "aborted")?;
    expect_uploads(stage, 0)?;

    let report = Job::report(&job.spawn(stage, &JSON)?.wait()?, 0)?;
    if (number(&report, "resumed_bytes")?, number(&report, "sent_bytes")?)
        != (0, number(&report, "file_size")?)
    {
        return Err(format!("the rerun did not begin anew: {report}").into());
    }
    let back = stage.folder.join("back");
    stage.carreto.migrate_and_compare(source, &stage.url(KEY), &back, &[])?;
    expect_uploads(stage, 0)?;
    match uploads(&job.run(&gc(stage, &["--yes"]).as_words())?.stdout)?.as_slice() {
        [] => Ok(()),
        some => Err(format!("listed after the end: {some:?}").into()),
    }
}

/// An upload that dies with at least one part at the server.
fn die_after_a_part(stage: &Stage, job: &Job) -> Result<()> {
    let mut run = job.spawn(stage, &SLOW)?;
    while job.arrived(stage)?.unwrap_or(0) < PART || !job.is_written_down()? {
        if run.has_ended()? {
            return Err(format!("it ended early: {}", run.wait()?.said()).into());
        }
        sleep(Duration::from_millis(50));
    }
    let outcome = run.kill()?;
    if outcome.status.code().is_some() {
        return Err(format!("it ended before it was killed: {}", outcome.said()).into());
    }
    Ok(())
}

/// A line of `store gc`.
struct Line(Vec<String>);

impl Line {
    fn as_words(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

fn gc(stage: &Stage, more: &[&str]) -> Line {
    let place = format!("s3://{}", stage.bucket);
    let words = ["store", "gc", &place, "--older-than", "0s"];
    Line(words.iter().chain(&JSON).chain(more).map(ToString::to_string).collect())
}

/// What a machine without the checkpoint is told.
fn elsewhere(stage: &Stage) -> Result<Value> {
    let carreto = stage.carreto.with_state(stage.folder.join("state-elsewhere"));
    let line = gc(stage, &[]);
    let outcome = carreto.expect(0, &carreto.job(&line.as_words(), &[])?)?;
    expect_one(&outcome.stdout)
}

fn uploads(printed: &str) -> Result<Vec<Value>> {
    let report: Value = serde_json::from_str(printed)?;
    Ok(report["uploads"].as_array().ok_or_else(|| format!("no list: {report}"))?.clone())
}

fn expect_one(printed: &str) -> Result<Value> {
    match uploads(printed)?.as_slice() {
        [upload] if upload["key"] == KEY => Ok(upload.clone()),
        other => Err(format!("wanted one upload of {KEY}: {other:?}").into()),
    }
}

fn expect_state(upload: &Value, state: &str) -> Result<()> {
    if upload["state"] == state {
        return Ok(());
    }
    Err(format!("wanted {state}: {upload}").into())
}

/// By the word of the server.
fn expect_uploads(stage: &Stage, count: usize) -> Result<()> {
    let left = stage.server.client.uploads(&stage.bucket, KEY)?;
    if left.len() == count {
        return Ok(());
    }
    Err(format!("wanted {count} uploads at the server: {left:?}").into())
}

fn probe(stage: &Stage) -> Result<()> {
    let before = stage.server.client.keys(&stage.bucket)?;
    let place = format!("s3://{}/x", stage.bucket);
    let words = [&["store", "probe", &place][..], &JSON].concat();
    let printed = stage.carreto.expect(0, &words)?.stdout;
    let report: Value = serde_json::from_str(&printed)?;
    let findings = report["findings"].as_array().ok_or("no findings")?;
    for name in ABILITIES {
        let finding = findings.iter().find(|finding| finding["name"] == *name);
        if finding.is_none_or(|finding| finding["result"] != "yes") {
            return Err(format!("{name}: {finding:?}").into());
        }
    }
    let after = stage.server.client.keys(&stage.bucket)?;
    if before.is_empty() || after != before || report["left"] != Value::Array(Vec::new()) {
        return Err(format!("keys were {before:?} and are {after:?}: {}", report["left"]).into());
    }
    let left = stage.server.client.uploads(&stage.bucket, "")?;
    super::expect_none(&left)
}
