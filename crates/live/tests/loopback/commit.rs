//! What is written, killed or lost around the commit.

use crate::machine::Pins;
use crate::scene::{MIB, Running, Scene, noise};
use carreto_error::{Error, Kind};
use carreto_live::agent::{Order, Outcome, ask};
use carreto_live::certificate::Certificate;
use carreto_live::state::State;
use carreto_live::track::TrackerKind;
use std::sync::atomic::Ordering;
use tokio::sync::OwnedRwLockWriteGuard;

/// Holds up what the receiver reads back from disk 0 once everything is frozen; the guard comes
/// when it is.
fn hold_check(scene: &Scene) -> std::sync::mpsc::Receiver<OwnedRwLockWriteGuard<()>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (platter, disk) = (scene.platter(0), scene.machine.disks[0].clone());
    let mut once = Some(());
    scene.machine.on_freeze(move || {
        if once.take().is_some() {
            // So that there is something to read back.
            disk.sneak(2 * MIB as u64, &noise(1, 5000));
            let _ = sender.send(platter.hold_reads());
        }
    });
    receiver
}

/// The same for the first MiB of disk 1 that the commit writes, of every freeze.
fn hold_commit(scene: &Scene) -> std::sync::mpsc::Receiver<OwnedRwLockWriteGuard<()>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let platter = scene.platter(1);
    scene.machine.on_freeze(move || {
        let _ = sender.send(platter.hold_head());
    });
    receiver
}

async fn guard(
    held: std::sync::mpsc::Receiver<OwnedRwLockWriteGuard<()>>,
) -> OwnedRwLockWriteGuard<()> {
    tokio::task::spawn_blocking(move || held.recv().unwrap()).await.unwrap()
}

/// Cuts over, until the receiver has completed disk 0 and is held up at disk 1.
async fn committing(scene: &Scene) -> OwnedRwLockWriteGuard<()> {
    let held = hold_commit(scene);
    scene.cut_over(false).await;
    let guard = guard(held).await;
    let first = scene.platter(0);
    scene.until("committing", |_| !first.has_blank_head()).await;
    guard
}

async fn committed(agent: Running) -> Certificate {
    let Ok(Outcome::Committed(path)) = agent.end().await else { unreachable!("it is committed") };
    Certificate::from_json(&std::fs::read(path).unwrap()).unwrap()
}

