//! Suite `s3`: the same images from an object store, and what is said when it refuses.

use super::Lab;
use super::carreto::Carreto;
use super::images::{self, Image};
use super::minio::Server;
use super::report::Tally;
use crate::Result;
use std::path::Path;

pub(crate) const BUCKET: &str = "images";

pub(crate) fn run(lab: &mut Lab, tally: &mut Tally) -> Result<()> {
    let folder = lab.folder("s3")?;
    let server = lab.server.take().ok_or("no server was installed")?;
    let server = server.serve(&folder)?;
    lab.add_versions(vec![server.version.clone()]);
    let images = lab.images()?.to_vec();
    upload(&server, &images)?;
    let carreto = lab.carreto.with_environment(server.client.environment());
    for image in &images {
        let result = migrate(&carreto, image, &folder.join("target"));
        tally.check(&format!("{} migrate", image.label), result);
    }
    super::upload::run(&carreto, &images, &folder, tally)?;
    refusals(&carreto, &server, &images, &folder, tally)
}

/// Puts the images, and the files next to them that they name, under the names they have.
fn upload(server: &Server, images: &[Image]) -> Result<()> {
    server.client.make_bucket(BUCKET)?;
    let mut folders = Vec::new();
    for image in images {
        match image.label.split_once('/') {
            Some((disk, _)) => folders.push((disk, image.path.parent().unwrap_or(&image.path))),
            None => server.client.put_file(BUCKET, &image.label, &image.path)?,
        }
    }
    folders.dedup();
    for (disk, folder) in folders {
        for entry in std::fs::read_dir(folder)? {
            let file = entry?.path();
            let base = file.file_name().and_then(|name| name.to_str());
            if let Some(base) = base.filter(|base| is_image_or_part(base)) {
                let key = format!("{disk}/{base}");
                server.client.put_file(BUCKET, &key, &file)?;
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

fn url(image: &Image) -> String {
    format!("s3://{BUCKET}/{}", image.label)
}

fn migrate(carreto: &Carreto, image: &Image, target: &Path) -> Result<()> {
    let url = url(image);
    let folder = url.rsplit_once('/').map_or("", |(folder, _)| folder);
    let gate = ["--allow-dir", folder];
    let more = if image.refers { &gate[..] } else { &[] };
    carreto.migrate_and_compare(image, &url, target, more)
}

/// Each refusal has its exit code and leaves no target behind.
fn refusals(
    carreto: &Carreto,
    server: &Server,
    images: &[Image],
    folder: &Path,
    tally: &mut Tally,
) -> Result<()> {
    let good = url(images::find(images, "odd/v3.qcow2")?);
    let with = |name: &str, value: &str| {
        let mut environment = server.client.environment();
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_owned(), value.to_owned()));
        carreto.with_environment(environment)
    };
    let wrong_secret = with("AWS_SECRET_ACCESS_KEY", "wrong-secret-wrong-secret");
    let wrong_key = with("AWS_ACCESS_KEY_ID", "nobody");
    let missing = format!("s3://{BUCKET}/odd/none.qcow2");
    let no_bucket = "s3://no-such-bucket-here/odd/v3.qcow2";
    let target = folder.join("refused");
    for (label, carreto, url, exit) in [
        ("wrong secret", &wrong_secret, good.as_str(), 10),
        ("wrong key", &wrong_key, good.as_str(), 10),
        ("missing object", carreto, missing.as_str(), 4),
        ("missing bucket", carreto, no_bucket, 4),
    ] {
        tally.check(label, refused(carreto, url, &target, exit));
    }
    Ok(())
}

fn refused(carreto: &Carreto, url: &str, target: &Path, exit: i32) -> Result<()> {
    let outcome = carreto.expect(exit, &carreto.migration(url, target, &[])?)?;
    if target.exists() {
        std::fs::remove_file(target)?;
        return Err("it left a target behind".into());
    }
    let said = outcome.said();
    if said.contains("wrong-secret-wrong-secret") {
        return Err("it prints the secret".into());
    }
    Ok(())
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
