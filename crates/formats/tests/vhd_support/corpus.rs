//! The corpus that `CARRETO_CORPUS` names, as sources and as a directory behind the gate.

use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, Grant, OpenBeneath, OpenGate, OpenedFile, Placement, Source, SourceExt as _,
    Stamp,
};
use carreto_error::{Error, IoSide, Kind, Result};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

const BLOCK: u64 = 64 << 10;

/// The corpus and a scratch directory for what it holds in compressed form.
#[derive(Debug)]
pub struct Corpus {
    root: PathBuf,
    scratch: tempfile::TempDir,
}

impl Corpus {
    /// `None`, said aloud, when the variable is not set.
    pub fn find(test: &str) -> Option<Arc<Self>> {
        let Some(root) = std::env::var_os("CARRETO_CORPUS") else {
            // Written past the capture of the test harness, so that it is seen.
            let line = format!("SKIPPED {test}: CARRETO_CORPUS is not set\n");
            std::io::stderr().write_all(line.as_bytes()).expect("say it");
            return None;
        };
        Some(Arc::new(Self {
            root: root.into(),
            scratch: tempfile::tempdir().expect("a scratch directory"),
        }))
    }

    pub fn manifest(&self) -> Vec<Value> {
        let file = File::open(self.root.join("images/manifest.json")).expect("the manifest");
        serde_json::from_reader(file).expect("a JSON array")
    }

    /// The path of an image of the corpus, decompressed where it is stored compressed.
    pub fn image(&self, name: &str) -> PathBuf {
        let path = self.root.join("images").join(name);
        let program = match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => "xz",
            Some("bz2") => "bzip2",
            Some("gz") => "gzip",
            _ => return path,
        };
        let plain = self.scratch.path().join(Path::new(name).with_extension(""));
        if !plain.exists() {
            std::fs::create_dir_all(plain.parent().expect("a folder")).expect("create a folder");
            let input = File::open(&path).expect("open the compressed image");
            let output = File::create(&plain).expect("create the image");
            let status = Command::new(program)
                .arg("-dc")
                .stdin(Stdio::from(input))
                .stdout(Stdio::from(output))
                .status();
            assert!(status.expect("run the decompressor").success(), "{name}");
        }
        plain
    }

    pub fn source(&self, name: &str) -> Arc<dyn Source> {
        FileSource::open(&self.image(name)).expect("open the image")
    }

    /// A gate that opens the folder of the image `name`.
    pub fn gate(self: &Arc<Self>, name: &str) -> OpenGate {
        let folder = Path::new(name).parent().expect("a folder");
        let folder = format!("/{}", folder.display());
        let grants = vec![Grant(folder.clone())];
        OpenGate::new(Arc::new(Folder(Arc::clone(self))), grants, folder, name)
    }

    /// The malformed images, unpacked, with the kinds that are wanted.
    pub fn malformed(&self) -> Vec<(PathBuf, String)> {
        let folder = self.root.join("malformed");
        let status = Command::new("tar")
            .arg("--zstd")
            .arg("-xf")
            .arg(folder.join("images.tar.zst"))
            .arg("-C")
            .arg(self.scratch.path())
            .status();
        assert!(status.expect("run tar").success());
        let cases = std::fs::read_to_string(folder.join("cases.tsv")).expect("cases.tsv");
        cases
            .lines()
            .skip(1)
            .map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                (self.unpacked(fields[0]), fields[2].to_owned())
            })
            .collect()
    }

    fn unpacked(&self, name: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        if path.exists() {
            return path;
        }
        let below = std::fs::read_dir(self.scratch.path()).expect("list the scratch directory");
        below
            .filter_map(|entry| Some(entry.ok()?.path().join(name)))
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("{name} is not in the archive"))
    }
}

/// The images of the corpus below `/`.
#[derive(Debug)]
struct Folder(Arc<Corpus>);

#[async_trait]
impl OpenBeneath for Folder {
    async fn open_beneath(&self, directory: &str, relative: &str) -> Result<OpenedFile> {
        let name = format!("{}/{relative}", directory.trim_start_matches('/'));
        let stored = ["", ".xz", ".bz2"]
            .map(|suffix| format!("{name}{suffix}"))
            .into_iter()
            .find(|name| self.0.root.join("images").join(name).is_file());
        let stored =
            stored.ok_or_else(|| Error::new(Kind::NotFound, "not in the corpus").path(&name))?;
        Ok(OpenedFile { source: FileSource::open(&self.0.image(&stored))?, identity: stored })
    }
}

/// A file, read with system calls on the calling thread.
#[derive(Debug)]
pub struct FileSource {
    name: String,
    file: File,
    size: u64,
}

impl FileSource {
    pub fn open(path: &Path) -> Result<Arc<dyn Source>> {
        let name = path.display().to_string();
        let fail = |error| Error::io(IoSide::Source, "open", name.clone(), error);
        let file = File::open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        Ok(Arc::new(Self { name, file, size }))
    }
}

#[async_trait]
impl Source for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, range: ByteRange, _limit: usize) -> Result<Vec<Extent>> {
        let range = self.check_range(range.start(), range.len())?;
        let extent = Extent::new(range, Placement::Opaque);
        Ok((!range.is_empty()).then_some(extent).into_iter().collect())
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| Error::io(IoSide::Source, "read", self.name.clone(), error))
    }

    async fn stamp(&self) -> Result<Stamp> {
        Ok(Stamp(self.name.clone()))
    }
}

/// SHA-256 of all bytes.
pub async fn sha256_content(disk: &dyn Source) -> String {
    let mut hash = Sha256::new();
    for range in ByteRange::whole(disk.size()).chunks(4 << 20) {
        let bytes = disk.read_vec(range.start(), range.len() as usize).await;
        hash.update(bytes.expect("read"));
    }
    hex(hash)
}

/// SHA-256 over offset and bytes of every block of 64 KiB that is not all zero.
pub async fn sha256_nonzero64k(disk: &dyn Source) -> String {
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < disk.size() {
        let rest = ByteRange::new(at, disk.size()).expect("at is inside");
        let extents = disk.extents(rest, 64).await.expect("extents");
        let data = extents
            .iter()
            .find(|extent| !matches!(extent.placement, Placement::Zero | Placement::Absent));
        let Some(data) = data else {
            at = extents.last().expect("progress").range.end();
            continue;
        };
        let start = (data.range.start() / BLOCK * BLOCK).max(at / BLOCK * BLOCK);
        let block = ByteRange::new(start, (start + BLOCK).min(disk.size())).expect("a block");
        let bytes = disk.read_vec(start, block.len() as usize).await.expect("read");
        if bytes.iter().any(|byte| *byte != 0) {
            hash.update(start.to_le_bytes());
            hash.update(&bytes);
        }
        at = block.end();
    }
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}
