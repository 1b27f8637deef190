//! A target never looks whole too early, nothing is written that need not be, and what an
//! interrupted run left is trusted only as far as it can be.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

use carreto_error::Kind;
use carreto_migrate::{
    Algorithm, Event, ImageSpec, JobSpec, Observer, Phase, RunEvent, Setup, Stop, StopReason,
    Verify, check, compare, digest, inspect, map, migrate, plan,
};
use carreto_testkit::conformance::poll_then_drop;
use carreto_testkit::sparse_disk;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const SIZE: usize = (31 << 20) + 512;
const HEAD: usize = 1 << 20;

struct Bench {
    directory: TempDir,
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

    fn job(&self) -> JobSpec {
        let image = ImageSpec::at(self.path("disk.raw").display().to_string());
        JobSpec::new(image, self.path("target.raw"), self.path("state"))
    }

    fn target(&self) -> Vec<u8> {
        std::fs::read(self.path("target.raw")).unwrap()
    }

    fn head_is_blank(&self) -> bool {
        self.target()[..HEAD].iter().all(|byte| *byte == 0)
    }

    /// Takes back what a run noted at its very end, as if it had been killed before.
    fn forget_mark(&self) {
        const MARK: u8 = 7;
        let is_journal = |path: &PathBuf| path.extension().is_some_and(|end| end == "journal");
        let files = std::fs::read_dir(self.path("state/jobs")).unwrap();
        let path = files.map(|file| file.unwrap().path()).find(is_journal).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let mut at = 0;
        while bytes[at] != MARK {
            let len = u32::from_le_bytes(bytes[at + 1..at + 5].try_into().unwrap());
            at += 9 + usize::try_from(len).unwrap();
        }
        std::fs::write(&path, &bytes[..at]).unwrap();
    }

    fn poke(&self, name: &str, offset: u64) {
        let file = std::fs::File::options().write(true).open(self.path(name)).unwrap();
        file.write_all_at(&[0x99; 512], offset).unwrap();
    }
}

/// Calls `then` at the first event of `phase`, and remembers what was noted.
struct At<F> {
    phase: Phase,
    then: F,
    notes: Mutex<Vec<String>>,
}

impl<F: Fn() + Send + Sync> Observer for At<F> {
    fn event(&self, event: &RunEvent) {
        match event {
            RunEvent::Engine(Event::Advanced { phase, .. }) if *phase == self.phase => {
                (self.then)();
            }
            RunEvent::Note(text) => self.notes.lock().unwrap().push(text.clone()),
            _ => {}
        }
    }
}

fn at<F: Fn() + Send + Sync + 'static>(phase: Phase, then: F) -> (Setup, Arc<At<F>>) {
    let observer = Arc::new(At { phase, then, notes: Mutex::default() });
    (Setup { observer: observer.clone(), ..Setup::default() }, observer)
}

/// A setup whose run stops in `phase`.
fn stopped(phase: Phase) -> Setup {
    let stop = Stop::default();
    let switch = stop.clone();
    let (setup, _) = at(phase, move || switch.request(StopReason::Cancelled));
    Setup { stop, ..setup }
}

