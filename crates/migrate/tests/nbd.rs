//! Migrations from and to NBD exports, against a server over memory that can lose what it was not
//! told to flush.
#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "../../store/tests/nbd/server.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "the server of the tests of the client, which know more faults"
)]
mod server;

use carreto_error::{Error, Kind};
use carreto_migrate::live::{LiveTargets, Targets as _};
use carreto_migrate::{
    EncodeSpec, Format, ImageSpec, JobSpec, OutputFormat, Setup, Verify, WriteOptions, compare,
    encode, inspect, migrate, plan,
};
use carreto_testkit::sparse_disk;
use server::{Fault, Manner, Server};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

const SIZE: usize = (9 << 20) + 512;

struct Bench {
    directory: tempfile::TempDir,
    disk: Vec<u8>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = sparse_disk(SIZE, seed);
        std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
        Self { directory, disk }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image(&self) -> ImageSpec {
        let location = self.path("disk.raw").display().to_string();
        ImageSpec { format: Some(Format::Raw), ..ImageSpec::at(location) }
    }

    fn job(&self, server: &Server) -> JobSpec {
        let job = JobSpec::new(self.image(), &server.address, self.path("state"));
        JobSpec { confirmed: true, ..job }
    }
}

async fn failure(spec: &JobSpec) -> Error {
    migrate(&Setup::default(), spec).await.1.unwrap_err()
}

