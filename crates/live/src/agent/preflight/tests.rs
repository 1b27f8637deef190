//! Preflights of machines in memory, with a receiver over the loopback.

use super::super::testing::{Fake, config, with_token};
use super::*;
use crate::receiver::{
    Look, OpenedTarget, Receiver, ReceiverConfig, ReceiverEvent, ReceiverObserver, Targets,
};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::path::Path;
use tokio_util::sync::CancellationToken;

const SIZE: u64 = 3 << 20;

/// Targets that have a size and cannot be opened.
#[derive(Debug, Clone, Copy)]
struct Sized {
    size: u64,
    free: Option<u64>,
    problem: Option<&'static str>,
}

impl From<u64> for Sized {
    fn from(size: u64) -> Self {
        Self { size, free: None, problem: None }
    }
}

#[async_trait]
impl Targets for Sized {
    async fn look(&self, target: &str) -> Look {
        if self.problem == Some("hangs") {
            std::future::pending::<()>().await;
        }
        Look {
            size: (target != "missing").then_some(self.size),
            free: self.free,
            problem: self.problem.map(|text| {
                Error::new(Kind::TargetUnusable, text).remedied_by("unmount it and retry")
            }),
        }
    }

    async fn open(&self, _target: &str, _size: u64) -> Result<OpenedTarget> {
        Err(Error::new(Kind::Internal, "a preflight opens nothing"))
    }
}

#[derive(Debug)]
struct Deaf;

impl ReceiverObserver for Deaf {
    fn event(&self, _event: &ReceiverEvent<'_>) {}
}

/// A receiver that has a token, and what ends it.
async fn receiver(place: &Path, targets: impl Into<Sized>) -> (JoinToken, CancellationToken) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let text = format!(
        "advertise = ['{address}']\nstate = {:?}\nstreams = 2\n[[server]]\nname = 'web1'\n\
         [[server.disk]]\nsource = 'fake0'\ntarget = 'one'\n",
        place.join("receiver")
    );
    let config = ReceiverConfig::parse(&text).unwrap();
    let receiver = Receiver::open(config, Arc::new(targets.into()), Arc::new(Deaf)).unwrap();
    let token = receiver.invite(false).unwrap().remove(0).token;
    let stop = CancellationToken::new();
    let receiver = Arc::new(receiver);
    let ending = stop.clone();
    tokio::spawn(async move { receiver.serve(listener, ending).await });
    (token, stop)
}

fn machine(names: &[&str]) -> Arc<dyn Machine> {
    let size = usize::try_from(SIZE).unwrap();
    let disk = |name: &&str| {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes[..1 << 20]);
        ((*name).to_owned(), bytes)
    };
    Arc::new(Fake(names.iter().map(disk).collect()))
}

fn severity(found: &Preflight, item: &str) -> Option<Severity> {
    found.findings.iter().find(|finding| finding.item == item).map(|finding| finding.severity)
}