async fn kind_of(setup: &Setup, spec: &JobSpec) -> Kind {
    migrate(setup, spec).await.1.unwrap_err().kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_run_wipes_what_a_crash_left_of_the_head() {
    let bench = Bench::new(61);
    assert_eq!(kind_of(&stopped(Phase::Copy), &bench.job()).await, Kind::Cancelled);
    bench.poke("target.raw", 0);
    assert_eq!(kind_of(&stopped(Phase::Copy), &bench.job()).await, Kind::Cancelled);
    assert!(bench.head_is_blank());
    migrate(&Setup::default(), &bench.job()).await.1.unwrap();
    assert!(bench.target() == bench.disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_is_wiped_whatever_stops_its_writing() {
    for verify in [Verify::Full, Verify::None] {
        let bench = Bench::new(62);
        let spec = JobSpec { verify, ..bench.job() };
        assert_eq!(kind_of(&stopped(Phase::Finish), &spec).await, Kind::Cancelled);
        assert!(bench.head_is_blank());
        let image = bench.path("disk.raw");
        let (setup, _) = at(Phase::Finish, move || {
            let file = std::fs::File::options().write(true).open(&image).unwrap();
            file.write_all_at(&[1], 100).unwrap();
        });
        assert_eq!(kind_of(&setup, &spec).await, Kind::SourceChanged, "after the head was read");
        assert!(bench.head_is_blank());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_verification_only_an_untouched_file_is_resumed() {
    for touched in [false, true] {
        let bench = Bench::new(63);
        let spec = JobSpec { verify: Verify::None, ..bench.job() };
        assert_eq!(kind_of(&stopped(Phase::Copy), &spec).await, Kind::Cancelled);
        if touched {
            for offset in (1 << 20..SIZE as u64 - 512).step_by(1 << 19) {
                bench.poke("target.raw", offset);
            }
        }
        let (setup, observer) = at(Phase::Finish, || {});
        let (report, outcome) = migrate(&setup, &spec).await;
        outcome.unwrap();
        assert!(bench.target() == bench.disk);
        assert_eq!(report.copied.resumed_bytes > 0, !touched);
        let notes = observer.notes.lock().unwrap().join("\n");
        assert_eq!(notes.contains("begins again"), touched, "{notes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spelling_of_a_path_does_not_matter() {
    let bench = Bench::new(64);
    assert_eq!(kind_of(&stopped(Phase::Copy), &bench.job()).await, Kind::Cancelled);
    let around = bench.path("state/../disk.raw").display().to_string();
    let spec = JobSpec { image: ImageSpec::at(around), ..bench.job() };
    let (report, outcome) = migrate(&Setup::default(), &spec).await;
    outcome.unwrap();
    assert!(report.copied.resumed_bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_kept_does_not_fail_the_migration() {
    let bench = Bench::new(65);
    migrate(&Setup::default(), &bench.job()).await.1.unwrap();
    let entries = std::fs::read_dir(bench.path("state/jobs")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let report =
        paths.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "json"));
    let report = report.unwrap();
    std::fs::remove_file(&report).unwrap();
    std::fs::create_dir_all(report.join("in the way")).unwrap();
    let (setup, observer) = at(Phase::Finish, || {});
    let (report, outcome) = migrate(&setup, &bench.job()).await;
    outcome.unwrap();
    assert!(report.warnings.iter().any(|warning| warning.code == "report_not_kept"));
    assert!(observer.notes.lock().unwrap().iter().any(|note| note.contains("report")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_writes_nothing_at_all_and_knows_what_is_done() {
    let bench = Bench::new(66);
    let before = plan(&Setup::default(), &bench.job()).await.unwrap();
    assert!(!bench.path("state").exists() && !before.needs_yes);
    let nowhere = JobSpec { state_dir: "/proc/nowhere/state".into(), ..bench.job() };
    assert_eq!(plan(&Setup::default(), &nowhere).await.unwrap().resumed_bytes, 0);
    assert_eq!(kind_of(&stopped(Phase::Verify), &bench.job()).await, Kind::Cancelled);
    let after = plan(&Setup::default(), &bench.job()).await.unwrap();
    assert_eq!(after.resumed_bytes, (SIZE - HEAD) as u64);
    assert!(after.data_bytes < before.data_bytes && after.data_bytes <= HEAD as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_or_a_directory_is_no_target() {
    let bench = Bench::new(67);
    let slash = format!("{}/", bench.path("target.raw").display());
    for target in ["file:///tmp/disk", "s3://bucket/disk", "x://y", slash.as_str()] {
        let spec = JobSpec { target: target.into(), ..bench.job() };
        assert_eq!(kind_of(&Setup::default(), &spec).await, Kind::Usage, "{target}");
        assert_eq!(plan(&Setup::default(), &spec).await.unwrap_err().kind(), Kind::Usage);
    }
    let only = std::fs::read_dir(bench.directory.path()).unwrap().count();
    assert_eq!(only, 1, "nothing was created beside the image");
}

/// A compressed image of the examples, changed by `damage`.
fn damaged(bench: &Bench, damage: impl FnOnce(&mut Vec<u8>)) -> JobSpec {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/images");
    let mut image = std::fs::read(example.join("tiny-linux.qcow2")).unwrap();
    damage(&mut image);
    std::fs::write(bench.path("damaged.qcow2"), image).unwrap();
    std::fs::write(bench.path("target.raw"), vec![0xEE; 64 << 20]).unwrap();
    JobSpec {
        image: ImageSpec::at(bench.path("damaged.qcow2").display().to_string()),
        ..bench.job()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_metadata_leaves_the_target_as_it_was() {
    let bench = Bench::new(68);
    let spec = damaged(&bench, |image| {
        // The table that all others hang on: header bytes 40 to 47 say where it is.
        let at = u64::from_be_bytes(image[40..48].try_into().unwrap());
        image[usize::try_from(at).unwrap()..][..8].fill(0x7F);
    });
    let error = migrate(&Setup::default(), &spec).await.1.unwrap_err();
    assert_eq!(error.kind().exit_code(), 7, "{error}");
    assert!(bench.target().iter().all(|byte| *byte == 0xEE), "the target was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_payload_leaves_a_disk_that_cannot_boot() {
    let bench = Bench::new(69);
    let spec = damaged(&bench, |image| {
        let middle = image.len() / 2;
        image[middle..middle + (64 << 10)].fill(0xFF);
    });
    for _ in 0..2 {
        let error = migrate(&Setup::default(), &spec).await.1.unwrap_err();
        assert_eq!((error.kind(), error.kind().exit_code()), (Kind::Corrupt, 7), "{error}");
        assert!(bench.head_is_blank());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_calls_do_no_harm() {
    let bench = Bench::new(70);
    let setup = Setup::default();
    let spec = bench.job();
    let image = &spec.image;
    for polls in 0..6 {
        poll_then_drop(inspect(&setup, image), polls);
        poll_then_drop(check(&setup, image, false), polls);
        poll_then_drop(map(&setup, image, |_| Ok(())), polls);
        poll_then_drop(digest(&setup, image, Algorithm::Sparse), polls);
        poll_then_drop(compare(&setup, image, image), polls);
        poll_then_drop(plan(&setup, &spec), polls);
    }
    assert!(!bench.path("target.raw").exists() && !bench.path("state").exists());
    for polls in [0, 1, 3, 10, 30, 100, 1000] {
        poll_then_drop(migrate(&setup, &spec), polls);
        loop {
            // A write that was under way holds the target for a moment.
            match migrate(&setup, &spec).await.1 {
                Err(error) if error.kind() == Kind::Locked => tokio::task::yield_now().await,
                outcome => break outcome.unwrap(),
            }
        }
        assert!(bench.target() == bench.disk, "after {polls} polls");
        std::fs::remove_file(bench.path("target.raw")).unwrap();
    }
    let found = digest(&setup, image, Algorithm::Blake3).await.unwrap();
    assert_eq!(found, blake3::hash(&bench.disk).to_hex().to_string());
}

/// A descriptor is not among the files that hold the disk, and still a file of the image.
#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_an_image_is_its_target() {
    let bench = Bench::new(71);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
         createType=\"monolithicFlat\"\n\nRW {} FLAT \"disk.raw\" 0\n",
        SIZE / 512
    );
    std::fs::write(bench.path("disk.vmdk"), &text).unwrap();
    std::fs::hard_link(bench.path("disk.vmdk"), bench.path("link")).unwrap();
    let image = ImageSpec {
        allow_dirs: vec![bench.directory.path().display().to_string()],
        ..ImageSpec::at(bench.path("disk.vmdk").display().to_string())
    };
    for target in ["disk.vmdk", "link", "disk.raw"] {
        let spec = JobSpec { image: image.clone(), target: bench.path(target), ..bench.job() };
        let error = migrate(&Setup::default(), &spec).await.1.unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("image itself"), "{target}: {error}");
    }
    assert_eq!(std::fs::read(bench.path("link")).unwrap(), text.as_bytes());
    assert!(std::fs::read(bench.path("disk.raw")).unwrap() == bench.disk);
    let spec = JobSpec { image, ..bench.job() };
    migrate(&Setup::default(), &spec).await.1.unwrap();
    assert!(bench.target() == bench.disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_behind_a_tiny_disk_is_kept() {
    let bench = Bench::new(72);
    std::fs::write(bench.path("disk.raw"), &bench.disk[..5000]).unwrap();
    std::fs::write(bench.path("target.raw"), vec![0xEE; 9000]).unwrap();
    migrate(&Setup::default(), &bench.job()).await.1.unwrap();
    let target = bench.target();
    assert!(target[..5000] == bench.disk[..5000]);
    assert!(target.len() == 9000 && target[5000..].iter().all(|byte| *byte == 0xEE));
}

/// A killed run leaves no mark, but its journal tells when it ended.
#[tokio::test(flavor = "multi_thread")]
async fn without_verification_a_killed_run_is_resumed_unless_the_file_is_newer() {
    for newer in [false, true] {
        let bench = Bench::new(65);
        let spec = JobSpec { verify: Verify::None, ..bench.job() };
        assert_eq!(kind_of(&stopped(Phase::Copy), &spec).await, Kind::Cancelled);
        bench.forget_mark();
        if newer {
            let file = std::fs::File::options().write(true).open(bench.path("target.raw")).unwrap();
            let later = std::time::SystemTime::now() + std::time::Duration::from_mins(1);
            file.set_modified(later).unwrap();
        }
        let (report, outcome) = migrate(&Setup::default(), &spec).await;
        outcome.unwrap();
        assert!(bench.target() == bench.disk);
        assert_eq!(report.copied.resumed_bytes > 0, !newer);
        let warned = report.warnings.iter().any(|warning| warning.code == "resumed_unverified");
        assert_eq!(warned, !newer);
    }
}
