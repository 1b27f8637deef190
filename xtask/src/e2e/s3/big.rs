//! A disk of the user's goes up compressed, while client and server die; what each run sent and
//! what was there already is printed.

use super::super::disk::Rng;
use super::super::report::Tally;
use super::checkpoint::Job;
use super::{Stage, number};
use crate::Result;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const CLIENT_KILLS: u64 = 10;
const SERVER_KILLS: u64 = 5;
const PART: u64 = 8 << 20;
/// Parts on their way at once with the default memory of 256 MiB.
const PARALLEL: u64 = 8;
const OPTIONS: &[&str] = &["--as", "qcow2", "--compress", "zstd"];
const OVERHEAD: u64 = 4 << 20;

pub(super) fn run(stage: &mut Stage, image: &Path, tally: &mut Tally) -> Result<()> {
    if !stage.server.is_own() {
        return Err("s3-big kills its server, and CARRETO_E2E_S3 names one of others".into());
    }
    let whole = undisturbed(stage, image)?;
    let result = torture(stage, image, whole).map(|text| tally.note(&text));
    tally.check("a disk uploaded while client and server die", result);
    Ok(())
}

/// How long the upload takes when nothing dies; its object is removed with the bucket.
fn undisturbed(stage: &Stage, image: &Path) -> Result<Duration> {
    let begin = Instant::now();
    let job = Job::new(stage, "undisturbed", image, OPTIONS)?;
    let report = Job::report(&job.spawn(stage, &["--output", "json"])?.wait()?, 0)?;
    let took = begin.elapsed();
    let (size, data) = (number(&report, "file_size")?, number(&report, "data_bytes")?);
    println!("undisturbed: {size} bytes of {data} in {:.1} s", took.as_secs_f32());
    Ok(took)
}

/// Deaths come at random moments, spread over what the upload takes without them.
fn torture(stage: &mut Stage, image: &Path, whole: Duration) -> Result<String> {
    let mut rng = Rng::new(u64::from(std::process::id()));
    let mut job = Job::new(stage, "big", image, OPTIONS)?;
    let deaths = CLIENT_KILLS + SERVER_KILLS;
    // A run needs a moment until it works, so there is more time than shares.
    let pause = u64::try_from(whole.as_millis())? / deaths;
    let (mut clients, mut servers, mut number_of_run) = (0, 0, 0);
    let mut lines = Lines::default();
    let outcome = loop {
        number_of_run += 1;
        lines.begin(&job, stage)?;
        let mut run = job.spawn(stage, &["--output", "json"])?;
        // Every third death is one of the server, in the middle of a run that goes on.
        while servers < SERVER_KILLS && servers * 2 <= clients && !run.has_ended()? {
            sleep(Duration::from_millis(200 + rng.below(2 * pause)));
            stage.server.kill()?;
            job.note_death()?;
            servers += 1;
            sleep(Duration::from_millis(rng.below(1000)));
            stage.server.come_back()?;
        }
        if clients == CLIENT_KILLS {
            break run.wait()?;
        }
        sleep(Duration::from_millis(100 + rng.below(2 * pause)));
        let outcome = run.kill()?;
        if outcome.status.code().is_some() {
            break outcome;
        }
        clients += 1;
        job.note_death()?;
        lines.end(&job, stage, &format!("run {number_of_run}, client killed"))?;
    };
    let report = Job::report(&outcome, 0)?;
    let size = number(&report, "file_size")?;
    let (sent, resumed) = (number(&report, "sent_bytes")?, number(&report, "resumed_bytes")?);
    println!("run {number_of_run}, to its end: {resumed} bytes resumed, {sent} sent, file {size}");
    let twice = job.sent().unwrap_or(0).saturating_sub(size);
    let bound = (clients + servers) * PARALLEL * PART.max(part_size(size));
    let left = job.expect_nothing_left(stage)?;
    if twice > bound + OVERHEAD {
        return Err(format!("{twice} bytes were sent twice, at most {bound} may be").into());
    }
    compare(stage, image)?;
    let text = format!(
        "client killed {clients} times, server {servers}: {size} bytes, sent twice {twice} (bound \
         {bound}), digest equal, uploads left {left}"
    );
    if clients < CLIENT_KILLS || servers < SERVER_KILLS {
        println!("wanted {CLIENT_KILLS} and {SERVER_KILLS} kills: the image is too small");
    }
    Ok(text)
}

/// Larger disks have larger parts, so that they are 10,000 at most.
fn part_size(size: u64) -> u64 {
    (size / 9000).next_multiple_of(1 << 20)
}

/// What one run sent and what became of it.
#[derive(Default)]
struct Lines {
    sent: u64,
    arrived: u64,
}

impl Lines {
    fn begin(&mut self, job: &Job, stage: &Stage) -> Result<()> {
        self.sent = job.sent().unwrap_or(0);
        self.arrived = job.arrived(stage)?;
        Ok(())
    }

    fn end(&self, job: &Job, stage: &Stage, label: &str) -> Result<()> {
        let sent = job.sent().unwrap_or(0) - self.sent;
        let new = job.arrived(stage)?.saturating_sub(self.arrived);
        let (there, lost) = (self.arrived, sent.saturating_sub(new));
        println!("{label}: {there} bytes were there, {sent} sent, {new} new, {lost} not");
        Ok(())
    }
}

/// The disk in the object and the disk of the image have one digest, twice computed.
fn compare(stage: &Stage, image: &Path) -> Result<()> {
    let digest = |place: &str| -> Result<String> {
        let printed = stage.carreto.expect(0, &["digest", place, "--algorithm", "sha256"])?.stdout;
        Ok(printed.split_whitespace().next().unwrap_or_default().to_owned())
    };
    let (found, wanted) = (digest(&stage.url("big"))?, digest(super::text(image)?)?);
    println!("sha256 of the object's disk {found}, of the image's {wanted}");
    if found != wanted {
        return Err(format!("the digest is {found}, not {wanted}").into());
    }
    Ok(())
}
