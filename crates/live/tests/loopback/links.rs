//! A network that is cut, again and again, and that stands still.

use crate::plain::Writer;
use crate::scene::{MIB, Scene, mixed, noise};
use carreto_live::agent::Outcome;
use carreto_live::state::State;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn cut_again_and_again_it_arrives_in_the_end() {
    let scene =
        Scene::new(vec![("vda", noise(1, 24 * MIB + 5)), ("vdb", mixed(2, 3 * MIB))], 0).await;
    let writer = Writer::start(scene.machine.disks.clone(), 99);
    scene.proxy.cut_after(3_000_000);
    let agent = scene.start();
    // Lengths that end within handshakes, heads and batches.
    for (index, bytes) in [900, 4_000, 40_123, 7, 2_500_000, 5_000_001].into_iter().enumerate() {
        let cuts = 1 + index as u64;
        scene.until("cut", |_| scene.proxy.cuts() >= cuts).await;
        scene.proxy.cut_after(bytes);
    }
    scene.until("cut", |_| scene.proxy.cuts() >= 7).await;
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
    scene.machine.thaw();
    writer.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_asked_for_again() {
    let mut scene = Scene::small().await;
    scene.settings = "[cutover]\nlease_seconds = 20\n".to_owned();
    let agent = scene.start();
    scene.following().await;
    let platter = scene.platter(1);
    let (sender, receiver) = std::sync::mpsc::channel();
    let watched = platter.clone();
    scene.machine.on_freeze(move || {
        let _ = sender.send(watched.hold_head());
    });
    scene.cut_over(false).await;
    let guard = tokio::task::spawn_blocking(move || receiver.recv().unwrap()).await.unwrap();
    // The receiver is about to give the second disk its head.
    let first = scene.platter(0);
    scene.until("committing", |_| !first.has_blank_head()).await;
    scene.proxy.cut();
    scene.until_told("Disconnected").await;
    drop(guard);
    let certificate = scene.finish(agent).await;
    assert!(scene.machine.is_frozen(), "it never thawed");
    assert_eq!(scene.machine.freeze_count(), 1);
    let kept = scene.folder.path().join("receiver/servers/web1/certificate.json");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), certificate.to_json().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_before_the_commit_rolls_back() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    let platter = scene.platter(0);
    let (sender, receiver) = std::sync::mpsc::channel();
    let watched = platter.clone();
    scene.machine.on_freeze(move || {
        let _ = sender.send(watched.hold_reads());
    });
    scene.cut_over(true).await;
    let guard = tokio::task::spawn_blocking(move || receiver.recv().unwrap()).await.unwrap();
    scene.until("verifying", |report| report.state == State::Verifying).await;
    scene.proxy.cut();
    scene.until_told("RolledBack").await;
    assert!(!scene.machine.is_frozen());
    drop(guard);
    scene.machine.on_freeze(|| {});
    scene.until("back", |report| report.totals.reconnects > 0).await;
    scene.following().await;
    assert!(!scene.receiver().status().servers[0].committed);
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_session_began_is_over_before_the_next_begins() {
    let scene = Scene::small().await;
    let platter = scene.platter(0);
    let agent = scene.start();
    scene.following().await;
    let guard = platter.hold_writes();
    scene.machine.disks[0].write(2 * MIB as u64, &noise(20, 65536));
    // The old content is on its way into the target when the agent comes again.
    platter.until_waiting().await;
    scene.proxy.cut();
    scene.machine.disks[0].write(2 * MIB as u64, &noise(21, 65536));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(guard);
    scene.until("back", |report| report.totals.reconnects > 0).await;
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_stands_still_goes_on_and_can_be_left() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.proxy.stall(true);
    scene.machine.disks[0].write(2 * MIB as u64, &noise(20, 65536));
    scene.until("backlog", |report| report.backlog_bytes > 0).await;
    scene.proxy.stall(false);
    scene.until("none", |report| report.backlog_bytes == 0).await;
    scene.proxy.stall(true);
    scene.machine.disks[0].write(2 * MIB as u64, &noise(22, 65536));
    scene.until("backlog", |report| report.backlog_bytes > 0).await;
    scene.order(carreto_live::agent::Order::Abort).await;
    assert_eq!(agent.end().await.unwrap(), Outcome::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_anywhere_in_the_cutover_it_is_committed_once_or_not_at_all() {
    let mut scene = Scene::small().await;
    scene.settings = "[cutover]\nlease_seconds = 10\n".to_owned();
    let agent = scene.start();
    let mut tried = 0;
    for bytes in (300..).step_by(170) {
        scene.following().await;
        scene.machine.disks[0].write(2 * MIB as u64, &noise(bytes, 5000));
        let shared = scene.proxy.clone();
        scene.machine.on_freeze(move || shared.cut_after(bytes));
        let (cuts, told) = (scene.proxy.cuts(), scene.ears.count("RolledBack"));
        scene.cut_over(false).await;
        let is_over = |ears: &crate::scene::Ears| {
            ears.count("RolledBack") > told || ears.heard("agent Committed")
        };
        scene.until_so("over", is_over).await;
        if scene.ears.heard("agent Committed") {
            break;
        }
        assert_eq!(scene.proxy.cuts(), cuts + 1);
        assert!(!scene.machine.is_frozen());
        assert!(!scene.receiver().status().servers[0].committed, "it works on, and is committed");
        assert!(scene.platter(0).has_blank_head() && scene.platter(1).has_blank_head());
        tried += 1;
        let reconnects = |report: &carreto_live::state::Report| report.totals.reconnects >= tried;
        scene.until("back", reconnects).await;
    }
    scene.finish(agent).await;
    assert!(scene.machine.is_frozen() && tried > 2, "{tried} times in vain");
}
