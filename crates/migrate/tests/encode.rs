//! Images made of images: every format, and what becomes of an interrupted run.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

use carreto_error::Kind;
use carreto_migrate::{
    EncodeReport, EncodeSpec, Event, ImageSpec, Observer, OutputFormat, PackCodec, RunEvent, Setup,
    Stop, StopReason, WriteOptions, compare, encode,
};
use carreto_testkit::{Rng, sparse_disk};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

const PART: u64 = 5 << 20;

struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new(disk: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("disk.raw"), disk).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn location(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn spec(&self, output: WriteOptions) -> EncodeSpec {
        EncodeSpec {
            image: ImageSpec::at(self.location("disk.raw")),
            target: self.location("made"),
            output,
            as_is: false,
            replace: false,
            part_size: Some(PART),
            read_back: false,
            timeout: None,
            stall_timeout: None,
            memory: 64 << 20,
            limit_rate: None,
            state_dir: self.path("state"),
            restart: false,
        }
    }

    fn files(&self, directory: &str, ending: &str) -> usize {
        let files = std::fs::read_dir(self.path(directory)).unwrap();
        files.filter(|f| f.as_ref().unwrap().path().to_string_lossy().ends_with(ending)).count()
    }

    async fn is_the_disk(&self, format: &str) -> bool {
        let made = ImageSpec {
            format: Some(format.parse().unwrap()),
            ..ImageSpec::at(self.location("made"))
        };
        let disk = ImageSpec::at(self.location("disk.raw"));
        compare(&Setup::default(), &disk, &made).await.unwrap().is_none()
    }
}

/// Dense data that does not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::new(len as u64).fill(&mut bytes);
    bytes
}

fn qcow2() -> WriteOptions {
    WriteOptions::new(OutputFormat::Qcow2)
}

/// Stops the run after so many items.
struct After(AtomicUsize, Stop);

impl Observer for After {
    fn event(&self, event: &RunEvent) {
        if matches!(event, RunEvent::Engine(Event::Advanced { .. }))
            && self.0.fetch_sub(1, Ordering::SeqCst) == 1
        {
            self.1.request(StopReason::Cancelled);
        }
    }
}

fn stopped_after(items: usize) -> Setup {
    let stop = Stop::default();
    let observer = Arc::new(After(AtomicUsize::new(items), stop.clone()));
    Setup { observer, stop, ..Setup::default() }
}

async fn done(spec: &EncodeSpec) -> EncodeReport {
    let (report, outcome) = encode(&Setup::default(), spec).await;
    outcome.unwrap();
    report
}

async fn kind_of(setup: &Setup, spec: &EncodeSpec) -> Kind {
    encode(setup, spec).await.1.unwrap_err().kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_made_and_read_back() {
    let zstd = WriteOptions { compress: Some(PackCodec::Zstd), ..qcow2() };
    for (format, output) in [
        ("raw", WriteOptions::new(OutputFormat::Raw)),
        ("qcow2", qcow2()),
        ("qcow2", zstd),
        ("vhd", WriteOptions::new(OutputFormat::VhdDynamic)),
        ("vhd", WriteOptions::new(OutputFormat::VhdFixed)),
        ("vmdk", WriteOptions::new(OutputFormat::VmdkSparse)),
        ("vmdk", WriteOptions::new(OutputFormat::VmdkStream)),
    ] {
        let bench = Bench::new(&sparse_disk(23 << 20, 3));
        let spec = bench.spec(output);
        let report = done(&spec).await;
        assert!(report.read_back && report.digest.is_some(), "{format}");
        let made = std::fs::metadata(bench.path("made")).unwrap().len();
        assert_eq!(report.file_size, Some(made), "{format}");
        assert!(bench.is_the_disk(format).await, "{format}");
        assert_eq!(bench.files("state/jobs", ".parts"), 0, "the checkpoint is gone");
        assert_eq!(bench.files("", ".carreto-part"), 0, "and so is the unfinished file");
        assert_eq!(kind_of(&Setup::default(), &spec).await, Kind::Usage, "it exists");
        done(&EncodeSpec { replace: true, ..spec }).await;
    }
}

/// Wherever a run is stopped, the next one goes on, and the file is the one that an uninterrupted
/// run makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_goes_on_and_makes_the_same_file() {
    let bench = Bench::new(&noise(31 << 20));
    let spec = bench.spec(qcow2());
    done(&spec).await;
    let whole = std::fs::read(bench.path("made")).unwrap();
    let mut resumed = 0;
    for items in [1, 2, 5, 9, 14] {
        std::fs::remove_file(bench.path("made")).unwrap();
        assert_eq!(kind_of(&stopped_after(items), &spec).await, Kind::Cancelled, "{items}");
        assert!(!bench.path("made").exists(), "nothing looks whole");
        let report = done(&spec).await;
        assert!(std::fs::read(bench.path("made")).unwrap() == whole, "after {items} items");
        assert!(report.resumed_bytes + report.sent_bytes >= whole.len() as u64);
        resumed += report.resumed_bytes;
    }
    assert!(resumed >= PART, "nothing was ever resumed");
}

