//! What the operator orders, and hooks.

use crate::scene::{MIB, Scene, noise};
use carreto_error::Kind;
use carreto_live::agent::{Order, Outcome, ask};
use carreto_live::certificate::Mode;
use carreto_live::state::State;
use std::sync::atomic::Ordering;

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_sends_nothing_and_loses_nothing() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.order(Order::Pause).await;
    scene.until("paused", |report| report.state == State::Paused).await;
    scene.platter(0).take_written();
    scene.machine.disks[0].write(2 * MIB as u64 + 5, &noise(5, 200_000));
    let second = scene.open_agent().err().unwrap();
    assert_eq!(second.kind(), Kind::Locked);
    assert_eq!(scene.platter(0).take_written(), 0);
    scene.order(Order::Resume).await;
    scene.until("sent", |report| report.totals.resent_granules >= 4).await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_ends_the_migration_and_its_trackers() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.order(Order::Abort).await;
    assert_eq!(agent.end().await.unwrap(), Outcome::Cancelled);
    assert!(scene.machine.disks.iter().all(|disk| disk.detached.load(Ordering::Acquire)));
    let left = ask(&scene.run_folder(), Order::Status).await.unwrap();
    assert_eq!(left.state, State::Cancelled);
    let refused = ask(&scene.run_folder(), Order::Pause).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert!(scene.platter(0).has_blank_head());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_of_a_cutover_thaws_and_goes_on() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    let platter = scene.platter(0);
    // The receiver hangs while it reads back, as a slow disk does, as soon as all is frozen.
    let (held, hang) = tokio::sync::oneshot::channel();
    let (mut held, held_platter) = (Some(held), platter.clone());
    scene.machine.on_freeze(move || {
        if let Some(held) = held.take() {
            let _ = held.send(held_platter.hold_reads());
        }
    });
    scene.machine.disks[0].write(2 * MIB as u64, b"something to check");
    scene.cut_over(true).await;
    let guard = hang.await.unwrap();
    scene.until("verifying", |report| report.state == State::Verifying).await;
    assert!(scene.machine.is_frozen());
    scene.order(Order::Abort).await;
    scene.until_told("given up by the operator").await;
    assert!(!scene.machine.is_frozen());
    drop(guard);
    scene.following().await;
    scene.machine.disks[0].write(100, b"the source works");
    assert!(platter.has_blank_head());
    scene.cut_over(false).await;
    scene.finish(agent).await;
    assert_eq!(scene.machine.freeze_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_that_is_given_up_before_it_begins_is_counted() {
    let mut scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.shut().await;
    scene.until("stalled", |report| report.state == State::Stalled).await;
    scene.cut_over(false).await;
    scene.order(Order::Abort).await;
    scene.until_told("the cutover that was asked for is given up").await;
    scene.until("counted", |report| report.totals.failed_cutovers == 1).await;
    scene.serve().await;
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_before_the_freeze_gives_the_cutover_up() {
    let scene = Scene::small().await;
    let platter = scene.platter(0);
    let agent = scene.start();
    scene.following().await;
    let guard = platter.hold_reads();
    scene.cut_over(true).await;
    // The check before the freeze hangs.
    scene.order(Order::Pause).await;
    scene.until("paused", |report| report.state == State::Paused).await;
    drop(guard);
    assert_eq!(scene.machine.freeze_count(), 0);
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_abort_no_cutover_begins_by_itself() {
    let mut scene = Scene::small().await;
    scene.settings =
        "[cutover]\nwhen = 'ready'\nafter = 'thaw'\n[hooks]\nbefore = ['sleep 1']\n".to_owned();
    let agent = scene.start();
    scene.until("quiescing", |report| report.state == State::Quiescing).await;
    scene.order(Order::Abort).await;
    scene.until_told("no cutover begins by itself any more").await;
    scene.until("ready", |report| report.state == State::Ready).await;
    // Longer than a cutover that failed is waited after.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(scene.machine.freeze_count(), 0);
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_while_nothing_is_reached_holds_cutovers_back_too() {
    let mut scene = Scene::small().await;
    scene.settings = "[cutover]\nwhen = 'ready'\nafter = 'thaw'\n".to_owned();
    scene.shut().await;
    let agent = scene.start();
    scene.until("stalled", |report| report.state == State::Stalled).await;
    scene.cut_over(false).await;
    scene.order(Order::Abort).await;
    scene.until_told("no cutover begins by itself any more").await;
    scene.serve().await;
    scene.until("ready", |report| report.state == State::Ready).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(scene.machine.freeze_count(), 0);
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_that_is_under_way_does_not_become_strict() {
    let scene = Scene::small().await;
    let platter = scene.platter(0);
    let agent = scene.start();
    scene.following().await;
    let (held, hang) = tokio::sync::oneshot::channel();
    let mut held = Some(held);
    scene.machine.on_freeze(move || {
        if let Some(held) = held.take() {
            let _ = held.send(platter.hold_reads());
        }
    });
    scene.machine.disks[0].write(2 * MIB as u64, b"something to check");
    scene.cut_over(false).await;
    let guard = hang.await.unwrap();
    scene.until("frozen", |report| report.state.is_cutover()).await;
    let refused = ask(&scene.run_folder(), Order::Cutover { strict: true }).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Usage);
    assert!(refused.remedy().contains("carreto agent abort"), "{refused:?}");
    scene.cut_over(false).await;
    drop(guard);
    let certificate = scene.finish(agent).await;
    assert_eq!(certificate.statement().mode, Mode::Tracked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_gives_the_cutover_up() {
    let mut scene = Scene::small().await;
    let flag = scene.folder.path().join("flag");
    let after = scene.folder.path().join("after");
    scene.settings = format!(
        "[hooks]\nbefore = ['test -e {}']\nafter = ['echo x >> {}']\n",
        flag.display(),
        after.display()
    );
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    scene.until_told("RolledBack").await;
    let report = scene.following().await;
    assert_eq!(report.totals.failed_cutovers, 1);
    assert_eq!(scene.machine.freeze_count(), 0);
    assert_eq!(std::fs::read_to_string(&after).unwrap_or_default(), "x\n");
    std::fs::write(flag, "").unwrap();
    scene.cut_over(false).await;
    scene.finish(agent).await;
    assert_eq!(std::fs::read_to_string(&after).unwrap(), "x\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_cuts_over_by_itself_and_tries_three_times() {
    let mut scene = Scene::small().await;
    scene.settings = "[cutover]\nwhen = 'ready'\n[hooks]\nbefore = ['false']\n".to_owned();
    let error = scene.start().end().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    scene.settings = "[cutover]\nwhen = 'ready'\nafter = 'thaw'\n".to_owned();
    let agent = scene.start();
    scene.finish(agent).await;
    assert!(!scene.machine.is_frozen());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_whether_an_agent_runs() {
    let scene = Scene::small().await;
    let agent = scene.start();
    let report = scene.following().await;
    assert_eq!(report.agent_running, Some(true));
    assert!(!report.next_action.contains("agent run`"), "{}", report.next_action);
    agent.stop().await;
    for _as_often_as_it_is_asked in 0..2 {
        let left = ask(&scene.run_folder(), Order::Status).await.unwrap();
        assert!(matches!(left.state, State::Continuous | State::Ready), "{:?}", left.state);
        assert_eq!(left.agent_running, Some(false));
        assert!(left.next_action.contains("start it with `carreto agent run`"));
        let document = serde_json::to_value(&left).unwrap();
        assert_eq!(document["agent_running"], false);
    }
    let starting = std::fs::File::open(scene.run_folder().join("lock")).unwrap();
    starting.lock().unwrap();
    let left = ask(&scene.run_folder(), Order::Status).await.unwrap();
    assert_eq!((left.state, left.agent_running), (State::Registered, Some(true)));
    assert!(left.next_action.contains("ask again"), "{}", left.next_action);
    drop(starting);
    let agent = scene.start();
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
    let left = ask(&scene.run_folder(), Order::Status).await.unwrap();
    assert_eq!((left.state, left.agent_running), (State::Committed, Some(false)));
    assert_eq!(left.next_action, State::Committed.next_action());
}
