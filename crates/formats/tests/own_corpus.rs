//! The project's own corpus (`tests/corpus`): every format and subformat that qemu-img makes is
//! read to the content that qemu-img reads, and what must be refused is refused.
#![expect(clippy::expect_used, reason = "a failed expectation of a test is a panic")]

use async_trait::async_trait;
use carreto_block::{
    ByteRange, Grant, OpenBeneath, OpenGate, OpenedFile, Placement, SourceExt as _,
};
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_formats::{Format, Image, Limits, OpenOptions, open};
use carreto_testkit::MemSource;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The corpus must not shrink unnoticed.
const IMAGES: usize = 44;
/// The one directory that the gate knows.
const DIRECTORY: &str = "/corpus";
const BLOCK: u64 = 65536;

/// The corpus as a store: a file is its decompressed bytes, in memory.
#[derive(Debug, Clone)]
struct Corpus {
    folder: PathBuf,
}

impl Corpus {
    fn new() -> Self {
        Self { folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus") }
    }

    fn manifest(&self) -> Vec<Value> {
        let file = File::open(self.folder.join("manifest.json")).expect("the manifest is there");
        serde_json::from_reader(file).expect("the manifest is a JSON array")
    }

    fn read(&self, name: &str) -> Result<MemSource> {
        let path = self.folder.join(format!("{name}.gz"));
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| flate2::read::GzDecoder::new(file).read_to_end(&mut bytes))
            .map_err(|error| {
                Error::io(IoSide::Source, "read", path.display().to_string(), error)
            })?;
        Ok(MemSource::new(format!("{DIRECTORY}/{name}"), bytes))
    }

    /// A gate for the image `name` that opens what `grants` covers.
    fn gate(&self, name: &str, grants: Vec<Grant>) -> OpenGate {
        OpenGate::new(Arc::new(self.clone()), grants, DIRECTORY, format!("{DIRECTORY}/{name}"))
    }
}

#[async_trait]
impl OpenBeneath for Corpus {
    async fn open_beneath(&self, directory: &str, relative: &str) -> Result<OpenedFile> {
        assert_eq!(directory, DIRECTORY, "only the granted directory is opened");
        assert!(!relative.contains('/'), "{relative:?} is a plain name");
        Ok(OpenedFile {
            source: Arc::new(self.read(relative)?),
            identity: format!("{directory}/{relative}"),
        })
    }
}

/// One object of the manifest.
struct Entry(Value);

impl Entry {
    fn all() -> Vec<Self> {
        let entries: Vec<_> = Corpus::new().manifest().into_iter().map(Self).collect();
        assert_eq!(entries.len(), IMAGES, "images in the manifest");
        entries
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field).and_then(Value::as_str)
    }

    fn file(&self) -> &str {
        self.text("file").expect("every entry names a file")
    }

    fn label(&self) -> String {
        let snapshot = self.text("snapshot").map(|name| format!(" @{name}"));
        format!("{}{}", self.file(), snapshot.unwrap_or_default())
    }

    fn is_refused(&self) -> bool {
        self.text("refused").is_some()
    }

    fn needs_files(&self) -> bool {
        self.0["needs"].as_array().is_some_and(|needs| !needs.is_empty())
    }

    fn format(&self) -> Format {
        let name = self.text("format").expect("every entry has a format");
        name.parse().expect("the format is known")
    }

    async fn open(&self, format: Option<Format>, grants: Vec<Grant>) -> Result<Arc<dyn Image>> {
        let corpus = Corpus::new();
        let options = OpenOptions {
            format,
            snapshot: self.text("snapshot").map(str::to_owned),
            ..OpenOptions::default()
        };
        let file = Arc::new(corpus.read(self.file())?);
        open(file, &options, &corpus.gate(self.file(), grants)).await
    }
}

/// What opens the whole corpus to its images.
fn granted() -> Vec<Grant> {
    vec![Grant(DIRECTORY.into())]
}

