//! Either end ends and begins again; never from zero.

use crate::machine::Pins;
use crate::scene::{MIB, Scene, mixed, noise};
use carreto_live::state::State;
use std::sync::atomic::Ordering;

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_restarts_goes_on() {
    let mut scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    scene.shut().await;
    scene.until("stalled", |report| report.state == State::Stalled).await;
    for disk in 0..2 {
        scene.platter(disk).take_written();
    }
    scene.machine.disks[1].write(MIB as u64 + 7, &noise(4, 1000));
    scene.serve().await;
    scene.until("back", |report| report.totals.reconnects == 1).await;
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
    let head = MIB as u64;
    assert_eq!(scene.platter(0).take_written(), head, "nothing but the head");
    assert_eq!(scene.platter(1).take_written(), head + 65536);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_whose_system_restarted_reads_its_targets() {
    let mut scene =
        Scene::new(vec![("vda", mixed(3, 66 * MIB)), ("vdb", mixed(2, 2 * MIB))], 9).await;
    let agent = scene.start();
    scene.following().await;
    scene.shut().await;
    let platter = scene.platter(0);
    // Noise, where a change is sent as data.
    platter.corrupt(525 * 100_000);
    platter.take_written();
    scene.targets.boot.store(1, Ordering::Release);
    scene.serve().await;
    scene.until("back", |report| report.totals.reconnects == 1).await;
    scene.following().await;
    assert_eq!(platter.take_written(), 65536, "what was lost, and the head beside it");
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_goes_on_where_it_was() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    agent.kill().await;
    for disk in 0..2 {
        scene.platter(disk).take_written();
        scene.machine.disks[disk].read.store(0, Ordering::Release);
    }
    scene.machine.disks[0].write(2 * MIB as u64, &noise(8, 10));
    let agent = scene.start();
    scene.until("sent", |report| report.totals.data_bytes > 0).await;
    let read = |disk: usize| scene.machine.disks[disk].read.load(Ordering::Acquire);
    assert_eq!((read(0), read(1)), (65536, 0), "what was marked meanwhile");
    assert_eq!(scene.platter(0).take_written(), 65536);
    scene.until("ready", |report| report.state == State::Ready).await;
    // Killed before its first epoch ended, it is still trusted.
    agent.kill().await;
    let agent = scene.start();
    scene.until("ready", |report| report.state == State::Ready).await;
    assert_eq!((read(0), read(1)), (65536, 0));
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_restarted_is_read_and_only_differences_are_sent() {
    let scene = Scene::small().await;
    let agent = scene.start();
    scene.following().await;
    agent.stop().await;
    *scene.machine.pins.lock().unwrap() = Pins::Lost;
    scene.machine.disks[0].write(2 * MIB as u64, &noise(8, 10));
    for disk in 0..2 {
        scene.platter(disk).take_written();
    }
    let agent = scene.start();
    scene.following().await;
    let report = scene.until("read", |report| report.totals.read_bytes > 5 * MIB as u64).await;
    assert_eq!(report.totals.data_bytes, 65536);
    assert_eq!((scene.platter(0).take_written(), scene.platter(1).take_written()), (65536, 0));
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_restart_in_the_middle_of_the_first_pass() {
    let mut scene =
        Scene::new(vec![("vda", noise(3, 40 * MIB)), ("vdb", noise(2, 2 * MIB))], 0).await;
    scene.settings = "bandwidth = '20M'\n".to_owned();
    let agent = scene.start();
    let far = |report: &carreto_live::state::Report| report.totals.data_bytes > 10 * MIB as u64;
    scene.until("some", far).await;
    agent.kill().await;
    scene.shut().await;
    scene.settings = String::new();
    scene.serve().await;
    let agent = scene.start();
    let report = scene.following().await;
    assert!(report.totals.data_bytes < 33 * MIB as u64, "{:?}", report.totals);
    scene.cut_over(false).await;
    scene.finish(agent).await;
}
