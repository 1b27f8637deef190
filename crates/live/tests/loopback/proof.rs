//! Equality, whatever lies: the tracker, the lease, the target.

use crate::machine::Loss;
use crate::plain::Writer;
use crate::scene::{MIB, Scene, mixed, noise};
use carreto_live::agent::{Order, ask};
use carreto_live::certificate::Mode;
use carreto_live::state::State;
use carreto_live::track::TrackerKind;
use std::sync::atomic::Ordering;

#[tokio::test(flavor = "multi_thread")]
async fn marks_that_are_lost_in_silence_are_found_by_the_strict_cutover() {
    let scene = Scene::new(vec![("vda", mixed(1, 6 * MIB + 512))], 0).await;
    let agent = scene.start();
    scene.following().await;
    scene.machine.disks[0].lose(Loss::Silent(10));
    for write in 0..90u64 {
        scene.machine.disks[0].write(write * 65536 + 77, &noise(write, 300));
    }
    scene.until("sent", |report| report.totals.resent_granules > 0).await;
    scene.cut_over(true).await;
    let certificate = scene.finish(agent).await;
    assert_eq!(certificate.statement().mode, Mode::Strict);
    let last = ask(&scene.run_folder(), Order::Status).await.unwrap();
    assert_eq!(last.cutover.unwrap().missed_granules, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_that_fails_reads_the_disk_again() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.machine.disks[0].lose(Loss::Told(2));
    scene.machine.disks[0].write(70_000, &noise(1, 10));
    scene.machine.disks[0].write(200_000, &noise(2, 10));
    scene.until_told("Rescan").await;
    scene.machine.disks[0].lose(Loss::None);
    let report = scene.following().await;
    assert_eq!((report.totals.rescans, report.totals.suspect_epochs), (1, 1));
    scene.cut_over(false).await;
    scene.finish(agent).await;
    let last = ask(&scene.run_folder(), Order::Status).await.unwrap();
    assert_eq!(last.cutover.unwrap().missed_granules, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_loses_all_the_time_still_gives_an_equal_target() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.machine.disks[0].lose(Loss::Told(3));
    let writer = Writer::start(scene.machine.disks.clone(), 5);
    scene.until_told("while it is frozen").await;
    scene.cut_over(false).await;
    let certificate = scene.finish(agent).await;
    assert_eq!(certificate.statement().mode, Mode::Tracked, "the other disk was tracked");
    assert_eq!(certificate.statement().disks[0].rehashed, 49);
    scene.machine.thaw();
    writer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_tracker_it_reads_everything_while_frozen() {
    let scene = Scene::small().await;
    *scene.machine.kind.lock().unwrap() = TrackerKind::Rescan;
    let agent = scene.start();
    scene.following().await;
    let writer = Writer::start(scene.machine.disks.clone(), 5);
    scene.cut_over(false).await;
    let certificate = scene.finish(agent).await;
    assert_eq!(certificate.statement().mode, Mode::Strict);
    scene.machine.thaw();
    writer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_never_commits() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.machine.lose_lease.store(true, Ordering::Release);
    scene.cut_over(false).await;
    scene.until_told("the freeze was lost").await;
    assert!(!scene.receiver().status().servers[0].committed);
    assert!(scene.platter(0).has_blank_head() && !scene.machine.is_frozen());
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_changed_behind_our_back_is_found_and_mended() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    let platter = scene.platter(0);
    // Once before the freeze, once during it.
    platter.corrupt(2 * MIB);
    scene.cut_over(false).await;
    scene.until_told("what was read back").await;
    scene.until("back", |report| report.totals.reconnects == 1).await;
    scene.following().await;
    assert_eq!(scene.machine.freeze_count(), 0);
    let (again, mut once) = (platter.clone(), Some(()));
    scene.machine.on_freeze(move || {
        if once.take().is_some() {
            again.corrupt(2 * MIB + 70_000);
        }
    });
    scene.cut_over(true).await;
    scene.until("back", |report| report.totals.reconnects == 2).await;
    let report = scene.following().await;
    assert!(!scene.machine.is_frozen() && platter.has_blank_head());
    assert!(!scene.receiver().status().servers[0].committed);
    assert_ne!(report.state, State::Committed);
    scene.cut_over(true).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_takes_the_first_mebibyte_back() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    // All is compared and the first disk has its head when the second one fails.
    let second = scene.platter(1);
    let fails = second.clone();
    scene.machine.on_freeze(move || fails.fail_head.store(true, Ordering::Release));
    scene.cut_over(false).await;
    let error = agent.end().await.unwrap_err();
    assert!(error.detail().contains("the target is full"), "{error}");
    for disk in 0..2 {
        assert!(scene.platter(disk).has_blank_head());
    }
    assert!(scene.platter(0).showed_head.load(Ordering::Acquire));
    assert!(!scene.receiver().status().servers[0].committed && !scene.machine.is_frozen());
    scene.machine.on_freeze(|| {});
    second.fail_head.store(false, Ordering::Release);
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_fails_makes_the_disk_unknown() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.platter(0).fail_flush.store(true, Ordering::Release);
    scene.platter(0).take_written();
    scene.cut_over(false).await;
    let error = agent.end().await.unwrap_err();
    assert!(error.detail().contains("the cache could not be written"), "{error}");
    let agent = scene.start();
    scene.following().await;
    let sent = scene.platter(0).take_written();
    assert!(sent > MIB as u64, "{sent} bytes were written again");
    scene.cut_over(false).await;
    scene.finish(agent).await;
}