/// Fails with all failures at once: one broken reader must not hide the others.
fn assert_none(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

/// SHA-256 of all bytes, read in pieces of `step` bytes.
async fn sha256_content(image: &dyn Image, step: u64) -> Result<String> {
    let mut digest = Sha256::new();
    for range in ByteRange::whole(image.size()).chunks(step) {
        digest.update(image.read_vec(range.start(), length(range)).await?);
    }
    Ok(hex(&digest.finalize()))
}

fn length(range: ByteRange) -> usize {
    usize::try_from(range.len()).expect("a piece fits in memory")
}

/// SHA-256 over the 64 KiB blocks that are not all zero. Those that the map calls zero are not
/// read, so the map is under test here.
async fn sha256_nonzero64k(image: &dyn Image) -> Result<String> {
    let mut digest = Sha256::new();
    let mut at = 0;
    while at < image.size() {
        let rest = ByteRange::new(at, image.size()).expect("ascending");
        let extents = image.extents(rest, 1).await?;
        let first = extents.first().expect("a map is never empty");
        assert_eq!(first.range.start(), at, "the map starts where it was asked");
        let empty = matches!(first.placement, Placement::Zero | Placement::Absent);
        if empty && first.range.end() >= rest.take(BLOCK).end() {
            let whole = first.range.end() / BLOCK * BLOCK;
            at = whole.max(rest.take(BLOCK).end());
            continue;
        }
        let block = image.read_vec(at, length(rest.take(BLOCK))).await?;
        if block.iter().any(|byte| *byte != 0) {
            digest.update(at.to_le_bytes());
            digest.update(&block);
        }
        at += BLOCK;
    }
    Ok(hex(&digest.finalize()))
}

/// The differences between an image and what the manifest says of it.
async fn differences(entry: &Entry) -> Result<Vec<String>> {
    let image = entry.open(None, granted()).await?;
    image.check(&Limits::default()).await?;
    let mut found = vec![
        ("format", image.info().format.to_string()),
        ("subformat", image.info().subformat.clone()),
        ("virtual_size", image.info().virtual_size.to_string()),
    ];
    if entry.text("sha256_content").is_some() {
        // Once in pieces that no cluster size divides.
        for step in [1 << 20, 70_001] {
            let digest = sha256_content(image.as_ref(), step).await?;
            found.push(("sha256_content", digest));
        }
    } else {
        let digest = sha256_nonzero64k(image.as_ref()).await?;
        found.push(("sha256_nonzero64k", digest));
    }
    assert_eq!(image.size(), image.info().virtual_size, "{}", entry.label());
    let wanted = |field: &str| match &entry.0[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok(found
        .into_iter()
        .filter(|(field, found)| *found != wanted(field))
        .map(|(field, found)| {
            let (label, wanted) = (entry.label(), wanted(field));
            format!("{label}: {field} is {found}, wanted {wanted}")
        })
        .collect())
}

#[tokio::test]
async fn content_is_what_qemu_img_reads() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for entry in Entry::all().iter().filter(|entry| !entry.is_refused()) {
        match differences(entry).await {
            Ok(list) => failures.extend(list),
            Err(error) => failures.push(format!("{}: {error:?}", entry.label())),
        }
        compared += 1;
    }
    assert_eq!(compared, 42, "images with content");
    assert_none(&failures);
}

#[tokio::test]
async fn naming_the_format_gives_what_probing_gives() {
    let mut failures = Vec::new();
    for entry in Entry::all().iter().filter(|entry| !entry.is_refused()) {
        let format = Some(entry.format());
        let named = entry.open(format, granted()).await;
        let named = named.map(|image| (image.info().format, image.size()));
        let probed = entry.open(None, granted()).await;
        let probed = probed.map(|image| (image.info().format, image.size()));
        if !matches!((&named, &probed), (Ok(named), Ok(probed)) if named == probed) {
            failures.push(format!("{}: {named:?}, probed {probed:?}", entry.label()));
        }
    }
    assert_none(&failures);
}

#[tokio::test]
async fn a_file_that_an_image_names_is_opened_only_through_the_gate() {
    let mut failures = Vec::new();
    let mut tried = 0;
    for entry in Entry::all().iter().filter(|entry| entry.needs_files()) {
        tried += 1;
        match entry.open(None, Vec::new()).await {
            Err(error) if error.kind() == Kind::Unsafe => {}
            other => failures.push(format!("{}: {:?}", entry.label(), other.map(|_| "opened"))),
        }
    }
    assert_eq!(tried, 9, "images that name other files");
    assert_none(&failures);
}

#[tokio::test]
async fn encrypted_images_are_refused_as_such() {
    let mut failures = Vec::new();
    let mut tried = 0;
    for entry in Entry::all().iter().filter(|entry| entry.is_refused()) {
        tried += 1;
        match entry.open(None, granted()).await {
            Err(error) if Some(error.kind().name()) == entry.text("refused") => {}
            other => failures.push(format!("{}: {:?}", entry.label(), other.map(|_| "opened"))),
        }
    }
    assert_eq!(tried, 2, "encrypted images");
    assert_none(&failures);
}
