//! The corpora: images of other makers with known content, and broken ones with the wanted kind.
//!
//! Found through the variable `CARRETO_CORPUS` alone; without it a line says what was skipped.

use crate::support::qcow2;
use carreto_block::{ByteRange, OpenGate, Placement, SourceExt as _};
use carreto_error::Result;
use carreto_formats::open;
use carreto_testkit::MemSource;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[expect(clippy::print_stderr, reason = "a skipped test must be visible")]
fn corpus(what: &str) -> Option<PathBuf> {
    let Some(path) = std::env::var_os("CARRETO_CORPUS") else {
        eprintln!("SKIPPED {what}: CARRETO_CORPUS is not set");
        return None;
    };
    Some(PathBuf::from(path))
}

/// Runs a decompressor or unpacker of the system and takes what it prints.
fn output(program: &str, args: &[&str]) -> Vec<u8> {
    let found = std::process::Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(found.status.success(), "{program} {args:?} failed");
    found.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

#[tokio::test]
async fn images_of_other_makers_have_their_known_content() {
    let Some(root) = corpus("images_of_other_makers_have_their_known_content") else {
        return;
    };
    let manifest = std::fs::read(root.join("images/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let (mut seen, root_images) = (0, root.join("images"));
    for entry in manifest.as_array().unwrap() {
        let (Some("qcow2"), Some(file)) = (entry["format"].as_str(), entry["file"].as_str()) else {
            continue;
        };
        let Some(wanted) = entry["sha256_nonzero64k"].as_str() else {
            continue;
        };
        let path = root_images.join(file);
        let bytes = match path.extension().and_then(|ext| ext.to_str()) {
            Some("xz") => output("xz", &["-dc", text(&path)]),
            _ => std::fs::read(&path).unwrap(),
        };
        let found = digest(bytes).await.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(found, wanted, "{file}");
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} images");
}

/// The manifest's `sha256_nonzero64k`: offset and bytes of every block that is not all zero.
async fn digest(bytes: Vec<u8>) -> Result<String> {
    let file = Arc::new(MemSource::new("corpus.qcow2", bytes));
    let image = open(file, &qcow2(), &OpenGate::closed()).await?;
    image.check(&qcow2().limits).await?;
    let mut hash = Sha256::new();
    for block in ByteRange::whole(image.size()).chunks(65_536) {
        let map = image.extents(block, 1).await?;
        if map[0].range == block && matches!(map[0].placement, Placement::Zero) {
            continue;
        }
        let len = usize::try_from(block.len()).unwrap();
        let bytes = image.read_vec(block.start(), len).await?;
        if bytes.iter().any(|byte| *byte != 0) {
            hash.update(block.start().to_le_bytes());
            hash.update(bytes);
        }
    }
    let mut hex = String::new();
    for byte in hash.finalize() {
        write!(hex, "{byte:02x}").unwrap();
    }
    Ok(hex)
}

#[tokio::test]
async fn broken_images_have_their_wanted_kind() {
    let Some(root) = corpus("broken_images_have_their_wanted_kind") else {
        return;
    };
    let folder = root.join("malformed");
    let archive = folder.join("images.tar.zst");
    let cases = std::fs::read_to_string(folder.join("cases.tsv")).unwrap();
    let mut seen = 0;
    for line in cases.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (name, format, wanted) = (fields[0], fields[1], fields[2]);
        if format != "qcow2" {
            continue;
        }
        let bytes = member(&archive, name);
        let found = outcome(bytes).await;
        assert_eq!(found, wanted, "{name}");
        seen += 1;
    }
    assert!(seen >= 30, "only {seen} cases");
}

/// The member `name` of a compressed tar archive, whatever folder it is in.
fn member(archive: &Path, name: &str) -> Vec<u8> {
    let pattern = format!("*{name}");
    output("tar", &["--zstd", "--wildcards", "-xOf", text(archive), &pattern])
}

/// What `info` says: the kind, or whether there were warnings. Damage of payload shows on reading.
async fn outcome(bytes: Vec<u8>) -> String {
    let run = async {
        let file = Arc::new(MemSource::new("case.qcow2", bytes));
        let image = open(file, &qcow2(), &OpenGate::closed()).await?;
        let report = image.check(&qcow2().limits).await?;
        let warnings = image.info().warnings.len() + report.warnings.len();
        image.read_vec(0, usize::try_from(image.size().min(4 << 20)).unwrap()).await?;
        Ok(if warnings > 0 { "ok-warn" } else { "ok" })
    };
    let outcome: Result<&str> = run.await;
    match outcome {
        Ok(text) => text.to_owned(),
        Err(error) => error.kind().name().to_owned(),
    }
}
