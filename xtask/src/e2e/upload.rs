//! The second half of the suite `s3`: images made and uploaded in one go, again and again killed on the way.

use super::carreto::{Carreto, text};
use super::disk::{self, Rng};
use super::images::{self, Image};
use super::report::Tally;
use super::s3::BUCKET;
use crate::Result;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const KILLS: usize = 10;
/// Slow enough that an upload takes some seconds.
const RATE: &str = "8M";

/// Runs against the bucket that the suite `s3` made.
pub(crate) fn run(
    carreto: &Carreto,
    images: &[Image],
    folder: &Path,
    tally: &mut Tally,
) -> Result<()> {
    let source = images::find(images, "even/v3.qcow2")?;
    for options in [
        &["--as", "raw"][..],
        &["--as", "qcow2", "--compress", "zstd"],
        &["--as", "vhd"],
        &["--as", "vmdk", "--subformat", "streamOptimized"],
        &[],
    ] {
        let key = format!("s3://{BUCKET}/up/made{}", options.join(""));
        let result = there_and_back(carreto, source, &key, options, &folder.join("back"));
        tally.check(&format!("upload {}", options.join(" ")), result);
    }
    let result = torture(carreto, source, &folder.join("back"));
    tally.check("an upload killed again and again", result);
    Ok(())
}

fn arguments<'a>(
    carreto: &'a Carreto,
    source: &'a Image,
    key: &'a str,
    options: &[&'a str],
) -> Result<Vec<&'a str>> {
    let mut arguments = vec!["upload", text(&source.path)?, key, "--state-dir"];
    arguments.push(text(carreto.state())?);
    arguments.extend(options);
    Ok(arguments)
}

fn there_and_back(
    carreto: &Carreto,
    source: &Image,
    key: &str,
    options: &[&str],
    target: &Path,
) -> Result<()> {
    carreto.expect(0, &arguments(carreto, source, key, options)?)?;
    // Never replaced unless asked.
    carreto.expect(2, &arguments(carreto, source, key, options)?)?;
    carreto.migrate_and_compare(source, key, target, &[])
}

fn torture(carreto: &Carreto, source: &Image, target: &Path) -> Result<()> {
    let key = format!("s3://{BUCKET}/up/killed");
    let options = ["--as", "raw", "--part-size", "5M", "--limit-rate", RATE];
    let mut rng = Rng::new(std::process::id().into());
    let mut kills = 0;
    while kills < KILLS {
        let mut child = carreto.spawn(&arguments(carreto, source, &key, &options)?)?;
        sleep(Duration::from_millis(100 + rng.below(600)));
        // SIGKILL: nothing of the program runs after it.
        child.kill()?;
        match child.wait()?.code() {
            None => kills += 1,
            Some(0) => break,
            Some(code) => return Err(format!("a rerun ended with exit {code}").into()),
        }
    }
    if kills < 3 {
        return Err(format!("only {kills} runs were killed in time").into());
    }
    let last = [&options[..4], &["--output", "json"]].concat();
    let outcome = carreto.run(&arguments(carreto, source, &key, &last)?)?;
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout)?;
    if report["resumed_bytes"].as_u64().is_none_or(|bytes| bytes == 0) {
        return Err(format!("nothing was resumed: {}", outcome.said()).into());
    }
    println!("an upload was killed {kills} times");
    carreto.migrate_and_compare(source, &key, target, &[])?;
    disk::compare(target, &source.disk)
}
