//! Images on web servers: silent ones do not keep a stopped run, failing ones fail it, and the
//! signature of an address is kept nowhere.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

mod support;

use carreto_error::{Kind, Result};
use carreto_migrate::{
    Algorithm, Event, ImageSpec, JobSpec, Observer, RunEvent, Setup, Stop, StopReason, check,
    compare, digest, inspect, map, migrate, plan,
};
use carreto_testkit::sparse_disk;
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::Server;

const SIZE: usize = (5 << 20) + 512;

const OPERATIONS: [&str; 7] = ["inspect", "check", "map", "digest", "compare", "plan", "migrate"];

/// Does what `name` says to the raw image at `url`.
async fn operate(name: &str, setup: &Setup, url: &str, directory: &Path) -> Result<String> {
    let image = ImageSpec { format: Some("raw".parse()?), ..ImageSpec::at(url) };
    let job = JobSpec::new(image.clone(), directory.join("target"), directory.join("state"));
    match name {
        "inspect" => inspect(setup, &image).await.map(|facts| format!("{facts:?}")),
        "check" => check(setup, &image, false).await.map(|outcome| format!("{outcome:?}")),
        "map" => {
            let mut entries = Vec::new();
            map(setup, &image, |entry| {
                entries.push(entry);
                Ok(())
            })
            .await?;
            Ok(format!("{entries:?}"))
        }
        "digest" => digest(setup, &image, Algorithm::Blake3).await,
        "compare" => {
            let local = directory.join("disk.raw").display().to_string();
            compare(setup, &ImageSpec::at(local), &image).await.map(|found| format!("{found:?}"))
        }
        "plan" => plan(setup, &job).await.map(|plan| format!("{plan:?}")),
        _ => {
            let (report, outcome) = migrate(setup, &job).await;
            outcome.map(|()| format!("{report:?}"))
        }
    }
}

fn directory_with(disk: &[u8]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("disk.raw"), disk).unwrap();
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_operation_does_not_wait_for_a_silent_server() {
    let directory = directory_with(&vec![7; SIZE]);
    for name in OPERATIONS {
        let server = Server::silent();
        let setup = Setup::default();
        let stopping = async {
            while server.requests() == 0 {
                tokio::task::yield_now().await;
            }
            setup.stop.request(StopReason::Deadline);
        };
        let work = operate(name, &setup, &server.url, directory.path());
        let (outcome, ()) = tokio::join!(work, stopping);
        assert_eq!(outcome.unwrap_err().kind(), Kind::Timeout, "{name}");
        assert!(!directory.path().join("target").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_fails_the_operation() {
    let disk = sparse_disk(SIZE, 51);
    let directory = directory_with(&disk);
    let target = directory.path().join("target");
    for name in OPERATIONS {
        for at in 1.. {
            assert!(at < 50, "{name} does not end");
            let _fresh = std::fs::remove_file(&target);
            let _fresh = std::fs::remove_dir_all(directory.path().join("state"));
            let server = Server::start(disk.clone(), at);
            let outcome = operate(name, &Setup::default(), &server.url, directory.path()).await;
            if server.requests() < at {
                outcome.unwrap();
                assert!(at > 2, "{name}");
                assert!(name != "migrate" || std::fs::read(&target).unwrap() == disk);
                break;
            }
            assert!(outcome.is_err(), "{name}: request {at} got lost");
            let head_is_blank =
                || std::fs::read(&target).unwrap()[..1 << 20].iter().all(|byte| *byte == 0);
            assert!(!target.exists() || head_is_blank(), "{name}: request {at}");
        }
    }
}

/// Remembers all that is told, and stops the run after the first item.
#[derive(Default)]
struct Ears {
    heard: Mutex<Vec<RunEvent>>,
    stop: Option<Stop>,
}

impl Observer for Ears {
    fn event(&self, event: &RunEvent) {
        self.heard.lock().unwrap().push(event.clone());
        if let (Some(stop), RunEvent::Engine(Event::Advanced { .. })) = (&self.stop, event) {
            stop.cancel_with(143);
        }
    }
}

/// All bytes of all files below `directory`.
fn all_files(directory: &Path, bytes: &mut Vec<u8>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all_files(&path, bytes);
        } else {
            bytes.extend(std::fs::read(&path).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_kept_nowhere_and_a_new_one_resumes() {
    use std::os::unix::fs::PermissionsExt as _;
    let disk = vec![7; SIZE];
    let directory = directory_with(&disk);
    let server = Server::start(disk.clone(), u64::MAX);
    let signed = |n: u32| format!("{}?X-Amz-Date={n}&X-Amz-Signature=CANARY{n}", server.url);
    let job = |n| {
        let image = ImageSpec { format: Some("raw".parse().unwrap()), ..ImageSpec::at(signed(n)) };
        JobSpec::new(image, directory.path().join("target"), directory.path().join("state"))
    };
    let stop = Stop::default();
    let ears = Arc::new(Ears { stop: Some(stop.clone()), ..Ears::default() });
    let setup = Setup { stop, observer: ears.clone(), ..Setup::default() };
    let (report, outcome) = migrate(&setup, &job(1)).await;
    let mut told = format!("{report:?} {:?} ", outcome.unwrap_err()).into_bytes();
    assert_eq!(report.error.unwrap().exit, 143, "what the process will end with");
    all_files(&directory.path().join("state"), &mut told);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let jobs = directory.path().join("state/jobs");
    assert_eq!(mode(&jobs), 0o700);
    for entry in std::fs::read_dir(&jobs).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let (report, outcome) = migrate(&Setup::default(), &job(2)).await;
    outcome.unwrap();
    assert!(report.copied.resumed_bytes > 0);
    told.extend(format!("{report:?} {:?}", ears.heard.lock().unwrap()).bytes());
    for name in OPERATIONS {
        let outcome = operate(name, &Setup::default(), &signed(3), directory.path()).await;
        told.extend(outcome.unwrap().bytes());
    }
    let failing = Server::start(disk, 2);
    let url = format!("{}?sig=CANARY&se=1", failing.url);
    let error = operate("digest", &Setup::default(), &url, directory.path()).await.unwrap_err();
    told.extend(format!("{error:?}").bytes());
    all_files(&directory.path().join("state"), &mut told);
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("disk.raw?***"), "the address itself is shown");
    let at = told.find("CANARY").map(|at| &told[at.saturating_sub(200)..at + 9]);
    assert_eq!(at, None);
}
