//! What an ordinary migration does.

use crate::machine::Disk;
use crate::scene::{MIB, Scene, mixed, noise};
use carreto_live::agent::Order;
use carreto_live::state::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes all the time, from a thread that a freeze blocks.
pub(crate) struct Writer(Arc<AtomicBool>, std::thread::JoinHandle<u64>);

impl Writer {
    pub(crate) fn start(disks: Vec<Arc<Disk>>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            let mut count = 0;
            while !stopped.load(Ordering::Acquire) {
                for disk in &disks {
                    let data = noise(seed + count, 700);
                    let place = u64::from_le_bytes(*data.first_chunk().unwrap());
                    disk.write(place % (disk.size - 700), &data);
                    count += 1;
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            count
        };
        Self(stop, std::thread::spawn(work))
    }

    pub(crate) fn stop(self) -> u64 {
        self.0.store(true, Ordering::Release);
        self.1.join().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_disks_move_while_they_are_written() {
    let disks = vec![("vda", mixed(1, 70 * MIB + 512)), ("vdb", mixed(2, 2 * MIB + 100))];
    let mut scene = Scene::new(disks, 5000).await;
    scene.settings = "[cutover]\nlease_seconds = 10\n".to_owned();
    let writer = Writer::start(scene.machine.disks.clone(), 1000);
    let agent = scene.start();
    scene.following().await;
    for disk in 0..2 {
        assert!(scene.platter(disk).has_blank_head());
        assert!(!scene.platter(disk).showed_head.load(Ordering::Acquire));
    }
    scene.cut_over(false).await;
    let certificate = scene.finish(agent).await;
    assert!(scene.machine.is_frozen(), "it stays frozen");
    let last = carreto_live::agent::ask(&scene.run_folder(), Order::Status).await.unwrap();
    let cutover = last.cutover.unwrap();
    assert_eq!((last.state, cutover.missed_granules, cutover.strict), (State::Committed, 0, false));
    assert!(cutover.compared_granules < 70 * 16, "not everything: {cutover:?}");
    scene.machine.thaw();
    assert!(writer.stop() > 0);
    assert!(scene.machine.disks.iter().all(|disk| disk.detached.load(Ordering::Acquire)));
    let again = scene.start().committed().await;
    assert_eq!(again.to_json().unwrap(), certificate.to_json().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_is_sent_as_a_reference() {
    let scene = Scene::new(vec![("vda", noise(1, 4 * MIB)), ("vdb", vec![0; 6 * MIB])], 0).await;
    let agent = scene.start();
    scene.following().await;
    scene.order(Order::Pause).await;
    scene.until("paused", |report| report.state == State::Paused).await;
    // Places count as known once the receiver has flushed them, which a check makes it do.
    scene.cut_over(false).await;
    scene.machine.lose_lease.store(true, Ordering::Release);
    scene.until_told("the freeze was lost").await;
    scene.following().await;
    scene.order(Order::Pause).await;
    scene.until("paused", |report| report.state == State::Paused).await;
    let source = scene.machine.disks[0].content();
    scene.machine.disks[1].write(MIB as u64, &source[MIB..3 * MIB]);
    scene.platter(1).take_written();
    scene.order(Order::Resume).await;
    let wanted = 2 * MIB as u64;
    let report = scene.until("sent", |report| report.totals.reference_bytes >= wanted).await;
    assert_eq!(report.totals.reference_bytes, wanted);
    // The place of the first granules is overwritten while a copy of what was there appears.
    scene.order(Order::Pause).await;
    scene.until("paused", |report| report.state == State::Paused).await;
    scene.machine.disks[1].write(4 * MIB as u64, &source[MIB..2 * MIB]);
    scene.machine.disks[0].write(MIB as u64, &noise(9, MIB));
    scene.order(Order::Cutover { strict: true }).await;
    scene.finish(agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_has_one_client_at_a_time_is_read_and_written_in_turn() {
    let scene = Scene::new(vec![("vda", mixed(1, 8 * MIB))], 0).await;
    scene.platter(0).exclusive.store(true, Ordering::Release);
    let agent = scene.start();
    scene.following().await;
    // The target was read back when this is found out, and is written again.
    scene.cut_over(false).await;
    scene.machine.lose_lease.store(true, Ordering::Release);
    scene.until_told("the freeze was lost").await;
    scene.following().await;
    // Known content could only be copied by reading between writes.
    let source = scene.machine.disks[0].content();
    scene.machine.disks[0].write(6 * MIB as u64, &source[MIB..2 * MIB]);
    scene.cut_over(false).await;
    scene.finish(agent).await;
    assert_eq!(scene.targets.opens.load(Ordering::Acquire), 1, "it was never given up");
}