fn files(place: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(place).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_is_asked_and_the_line_measured() {
    let place = tempfile::tempdir().unwrap();
    let (token, stop) = receiver(place.path(), SIZE).await;
    let source = place.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let mut config = with_token(&source, &token);
    config.cost = Some(toml::from_str("currency = 'EUR'\nper_gb_transferred = 1000.0").unwrap());
    for _again in 0..2 {
        let found = check(&config, &machine(&["fake0"])).await.unwrap();
        for item in ["receiver", "target fake0", "clock difference", "bandwidth", "token"] {
            assert_eq!(severity(&found, item), Some(Severity::Ok), "{item}: {found:#?}");
        }
        let bandwidth = found.bandwidth.unwrap();
        assert!(bandwidth.streams == 2 && bandwidth.bytes > 1 << 20, "{bandwidth:?}");
        let receiver = found.receiver.as_ref().unwrap();
        assert_eq!(receiver.targets[0].disk.as_deref(), Some("fake0"));
        let estimate = &found.estimate;
        assert_eq!(estimate.read_bytes, SIZE);
        assert!(estimate.wire_bytes.high >= 1 << 20 && estimate.wire_bytes.high <= SIZE);
        assert!(estimate.seconds.unwrap().high > 0.0 && estimate.configured_seconds.is_none());
        assert!(estimate.cost.as_ref().unwrap().high.total.millionths() > 1_000_000);
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!((&json["schema_version"], &json["type"]), (&1.into(), &"preflight".into()));
        assert_eq!(json["disks"][0]["tracker"]["kind"], serde_json::Value::Null);
    }
    assert!(files(&source).is_empty(), "nothing was made");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_do_not_fit_block() {
    let place = tempfile::tempdir().unwrap();
    let (token, stop) = receiver(place.path(), SIZE - 1).await;
    let config = with_token(place.path(), &token);
    let found = check(&config, &machine(&["fake0", "fake1"])).await.unwrap();
    assert!(found.is_blocked());
    for item in ["target fake0", "target fake1"] {
        assert_eq!(severity(&found, item), Some(Severity::Blocked), "{item}");
    }
    let found = check(&config, &machine(&["fake9"])).await.unwrap();
    assert_eq!(severity(&found, "target fake0"), Some(Severity::Blocked), "it has no disk");
    // What no agent of this server has shown before.
    let wrong = JoinToken { secret: crate::trust::Secret::random().unwrap(), ..token };
    let found = check(&with_token(place.path(), &wrong), &machine(&["fake0"])).await.unwrap();
    assert_eq!(severity(&found, "receiver"), Some(Severity::Blocked));
    stop.cancel();
}

#[tokio::test]
async fn a_receiver_out_of_reach_is_a_finding() {
    let place = tempfile::tempdir().unwrap();
    let found = check(&config(place.path(), "web1"), &machine(&["fake0"])).await.unwrap();
    assert!(found.is_blocked() && found.receiver.is_none() && found.bandwidth.is_none());
    let finding = found.findings.iter().find(|finding| finding.item == "receiver").unwrap();
    assert!(finding.remedy.as_ref().unwrap().contains("127.0.0.1:1"), "{finding:?}");
    assert_eq!(severity(&found, "tracker fake0"), Some(Severity::Blocked));
    let found = check(&config(place.path(), "web1"), &machine(&[])).await.unwrap();
    assert_eq!(severity(&found, "disks"), Some(Severity::Blocked));
}

#[tokio::test]
async fn an_expired_token_is_a_finding() {
    let place = tempfile::tempdir().unwrap();
    let mut token = config(place.path(), "web1").token().unwrap();
    token.expires = Some(Timestamp::from_second(1_000_000).unwrap());
    let config = with_token(place.path(), &token);
    let found = check(&config, &machine(&["fake0"])).await.unwrap();
    assert_eq!(severity(&found, "token"), Some(Severity::Blocked));
    assert!(files(place.path()).is_empty());
}

fn finding<'a>(found: &'a Preflight, item: &str) -> &'a Finding {
    found.findings.iter().find(|finding| finding.item == item).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_cannot_be_used_block() {
    for (problem, remedy) in
        [("vdb1 is mounted on /mnt", "unmount it"), ("hangs", "its server or storage works")]
    {
        let place = tempfile::tempdir().unwrap();
        let targets = Sized { problem: Some(problem), ..Sized::from(SIZE) };
        let (token, stop) = receiver(place.path(), targets).await;
        let config = with_token(place.path(), &token);
        let found = check(&config, &machine(&["fake0"])).await.unwrap();
        let told = finding(&found, "target fake0");
        assert_eq!(told.severity, Severity::Blocked, "{told:?}");
        let expected = problem.replace("hangs", "did not answer within 5 seconds");
        assert!(told.detail.contains(&expected), "{told:?}");
        assert!(told.remedy.as_ref().unwrap().contains(remedy), "{told:?}");
        let json = serde_json::to_value(&found).unwrap();
        assert!(json["receiver"]["targets"][0]["problem"]["kind"].is_string(), "{json}");
        stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn little_space_is_told_of() {
    for (free, severity) in [(SIZE, Severity::Ok), (SIZE - 1, Severity::Warning)] {
        let place = tempfile::tempdir().unwrap();
        let targets = Sized { free: Some(free), ..Sized::from(SIZE) };
        let (token, stop) = receiver(place.path(), targets).await;
        let config = with_token(place.path(), &token);
        let found = check(&config, &machine(&["fake0"])).await.unwrap();
        assert_eq!(finding(&found, "target fake0 space").severity, severity, "{found:#?}");
        let state = finding(&found, "receiver state");
        assert_eq!(state.severity, Severity::Ok);
        assert!(state.detail.contains("need up to 1054256 bytes"), "{state:?}");
        stop.cancel();
    }
}
