//! Every operation ends well when it is dropped, when what it calls fails, and when it is stopped
//! while a store is silent.
#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

use async_trait::async_trait;
use carreto_block::{
    ByteRange, Decode, Extent, FileId, Packed, Placement, Source, SourceExt as _, Stamp,
};
use carreto_error::{Error, Kind, Result};
use carreto_testkit::conformance::poll_then_drop;
use carreto_testkit::{Fault, FaultySource, MemSource, MemTarget, sparse_disk};
use carreto_transfer::{
    Body, CopyOptions, Engine, Piece, Stop, StopReason, Walker, Work, compare, copy, decode_all,
    scan_ordered, verify,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SIZE: usize = 5 * (1 << 20) + 99;
const WHOLE: ByteRange = ByteRange::whole(SIZE as u64);

fn engine() -> Engine {
    Engine::new(CopyOptions::default())
}

fn faulty(disk: &[u8], fault: &Arc<Fault>) -> Arc<dyn Source> {
    let source = Arc::new(MemSource::new("disk", disk).remote());
    Arc::new(FaultySource::new(source, fault.clone()))
}

async fn scan(engine: &Engine, source: Arc<dyn Source>) -> Result<Vec<u8>> {
    let mut seen = Vec::new();
    scan_ordered(engine, source, WHOLE, |piece| {
        match piece {
            Piece::Zero(len) => seen.resize(seen.len() + usize::try_from(len).unwrap(), 0),
            Piece::Data(bytes) => seen.extend_from_slice(bytes),
        }
        Ok(())
    })
    .await?;
    Ok(seen)
}

async fn walk(source: Arc<dyn Source>) -> Result<u64> {
    let mut walker = Walker::new(source, WHOLE);
    let mut bytes = 0;
    while let Some(work) = walker.next().await? {
        bytes += match work {
            Work::Zero(range) | Work::Data(range, _) => range.len(),
        };
    }
    Ok(bytes)
}

/// Units of 64 KiB, every byte flipped; those whose stored form begins with `0xFF` are damaged.
#[derive(Debug)]
struct Flipped;

impl Decode for Flipped {
    fn name(&self) -> &'static str {
        "flip"
    }

    fn decode(&self, input: &[u8], _tag: u64, output: &mut [u8]) -> Result<()> {
        if input.first() == Some(&0xFF) {
            return Err(Error::new(Kind::Corrupt, "the unit is damaged"));
        }
        for (to, from) in output.iter_mut().zip(input) {
            *to = from ^ 0x55;
        }
        Ok(())
    }
}

const UNIT: u32 = 64 << 10;

/// Every second unit is packed, the others are plain.
#[derive(Debug)]
struct PackedDisk {
    files: [Arc<dyn Source>; 1],
}

#[async_trait]
impl Source for PackedDisk {
    fn name(&self) -> &str {
        self.files[0].name()
    }

