//! Suite `kill`: a migration that dies again and again still gives the right disk, and a disk
//! that is not done has nothing in its first MiB, so that it never boots.

use super::Lab;
use super::carreto::{Carreto, text};
use super::disk::{self, Rng};
use super::images::{self, Image};
use super::report::Tally;
use crate::Result;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const KILLS: usize = 20;
/// Fewer deaths than this in the middle of a run would show nothing.
const MIN_KILLS: usize = 5;
/// Slow enough that a whole run takes so many seconds: much longer than [`MIN_KILLS`] deaths take.
const SECONDS: u64 = 8;
const FIRST: usize = 1 << 20;
/// Guest bytes of a work item of the engine.
const ITEM: u64 = 2 << 20;

pub(crate) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let folder = lab.folder("kill")?;
    let carreto = lab.carreto.clone();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    println!("random moments from seed {seed}");
    let mut rng = Rng::new(seed);
    for name in ["zstd.qcow2", "stream.vmdk", "plain.raw"] {
        let image = images::find(lab.images()?, &format!("even/{name}"))?.clone();
        let target = folder.join(format!("{name}.target"));
        let result = torture(&carreto, &image, &target, &mut rng);
        tally.check(&format!("{name} killed again and again"), result);
    }
    Ok(())
}

fn torture(carreto: &Carreto, image: &Image, target: &Path, rng: &mut Rng) -> Result<()> {
    let source = text(&image.path)?;
    let stored = std::fs::metadata(&image.path)?.blocks() * 512;
    let rate = (stored / SECONDS).to_string();
    let mut kills = 0;
    for _ in 0..KILLS {
        let run = carreto.spawn(&carreto.migration(source, target, &["--limit-rate", &rate])?)?;
        sleep(Duration::from_millis(50 + rng.below(900)));
        match run.kill()?.status.code() {
            Some(0) => break,
            Some(code) => return Err(format!("a rerun ended with exit {code}").into()),
            None => kills += 1,
        }
        never_looks_complete(target, &image.disk)?;
    }
    if kills < MIN_KILLS {
        return Err(format!("only {kills} runs were killed in time").into());
    }
    let last = carreto.migration(source, target, &["--output", "json"])?;
    expect_little_sent_again(&carreto.expect(0, &last)?.stdout)?;
    println!("{}: killed {kills} times", image.label);
    disk::compare(target, &image.disk)
}

/// What a run sends again is what the one before had in flight: an item for each core, and one more.
fn expect_little_sent_again(report: &str) -> Result<()> {
    let report: serde_json::Value = serde_json::from_str(report)?;
    let resent =
        report["copied"]["resent_bytes"].as_u64().ok_or("the report lacks resent_bytes")?;
    let cores = std::thread::available_parallelism()?.get() as u64;
    if resent > (cores + 1) * ITEM {
        return Err(format!("{resent} bytes were sent again by a machine of {cores} cores").into());
    }
    Ok(())
}

/// A target whose first MiB is there must be there as a whole.
fn never_looks_complete(target: &Path, wanted: &Path) -> Result<()> {
    let mut start = Vec::new();
    match File::open(target) {
        Ok(file) => file.take(FIRST as u64).read_to_end(&mut start)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if start.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    disk::compare(target, wanted)
        .map_err(|error| format!("the first MiB is written, but {error}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again_is_bounded() {
        let report = |bytes: u64| format!("{{\"copied\":{{\"resent_bytes\":{bytes}}}}}");
        assert!(expect_little_sent_again(&report(ITEM)).is_ok());
        assert!(expect_little_sent_again(&report(1 << 40)).is_err());
        assert!(expect_little_sent_again("{}").is_err());
    }

    #[test]
    fn a_half_done_disk_with_a_boot_sector_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, bytes: Vec<u8>| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path
        };
        let full = [vec![1; FIRST], vec![2; 512]].concat();
        let wanted = file("wanted", full.clone());
        let early = file("early", [vec![1; FIRST], vec![0; 512]].concat());
        let half = file("half", [vec![0; FIRST], vec![2; 512]].concat());
        assert!(never_looks_complete(&early, &wanted).is_err());
        assert!(never_looks_complete(&half, &wanted).is_ok());
        assert!(never_looks_complete(&file("full", full), &wanted).is_ok());
        assert!(never_looks_complete(&folder.path().join("none"), &wanted).is_ok());
    }
}
