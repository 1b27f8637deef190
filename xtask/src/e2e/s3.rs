//! Suites `s3` and `s3-versitygw`: the same steps against two independent servers, or against the
//! endpoint that the user named; and `s3-big`, for a disk that the user named.

mod big;
mod checkpoint;
mod crowd;
mod deaths;
mod outages;
mod refusals;
mod store_admin;
mod upload;
mod versions;

use super::carreto::{Carreto, text};
use super::images::Image;
use super::install::Product;
use super::report::Tally;
use super::server::{self, Server};
use super::{Lab, process};
use crate::Result;
use std::path::{Path, PathBuf};

/// What the steps share.
struct Stage {
    server: Server,
    /// The command, told about the server.
    carreto: Carreto,
    images: Vec<Image>,
    folder: PathBuf,
    bucket: String,
    /// All buckets that were made.
    buckets: Vec<String>,
}

pub(crate) fn run_minio(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    run(lab, tally, Product::Minio)
}

pub(crate) fn run_versity(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    if server::external().is_some() {
        tally.skip("CARRETO_E2E_S3 names the one endpoint to test");
        return Ok(());
    }
    run(lab, tally, Product::Versity)
}

pub(crate) fn run_big(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let image = lab.image.clone().ok_or("--image names no file")?;
    let mut stage = Stage::new(lab, "s3-big", Product::Minio)?;
    let done = big::run(&mut stage, &image, tally);
    stage.clean(tally);
    done
}

fn run(lab: &mut Lab, tally: &mut Tally, product: Product) -> Result<()> {
    let mut stage = Stage::new(lab, &format!("s3-{}", product.program()), product)?;
    stage.images = lab.images()?.to_vec();
    let done = steps(&mut stage, tally);
    stage.clean(tally);
    done
}

fn steps(stage: &mut Stage, tally: &mut Tally) -> Result<()> {
    put_images(stage)?;
    for image in &stage.images {
        let result = migrate(stage, image);
        tally.check(&format!("{} migrate", image.label), result);
    }
    upload::run(stage, tally)?;
    refusals::run(stage, tally)?;
    versions::run(stage, tally)?;
    crowd::run(stage, tally)?;
    deaths::run(stage, tally)?;
    outages::run(stage, tally)?;
    store_admin::run(stage, tally)?;
    let left = stage.server.client.uploads(&stage.bucket, "")?;
    tally.check("no upload is left", expect_none(&left));
    Ok(())
}

fn expect_none(left: &[super::s3_client::Upload]) -> Result<()> {
    match left {
        [] => Ok(()),
        some => Err(format!("{} uploads are left: {some:?}", some.len()).into()),
    }
}

impl Stage {
    fn new(lab: &mut Lab, name: &str, product: Product) -> Result<Self> {
        let folder = lab.folder(name)?;
        let server = lab.serve(product, &folder)?;
        println!("with {}", server.version);
        let carreto = lab.carreto.with_environment(server.client.environment());
        let carreto = carreto.with_state(folder.join("state"));
        let (images, buckets, bucket) = (Vec::new(), Vec::new(), String::new());
        let mut stage = Self { server, carreto, images, folder, bucket, buckets };
        stage.bucket = stage.make_bucket()?;
        Ok(stage)
    }

    /// A new bucket, whose name nobody else in a cloud has.
    fn make_bucket(&mut self) -> Result<String> {
        let bucket = format!("carreto-e2e-{}", server::random_hex(6)?);
        self.server.client.make_bucket(&bucket)?;
        self.buckets.push(bucket.clone());
        Ok(bucket)
    }

    /// The address of the object `key`.
    fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// Leaves nothing behind at a server that stays.
    fn clean(&self, tally: &mut Tally) {
        if !self.server.is_own() {
            for bucket in &self.buckets {
                let done = self.server.client.remove_bucket(bucket);
                tally.check(&format!("remove the bucket {bucket}"), done);
            }
        }
    }
}

/// Puts the images, and the files next to them that they name, under the names they have.
fn put_images(stage: &Stage) -> Result<()> {
    let put = |key: &str, file: &Path| stage.server.client.put_file(&stage.bucket, key, file);
    let mut folders = Vec::new();
    for image in &stage.images {
        match image.label.split_once('/') {
            Some((disk, _)) => folders.push((disk, image.path.parent().unwrap_or(&image.path))),
            None => put(&image.label, &image.path)?,
        }
    }
    folders.dedup();
    for (disk, folder) in folders {
        for entry in std::fs::read_dir(folder)? {
            let file = entry?.path();
            let base = file.file_name().and_then(|name| name.to_str());
            if let Some(base) = base.filter(|base| is_image_or_part(base)) {
                put(&format!("{disk}/{base}"), &file)?;
            }
        }
    }
    Ok(())
}

/// Whether a file of the folder of a disk is one that Carreto reads.
fn is_image_or_part(base: &str) -> bool {
    let is_content = Path::new(base).extension().is_some_and(|end| end == "content");
    base != "disk" && !is_content
}

fn migrate(stage: &Stage, image: &Image) -> Result<()> {
    let url = stage.url(&image.label);
    let folder = url.rsplit_once('/').map_or("", |(folder, _)| folder);
    let gate = ["--allow-dir", folder];
    let more = if image.refers { &gate[..] } else { &[] };
    stage.carreto.migrate_and_compare(image, &url, &stage.folder.join("target"), more)
}

/// Runs `upload` of `source` to its end.
fn upload(
    carreto: &Carreto,
    source: &Path,
    url: &str,
    options: &[&str],
    exit: i32,
) -> Result<process::Outcome> {
    carreto.expect(exit, &carreto.job(&["upload", text(source)?, url], options)?)
}

/// A number of a report.
fn number(report: &serde_json::Value, name: &str) -> Result<u64> {
    report[name].as_u64().ok_or_else(|| format!("the report lacks {name}: {report}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_their_parts_are_uploaded_and_nothing_else() {
        for wanted in ["v3.qcow2", "data-file.data", "split-flat-f001.vmdk"] {
            assert!(is_image_or_part(wanted), "{wanted}");
        }
        for other in ["disk", "stream.vmdk.content"] {
            assert!(!is_image_or_part(other), "{other}");
        }
    }
}
