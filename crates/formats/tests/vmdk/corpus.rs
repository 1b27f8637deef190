//! Images of other makers, and malformed ones. Found through `CARRETO_CORPUS`.

use crate::support::{FileSource, Folder, open_alone, open_source};
use carreto_block::OpenGate;
use carreto_error::{Kind, Result};
use carreto_formats::{Image, Limits};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn corpus() -> Option<PathBuf> {
    let found = std::env::var_os("CARRETO_CORPUS").map(PathBuf::from);
    if found.is_none() {
        #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
        {
            eprintln!("SKIPPED: CARRETO_CORPUS is not set");
        }
    }
    found
}

async fn digest(image: &dyn Image) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; 4 << 20];
    let mut at = 0;
    while at < image.size() {
        let len = usize::try_from((image.size() - at).min(buf.len() as u64)).unwrap();
        image.read_at(at, &mut buf[..len]).await?;
        hash.update(&buf[..len]);
        at += len as u64;
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    }))
}

/// Opens, checks and reads with the image's own folder allowed.
async fn read_all(path: &Path) -> Result<String> {
    let gate = Folder(path.parent().unwrap().to_owned()).gate();
    let image = open_source(Arc::new(FileSource::open(path)?), &gate).await?;
    image.check(&Limits::default()).await?;
    digest(image.as_ref()).await
}

#[tokio::test]
async fn images_have_their_known_content() {
    let Some(corpus) = corpus() else { return };
    let folder = corpus.join("images");
    let text = std::fs::read(folder.join("manifest.json")).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let list = list.as_array().or_else(|| list["images"].as_array()).unwrap().clone();
    let (mut matches, mut refusals) = (0, 0);
    for entry in list.iter().filter(|entry| entry["format"] == "vmdk") {
        let name = entry["file"].as_str().unwrap();
        if Path::new(name).extension() == Some("bz2".as_ref()) {
            continue;
        }
        let found = read_all(&folder.join(name)).await;
        if let Some(wanted) = entry["sha256_content"].as_str() {
            assert_eq!(found.expect(name), wanted, "{name}");
            matches += 1;
        } else {
            let wanted = match name.rsplit('/').next().unwrap() {
                "ms3-win.vmdk" => Kind::NotFound,
                "disk.vmdk" => Kind::Unsafe,
                "monolithicSparse.vmdk" | "vmdk-invalid.img" => Kind::Truncated,
                _ => Kind::Corrupt,
            };
            let error = found.expect_err(name);
            assert_eq!(error.kind(), wanted, "{name}: {error}");
            refusals += 1;
        }
    }
    assert!(matches >= 9 && refusals >= 6, "{matches} matches, {refusals} refusals");
}

/// What a fuzzer found: a huge capacity (the header of QEMU's afl9).
#[tokio::test]
async fn huge_tables_are_refused_without_memory() {
    let mut bytes = vec![0; 196_608];
    bytes[..4].copy_from_slice(b"KDMV");
    bytes[4] = 1;
    bytes[8] = 3;
    bytes[12..20].copy_from_slice(&2_233_785_398_448_881_665_u64.to_le_bytes());
    bytes[20] = 128;
    bytes[44..48].copy_from_slice(&506_u32.to_le_bytes());
    bytes[73..77].copy_from_slice(b"\n \r\n");
    assert_eq!(open_alone(bytes.clone()).await.unwrap_err().kind(), Kind::Corrupt);
    bytes[44..48].copy_from_slice(&512_u32.to_le_bytes());
    assert_eq!(open_alone(bytes).await.unwrap_err().kind(), Kind::Limit);
}

/// Unpacks the archive of malformed images; its members are sparse.
fn malformed(corpus: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("tar")
        .arg("--zstd")
        .arg("-xf")
        .arg(corpus.join("malformed/images.tar.zst"))
        .arg("-C")
        .arg(folder.path())
        .status();
    assert!(status.unwrap().success(), "tar failed");
    folder
}

#[tokio::test]
async fn malformed_images_have_the_wanted_kind() {
    let Some(corpus) = corpus() else { return };
    let table = std::fs::read_to_string(corpus.join("malformed/cases.tsv")).unwrap();
    let folder = malformed(&corpus);
    let mut cases = 0;
    for row in table.lines().filter(|row| row.starts_with('v')) {
        let [name, _, wanted, _] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let bytes = std::fs::read(folder.path().join(name)).expect(name);
        let found = judge(bytes).await;
        assert_eq!(found, wanted, "{name}");
        cases += 1;
    }
    assert!(cases >= 20, "{cases}");
}

/// The kind that open and check give with a closed gate; the payload only if they pass.
async fn judge(bytes: Vec<u8>) -> String {
    let memory = carreto_testkit::MemSource::new("case.vmdk", bytes);
    let image = match open_source(Arc::new(memory), &OpenGate::closed()).await {
        Ok(image) => image,
        Err(error) => return error.kind().name().to_owned(),
    };
    let report = match image.check(&Limits::default()).await {
        Ok(report) => report,
        Err(error) => return error.kind().name().to_owned(),
    };
    match digest(image.as_ref()).await {
        Err(error) => error.kind().name().to_owned(),
        Ok(_) if report.warnings.is_empty() && image.info().warnings.is_empty() => "ok".into(),
        Ok(_) => "ok-warn".into(),
    }
}
