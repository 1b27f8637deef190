//! Each refusal has its exit code and leaves nothing behind.

use super::super::carreto::Carreto;
use super::super::images;
use super::super::report::Tally;
use super::{Stage, upload};
use crate::Result;
use std::path::Path;

const WRONG_SECRET: &str = "wrong-secret-wrong-secret";

pub(super) fn run(stage: &mut Stage, tally: &mut Tally) -> Result<()> {
    let carreto = &stage.carreto;
    let wrong_secret = carreto.with_variable("AWS_SECRET_ACCESS_KEY", WRONG_SECRET);
    let wrong_key = carreto.with_variable("AWS_ACCESS_KEY_ID", "nobody");
    let anonymous = carreto.with_variable("AWS_SKIP_SIGNATURE", "true");
    let good = stage.url("odd/v3.qcow2");
    let missing = stage.url("odd/none.qcow2");
    let no_bucket = "s3://carreto-e2e-no-such-bucket/odd/v3.qcow2";
    let source = images::find(&stage.images, "odd/v3.qcow2")?.path.clone();
    let target = stage.folder.join("refused");
    for (label, carreto, url, exit) in [
        ("wrong secret", &wrong_secret, good.as_str(), 10),
        ("wrong key", &wrong_key, good.as_str(), 10),
        ("no key", &anonymous, good.as_str(), 10),
        ("missing object", carreto, missing.as_str(), 4),
        ("missing bucket", carreto, no_bucket, 4),
    ] {
        tally.check(label, read_refused(carreto, url, &target, exit));
    }
    let new = stage.url("refused");
    for (label, carreto, url, exit) in [
        ("upload with a wrong secret", &wrong_secret, new.as_str(), 10),
        ("upload with a wrong key", &wrong_key, new.as_str(), 10),
        ("upload into a missing bucket", carreto, no_bucket, 4),
    ] {
        tally.check(label, write_refused(stage, carreto, &source, url, exit));
    }
    tally.check("a clock one hour behind", skewed(stage, "-1h", "behind"));
    tally.check("a clock one hour ahead", skewed(stage, "+1h", "ahead of"));
    read_only(stage, &anonymous, &source, tally)
}

fn read_refused(carreto: &Carreto, url: &str, target: &Path, exit: i32) -> Result<()> {
    let outcome = carreto.expect(exit, &carreto.migration(url, target, &[])?)?;
    if target.exists() {
        std::fs::remove_file(target)?;
        return Err("it left a target behind".into());
    }
    expect_no_secret(&outcome.said())
}

fn write_refused(
    stage: &Stage,
    carreto: &Carreto,
    source: &Path,
    url: &str,
    exit: i32,
) -> Result<()> {
    let outcome = upload(carreto, source, url, &["--as", "raw"], exit)?;
    expect_no_secret(&outcome.said())?;
    super::expect_none(&stage.server.client.uploads(&stage.bucket, "refused")?)
}

fn expect_no_secret(said: &str) -> Result<()> {
    if said.contains(WRONG_SECRET) { Err("it prints the secret".into()) } else { Ok(()) }
}

/// The message says how wrong this machine's clock is.
fn skewed(stage: &Stage, offset: &str, side: &str) -> Result<()> {
    let carreto = stage.carreto.run_by(&["faketime", "-m", "--exclude-monotonic", "-f", offset]);
    let outcome = carreto.expect(10, &["info", &stage.url("odd/v3.qcow2")])?;
    let said = outcome.said();
    let words = format!(" s {side} the server's");
    let seconds = said.split(&words).next().and_then(|text| text.rsplit(' ').next());
    let seconds = seconds.and_then(|text| text.parse::<u64>().ok());
    if !seconds.is_some_and(|seconds| (3500..=3700).contains(&seconds)) {
        return Err(format!("it does not say that the clock is 3600 s {side}: {said}").into());
    }
    Ok(())
}

/// In a bucket that everybody may read, who has no key reads and writes nothing.
fn read_only(
    stage: &mut Stage,
    anonymous: &Carreto,
    source: &Path,
    tally: &mut Tally,
) -> Result<()> {
    let bucket = stage.make_bucket()?;
    let client = &stage.server.client;
    client.put_file(&bucket, "there", source)?;
    match client.let_everybody_read(&bucket) {
        Err(error) if !stage.server.is_own() => {
            tally.note(&format!("NOT RUN: no permission to write: no public bucket here: {error}"));
            return Ok(());
        }
        done => done?,
    }
    let read = anonymous.expect(0, &["info", &format!("s3://{bucket}/there")]);
    tally.check("who may read reads", read.map(drop));
    for key in ["there", "new"] {
        let url = format!("s3://{bucket}/{key}");
        let refused = upload(anonymous, source, &url, &["--as", "raw", "--force"], 10);
        tally.check(&format!("no permission to write {key}"), refused.map(drop));
    }
    super::expect_none(&client.uploads(&bucket, "")?)
}
