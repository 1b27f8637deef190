//! Whatever the budget, nothing waits for memory that only it could give back, and no more is
//! lent than was promised. The clock stands still until everything waits, so a deadlock is a
//! timeout at once.
#![expect(clippy::expect_used, reason = "helpers of tests may fail")]

use carreto_block::{ByteRange, Source};
use carreto_testkit::conformance::poll_then_drop;
use carreto_testkit::{Fault, FaultySource, MemSource, MemTarget, sparse_disk};
use carreto_transfer::{
    Body, Budget, CopyOptions, Difference, Engine, ITEM, Piece, compare, copy, scan_ordered, verify,
};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

const SIZE: usize = 15 * (1 << 20) + 777;

/// From less than a page to a little more than two items.
const BUDGETS: [u64; 5] = [1, 4096, ITEM, ITEM + 4096, 2 * ITEM + 4096];

fn engine(memory: u64) -> Engine {
    Engine::new(CopyOptions { memory, workers: NonZero::new(4), ..CopyOptions::default() })
}

fn remote(disk: &[u8]) -> Arc<dyn Source> {
    let source = Arc::new(MemSource::new("disk", disk).remote());
    Arc::new(FaultySource::new(source, Fault::never()))
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_hours(1), work).await.expect("a deadlock")
}

#[tokio::test(start_paused = true)]
async fn scanning_in_order_needs_room_for_one_item() {
    let disk = sparse_disk(SIZE, 81);
    for memory in BUDGETS {
        let engine = engine(memory);
        let mut seen = Vec::new();
        let scan = scan_ordered(&engine, remote(&disk), ByteRange::whole(SIZE as u64), |piece| {
            match piece {
                Piece::Zero(len) => seen.resize(seen.len() + usize::try_from(len).unwrap(), 0),
                Piece::Data(bytes) => seen.extend_from_slice(bytes),
            }
            Ok(())
        });
        soon(scan).await.unwrap();
        assert!(seen == disk, "budget {memory}");
        assert!((1..=memory.max(ITEM)).contains(&engine.peak_memory()), "budget {memory}");
    }
}

#[tokio::test(start_paused = true)]
async fn comparing_needs_room_for_one_pair() {
    let disk = sparse_disk(SIZE, 82);
    let mut other = disk.clone();
    other[SIZE - 1] ^= 1;
    for memory in BUDGETS {
        let engine = engine(memory);
        let found = soon(compare(&engine, remote(&disk), remote(&other))).await.unwrap();
        assert_eq!(found, Some(Difference::Content(SIZE as u64 - 1)));
        assert!(engine.peak_memory() <= memory.max(2 * ITEM), "budget {memory}");
    }
}

#[tokio::test(start_paused = true)]
async fn copying_and_verifying_keep_to_the_budget() {
    let disk = sparse_disk(SIZE, 83);
    for memory in BUDGETS {
        let engine = engine(memory);
        let target = MemTarget::blank(SIZE as u64);
        let body = Body::whole(remote(&disk), Arc::new(target.clone()));
        let copied = soon(copy(&engine, &body, None)).await.unwrap();
        assert!(target.content() == disk);
        let range = ByteRange::whole(SIZE as u64);
        let check = verify(&engine, remote(&disk), range, Arc::new(copied.digest));
        assert_eq!(soon(check).await.unwrap().total(), 0);
        assert!((1..=memory.max(ITEM)).contains(&engine.peak_memory()), "budget {memory}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wish_for_memory_takes_none() {
    let budget = Budget::new(1 << 20);
    for polls in 0..3 {
        let held = budget.lend(1 << 19, 0).await.unwrap();
        poll_then_drop(budget.lend(1 << 20, 0), polls);
        drop(held);
        let (lease, scratch) = soon(budget.lend(1 << 19, 1 << 19)).await.unwrap();
        assert_eq!((lease.bytes().len(), scratch.len()), (1 << 19, 1 << 19));
    }
    assert_eq!(budget.peak(), 1 << 20);
}

/// The clock of the test does not move, so no wait for the pace was asked for.
#[tokio::test(start_paused = true)]
async fn no_rate_limits_reading_back() {
    let disk = sparse_disk(SIZE, 84);
    let engine = Engine::new(CopyOptions { rate: Some(1), ..CopyOptions::default() });
    let begin = tokio::time::Instant::now();
    let check = verify(&engine, remote(&disk), ByteRange::whole(SIZE as u64), Arc::default());
    assert!(check.await.unwrap().total() > 0);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}
