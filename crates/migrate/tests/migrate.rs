//! Whole migrations from files to files: exact, verified, refused in time, resumed.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests may fail")]

use carreto_error::{Error, Kind};
use carreto_migrate::{
    Event, ImageSpec, JobSpec, Observer, Phase, RunEvent, Setup, Status, Stop, StopReason, Verify,
    migrate, plan,
};
use carreto_testkit::sparse_disk;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const SIZE: usize = (11 << 20) + 1536;

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
}

fn listed(directory: &Path, ending: &str) -> usize {
    let entries = std::fs::read_dir(directory.join("jobs")).unwrap();
    entries.filter(|e| e.as_ref().unwrap().path().to_string_lossy().ends_with(ending)).count()
}

async fn failure(setup: &Setup, spec: &JobSpec) -> Error {
    let (report, outcome) = migrate(setup, spec).await;
    let error = outcome.expect_err("the migration should fail");
    assert_eq!(report.status, Status::Failed);
    assert_eq!(report.error.unwrap().kind, error.kind().name());
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_becomes_the_verified_disk() {
    let bench = Bench::new(1);
    let (report, outcome) = migrate(&Setup::default(), &bench.job()).await;
    outcome.unwrap();
    assert!(bench.target() == bench.disk);
    assert_eq!(report.status, Status::Done);
    assert!(report.verify.digest.is_some());
    assert!(report.verify.read_bytes > 0);
    assert_eq!(listed(&bench.path("state"), ".journal"), 0, "the job is complete");
    assert_eq!(listed(&bench.path("state"), ".report.json"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_file_keeps_its_size_and_its_tail() {
    let bench = Bench::new(2);
    let old = sparse_disk(SIZE + 70_000, 3);
    std::fs::write(bench.path("target.raw"), &old).unwrap();
    let (_, outcome) = migrate(&Setup::default(), &bench.job()).await;
    outcome.unwrap();
    let target = bench.target();
    assert!(target[..SIZE] == bench.disk && target[SIZE..] == old[SIZE..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_too_small_is_refused_untouched() {
    let bench = Bench::new(4);
    let old = vec![7; SIZE - 512];
    std::fs::write(bench.path("target.raw"), &old).unwrap();
    let error = failure(&Setup::default(), &bench.job()).await;
    assert_eq!(error.kind(), Kind::TargetTooSmall);
    assert_eq!(error.needed_bytes(), Some(SIZE as u64));
    assert!(error.remedy().contains(&SIZE.to_string()));
    assert!(bench.target() == old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_writes_nothing() {
    let bench = Bench::new(5);
    let plan = plan(&Setup::default(), &bench.job()).await.unwrap();
    assert_eq!(plan.image.virtual_size, SIZE as u64);
    assert!(!bench.path("target.raw").exists());
}

/// Stops a run after some items, as a user would.
struct StopAfter {
    stop: Stop,
    phase: Phase,
    reason: StopReason,
}

impl Observer for StopAfter {
    fn event(&self, event: &RunEvent) {
        if let RunEvent::Engine(Event::Advanced { phase, .. }) = event
            && *phase == self.phase
        {
            self.stop.request(self.reason);
        }
    }
}

fn stopped(phase: Phase, reason: StopReason) -> Setup {
    let stop = Stop::default();
    let observer = Arc::new(StopAfter { stop: stop.clone(), phase, reason });
    Setup { stop, observer, ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_never_looks_complete_and_resumes() {
    let cases = [
        (Phase::Copy, StopReason::Cancelled, Kind::Cancelled),
        (Phase::Copy, StopReason::Deadline, Kind::Timeout),
        (Phase::Verify, StopReason::Stalled, Kind::Timeout),
    ];
    for (phase, reason, kind) in cases {
        let bench = Bench::new(6);
        std::fs::write(bench.path("target.raw"), vec![0xEE; SIZE]).unwrap();
        let error = failure(&stopped(phase, reason), &bench.job()).await;
        assert_eq!(error.kind(), kind);
        assert!(bench.target()[..1 << 20].iter().all(|b| *b == 0), "the first MiB is wiped");
        let (report, outcome) = migrate(&Setup::default(), &bench.job()).await;
        outcome.unwrap();
        assert!(bench.target() == bench.disk);
        assert!(report.copied.resumed_bytes > 0, "{phase:?}");
        if phase == Phase::Verify {
            assert!(report.copied.read_bytes <= 1 << 20, "only the first MiB is read again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_image_is_not_mixed_with_what_was_copied() {
    let bench = Bench::new(7);
    failure(&stopped(Phase::Copy, StopReason::Cancelled), &bench.job()).await;
    let other = sparse_disk(SIZE, 8);
    std::fs::write(bench.path("disk.raw"), &other).unwrap();
    let error = failure(&Setup::default(), &bench.job()).await;
    assert_eq!(error.kind(), Kind::SourceChanged);
    let again = JobSpec { restart: true, ..bench.job() };
    let (_, outcome) = migrate(&Setup::default(), &again).await;
    outcome.unwrap();
    assert!(bench.target() == other);
}

/// Rewrites a byte of the image once the copy is under way.
struct ChangeImage(PathBuf);

impl Observer for ChangeImage {
    fn event(&self, event: &RunEvent) {
        if let RunEvent::Engine(Event::Advanced { phase: Phase::Verify, .. }) = event {
            use std::os::unix::fs::FileExt as _;
            let file = std::fs::File::options().write(true).open(&self.0).unwrap();
            file.write_all_at(&[1], 5 << 20).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_changes_during_the_run_is_noticed_before_the_disk_boots() {
    let bench = Bench::new(9);
    let observer = Arc::new(ChangeImage(bench.path("disk.raw")));
    let setup = Setup { observer, ..Setup::default() };
    let error = failure(&setup, &bench.job()).await;
    assert_eq!(error.kind(), Kind::SourceChanged);
    assert!(bench.target()[..1 << 20].iter().all(|byte| *byte == 0));
}

/// Damages the target between copying and the end of verification.
struct Damage(PathBuf, std::sync::Once);

impl Observer for Damage {
    fn event(&self, event: &RunEvent) {
        if let RunEvent::Engine(Event::Flushed) = event {
            self.1.call_once(|| {
                use std::os::unix::fs::FileExt as _;
                let file = std::fs::File::options().write(true).open(&self.0).unwrap();
                file.write_all_at(&[0x99; 3], 9 << 20).unwrap();
                file.sync_all().unwrap();
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_target_fails_verification_and_the_next_run_repairs_it() {
    let bench = Bench::new(10);
    let observer = Arc::new(Damage(bench.path("target.raw"), std::sync::Once::new()));
    let setup = Setup { observer, ..Setup::default() };
    let error = failure(&setup, &bench.job()).await;
    assert_eq!(error.kind(), Kind::Mismatch);
    assert_eq!(error.nearest_offset(), Some(9 << 20));
    let (report, outcome) = migrate(&Setup::default(), &bench.job()).await;
    outcome.unwrap();
    assert!(bench.target() == bench.disk);
    assert!(report.copied.read_bytes <= 3 << 20, "one chunk and the first MiB are read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_of_a_job_do_not_meet() {
    let bench = Bench::new(11);
    let slow = JobSpec { limit_rate: Some(1 << 20), ..bench.job() };
    let stop = Stop::default();
    let setup = Setup { stop: stop.clone(), ..Setup::default() };
    let first = tokio::spawn(async move { migrate(&setup, &slow).await });
    while !bench.path("target.raw").exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = failure(&Setup::default(), &bench.job()).await;
    assert_eq!(error.kind(), Kind::Locked);
    stop.request(StopReason::Cancelled);
    assert!(first.await.unwrap().1.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_can_be_left_out_and_disks_may_be_tiny() {
    for size in [0, 1, 512, 1 << 20, (1 << 20) + 1] {
        for verify in [Verify::Full, Verify::None] {
            let bench = Bench::new(12);
            std::fs::write(bench.path("disk.raw"), &bench.disk[..size]).unwrap();
            let spec = JobSpec { verify, ..bench.job() };
            let (report, outcome) = migrate(&Setup::default(), &spec).await;
            outcome.unwrap();
            assert!(bench.target() == bench.disk[..size], "{size} bytes");
            assert_eq!(report.verify.digest.is_some(), verify == Verify::Full);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_target_is_refused() {
    let bench = Bench::new(13);
    for (target, kind) in [
        (bench.directory.path().to_owned(), Kind::Usage),
        (PathBuf::from("/dev/null"), Kind::Usage),
        (bench.path("no/such/directory"), Kind::NotFound),
    ] {
        let error = failure(&Setup::default(), &JobSpec { target, ..bench.job() }).await;
        assert_eq!(error.kind(), kind, "{error}");
    }
    let image = ImageSpec::at(bench.path("missing.qcow2").display().to_string());
    let error = failure(&Setup::default(), &JobSpec { image, ..bench.job() }).await;
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_is_not_its_own_target() {
    let bench = Bench::new(14);
    let target = bench.path("disk.raw");
    let error = failure(&Setup::default(), &JobSpec { target, ..bench.job() }).await;
    assert_eq!(error.kind(), Kind::Usage);
    assert!(std::fs::read(bench.path("disk.raw")).unwrap() == bench.disk);
}

/// Nor is it under another name: a hard or symbolic link, in UTF-8 or not.
#[tokio::test(flavor = "multi_thread")]
async fn the_image_is_not_its_own_target_under_any_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let bench = Bench::new(14);
    let image = bench.path("disk.raw");
    let odd = bench.directory.path().join(std::ffi::OsStr::from_bytes(b"disk-\xff.raw"));
    let links = [odd.clone(), bench.path("hard"), bench.path("soft"), odd.with_extension("soft")];
    for (at, link) in links.into_iter().enumerate() {
        if at < 2 {
            std::fs::hard_link(&image, &link).unwrap();
        } else {
            std::os::unix::fs::symlink(&image, &link).unwrap();
        }
        let error = failure(&Setup::default(), &JobSpec { target: link, ..bench.job() }).await;
        assert_eq!(error.kind(), Kind::Usage, "link {at}");
        assert!(std::fs::read(&image).unwrap() == bench.disk, "link {at} destroyed the image");
    }
}

/// What one job wrote is not what another job's journal remembers.
#[tokio::test(flavor = "multi_thread")]
async fn another_image_on_the_same_target_starts_over() {
    for verify in [Verify::Full, Verify::None] {
        let bench = Bench::new(15);
        std::fs::write(bench.path("target.raw"), vec![1; SIZE]).unwrap();
        let first = JobSpec { verify, ..bench.job() };
        failure(&stopped(Phase::Copy, StopReason::Cancelled), &first).await;
        let other = sparse_disk(SIZE, 16);
        std::fs::write(bench.path("other.raw"), &other).unwrap();
        let image = ImageSpec::at(bench.path("other.raw").display().to_string());
        let second = JobSpec { image, ..first.clone() };
        migrate(&Setup::default(), &second).await.1.unwrap();
        assert!(bench.target() == other);
        migrate(&Setup::default(), &first).await.1.unwrap();
        assert!(bench.target() == bench.disk, "verify {}", verify.name());
    }
}

/// A file made anew under the old name has nothing of the interrupted run.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_made_anew_starts_over() {
    let bench = Bench::new(17);
    let spec = JobSpec { verify: Verify::None, ..bench.job() };
    std::fs::write(bench.path("target.raw"), vec![1; SIZE]).unwrap();
    failure(&stopped(Phase::Copy, StopReason::Cancelled), &spec).await;
    std::fs::remove_file(bench.path("target.raw")).unwrap();
    std::fs::write(bench.path("target.raw"), vec![2; SIZE]).unwrap();
    let (report, outcome) = migrate(&Setup::default(), &spec).await;
    outcome.unwrap();
    assert_eq!(report.copied.resumed_bytes, 0);
    assert!(bench.target() == bench.disk);
}
