//! What every [`Source`] and every [`Target`] must do, whoever implements it.

use crate::Rng;
use carreto_block::{ByteRange, FetchPlan, FetchTuning, Source, Target, TargetExt as _};
use carreto_error::Kind;
use std::future::Future;
use std::task::{Context, Waker};

/// Checks `source` against the bytes it must hold: sizes, extents at several windows and limits,
/// reads at odd sizes and places, the shared fetch path, reads past the end, dropped futures.
pub async fn source(source: &dyn Source, wanted: &[u8]) {
    assert_eq!(source.size(), wanted.len() as u64, "size of {}", source.name());
    extents_cover(source, wanted).await;
    reads_agree(source, wanted).await;
    plans_agree(source, wanted).await;
    past_the_end_is_refused(source).await;
    dropped_calls_have_no_effect(source, wanted).await;
    assert_eq!(source.stamp().await.unwrap(), source.stamp().await.unwrap(), "stamps are stable");
}

async fn extents_cover(source: &dyn Source, wanted: &[u8]) {
    for limit in [1, 3, 1000] {
        let mut todo = ByteRange::whole(source.size());
        let mut rounds = 0;
        while !todo.is_empty() {
            let list = source.extents(todo, limit).await.expect("extents");
            assert!(!list.is_empty(), "no progress at {todo:?}");
            for extent in list {
                assert_eq!(extent.range.start(), todo.start(), "gap or overlap");
                assert!(todo.contains(extent.range), "{extent:?} outside {todo:?}");
                assert!(!extent.range.is_empty(), "an empty extent");
                todo = todo.split_at(extent.range.end()).1;
                let bytes = &wanted[index(extent.range)];
                let zero = matches!(extent.placement, carreto_block::Placement::Zero);
                assert!(!zero || bytes.iter().all(|b| *b == 0), "data called zero: {extent:?}");
            }
            rounds += 1;
            assert!(rounds <= wanted.len() + 1, "extents do not end");
        }
    }
    let none = ByteRange::whole(0);
    assert!(source.extents(none, 10).await.expect("empty range").is_empty());
}

async fn reads_agree(source: &dyn Source, wanted: &[u8]) {
    let size = wanted.len();
    let mut rng = Rng::new(size as u64 + 17);
    let check = async |offset: usize, len: usize| {
        let mut buf = vec![0xA5; len];
        source.read_at(offset as u64, &mut buf).await.expect("read");
        assert!(buf == wanted[offset..offset + len], "{len} bytes from {offset} differ");
        if let Some(local) = source.as_local() {
            buf.fill(0x5A);
            local.read_local(offset as u64, &mut buf).expect("local read");
            assert!(buf == wanted[offset..offset + len], "local: {len} from {offset} differ");
        }
    };
    check(0, size.min(8 << 20)).await;
    check(size, 0).await;
    for step in [17, 512, 4096, 65536, 1 << 20] {
        for _ in 0..16 {
            let len = step.min(size);
            let offset = rng.below((size - len) as u64 + 1) as usize;
            check(offset, len).await;
        }
        check(size - step.min(size), step.min(size)).await;
    }
}

/// The two-phase path that the copy engine uses gives the bytes that `read_at` gives.
async fn plans_agree(source: &dyn Source, wanted: &[u8]) {
    const ITEM: u64 = 1 << 20;
    for item in ByteRange::whole(source.size()).chunks(ITEM) {
        let mut extents = Vec::new();
        let mut todo = item;
        while !todo.is_empty() {
            let list = source.extents(todo, 64).await.expect("extents");
            todo = todo.split_at(list.last().expect("progress").range.end()).1;
            extents.extend(list);
        }
        let plan = FetchPlan::new(item, &extents, FetchTuning::new(source.hint())).expect("plan");
        let mut output = vec![0xA5; index(item).len()];
        let mut scratch = vec![0; plan.scratch_len()];
        if plan.is_local(source) {
            plan.read_local(source, &mut output, &mut scratch).expect("local fetch");
        } else {
            plan.read(source, &mut output, &mut scratch).await.expect("fetch");
        }
        plan.decode(source, &mut output, &scratch).expect("decode");
        assert!(output == wanted[index(item)], "{item:?} differs on the fetch path");
    }
}

