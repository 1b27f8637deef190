//! Disks that nothing follows, of which only the kernel's counters tell that they stand still.

use crate::scene::{MIB, Scene};
use carreto_live::track::TrackerKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[tokio::test(flavor = "multi_thread")]
async fn without_counters_nothing_is_frozen() {
    let scene = Scene::small().await;
    *scene.machine.kind.lock().unwrap() = TrackerKind::Rescan;
    let agent = scene.start();
    scene.following().await;
    scene.machine.disks[0].iostats.store(false, Ordering::Release);
    scene.cut_over(false).await;
    scene.until_told("the kernel does not count its requests").await;
    assert_eq!(scene.machine.freeze_count(), 0);
    scene.machine.disks[0].iostats.store(true, Ordering::Release);
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}

/// What is written while everything is frozen would be seen by nothing.
#[tokio::test(flavor = "multi_thread")]
async fn counters_that_are_switched_off_in_the_freeze_end_the_cutover() {
    let scene = Scene::small().await;
    *scene.machine.kind.lock().unwrap() = TrackerKind::Rescan;
    let agent = scene.start();
    scene.following().await;
    let disk = Arc::clone(&scene.machine.disks[0]);
    scene.machine.on_freeze(move || {
        disk.iostats.store(false, Ordering::Release);
        disk.sneak(2 * MIB as u64, &[7; 5000]);
    });
    scene.cut_over(false).await;
    scene.until_told("the kernel does not count its requests").await;
    assert!(scene.platter(0).has_blank_head() && !scene.machine.is_frozen());
    scene.machine.on_freeze(|| {});
    scene.machine.disks[0].iostats.store(true, Ordering::Release);
    scene.following().await;
    scene.cut_over(false).await;
    scene.finish(agent).await;
}
