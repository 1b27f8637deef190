//! The gate stays closed to hostile names.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

use async_trait::async_trait;
use carreto_block::{Grant, OpenBeneath, OpenGate, OpenRequest, OpenedFile, ReferenceRole, Source};
use carreto_error::{Error, IoSide, Kind, Result};
use carreto_testkit::MemSource;
use std::sync::{Arc, Mutex};

/// Opens everything and writes down what it was asked for.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<String>>);

#[async_trait]
impl OpenBeneath for Recorder {
    async fn open_beneath(&self, directory: &str, relative: &str) -> Result<OpenedFile> {
        let path = format!("{directory}/{relative}");
        self.0.lock().unwrap().push(path.clone());
        let source: Arc<dyn Source> = Arc::new(MemSource::new(path.clone(), vec![0; 512]));
        Ok(OpenedFile { source, identity: path })
    }
}

fn gate(grants: &[&str]) -> (OpenGate, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let grants = grants.iter().map(|grant| Grant((*grant).to_owned())).collect();
    (OpenGate::new(recorder.clone(), grants, "/images", "/images/top"), recorder)
}

fn request(name: &str) -> OpenRequest<'_> {
    OpenRequest { referrer: "top", name, role: ReferenceRole::Backing }
}

#[tokio::test]
async fn closed_by_default() {
    let error = OpenGate::closed().open(request("base.raw")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsafe);
    let (gate, recorder) = gate(&[]);
    let error = gate.open(request("base.raw")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsafe);
    assert!(error.remedy().contains("--allow-dir \"/images\""), "{}", error.remedy());
    assert!(recorder.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn hostile_names_are_refused_unopened() {
    let (gate, recorder) = gate(&["/images"]);
    let names = [
        "",
        "/etc/passwd",
        "../etc/passwd",
        "a/../../b",
        "json:{}",
        "nbd:localhost:10809",
        "http://x/y",
        "fd:3",
        "C:\\a.vhd",
        "\\\\host\\share",
        "a\0b",
        "..",
        ".",
        "/images",
        "/imagesque/x",
        "a\nb",
    ];
    for name in names {
        let error = gate.open(request(name)).await.expect_err(name);
        assert_eq!(error.kind(), Kind::Unsafe, "{name:?}: {error}");
    }
    assert!(recorder.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn allowed_names_open_and_nest() {
    let (gate, recorder) = gate(&["/images"]);
    let (_, inner) = gate.open(request("sub/./base.raw")).await.unwrap();
    inner.open(request("deep.raw")).await.unwrap();
    gate.open(request("/images/abs.raw")).await.unwrap();
    gate.open(request("sub/../flat.raw")).await.unwrap();
    let seen = recorder.0.lock().unwrap().clone();
    let wanted =
        ["/images/sub/base.raw", "/images/sub/deep.raw", "/images/abs.raw", "/images/flat.raw"];
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn cycles_and_depth_end() {
    let (gate, _) = gate(&["/images"]);
    let error = gate.open(request("top")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsafe);
    let mut gate = gate.with_max_depth(3);
    for name in ["a", "b", "c"] {
        gate = gate.open(request(name)).await.unwrap().1;
    }
    assert_eq!(gate.open(request("d")).await.unwrap_err().kind(), Kind::Limit);
}

/// A system that lets nobody open another file.
#[derive(Debug)]
struct Exhausted(i32);

#[async_trait]
impl OpenBeneath for Exhausted {
    async fn open_beneath(&self, _directory: &str, relative: &str) -> Result<OpenedFile> {
        let error = std::io::Error::from_raw_os_error(self.0);
        Err(Error::io(IoSide::Source, "open", relative, error).wrap("a layer between"))
    }
}

#[tokio::test]
async fn too_many_open_files_are_the_images_doing() {
    for (code, wanted) in [(23, Kind::Limit), (24, Kind::Limit), (5, Kind::Io)] {
        let grants = vec![Grant("/images".into())];
        let gate = OpenGate::new(Arc::new(Exhausted(code)), grants, "/images", "/images/top");
        let error = gate.open(request("base.raw")).await.unwrap_err();
        assert_eq!(error.kind(), wanted, "{error}");
        assert_eq!(error.remedy().contains("ulimit"), wanted == Kind::Limit);
    }
}
