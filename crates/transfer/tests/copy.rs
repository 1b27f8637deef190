//! Copies are exact, proportional to the data, and survive faults.
#![expect(clippy::cast_possible_truncation, reason = "test disks are small")]

use carreto_block::{ByteRange, Source, Target};
use carreto_error::Kind;
use carreto_testkit::{Fault, FaultySource, FaultyTarget, MemSource, MemTarget, sparse_disk};
use carreto_transfer::{
    Body, CopyOptions, Counters, Difference, Engine, Piece, Stop, StopReason, compare, copy,
    scan_ordered, verify,
};
use std::sync::Arc;

const SIZE: usize = 9 * (1 << 20) + 12_345;

fn engine() -> Engine {
    Engine::new(CopyOptions::default())
}

fn source(disk: &[u8]) -> Arc<dyn Source> {
    Arc::new(MemSource::new("disk", disk))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_combination_of_source_and_target_is_exact() {
    let disk = sparse_disk(SIZE, 11);
    let old = sparse_disk(SIZE, 12);
    let plain = MemSource::new("disk", disk.clone());
    let sources: [MemSource; 3] = [plain.clone(), plain.clone().remote(), plain.dense()];
    let targets: [fn(&[u8]) -> MemTarget; 4] = [
        |old| MemTarget::blank(old.len() as u64),
        |old| MemTarget::blank(old.len() as u64).remote(),
        |old| MemTarget::used(old.to_vec()),
        |old| MemTarget::used(old.to_vec()).remote(),
    ];
    let mut roots = Vec::new();
    for source in &sources {
        for target in targets {
            let target = target(&old);
            let body = Body::whole(Arc::new(source.clone()), Arc::new(target.clone()));
            let copied = copy(&engine(), &body, None).await.unwrap();
            assert!(target.content() == disk, "{source:?} to {target:?}");
            roots.push(copied.digest.root(SIZE as u64));
        }
    }
    assert!(roots.windows(2).all(|w| w[0] == w[1]), "the digest depends on the content alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn zeros_are_neither_read_nor_written_on_a_blank_target() {
    let mut disk = vec![0; 64 << 20];
    disk[5 << 20..(5 << 20) + 5000].fill(7);
    let target = MemTarget::blank(disk.len() as u64);
    let engine = engine();
    let body = Body::whole(source(&disk), Arc::new(target.clone()));
    copy(&engine, &body, None).await.unwrap();
    assert!(target.content() == disk);
    assert_eq!((target.written(), target.zeroed()), (8192, 0));
    assert_eq!(Counters::value(&engine.counters().read), 8192);
}

/// What is counted is what was done: zeros in the bytes of a source are zeros, and holes of the
/// target are not read back.
#[tokio::test(flavor = "multi_thread")]
async fn zeros_that_are_found_count_and_holes_are_not_read_back() {
    let mut disk = vec![0; 8 << 20];
    disk[5 << 20..(5 << 20) + 5000].fill(7);
    let target = MemTarget::blank(disk.len() as u64);
    let engine = engine();
    let dense: Arc<dyn Source> = Arc::new(MemSource::new("disk", disk.clone()).dense());
    let body = Body::whole(dense, Arc::new(target.clone()));
    let copied = copy(&engine, &body, None).await.unwrap();
    let (counters, value) = (engine.counters(), Counters::value);
    assert_eq!((value(&counters.written), value(&counters.zero)), (8192, (8 << 20) - 8192));
    let whole = ByteRange::whole(8 << 20);
    let reader = target.reader().await.unwrap();
    verify(&engine, reader, whole, Arc::new(copied.digest)).await.unwrap();
    assert_eq!(value(&counters.verified), 8192);
}

/// The N-th operation fails, for N = 1, 2, 3 … until none is left to fail: never a panic, never
/// success with wrong bytes, and copying again repairs.
#[tokio::test(flavor = "multi_thread")]
async fn any_failing_operation_is_reported_and_repaired_by_copying_again() {
    let disk = sparse_disk(3 << 20, 21);
    for at in 1.. {
        let target = MemTarget::used(sparse_disk(3 << 20, 22));
        let fault = Fault::at(at, Kind::Io);
        let faulty_source: Arc<dyn Source> =
            Arc::new(FaultySource::new(source(&disk), fault.clone()));
        let faulty: Arc<dyn Target> =
            Arc::new(FaultyTarget::new(Arc::new(target.clone()), fault.clone()));
        let outcome = copy(&engine(), &Body::whole(faulty_source, faulty), None).await;
        if fault.operations() < at {
            outcome.unwrap();
            assert!(target.content() == disk);
            assert!(at > 10, "only {at} operations were tried");
            return;
        }
        assert_eq!(outcome.unwrap_err().kind(), Kind::Io, "operation {at}");
        let again = Body::whole(source(&disk), Arc::new(target.clone()));
        copy(&engine(), &again, None).await.unwrap();
        assert!(target.content() == disk, "operation {at} left damage");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_with_its_reason_and_no_write_follows() {
    let disk = sparse_disk(SIZE, 31);
    for reason in [StopReason::Cancelled, StopReason::Deadline, StopReason::Stalled] {
        let stop = Stop::default();
        let options = CopyOptions { rate: Some(1 << 20), ..CopyOptions::default() };
        let engine = Engine::new(options).stopped_by(stop.clone());
        let target = MemTarget::blank(SIZE as u64);
        let body = Body::whole(source(&disk), Arc::new(target.clone()));
        let running = tokio::spawn(async move { copy(&engine, &body, None).await });
        while target.written() == 0 {
            tokio::task::yield_now().await;
        }
        stop.request(reason);
        let error = running.await.unwrap().unwrap_err();
        let wanted = if reason == StopReason::Cancelled { Kind::Cancelled } else { Kind::Timeout };
        assert_eq!(error.kind(), wanted);
        let written = target.written();
        tokio::task::yield_now().await;
        assert_eq!(target.written(), written);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_pieces_are_the_disk() {
    let disk = sparse_disk(SIZE, 51);
    for remote in [false, true] {
        let plain = MemSource::new("disk", disk.clone());
        let source: Arc<dyn Source> = Arc::new(if remote { plain.remote() } else { plain });
        let mut seen = Vec::new();
        let range = ByteRange::new(100, SIZE as u64 - 3).unwrap();
        scan_ordered(&engine(), source, range, |piece| {
            match piece {
                Piece::Zero(len) => seen.resize(seen.len() + len as usize, 0),
                Piece::Data(bytes) => seen.extend_from_slice(bytes),
            }
            Ok(())
        })
        .await
        .unwrap();
        assert!(seen == disk[100..SIZE - 3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compare_finds_the_first_difference() {
    let disk = sparse_disk(SIZE, 61);
    let same = compare(&engine(), source(&disk), source(&disk)).await.unwrap();
    assert_eq!(same, None);
    for at in [0, 4095, 5 << 20, SIZE - 1] {
        let mut other = disk.clone();
        other[at] ^= 1;
        for (a, b) in [(&disk, &other), (&other, &disk)] {
            let found = compare(&engine(), source(a), source(b)).await.unwrap();
            assert_eq!(found, Some(Difference::Content(at as u64)));
        }
    }
    let short = source(&disk[..SIZE - 1]);
    let found = compare(&engine(), source(&disk), short).await.unwrap();
    assert_eq!(found, Some(Difference::Size(SIZE as u64, SIZE as u64 - 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_futures_leave_a_repairable_target() {
    let disk = sparse_disk(SIZE, 71);
    let remote: Arc<dyn Source> = Arc::new(MemSource::new("disk", disk.clone()).remote());
    for polls in 0..30 {
        let target = MemTarget::used(sparse_disk(SIZE, 72));
        let body = Body::whole(remote.clone(), Arc::new(target.clone()));
        let engine = engine();
        carreto_testkit::conformance::poll_then_drop(copy(&engine, &body, None), polls);
        carreto_testkit::conformance::poll_then_drop(
            compare(&engine, remote.clone(), remote.clone()),
            polls,
        );
        copy(&engine, &body, None).await.unwrap();
        assert!(target.content() == disk, "dropped after {polls} polls");
    }
}