fn exported(server: &Server) -> ImageSpec {
    ImageSpec { format: Some(Format::Raw), ..ImageSpec::at(&server.address) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_goes_to_an_export_and_back() {
    let bench = Bench::new(31);
    for manner in [
        Manner::default(),
        Manner { simple: true, no_status: true, ..Manner::default() },
        Manner { min_block: Some(512), fast_zero: Some(false), ..Manner::default() },
    ] {
        let server = Server::start(vec![0xEE; SIZE + 4096], manner).await;
        let (report, outcome) = migrate(&Setup::default(), &bench.job(&server)).await;
        outcome.unwrap();
        assert_eq!(
            (report.target, report.target_size),
            (server.address.clone(), Some(SIZE as u64 + 4096))
        );
        assert!(report.verify.digest.is_some());
        assert!(server.disk.lock().unwrap()[..SIZE] == bench.disk);
        assert!(server.disk.lock().unwrap()[SIZE..].iter().all(|byte| *byte == 0xEE));
    }
    let server = Server::start(bench.disk.clone(), Manner::default()).await;
    let difference = compare(&Setup::default(), &exported(&server), &bench.image()).await;
    assert!(difference.unwrap().is_none());
    let back = JobSpec::new(exported(&server), bench.path("back.raw"), bench.path("state"));
    migrate(&Setup::default(), &back).await.1.unwrap();
    assert!(std::fs::read(bench.path("back.raw")).unwrap() == bench.disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_target_is_refused_before_the_first_write() {
    let bench = Bench::new(32);
    let good = Server::start(vec![7; SIZE], Manner::default()).await;
    let unconfirmed = JobSpec { confirmed: false, ..bench.job(&good) };
    assert_eq!(failure(&unconfirmed).await.kind(), Kind::Usage);
    assert!(plan(&Setup::default(), &unconfirmed).await.unwrap().needs_yes);
    assert!(good.disk.lock().unwrap().iter().all(|byte| *byte == 7));

    let small = Server::start(vec![7; SIZE - 1], Manner::default()).await;
    let error = failure(&bench.job(&small)).await;
    assert_eq!((error.kind(), error.needed_bytes()), (Kind::TargetTooSmall, Some(SIZE as u64)));

    let manner = Manner { read_only: true, ..Manner::default() };
    let read_only = Server::start(vec![7; SIZE], manner).await;
    assert_eq!(failure(&bench.job(&read_only)).await.kind(), Kind::TargetUnusable);

    let own = JobSpec { image: exported(&good), ..bench.job(&good) };
    let error = failure(&own).await;
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("image itself"), "{error}");
    assert!(good.disk.lock().unwrap().iter().all(|byte| *byte == 7));

    let target = PathBuf::from(good.address.replace("nbd://", "nbds://"));
    let error = failure(&JobSpec { target, ..bench.job(&good) }).await;
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}

/// What the server had answered and not flushed is gone; a run that trusted its journal would
/// never write it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_flushed_when_the_server_lost_power_is_written_again() {
    for verify in [Verify::Full, Verify::None] {
        let bench = Bench::new(33);
        let manner = Manner { fault: Some(Fault::PowerLoss), fault_after: 3, ..Manner::default() };
        let server = Server::start(vec![0xEE; SIZE], manner).await;
        let job = JobSpec { verify, ..bench.job(&server) };
        let error = failure(&job).await;
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(server.disk.lock().unwrap()[..1 << 20].iter().all(|byte| *byte == 0));
        let (report, outcome) = migrate(&Setup::default(), &job).await;
        outcome.unwrap();
        assert_eq!(report.copied.resumed_bytes, 0, "nothing of the body was flushed");
        assert!(server.disk.lock().unwrap()[..] == bench.disk);
    }
}

/// A write that is refused is no loss: what was answered before is flushed, and counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_write_ends_the_run_and_the_next_one_goes_on() {
    let bench = Bench::new(34);
    let manner =
        Manner { fault: Some(Fault::WriteRefusal(5)), fault_after: 3, ..Manner::default() };
    let server = Server::start(vec![0xEE; SIZE], manner).await;
    assert_eq!(failure(&bench.job(&server)).await.kind(), Kind::Io);
    let (report, outcome) = migrate(&Setup::default(), &bench.job(&server)).await;
    outcome.unwrap();
    assert!(report.copied.resumed_bytes > 0);
    assert!(server.disk.lock().unwrap()[..] == bench.disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_no_place_for_an_image_file() {
    let bench = Bench::new(35);
    let server = Server::start(vec![7; SIZE], Manner::default()).await;
    let spec = EncodeSpec {
        image: bench.image(),
        target: server.address.clone(),
        output: WriteOptions::new(OutputFormat::Raw),
        as_is: false,
        replace: true,
        part_size: None,
        read_back: false,
        timeout: None,
        stall_timeout: None,
        memory: 64 << 20,
        limit_rate: None,
        state_dir: bench.path("state"),
        restart: false,
    };
    let error = encode(&Setup::default(), &spec).await.1.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.remedy().contains("carreto migrate"), "{error}");
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
}

/// An image names the export next to it: nothing is opened.
#[tokio::test(flavor = "multi_thread")]
async fn images_name_no_exports() {
    let bench = Bench::new(36);
    let secret = Server::start(vec![7; SIZE], Manner::default()).await;
    for name in [secret.address.as_str(), "/etc/passwd", "base.raw"] {
        // Header of version 2 (QEMU's qcow2 specification): 64 KiB clusters, one L1 entry.
        let mut overlay = vec![0; 4 << 16];
        overlay[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        overlay[8..16].copy_from_slice(&256_u64.to_be_bytes());
        overlay[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
        overlay[20..24].copy_from_slice(&16_u32.to_be_bytes());
        overlay[24..32].copy_from_slice(&(1_u64 << 20).to_be_bytes());
        overlay[36..40].copy_from_slice(&1_u32.to_be_bytes());
        overlay[40..48].copy_from_slice(&(3_u64 << 16).to_be_bytes());
        overlay[48..56].copy_from_slice(&(1_u64 << 16).to_be_bytes());
        overlay[56..60].copy_from_slice(&1_u32.to_be_bytes());
        overlay[256..256 + name.len()].copy_from_slice(name.as_bytes());
        std::fs::write(bench.path("overlay.qcow2"), &overlay).unwrap();
        let server = Server::start(overlay, Manner::default()).await;
        for location in [server.address.clone(), bench.path("overlay.qcow2").display().to_string()]
        {
            let error = inspect(&Setup::default(), &ImageSpec::at(location)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unsafe, "{name}: {error}");
        }
    }
    assert_eq!(secret.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn looks_at_an_export_with_one_client_take_turns() {
    let server =
        Server::start(vec![0; SIZE], Manner { one_client: true, ..Manner::default() }).await;
    let targets = LiveTargets::new(Setup::default());
    let look = || targets.look(&server.address);
    let (first, second, opened, third) =
        tokio::join!(look(), look(), targets.open(&server.address, SIZE as u64), look());
    for seen in [first, second, third, look().await] {
        assert_eq!((seen.size, seen.problem.is_none()), (Some(SIZE as u64), true), "{seen:?}");
    }
    drop(opened.unwrap());
}
