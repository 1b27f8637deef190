//! Uploads whose process is killed at random moments: they go on, send little twice, and leave
//! nothing behind.

use super::super::disk::Rng;
use super::super::images;
use super::super::report::Tally;
use super::checkpoint::Job;
use super::{Stage, number};
use crate::Result;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const KILLS: u64 = 8;
/// Fewer deaths than this in the middle of a run would show nothing.
const MIN_KILLS: u64 = 3;
const PART: u64 = 5 << 20;
/// Parts on their way at once: a quarter of the memory of [`MEMORY`] holds so many.
const PARALLEL: u64 = 2;
const OPTIONS: &[&str] = &["--as", "raw", "--part-size", "5M"];
const MEMORY: &[&str] = &["--memory", "40M", "--output", "json"];
/// What heads of requests and the manifest take.
const OVERHEAD: u64 = 1 << 20;

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    println!("random moments from seed {seed}");
    let done = torture(stage, &mut Rng::new(seed));
    let result = done.map(|text| tally.note(&text));
    tally.check("an upload killed again and again", result);
    Ok(())
}

fn torture(stage: &Stage, rng: &mut Rng) -> Result<String> {
    let source = images::find(&stage.images, "even/v3.qcow2")?;
    let mut job = Job::new(stage, "killed", &source.path, OPTIONS)?;
    let slow = [MEMORY, &["--limit-rate", "8M"]].concat();
    let mut kills = 0;
    while kills < KILLS {
        let run = job.spawn(stage, &slow)?;
        sleep(Duration::from_millis(100 + rng.below(1400)));
        let outcome = run.kill()?;
        match outcome.status.code() {
            None => kills += 1,
            Some(0) => break,
            Some(_) => return Err(format!("a rerun failed: {}", outcome.said()).into()),
        }
        job.note_death()?;
        let arrived = job.arrived(stage)?;
        check_sent(job.sent(), arrived, kills)?;
    }
    if kills < MIN_KILLS {
        return Err(format!("only {kills} runs were killed in time").into());
    }
    let size = match job.spawn(stage, MEMORY)?.wait()? {
        // The last of the killed runs had ended already.
        outcome if outcome.status.code() == Some(2) => source.virtual_size,
        outcome => {
            let report = Job::report(&outcome, 0)?;
            let (sent, resumed) =
                (number(&report, "sent_bytes")?, number(&report, "resumed_bytes")?);
            let size = number(&report, "file_size")?;
            if resumed == 0 || resumed + sent != size {
                return Err(format!("{resumed} bytes resumed, {sent} sent, of {size}").into());
            }
            size
        }
    };
    check_sent(job.sent(), size, kills)?;
    let left = job.expect_nothing_left(stage)?;
    let url = stage.url("killed");
    stage.carreto.migrate_and_compare(source, &url, &stage.folder.join("back"), &[])?;
    let twice = job.sent().map(|sent| sent.saturating_sub(size));
    let twice = twice.map_or("not counted at this endpoint".to_owned(), |b| format!("{b} bytes"));
    Ok(format!(
        "client killed {kills} times: sent twice {twice} (at most {} each time), uploads left {left}",
        PARALLEL * PART
    ))
}

/// What has been sent and did not become a part was on its way when a run died.
fn check_sent(sent: Option<u64>, arrived: u64, kills: u64) -> Result<()> {
    let Some(sent) = sent else { return Ok(()) };
    let twice = sent.saturating_sub(arrived);
    if twice > kills * PARALLEL * PART + OVERHEAD {
        return Err(format!("{twice} bytes were sent twice after {kills} deaths").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_twice_is_bounded() {
        let bound = 2 * PARALLEL * PART;
        assert!(check_sent(Some(bound + 7), 7, 2).is_ok());
        assert!(check_sent(Some(bound + OVERHEAD + 8), 7, 2).is_err());
        assert!(check_sent(None, 0, 1).is_ok());
    }
}
