//! Interrupted copies resume from the journal; verification finds what is wrong.
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test disks are small, helpers of tests may fail"
)]

use carreto_block::{ByteRange, Source};
use carreto_error::Kind;
use carreto_testkit::{Fault, FaultyTarget, MemSource, MemTarget, sparse_disk};
use carreto_transfer::{
    Body, CHUNK, ContentDigest, CopyOptions, Counters, Engine, Journal, JournalHeader, RangeSet,
    Resumed, copy, verify,
};
use std::path::Path;
use std::sync::Arc;

const SIZE: usize = 12 << 20;

fn header(boot: &str) -> JournalHeader {
    JournalHeader {
        version: 0,
        job: "test".into(),
        source: "stamp".into(),
        target: "mem".into(),
        size: SIZE as u64,
        boot: boot.into(),
        created: false,
    }
}

fn engine() -> Engine {
    Engine::new(CopyOptions::default())
}

fn body(disk: &[u8], target: &MemTarget, resumed: &Resumed) -> Body {
    let source: Arc<dyn Source> = Arc::new(MemSource::new("disk", disk));
    let body = Body::whole(source, Arc::new(target.clone()));
    Body { done: resumed.done.clone(), ..body }
}

/// Copies until operation `at` on the target fails, as a crash would stop it.
async fn crash(disk: &[u8], target: &MemTarget, path: &Path, at: u64) -> bool {
    let journal = Arc::new(Journal::create(path, &header("boot-1")).unwrap());
    let fault = Fault::at(at, Kind::Io);
    let mut body = body(disk, target, &Resumed::default());
    body.target = Arc::new(FaultyTarget::new(Arc::new(target.clone()), fault));
    copy(&engine(), &body, Some(journal)).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_crash_the_rest_is_copied_and_no_more() {
    let disk = sparse_disk(SIZE, 1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    for at in (1..).step_by(7) {
        let target = MemTarget::used(sparse_disk(SIZE, 2));
        let crashed = crash(&disk, &target, &path, at).await;
        let (journal, resumed) = Journal::resume(&path, "boot-1").unwrap().unwrap();
        let engine = engine();
        let body = body(&disk, &target, &resumed);
        let copied = copy(&engine, &body, Some(Arc::new(journal))).await.unwrap();
        assert!(target.content() == disk, "crash at {at}");
        let read = Counters::value(&engine.counters().read);
        assert!(resumed.resent <= 4 * (2 << 20), "{} bytes again", resumed.resent);
        if !crashed {
            assert_eq!(read, 0, "everything was done");
            assert!(at > 20);
            return;
        }
        let mut digest = ContentDigest::default();
        digest.extend(resumed.digests);
        digest.extend(copied.digest.iter());
        let fresh = MemTarget::blank(SIZE as u64);
        let whole =
            Body { done: RangeSet::default(), ..self::body(&disk, &fresh, &Resumed::default()) };
        let all = copy(&self::engine(), &whole, None).await.unwrap();
        assert_eq!(digest.root(SIZE as u64), all.digest.root(SIZE as u64));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_loss_of_power_only_what_was_flushed_counts() {
    let disk = sparse_disk(SIZE, 3);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    let target = MemTarget::used(sparse_disk(SIZE, 4));
    assert!(crash(&disk, &target, &path, 30).await);
    let survivor = target.after_power_loss();
    let (journal, resumed) = Journal::resume(&path, "boot-2").unwrap().unwrap();
    assert!(survivor.content() != disk);
    let again = body(&disk, &survivor, &resumed);
    copy(&engine(), &again, Some(Arc::new(journal))).await.unwrap();
    assert!(survivor.content() == disk);
    let (_, complete) = Journal::resume(&path, "boot-3").unwrap().unwrap();
    assert_eq!(complete.done.total(), SIZE as u64, "the final flush made everything durable");
    assert!(survivor.after_power_loss().content() == disk);
}

#[test]
fn a_torn_tail_is_cut_and_a_damaged_header_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    assert!(Journal::resume(&path, "b").unwrap().is_none());
    let journal = Journal::create(&path, &header("b")).unwrap();
    let range = |n: u64| ByteRange::from_len(n * CHUNK, CHUNK).unwrap();
    for n in 0..4 {
        journal.begun(range(n), CHUNK).unwrap();
        journal.done(range(n), &[(n * CHUNK, [n as u8; 32])]).unwrap();
    }
    journal.undone(range(1)).unwrap();
    journal.begun(range(9), 77).unwrap();
    drop(journal);
    let bytes = std::fs::read(&path).unwrap();
    let header_len =
        9 + serde_json::to_vec(&JournalHeader { version: 1, ..header("b") }).unwrap().len();
    let mut totals = std::collections::BTreeSet::new();
    for cut in header_len..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let (_, resumed) = Journal::resume(&path, "b").unwrap().unwrap();
        assert_eq!(resumed.digests.len() as u64 * CHUNK, resumed.done.total());
        totals.insert(resumed.done.total() / CHUNK);
        if cut == bytes.len() {
            assert!(!resumed.done.contains(range(1)) && resumed.done.contains(range(3)));
            assert_eq!(resumed.resent, CHUNK + 77);
        }
    }
    assert_eq!(totals.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    for cut in 0..header_len {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let error = Journal::resume(&path, "b").unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert!(error.remedy().contains("--restart"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_names_every_damaged_chunk() {
    use carreto_block::Target as _;
    let disk = sparse_disk(SIZE, 5);
    let target = MemTarget::blank(SIZE as u64);
    let copied = copy(&engine(), &body(&disk, &target, &Resumed::default()), None).await.unwrap();
    let wanted = Arc::new(copied.digest);
    let whole = ByteRange::whole(SIZE as u64);
    let good = verify(&engine(), target.reader().await.unwrap(), whole, wanted.clone()).await;
    assert!(good.unwrap().is_empty());
    let hole = disk.chunks(4096).position(|block| block.iter().all(|b| *b == 0)).unwrap() * 4096;
    let data = disk.iter().position(|byte| *byte != 0).unwrap();
    for at in [hole, data, SIZE - 1] {
        target.corrupt(at as u64);
        let reader = target.reader().await.unwrap();
        let bad = verify(&engine(), reader, whole, wanted.clone()).await.unwrap();
        assert_eq!(bad, [ByteRange::from_len(at as u64 / CHUNK * CHUNK, CHUNK).unwrap()]);
        target.corrupt(at as u64);
    }
    let blank = MemTarget::blank(SIZE as u64);
    let bad = verify(&engine(), blank.reader().await.unwrap(), whole, wanted).await.unwrap();
    assert_eq!(bad.len(), 12, "every chunk of the disk has data, and all of it is missing");
}