async fn past_the_end_is_refused(source: &dyn Source) {
    let end = source.size();
    for (offset, len) in [(end, 1), (end + 1, 1), (end.saturating_sub(3), 4 + 3), (u64::MAX, 2)] {
        let mut buf = vec![0; len];
        let error = source.read_at(offset, &mut buf).await.expect_err("read past the end");
        assert_eq!(error.kind(), Kind::Usage, "{error}");
        if let Some(range) = ByteRange::from_len(offset, len as u64) {
            assert!(source.extents(range, 4).await.is_err(), "extents past the end");
        }
    }
}

async fn dropped_calls_have_no_effect(source: &dyn Source, wanted: &[u8]) {
    let len = wanted.len().min(300_000);
    for polls in 0..4 {
        let mut buf = vec![0; len];
        poll_then_drop(source.read_at(0, &mut buf), polls);
        poll_then_drop(source.extents(ByteRange::whole(source.size()), 100), polls);
        poll_then_drop(source.stamp(), polls);
        source.read_at(0, &mut buf).await.expect("read after a dropped read");
        assert!(buf == wanted[..len], "a dropped call changed what is read");
    }
}

/// Polls `future` at most `polls` times and drops it, wherever it is then.
pub fn poll_then_drop<T>(future: impl Future<Output = T>, polls: usize) {
    let mut future = Box::pin(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if future.as_mut().poll(&mut context).is_ready() {
            return;
        }
    }
}

/// Checks `target`, of at least 1 MiB: writes of odd sizes, zeroing, flush, reading back, writes
/// past the end, dropped futures. Leaves it changed.
pub async fn target(target: &dyn Target) {
    let size = target.size();
    assert!(size >= 1 << 20, "the suite needs 1 MiB");
    let mut model = vec![0; usize::try_from(size.min(8 << 20)).unwrap()];
    target.write_zeroes(ByteRange::whole(model.len() as u64)).await.expect("zero");
    let mut rng = Rng::new(99);
    for round in 0..60 {
        let step = [1, 17, 512, 4096, 65536, 300_000][round % 6];
        let len = 1 + rng.below(step) as usize;
        let offset = rng.below((model.len() - len) as u64 + 1) as usize;
        let bytes = &mut model[offset..offset + len];
        if round % 5 == 4 {
            bytes.fill(0);
            let range = ByteRange::from_len(offset as u64, len as u64).unwrap();
            target.write_zeroes(range).await.expect("zero");
        } else {
            rng.fill(bytes);
            write_some_way(target, offset as u64, bytes, round).await;
        }
    }
    poll_then_drop(target.write_at(0, &model[..4096]), 1);
    target.write_at(0, &model[..4096]).await.expect("rewrite after a dropped write");
    poll_then_drop(target.flush(), 1);
    target.flush().await.expect("flush");
    let reader = target.reader().await.expect("reader");
    let mut back = vec![0; model.len()];
    reader.read_at(0, &mut back).await.expect("read back");
    assert!(back == model, "what was written is not what is read");
    for (offset, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1)] {
        let error = target.write_at(offset, &vec![1; len]).await.expect_err("past the end");
        assert_eq!(error.kind(), Kind::Usage, "{error}");
        assert!(target.check_range(offset, len as u64).is_err());
    }
}

async fn write_some_way(target: &dyn Target, offset: u64, bytes: &[u8], round: usize) {
    match target.as_local() {
        Some(local) if round.is_multiple_of(2) => {
            local.write_local(offset, bytes).expect("local write");
        }
        _ => target.write_at(offset, bytes).await.expect("write"),
    }
}

fn index(range: ByteRange) -> std::ops::Range<usize> {
    usize::try_from(range.start()).unwrap()..usize::try_from(range.end()).unwrap()
}