async fn what_is_written_during_the_check_arrives(kind: TrackerKind) {
    let scene = Scene::small().await;
    *scene.machine.kind.lock().unwrap() = kind;
    let agent = scene.start();
    scene.following().await;
    let held = hold_check(&scene);
    scene.cut_over(false).await;
    let guard = guard(held).await;
    scene.until("checking", |report| report.state == State::Verifying).await;
    // Long enough that the source was read for the last time.
    let read = || scene.machine.disks[0].read.load(Ordering::Acquire);
    let mut before = u64::MAX;
    while before != read() {
        before = read();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    scene.machine.disks[0].sneak(2 * MIB as u64 + 200_000, &noise(2, 5000));
    drop(guard);
    let certificate = committed(agent).await;
    let content = scene.machine.disks[0].content();
    assert!(scene.platter(0).content() == content);
    let root = certificate.statement().disks[0].root;
    assert_eq!(root.as_bytes(), blake3::hash(&content).as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_frozen_is_followed_until_the_commit() {
    what_is_written_during_the_check_arrives(TrackerKind::Bpf).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_frozen_is_seen_without_a_tracker() {
    what_is_written_during_the_check_arrives(TrackerKind::Rescan).await;
}

fn is_parted(outcome: carreto_error::Result<Outcome>) -> Error {
    let error = outcome.expect_err("the source has worked on");
    assert_eq!(error.kind(), Kind::SourceChanged);
    assert!(error.detail().contains("has worked on since"), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_the_commit_does_not_call_it_the_end() {
    for pins in [Pins::Kept, Pins::Lost] {
        let scene = Scene::small().await;
        let agent = scene.start();
        scene.following().await;
        let guard = committing(&scene).await;
        agent.kill().await;
        assert!(!scene.machine.is_frozen());
        scene.machine.disks[0].write(2 * MIB as u64, &noise(3, 5000));
        *scene.machine.pins.lock().unwrap() = pins;
        drop(guard);
        scene.until_told("Committed").await;
        is_parted(scene.start().end().await);
        // However often it is asked.
        is_parted(scene.start().end().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_done_is_told_again() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
    committed(scene.start()).await;
    // Who cleans up has to know that everything is frozen.
    let state = std::fs::read_to_string(scene.run_folder().join("state.json")).unwrap();
    assert!(scene.machine.is_frozen() && state.contains("\"frozen\":true"), "{state}");
    // A system that restarted does not stand still any more.
    std::fs::remove_file(scene.run_folder().join("state.json")).unwrap();
    is_parted(scene.start().end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_is_lost_in_the_commit_is_no_success() {
    let mut scene = Scene::small().await;
    let after = scene.folder.path().join("after");
    scene.settings = format!("[hooks]\nafter = ['echo x >> {}']\n", after.display());
    let agent = scene.start();
    scene.following().await;
    let guard = committing(&scene).await;
    scene.machine.lose_lease.store(true, Ordering::Release);
    drop(guard);
    is_parted(agent.end().await);
    assert!(!scene.machine.is_frozen());
    assert_eq!(std::fs::read_to_string(&after).unwrap(), "x\n");
    let state = std::fs::read_to_string(scene.run_folder().join("state.json")).unwrap();
    assert!(state.contains("\"frozen\":false"), "{state}");
}

async fn what_is_written_during_the_commit_is_told(kind: TrackerKind) {
    let scene = Scene::small().await;
    *scene.machine.kind.lock().unwrap() = kind;
    let agent = scene.start();
    scene.following().await;
    let guard = committing(&scene).await;
    scene.machine.disks[0].sneak(2 * MIB as u64 + 200_000, &noise(2, 5000));
    drop(guard);
    is_parted(agent.end().await);
    assert!(!scene.machine.is_frozen());
    assert!(scene.receiver().status().servers[0].committed);
    is_parted(scene.start().end().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_frozen_and_is_written_during_the_commit_is_no_success() {
    what_is_written_during_the_commit_is_told(TrackerKind::Bpf).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_during_the_commit_is_seen_without_a_tracker() {
    what_is_written_during_the_commit_is_told(TrackerKind::Rescan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_synchronised_is_in_report_and_certificate() {
    let scene = Scene::small().await;
    *scene.machine.unfrozen.lock().unwrap() = vec!["/boot/efi\n".to_owned()];
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    let certificate = scene.finish(agent).await;
    assert_eq!(certificate.statement().unfrozen, ["/boot/efi\\n"]);
    let last = ask(&scene.run_folder(), Order::Status).await.unwrap();
    assert_eq!(last.cutover.unwrap().unfrozen, ["/boot/efi\\n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_a_dead_agent_owes_are_run_by_the_next() {
    let mut scene = Scene::small().await;
    let after = scene.folder.path().join("after");
    scene.settings =
        format!("[hooks]\nbefore = ['true']\nafter = ['echo x >> {}']\n", after.display());
    let agent = scene.start();
    scene.following().await;
    let held = hold_check(&scene);
    scene.cut_over(false).await;
    let guard = guard(held).await;
    agent.kill().await;
    drop(guard);
    assert!(!after.exists());
    let agent = scene.start();
    scene.following().await;
    assert_eq!(std::fs::read_to_string(&after).unwrap(), "x\n");
    scene.cut_over(false).await;
    scene.finish(agent).await;
    assert_eq!(std::fs::read_to_string(&after).unwrap(), "x\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_folder_on_what_is_frozen_is_refused_before_the_freeze() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.machine.freezes_run_folder.store(true, Ordering::Release);
    scene.cut_over(false).await;
    scene.until_told("it would be frozen").await;
    assert_eq!(scene.machine.freeze_count(), 0);
    scene.machine.freezes_run_folder.store(false, Ordering::Release);
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}
