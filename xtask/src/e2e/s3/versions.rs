//! An object that is replaced: while nobody looks, and while it is read; in a bucket that keeps
//! old versions and in one that does not.

use super::super::disk;
use super::super::images::{self, Image};
use super::super::report::Tally;
use super::{Stage, upload};
use crate::Result;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

pub(super) fn run(stage: &mut Stage, tally: &mut Tally) -> Result<()> {
    let bucket = stage.make_bucket()?;
    match stage.server.client.keep_versions(&bucket) {
        Err(error) if !stage.server.is_own() => {
            tally.note(&format!("NOT RUN: a bucket with versions: {error}"));
        }
        done => {
            done?;
            tally.check("a bucket with versions", versions(stage, &bucket));
            let url = format!("s3://{bucket}/moving");
            tally.check("replaced while it is read, with versions", replaced(stage, &url));
        }
    }
    let url = stage.url("moving");
    tally.check("replaced while it is read", replaced(stage, &url));
    Ok(())
}

/// The newest of two versions is read.
fn versions(stage: &Stage, bucket: &str) -> Result<()> {
    let url = format!("s3://{bucket}/twice");
    for label in ["even/v3.qcow2", "odd/v3.qcow2"] {
        let image = images::find(&stage.images, label)?;
        let options = ["--as", "qcow2", "--compress", "zstd", "--force"];
        upload(&stage.carreto, &image.path, &url, &options, 0)?;
        stage.carreto.migrate_and_compare(image, &url, &stage.folder.join("back"), &[])?;
    }
    match stage.server.client.versions(bucket, "twice")?.len() {
        2 => Ok(()),
        count => Err(format!("{count} versions of an object that was put twice").into()),
    }
}

/// A migration of what is replaced meanwhile gives the first content or none, never a mixture.
fn replaced(stage: &Stage, url: &str) -> Result<()> {
    let first = images::find(&stage.images, "even/v3.qcow2")?;
    let second = second(stage, first)?;
    let as_raw = ["--as", "raw", "--force"];
    upload(&stage.carreto, &first.path, url, &as_raw, 0)?;
    let target = stage.folder.join("replaced");
    if target.exists() {
        std::fs::remove_file(&target)?;
    }
    let carreto = &stage.carreto;
    let mut run = carreto.spawn(&carreto.migration(url, &target, &["--limit-rate", "8M"])?)?;
    sleep(Duration::from_millis(1500));
    if run.has_ended()? {
        return Err(format!("it ended too early: {}", run.wait()?.said()).into());
    }
    upload(carreto, &second, url, &as_raw, 0)?;
    let outcome = run.wait()?;
    match outcome.status.code() {
        Some(0) => disk::compare(&target, &first.disk)?,
        Some(6) => expect_no_start(&target)?,
        _ => return Err(format!("{}: {}", outcome.status, outcome.said()).into()),
    }
    let again = carreto.migration(url, &target, &["--restart"])?;
    carreto.expect(0, &again)?;
    disk::compare(&target, &second)
}

/// Another disk of the same size.
fn second(stage: &Stage, first: &Image) -> Result<std::path::PathBuf> {
    let path = stage.folder.join("second.raw");
    if !path.exists() {
        disk::write(&path, first.virtual_size, 77)?;
    }
    Ok(path)
}

/// What is not done does not boot.
fn expect_no_start(target: &Path) -> Result<()> {
    use std::io::Read as _;
    let mut start = Vec::new();
    std::fs::File::open(target)?.take(1 << 20).read_to_end(&mut start)?;
    if start.iter().any(|byte| *byte != 0) {
        return Err("it failed, but the first MiB is written".into());
    }
    Ok(())
}
