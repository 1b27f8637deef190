//! What is done before a cutover, so that it is short, and what is told of it.

use crate::machine::Loss;
use crate::plain::Writer;
use crate::scene::{MIB, Scene, mixed, noise};
use carreto_live::agent::Order;
use carreto_live::certificate::Mode;
use carreto_live::state::State;
use std::sync::atomic::Ordering;

/// A disk that cannot be read again, on either side, within a pause that is allowed.
async fn large(settings: &str) -> Scene {
    let mut scene = Scene::new(vec![("vda", mixed(1, 80 * MIB))], 0).await;
    scene.settings = format!("[cutover]\nmax_pause_seconds = 0.35\n{settings}");
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_long_to_be_read_back_gets_ready() {
    let scene = large("when = 'ready'\nafter = 'thaw'\n").await;
    let agent = scene.start();
    scene.finish(agent).await;
    assert!(scene.ears.heard("agent Ready") && scene.ears.heard("reads back what it wrote, ahead"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_agent_read_is_read_ahead_of_the_cutover() {
    let scene = large("").await;
    let agent = scene.start();
    scene.following().await;
    agent.kill().await;
    scene.machine.disks[0].read.store(0, Ordering::Release);
    let agent = scene.start();
    scene.until("ready", |report| report.state == State::Ready).await;
    assert!(scene.ears.heard("read once more, ahead"));
    let read = || scene.machine.disks[0].read.load(Ordering::Acquire);
    assert_eq!(read(), scene.machine.disks[0].size);
    scene.machine.disks[0].write(2 * MIB as u64, &noise(8, 10));
    scene.cut_over(false).await;
    let certificate = scene.finish(agent).await;
    assert!(certificate.statement().disks[0].rehashed < 10);
    assert!(read() < scene.machine.disks[0].size + 2 * MIB as u64, "{}", read());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_cutover_of_a_large_disk_is_never_short() {
    let scene = large("strict = true\n").await;
    let agent = scene.start();
    let report = scene.following().await;
    assert!(report.predicted_pause_seconds.unwrap() > 0.6, "{report:?}");
    scene.cut_over(false).await;
    scene.finish(agent).await;
    assert!(!scene.ears.heard("agent Ready"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_that_is_prepared_is_shown() {
    let scene = large("").await;
    let platter = scene.platter(0);
    let agent = scene.start();
    scene.until("ready", |report| report.state == State::Ready).await;
    scene.order(Order::Pause).await;
    scene.until("paused", |report| report.state == State::Paused).await;
    let guard = platter.hold_reads();
    scene.machine.disks[0].write(2 * MIB as u64, &noise(8, 10));
    scene.cut_over(false).await;
    let shown = |report: &carreto_live::state::Report| {
        report.next_action.contains("a cutover is being prepared: the receiver reads back")
    };
    let report = scene.until("preparing", shown).await;
    assert!(report.preparing.is_some() && scene.machine.freeze_count() == 0);
    drop(guard);
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_goes_on_with_little_to_send_gets_ready() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    agent.kill().await;
    let agent = scene.start();
    scene.following().await;
    scene.machine.disks[0].write(2 * MIB as u64, &noise(8, 10));
    scene.until("sent", |report| report.totals.resent_granules > 0).await;
    scene.until("ready", |report| report.state == State::Ready).await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ordered_while_a_cutover_is_prepared_counts() {
    let scene = Scene::small().await;
    let platter = scene.platter(0);
    let agent = scene.start();
    scene.following().await;
    let guard = platter.hold_reads();
    scene.cut_over(false).await;
    scene.until("preparing", |report| report.preparing.is_some()).await;
    scene.cut_over(true).await;
    // Somebody who only waits for the same.
    scene.cut_over(false).await;
    drop(guard);
    let certificate = scene.finish(agent).await;
    assert_eq!(certificate.statement().mode, Mode::Strict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_added_holds_an_automatic_cutover_back() {
    let mut scene = Scene::new(vec![("vda", mixed(1, 30 * MIB))], 0).await;
    scene.settings = "bandwidth = '8M'\n[cutover]\nwhen = 'ready'\nafter = 'thaw'\n".to_owned();
    let agent = scene.start();
    scene.until("sending", |report| report.state == State::InitialSync).await;
    scene.machine.has_grown.store(true, Ordering::Release);
    scene.until_told("note a cutover would be refused: the disks were").await;
    let report = scene.until("ready", |report| report.state == State::Ready).await;
    assert!(report.next_action.contains("vdz"), "{}", report.next_action);
    // All three attempts would be over.
    tokio::time::sleep(std::time::Duration::from_secs(17)).await;
    assert_eq!(scene.machine.freeze_count(), 0);
    scene.machine.has_grown.store(false, Ordering::Release);
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tracking_that_works_again_is_trusted_again() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.machine.disks[0].lose(Loss::Told(3));
    let writer = Writer::start(scene.machine.disks.clone(), 5);
    scene.until_told("while it is frozen").await;
    scene.machine.disks[0].lose(Loss::None);
    scene.until("trusted", |report| report.disks[0].distrust.is_none()).await;
    assert!(scene.ears.heard("tracking works again"));
    scene.cut_over(false).await;
    let certificate = scene.finish(agent).await;
    assert!(certificate.statement().disks[0].rehashed < 49);
    scene.machine.thaw();
    writer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_added_is_told_before_a_cutover() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.machine.has_grown.store(true, Ordering::Release);
    scene.until_told("note a cutover would be refused: the disks were").await;
    let report = scene.following().await;
    assert!(report.next_action.contains("vdz"), "{}", report.next_action);
    scene.cut_over(false).await;
    scene.until_told("agent RolledBack").await;
    scene.machine.has_grown.store(false, Ordering::Release);
    scene.until("well", |report| !report.next_action.contains("vdz")).await;
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_the_backlog_is_told_with_the_time_it_takes() {
    let mut scene = Scene::new(vec![("vda", mixed(1, 40 * MIB))], 0).await;
    scene.settings = "bandwidth = '8M'\n".to_owned();
    let agent = scene.start();
    scene.following().await;
    scene.order(Order::Pause).await;
    scene.until("paused", |report| report.state == State::Paused).await;
    scene.machine.disks[0].write(2 * MIB as u64, &noise(8, 38 * MIB));
    scene.order(Order::Resume).await;
    scene.until("sending", |report| report.backlog_bytes > 0).await;
    scene.proxy.cut();
    let told = |report: &carreto_live::state::Report| {
        report.totals.reconnects == 1 && report.state == State::CatchingUp
    };
    scene.until("catching up", told).await;
    scene.until("eta", |report| report.eta_seconds.is_some_and(|eta| eta > 0.2)).await;
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_automatic_cutover_that_would_be_long_is_put_off_before_the_freeze() {
    let mut scene = Scene::new(vec![("vda", mixed(1, 32 * MIB))], 0).await;
    scene.settings = "[cutover]\nmax_pause_seconds = 0.35\nwhen = 'ready'\n".to_owned();
    let guard = scene.platter(0).hold_reads();
    let agent = scene.start();
    scene.until_told("a cutover is being prepared").await;
    scene.machine.disks[0].write(MIB as u64, &noise(8, 30 * MIB));
    drop(guard);
    scene.until_told("the cutover is put off").await;
    let report = scene.following().await;
    assert_eq!((report.totals.failed_cutovers, scene.machine.freeze_count()), (0, 0));
    assert_eq!(report.preparing, None);
    // Who orders it accepts the pause.
    scene.cut_over(false).await;
    scene.finish(agent).await;
}
