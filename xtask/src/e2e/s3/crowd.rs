//! A hundred small images at once.

use super::super::carreto::text;
use super::super::disk;
use super::super::process::Running;
use super::super::report::Tally;
use super::Stage;
use crate::Result;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

const IMAGES: u64 = 100;

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    let mut disks = Vec::new();
    for number in 0..IMAGES {
        let path = stage.folder.join(format!("small-{number}"));
        disk::write(&path, (1 << 20) + number * 512, 1000 + number)?;
        disks.push(path);
    }
    let uploads = at_once(&disks, |number, path| {
        let (carreto, url) = (&stage.carreto, key(stage, number));
        let words = ["upload", text(path)?, &url];
        carreto.spawn(&carreto.job(&words, &["--as", "qcow2", "--compress", "zstd"])?)
    })?;
    tally.check("a hundred uploads at once", uploads.expect_success());
    let digests = at_once(&disks, |number, _| {
        stage.carreto.spawn(&["digest", &key(stage, number), "--algorithm", "sha256"])
    })?;
    tally.check("a hundred digests at once", digests.expect_success());
    for ((number, path), printed) in (0..).zip(&disks).zip(&digests.printed) {
        let wanted = disk::sha256(path)?;
        let result = match printed.split_whitespace().next() {
            Some(found) if found == wanted => Ok(()),
            _ => Err(format!("{:?}, not {wanted}", printed.trim()).into()),
        };
        tally.check(&format!("digest of small image {number}"), result);
        std::fs::remove_file(path)?;
    }
    tally.note(&format!("{IMAGES} uploads at once: {}; digests: {}", uploads.cost, digests.cost));
    Ok(())
}

fn key(stage: &Stage, number: u64) -> String {
    stage.url(&format!("small/{number}"))
}

/// What came of many processes.
struct Crowd {
    printed: Vec<String>,
    failures: Vec<String>,
    /// Time and memory, for people.
    cost: String,
}

impl Crowd {
    fn expect_success(&self) -> Result<()> {
        match self.failures.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} failed: {first}", self.failures.len()).into()),
        }
    }
}

/// Starts a process for each disk, and waits for all.
fn at_once(disks: &[PathBuf], start: impl Fn(u64, &Path) -> Result<Running>) -> Result<Crowd> {
    let begin = Instant::now();
    let started = (0..).zip(disks).map(|(number, path)| start(number, path));
    let mut runs: Vec<Running> = started.collect::<Result<_>>()?;
    let (mut all, mut each) = (0, 0);
    loop {
        let mut busy = false;
        let mut sum = 0;
        for run in &mut runs {
            busy |= !run.has_ended()?;
            let memory = resident(run.id());
            sum += memory;
            each = each.max(memory);
        }
        all = all.max(sum);
        if !busy {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    let cost = format!(
        "{:.1} s, memory of all at most {} MiB, of one {} MiB",
        begin.elapsed().as_secs_f32(),
        all >> 20,
        each >> 20
    );
    let mut crowd = Crowd { printed: Vec::new(), failures: Vec::new(), cost };
    for run in runs {
        let outcome = run.wait()?;
        if !outcome.status.success() {
            crowd.failures.push(format!("{}: {}", outcome.status, outcome.said()));
        }
        crowd.printed.push(outcome.stdout);
    }
    Ok(crowd)
}

/// The memory of a process; none when it has ended.
fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_the_process() {
        assert!(resident(std::process::id()) > 1 << 20);
        assert_eq!(resident(u32::MAX), 0);
    }
}
