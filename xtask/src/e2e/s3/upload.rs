//! Every format goes up and comes back: made on the way, or as it is.

use super::super::carreto::text;
use super::super::images::{self, Image};
use super::super::report::Tally;
use super::super::{disk, process};
use super::{Stage, upload};
use crate::Result;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;

/// Images that go as they are.
const AS_THEY_ARE: &[&str] = &[
    "plain.raw",
    "v3.qcow2",
    "zstd.qcow2",
    "dynamic.vhd",
    "fixed.vhd",
    "sparse.vmdk",
    "stream.vmdk",
];

/// What is made on the way: the format as qemu calls it, and the options.
const MADE: &[(&str, &[&str])] = &[
    ("raw", &["--as", "raw"]),
    ("qcow2", &["--as", "qcow2"]),
    ("qcow2", &["--as", "qcow2", "--cluster-size", "2M"]),
    ("qcow2", &["--as", "qcow2", "--compress", "zlib"]),
    ("qcow2", &["--as", "qcow2", "--compress", "zstd"]),
    ("vpc", &["--as", "vhd"]),
    ("vpc", &["--as", "vhd", "--subformat", "fixed"]),
    ("vmdk", &["--as", "vmdk"]),
    ("vmdk", &["--as", "vmdk", "--subformat", "streamOptimized"]),
];

pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    for disk in ["even", "odd"] {
        for name in AS_THEY_ARE {
            let image = images::find(&stage.images, &format!("{disk}/{name}"))?;
            let result = as_it_is(stage, image);
            tally.check(&format!("{} goes as it is", image.label), result);
        }
        let source = images::find(&stage.images, &format!("{disk}/v3.qcow2"))?;
        for (format, options) in MADE {
            let result = made(stage, source, disk, format, options);
            tally.check(&format!("{disk} upload {}", options.join(" ")), result);
        }
    }
    Ok(())
}

/// The same bytes come back, and the same disk.
fn as_it_is(stage: &Stage, image: &Image) -> Result<()> {
    let url = stage.url(&format!("as-is/{}", image.label));
    upload(&stage.carreto, &image.path, &url, &[], 0)?;
    download_and_compare(stage, &url, &image.path)?;
    read_back(stage, image, &url)
}

fn made(stage: &Stage, source: &Image, disk: &str, format: &str, options: &[&str]) -> Result<()> {
    let url = stage.url(&format!("made/{disk}{}", options.join("")));
    upload(&stage.carreto, &source.path, &url, options, 0)?;
    // Never replaced unless asked.
    upload(&stage.carreto, &source.path, &url, options, 2)?;
    let file = download(stage, &url)?;
    let compare = ["compare", "-f", "raw", "-F", format, text(&source.disk)?, text(&file)?];
    process::succeed(Command::new("qemu-img").args(compare))?;
    if !options.contains(&"fixed") {
        return read_back(stage, source, &url);
    }
    // Azure takes whole MiB, so the disk ends with zeros.
    let padded = stage.folder.join("padded");
    std::fs::copy(&source.disk, &padded)?;
    File::options()
        .write(true)
        .open(&padded)?
        .set_len(source.virtual_size.next_multiple_of(MIB))?;
    read_back(stage, &Image { disk: padded, ..source.clone() }, &url)
}

/// Carreto reads from the object what is on the disk: by digest and by migration.
fn read_back(stage: &Stage, image: &Image, url: &str) -> Result<()> {
    let printed = stage.carreto.expect(0, &["digest", url, "--algorithm", "sha256"])?.stdout;
    let wanted = disk::sha256(&image.disk)?;
    if printed.split_whitespace().next() != Some(wanted.as_str()) {
        return Err(format!("the digest is {}, not {wanted}", printed.trim()).into());
    }
    stage.carreto.migrate_and_compare(image, url, &stage.folder.join("back"), &[])
}

fn download(stage: &Stage, url: &str) -> Result<PathBuf> {
    let file = stage.folder.join("downloaded");
    let arguments = ["download", url, text(&file)?];
    stage.carreto.expect(0, &stage.carreto.job(&arguments, &["--force"])?)?;
    Ok(file)
}

fn download_and_compare(stage: &Stage, url: &str, wanted: &Path) -> Result<()> {
    disk::compare(&download(stage, url)?, wanted)
}
