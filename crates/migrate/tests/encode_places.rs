//! What lies in the way of a file that is made: links, other runs, and parts too large to hold.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

#[path = "support/s3.rs"]
mod s3;

use carreto_error::Kind;
use carreto_migrate::{
    EncodeSpec, Event, ImageSpec, Observer, OutputFormat, RunEvent, Setup, Stop, StopReason,
    WriteOptions, encode,
};
use carreto_testkit::Rng;
use s3::S3Server;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const MIB: usize = 1 << 20;

fn spec(directory: &Path, image: &str, target: &str, output: OutputFormat) -> EncodeSpec {
    EncodeSpec {
        image: ImageSpec::at(directory.join(image).display().to_string()),
        target: if target.contains("://") {
            target.to_owned()
        } else {
            directory.join(target).display().to_string()
        },
        output: WriteOptions::new(output),
        as_is: false,
        replace: false,
        part_size: None,
        read_back: false,
        timeout: None,
        stall_timeout: None,
        memory: 64 << 20,
        limit_rate: None,
        state_dir: directory.join("state"),
        restart: false,
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::new(seed).fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_link_under_the_name_of_the_unfinished_file_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (source, partial) =
        (directory.path().join("disk.raw"), directory.path().join(".made.carreto-part"));
    let disk = noise(3 * MIB, 1);
    std::fs::write(&source, &disk).unwrap();
    let spec = spec(directory.path(), "disk.raw", "made", OutputFormat::Qcow2);
    let links: [fn(&PathBuf, &PathBuf) -> std::io::Result<()>; 2] =
        [|from, to| std::os::unix::fs::symlink(from, to), |from, to| std::fs::hard_link(from, to)];
    for link in links {
        link(&source, &partial).unwrap();
        encode(&Setup::default(), &spec).await.1.unwrap_err();
        assert!(std::fs::read(&source).unwrap() == disk, "the source was written to");
        std::fs::remove_file(&partial).unwrap();
    }
    encode(&Setup::default(), &spec).await.1.unwrap();
}

/// Stops the run after so many items.
struct StopAfter(AtomicUsize, Stop);

impl Observer for StopAfter {
    fn event(&self, event: &RunEvent) {
        let is_step = matches!(event, RunEvent::Engine(Event::Advanced { .. }));
        if is_step && self.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.1.request(StopReason::Cancelled);
        }
    }
}

async fn interrupted(spec: &EncodeSpec, items: usize) {
    let stop = Stop::default();
    let observer = Arc::new(StopAfter(AtomicUsize::new(items), stop.clone()));
    let setup = Setup { observer, stop, ..Setup::default() };
    let error = encode(&setup, spec).await.1.unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn zeros_are_written_over_what_another_run_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // One has nothing where the other is full; the end keeps both from being done early.
    let size = 120 * MIB;
    let mut sparse = noise(size, 2);
    sparse[8 * MIB..48 * MIB].fill(0);
    std::fs::write(path("sparse.raw"), &sparse).unwrap();
    std::fs::write(path("full.raw"), noise(size, 3)).unwrap();
    let one = spec(directory.path(), "sparse.raw", "made", OutputFormat::Raw);
    let other = spec(directory.path(), "full.raw", "made", OutputFormat::Raw);
    interrupted(&one, 4).await;
    interrupted(&other, 35).await;
    encode(&Setup::default(), &one).await.1.unwrap();
    assert!(std::fs::read(path("made")).unwrap() == sparse);
}

#[tokio::test]
async fn parts_that_memory_does_not_hold_are_refused_before_anything_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let disk = std::fs::File::create(directory.path().join("disk.raw")).unwrap();
    disk.set_len(3 << 40).unwrap();
    let server = S3Server::start().await;
    let large = spec(directory.path(), "disk.raw", "s3://images/disk", OutputFormat::Raw);
    for asked in [None, Some(20 << 20)] {
        let spec = EncodeSpec { part_size: asked, ..large.clone() };
        let error = encode(&server.setup(), &spec).await.1.unwrap_err();
        assert_eq!(error.kind(), Kind::Limit, "{error}");
        assert!(error.needed_bytes().unwrap() > 64 << 20);
        assert!(error.remedy().contains("--memory"));
    }
    let sparse = EncodeSpec { output: WriteOptions::new(OutputFormat::Qcow2), ..large };
    encode(&server.setup(), &sparse).await.1.unwrap();
}

#[tokio::test]
async fn an_image_of_several_files_goes_alone_with_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("disk-flat.vmdk"), noise(MIB, 4)).unwrap();
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                      createType=\"monolithicFlat\"\nRW 2048 FLAT \"disk-flat.vmdk\" 0\n";
    std::fs::write(directory.path().join("disk.vmdk"), descriptor).unwrap();
    let server = S3Server::start().await;
    let mut moved = spec(directory.path(), "disk.vmdk", "s3://images/disk", OutputFormat::Raw);
    moved.as_is = true;
    moved.image.allow_dirs = vec![directory.path().display().to_string()];
    let (report, outcome) = encode(&server.setup(), &moved).await;
    outcome.unwrap();
    assert!(report.warnings.iter().any(|warning| warning.code == "other_files_needed"));
    assert_eq!(report.digest, None);
    let manifest = std::fs::read(server.file("disk.carreto.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["digest"], serde_json::Value::Null);
}