    fn size(&self) -> u64 {
        self.files[0].size()
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        self.files[0].extents(range, 1).await?;
        let unit = u64::from(UNIT);
        let mut list = Vec::new();
        for at in (range.start() / unit..range.end().div_ceil(unit)).take(limit.max(1)) {
            let whole = ByteRange::new(at * unit, ((at + 1) * unit).min(self.size())).unwrap();
            let part = whole.intersect(range);
            let file = FileId(0);
            let packed = Packed {
                file,
                offset: whole.start(),
                len: u32::try_from(whole.len()).unwrap(),
                unit: u32::try_from(whole.len()).unwrap(),
                skip: u32::try_from(part.start() - whole.start()).unwrap(),
                tag: 0,
                codec: &Flipped,
            };
            let plain = Placement::Plain { file, offset: part.start() };
            let placement = if at % 2 == 0 { Placement::Packed(packed) } else { plain };
            list.push(Extent::new(part, placement));
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.files[0].read_at(offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.files[0].stamp().await
    }
}

fn packed(stored: &[u8], fault: &Arc<Fault>) -> Arc<dyn Source> {
    Arc::new(PackedDisk { files: [faulty(stored, fault)] })
}

#[tokio::test(flavor = "multi_thread")]
async fn decoding_everything_counts_what_is_packed_and_finds_the_damaged_unit() {
    let mut stored = vec![1; SIZE];
    let odd = SIZE as u64 % u64::from(UNIT);
    let units = SIZE as u64 / u64::from(UNIT);
    let wanted =
        units.div_ceil(2) * u64::from(UNIT) + if units.is_multiple_of(2) { odd } else { 0 };
    let source = packed(&stored, &Fault::never());
    assert_eq!(decode_all(&engine(), source).await.unwrap(), wanted);
    stored[UNIT as usize] = 0xFF;
    let source = packed(&stored, &Fault::never());
    assert_eq!(decode_all(&engine(), source).await.unwrap(), wanted, "a plain unit is not decoded");
    stored[2 * UNIT as usize] = 0xFF;
    let error = decode_all(&engine(), packed(&stored, &Fault::never())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

/// Runs `work` with the N-th operation failing, for N = 1, 2, 3 … until none is left to fail.
async fn fails_everywhere<T, F: Future<Output = Result<T>>>(
    name: &str,
    mut work: impl FnMut(Arc<Fault>) -> F,
) {
    for at in 1.. {
        let fault = Fault::at(at, Kind::Unavailable);
        let outcome = work(fault.clone()).await;
        if fault.operations() < at {
            assert!(outcome.is_ok(), "{name}");
            assert!(at > 1, "{name}: only {at} operations were tried");
            return;
        }
        assert!(outcome.is_err(), "{name}: fault {at} got lost");
        let error = outcome.err().unwrap();
        assert_eq!(error.kind(), Kind::Unavailable, "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_read_anywhere_fails_the_operation() {
    let disk = sparse_disk(SIZE, 91);
    let stored = vec![1; SIZE];
    let target = MemTarget::blank(SIZE as u64);
    let body = Body::whole(faulty(&disk, &Fault::never()), Arc::new(target));
    let wanted = Arc::new(copy(&engine(), &body, None).await.unwrap().digest);
    let engine = engine();
    fails_everywhere("walk", |fault| walk(faulty(&disk, &fault))).await;
    fails_everywhere("scan", |fault| scan(&engine, faulty(&disk, &fault))).await;
    fails_everywhere("decode", |fault| decode_all(&engine, packed(&stored, &fault))).await;
    fails_everywhere("verify", |fault| {
        verify(&engine, faulty(&disk, &fault), WHOLE, wanted.clone())
    })
    .await;
    fails_everywhere("compare", |fault| {
        compare(&engine, faulty(&disk, &fault), faulty(&disk, &fault))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_operation_leaves_nothing_behind() {
    let disk = sparse_disk(SIZE, 92);
    let stored = vec![1; SIZE];
    let good = faulty(&disk, &Fault::never());
    let body = Body::whole(good.clone(), Arc::new(MemTarget::blank(SIZE as u64)));
    let wanted = Arc::new(copy(&engine(), &body, None).await.unwrap().digest);
    let small = Engine::new(CopyOptions { memory: 4 << 20, ..CopyOptions::default() });
    for polls in 0..20 {
        poll_then_drop(walk(good.clone()), polls);
        poll_then_drop(scan(&small, good.clone()), polls);
        poll_then_drop(verify(&small, good.clone(), WHOLE, wanted.clone()), polls);
        poll_then_drop(decode_all(&small, packed(&stored, &Fault::never())), polls);
        // The budget is whole again, or this would not end.
        assert!(scan(&small, good.clone()).await.unwrap() == disk, "after {polls} polls");
    }
    let bad = verify(&small, good.clone(), WHOLE, wanted).await.unwrap();
    assert_eq!((bad.total(), walk(good).await.unwrap()), (0, SIZE as u64));
}

/// A store that never answers: to the first question, or to reads alone.
#[derive(Debug)]
struct Silent {
    answers_extents: bool,
    waiting: Arc<AtomicUsize>,
}

struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Silent {
    async fn never<T>(&self) -> Result<T> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(self.waiting.clone());
        std::future::pending().await
    }
}

#[async_trait]
impl Source for Silent {
    #[expect(clippy::unnecessary_literal_bound, reason = "the signature is the trait's")]
    fn name(&self) -> &str {
        "silent"
    }

    fn size(&self) -> u64 {
        SIZE as u64
    }

    async fn extents(&self, range: ByteRange, _limit: usize) -> Result<Vec<Extent>> {
        let range = self.check_range(range.start(), range.len())?;
        if self.answers_extents {
            return Ok(vec![Extent::new(range, Placement::Opaque)]);
        }
        self.never().await
    }

    async fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> Result<()> {
        self.never().await
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.never().await
    }
}

/// Stops `work` once it waits for the store; no clock is needed, it has to end by itself.
async fn ends_when_stopped<T, F: Future<Output = Result<T>>>(
    name: &str,
    work: impl FnOnce(Engine, Arc<dyn Source>) -> F,
    answers_extents: bool,
) {
    let (stop, waiting) = (Stop::default(), Arc::new(AtomicUsize::new(0)));
    let engine = engine().stopped_by(stop.clone());
    let source = Arc::new(Silent { answers_extents, waiting: waiting.clone() });
    let stopping = async {
        while waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        stop.request(StopReason::Deadline);
    };
    let (outcome, ()) = tokio::join!(work(engine, source), stopping);
    assert!(outcome.is_err(), "{name} cannot have ended well");
    let error = outcome.err().unwrap();
    assert_eq!(error.kind(), Kind::Timeout, "{name}");
}

#[tokio::test]
async fn a_silent_store_does_not_keep_a_stopped_run() {
    let disk: Arc<dyn Source> = Arc::new(MemSource::new("disk", vec![7; SIZE]));
    for answers in [false, true] {
        let to_memory = |engine: Engine, source| async move {
            let body = Body::whole(source, Arc::new(MemTarget::blank(SIZE as u64)));
            copy(&engine, &body, None).await.map(drop)
        };
        ends_when_stopped("copy", to_memory, answers).await;
        let all = |engine: Engine, source| async move { scan(&engine, source).await };
        ends_when_stopped("scan", all, answers).await;
        let back =
            |engine: Engine, s| async move { verify(&engine, s, WHOLE, Arc::default()).await };
        ends_when_stopped("verify", back, answers).await;
        let one = disk.clone();
        let with = |engine: Engine, s| async move { compare(&engine, one, s).await };
        ends_when_stopped("compare", with, answers).await;
    }
    let all = |engine: Engine, source| async move { decode_all(&engine, source).await };
    ends_when_stopped("decode", all, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_scan_ends_its_reads() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let source = Arc::new(Silent { answers_extents: true, waiting: waiting.clone() });
    let engine = engine();
    let mut running = Box::pin(scan(&engine, source));
    let reads = async {
        while waiting.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut running => panic!("a silent store has no end"),
        () = reads => {}
    }
    drop(running);
    let gone = async {
        while waiting.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_hours(1), gone).await.expect("reads go on");
}