/// Where the system says that holes are may depend on what is cached; the bytes do not.
#[tokio::test(flavor = "multi_thread")]
async fn holes_that_come_and_go_are_no_change() {
    use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
    use std::os::unix::fs::FileExt as _;
    let bench = Bench::new(&[]);
    let disk = std::fs::File::options().write(true).open(bench.path("disk.raw")).unwrap();
    let bytes = noise(31 << 20);
    let (start, end) = (4 << 20, 20 << 20);
    disk.set_len(bytes.len() as u64).unwrap();
    disk.write_all_at(&bytes[..start], 0).unwrap();
    disk.write_all_at(&bytes[end..], end as u64).unwrap();
    // Preallocated and never written. Where the file system has no such thing, nothing comes or goes.
    let _ = fallocate(&disk, FallocateFlags::empty(), start as u64, (end - start) as u64);
    disk.sync_all().unwrap();
    let forget = || fadvise(&disk, 0, None, Advice::DontNeed).unwrap();
    // Of a part that is not full everything is read again, on both sides of the hole.
    let spec = EncodeSpec { part_size: Some(8 << 20), ..bench.spec(qcow2()) };
    let cache = || drop(std::fs::read(bench.path("disk.raw")).unwrap());
    let look = |is_cached| if is_cached { cache() } else { forget() };
    for (items, is_cached) in (1..=6).flat_map(|items| [(items, false), (items, true)]) {
        look(is_cached);
        assert_eq!(kind_of(&stopped_after(items), &spec).await, Kind::Cancelled, "{items}");
        look(!is_cached);
        done(&spec).await;
        assert!(bench.is_the_disk("qcow2").await, "after {items} items");
        std::fs::remove_file(bench.path("made")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_stops_in_a_row_end_in_the_same_file() {
    let bench = Bench::new(&noise(31 << 20));
    let spec = bench.spec(WriteOptions { compress: Some(PackCodec::Zstd), ..qcow2() });
    done(&spec).await;
    let whole = std::fs::read(bench.path("made")).unwrap();
    std::fs::remove_file(bench.path("made")).unwrap();
    let mut runs = 0;
    while let Err(error) = encode(&stopped_after(9), &spec).await.1 {
        assert_eq!(error.kind(), Kind::Cancelled, "{error}");
        runs += 1;
        assert!(runs < 20, "no run gets further");
    }
    assert!(runs > 0);
    assert!(std::fs::read(bench.path("made")).unwrap() == whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_of_the_unfinished_file_is_written_again() {
    let bench = Bench::new(&noise(31 << 20));
    let spec = bench.spec(qcow2());
    assert_eq!(kind_of(&stopped_after(14), &spec).await, Kind::Cancelled);
    let partial = bench.path(".made.carreto-part");
    let len = std::fs::metadata(&partial).unwrap().len();
    // As after a loss of power: the file has its size, and zeros where data was.
    let file = std::fs::File::options().write(true).open(&partial).unwrap();
    file.set_len(PART).unwrap();
    file.set_len(len).unwrap();
    done(&spec).await;
    assert!(bench.is_the_disk("qcow2").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_image_begins_anew() {
    let bench = Bench::new(&noise(31 << 20));
    let spec = bench.spec(qcow2());
    assert_eq!(kind_of(&stopped_after(9), &spec).await, Kind::Cancelled);
    std::fs::write(bench.path("disk.raw"), sparse_disk(31 << 20, 9)).unwrap();
    let report = done(&spec).await;
    assert_eq!(report.resumed_bytes, 0);
    assert!(bench.is_the_disk("qcow2").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_forgets_what_was_done() {
    let bench = Bench::new(&noise(31 << 20));
    let spec = bench.spec(qcow2());
    assert_eq!(kind_of(&stopped_after(9), &spec).await, Kind::Cancelled);
    let report = done(&EncodeSpec { restart: true, ..spec }).await;
    assert_eq!(report.resumed_bytes, 0);
    assert!(bench.is_the_disk("qcow2").await);
}

/// Keeps a copy of the checkpoint as it was before the file got its name.
struct Keeper(PathBuf);

impl Observer for Keeper {
    fn event(&self, _event: &RunEvent) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|ending| ending == "parts") {
                std::fs::copy(entry.path(), entry.path().with_extension("kept")).unwrap();
            }
        }
    }
}

/// The file got its name, and then the process ended before it could note that.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_died_at_its_very_end_is_done_by_the_next() {
    let bench = Bench::new(&noise(31 << 20));
    let spec = bench.spec(qcow2());
    let observer = Arc::new(Keeper(bench.path("state/jobs")));
    encode(&Setup { observer, ..Setup::default() }, &spec).await.1.unwrap();
    let whole = std::fs::read(bench.path("made")).unwrap();
    let jobs = std::fs::read_dir(bench.path("state/jobs")).unwrap();
    let is_kept = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "kept");
    let kept = jobs.map(|entry| entry.unwrap().path()).find(is_kept).unwrap();
    std::fs::rename(&kept, kept.with_extension("parts")).unwrap();
    let report = done(&spec).await;
    assert_eq!(report.sent_bytes + report.resumed_bytes, whole.len() as u64);
    assert!(report.resumed_bytes >= whole.len() as u64 - PART && report.read_back);
    assert!(std::fs::read(bench.path("made")).unwrap() == whole);
    // A file of somebody else is none of the job's.
    std::fs::copy(bench.path("disk.raw"), bench.path("other")).unwrap();
    std::fs::rename(bench.path("other"), bench.path("made")).unwrap();
    assert_eq!(kind_of(&Setup::default(), &spec).await, Kind::Usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_options_begin_anew() {
    let bench = Bench::new(&noise(31 << 20));
    assert_eq!(kind_of(&stopped_after(9), &bench.spec(qcow2())).await, Kind::Cancelled);
    let other = WriteOptions { cluster_size: Some(4096), ..qcow2() };
    let report = done(&bench.spec(other)).await;
    assert_eq!(report.resumed_bytes, 0);
    assert!(bench.is_the_disk("qcow2").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_is_refused_before_anything_is_written() {
    let bench = Bench::new(&[1; 512]);
    let bad = WriteOptions { level: Some(3), ..qcow2() };
    assert_eq!(kind_of(&Setup::default(), &bench.spec(bad)).await, Kind::Usage);
    let small = EncodeSpec { part_size: Some(1 << 20), ..bench.spec(qcow2()) };
    assert_eq!(kind_of(&Setup::default(), &small).await, Kind::Usage);
    let nowhere = EncodeSpec { target: bench.location("no/such/made"), ..bench.spec(qcow2()) };
    assert_eq!(kind_of(&Setup::default(), &nowhere).await, Kind::NotFound);
    assert_eq!(bench.files("", ".carreto-part"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_image_nor_anything_but_a_file_is_replaced() {
    let bench = Bench::new(&noise(1 << 20));
    std::fs::hard_link(bench.path("disk.raw"), bench.path("same")).unwrap();
    let forced = |target: &str| EncodeSpec {
        replace: true,
        target: bench.location(target),
        ..bench.spec(qcow2())
    };
    for target in ["disk.raw", "same"] {
        assert_eq!(kind_of(&Setup::default(), &forced(target)).await, Kind::Usage, "{target}");
    }
    std::fs::create_dir(bench.path("folder")).unwrap();
    assert_eq!(kind_of(&Setup::default(), &forced("folder")).await, Kind::TargetUnusable);
    let device = EncodeSpec { target: "/dev/null".into(), ..forced("x") };
    assert_eq!(kind_of(&Setup::default(), &device).await, Kind::TargetUnusable);
    assert!(std::fs::read(bench.path("same")).unwrap() == noise(1 << 20));
}

/// Two images on their way to one name do not mix.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_written_by_one_run_at_a_time() {
    let bench = Bench::new(&noise(1 << 20));
    let partial = std::fs::File::create(bench.path(".made.carreto-part")).unwrap();
    partial.lock().unwrap();
    assert_eq!(kind_of(&Setup::default(), &bench.spec(qcow2())).await, Kind::Locked);
    partial.unlock().unwrap();
    done(&bench.spec(qcow2())).await;
}
