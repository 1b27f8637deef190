//! Interrupted copies resume from the journal; verification finds what is wrong.
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test disks are small, helpers of tests may fail"
)]

use carreto_block::{ByteRange, Extent, Placement, Source, Stamp};
use carreto_error::Kind;
use carreto_testkit::{Fault, FaultyTarget, MemSource, MemTarget, sparse_disk};
use carreto_transfer::{
    Body, CHUNK, ContentDigest, CopyOptions, Counters, Engine, Journal, JournalHeader, Resumed,
    copy, verify,
};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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

/// Copies until operation `at` on the target fails, as a crash would stop it. A flush that fails
/// loses what was not flushed before.
async fn crash(disk: &[u8], target: &MemTarget, path: &Path, fault: Arc<Fault>) -> bool {
    let journal = Arc::new(Journal::create(path, &header("boot-1")).unwrap());
    // Checkpoints all the time, so that they fail at any place.
    let engine =
        Engine::new(CopyOptions { flush_interval: Duration::ZERO, ..CopyOptions::default() });
    let mut body = body(disk, target, &Resumed::default());
    body.target = Arc::new(FaultyTarget::forgetful(target, fault));
    copy(&engine, &body, Some(journal)).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_crash_the_rest_is_copied_and_no_more() {
    let disk = sparse_disk(SIZE, 1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    let fresh = MemTarget::blank(SIZE as u64);
    let whole = body(&disk, &fresh, &Resumed::default());
    let wanted = copy(&engine(), &whole, None).await.unwrap().digest.root(SIZE as u64);
    let old = sparse_disk(SIZE, 2);
    for at in (1..).step_by(7) {
        let target = MemTarget::used(old.clone());
        let crashed = crash(&disk, &target, &path, Fault::at(at, Kind::Io)).await;
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
        assert_eq!(digest.root(SIZE as u64), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_loss_of_power_only_what_was_flushed_counts() {
    let disk = sparse_disk(SIZE, 3);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    let target = MemTarget::used(sparse_disk(SIZE, 4));
    assert!(crash(&disk, &target, &path, Fault::at(30, Kind::Io)).await);
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
    assert_eq!(good.unwrap().total(), 0);
    let hole = disk.chunks(4096).position(|block| block.iter().all(|b| *b == 0)).unwrap() * 4096;
    let data = disk.iter().position(|byte| *byte != 0).unwrap();
    for at in [hole, data, SIZE - 1] {
        target.corrupt(at as u64);
        let reader = target.reader().await.unwrap();
        let bad = verify(&engine(), reader, whole, wanted.clone()).await.unwrap();
        let chunk = ByteRange::from_len(at as u64 / CHUNK * CHUNK, CHUNK).unwrap();
        assert_eq!(bad.iter().collect::<Vec<_>>(), [chunk]);
        target.corrupt(at as u64);
    }
    let blank = MemTarget::blank(SIZE as u64);
    let bad = verify(&engine(), blank.reader().await.unwrap(), whole, wanted).await.unwrap();
    assert_eq!(
        bad.total(),
        SIZE as u64,
        "every chunk of the disk has data, and all of it is missing"
    );
}

/// What a failed flush may have lost is copied again, also by the same boot, and a later flush
/// that succeeds does not vouch for it.
#[test]
fn after_a_failed_flush_only_what_was_flushed_before_counts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    let range = |n: u64| ByteRange::from_len(n * CHUNK, CHUNK).unwrap();
    let created = JournalHeader { created: true, ..header("b") };
    let journal = Journal::create(&path, &created).unwrap();
    journal.done(range(0), &[(0, [1; 32])]).unwrap();
    journal.flushed(journal.mark()).unwrap();
    journal.done(range(1), &[(CHUNK, [2; 32])]).unwrap();
    journal.doubted().unwrap();
    journal.done(range(2), &[(2 * CHUNK, [3; 32])]).unwrap();
    journal.flushed(journal.mark()).unwrap();
    drop(journal);
    for round in 0..3 {
        let (_, resumed) = Journal::resume(&path, "b").unwrap().unwrap();
        assert_eq!(resumed.done.iter().collect::<Vec<_>>(), [range(0)], "round {round}");
        assert_eq!(resumed.digests.len(), 1);
        assert!(!resumed.blank, "a lost page need not read as zeros");
    }
}

/// A chunk that verification found wrong stays undone through any number of runs and boots.
#[test]
fn what_was_undone_stays_undone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    let range = |n: u64| ByteRange::from_len(n * CHUNK, CHUNK).unwrap();
    for boots in [["b", "b"], ["b", "c"], ["c", "c"], ["c", "d"]] {
        let journal = Journal::create(&path, &header("b")).unwrap();
        for n in 0..3 {
            journal.done(range(n), &[(n * CHUNK, [n as u8; 32])]).unwrap();
        }
        journal.flushed(journal.mark()).unwrap();
        journal.undone(range(1)).unwrap();
        drop(journal);
        for boot in boots {
            let (_, resumed) = Journal::resume(&path, boot).unwrap().unwrap();
            assert_eq!(resumed.done.iter().collect::<Vec<_>>(), [range(0), range(2)], "{boots:?}");
            assert_eq!(resumed.digests.len(), 2);
        }
    }
}

/// What was done again after it was undone counts on the same boot, and on another one only
/// once it was flushed.
#[test]
fn what_was_done_again_counts_once_it_is_flushed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    let range = ByteRange::from_len(0, CHUNK).unwrap();
    let journal = Journal::create(&path, &header("b")).unwrap();
    journal.done(range, &[(0, [1; 32])]).unwrap();
    journal.flushed(journal.mark()).unwrap();
    journal.undone(range).unwrap();
    journal.done(range, &[(0, [2; 32])]).unwrap();
    drop(journal);
    let bytes = std::fs::read(&path).unwrap();
    let (_, same) = Journal::resume(&path, "b").unwrap().unwrap();
    assert_eq!(same.digests.get(&0), Some(&[2; 32]));
    let (_, other) = Journal::resume(&path, "c").unwrap().unwrap();
    assert_eq!(other.done.total(), 0, "the rewritten journal knows what was not flushed");
    std::fs::write(&path, bytes).unwrap();
    let (_, other) = Journal::resume(&path, "c").unwrap().unwrap();
    assert_eq!(other.done.total(), 0);
}

#[test]
fn a_journal_of_another_version_is_a_fault_of_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    drop(Journal::create(&path, &header("b")).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let json = serde_json::to_vec(&JournalHeader { version: 2, ..header("b") }).unwrap();
    let mut frame = vec![1];
    frame.extend((json.len() as u32).to_le_bytes());
    frame.extend(json);
    let check = blake3::hash(&frame);
    frame.extend(&check.as_bytes()[..4]);
    std::fs::write(&path, frame).unwrap();
    let error = Journal::resume(&path, "b").unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("version 2"), "{error}");
    assert!(error.remedy().contains("--restart"));
}

/// The flush that fails is one in the middle of the copy, or the last one of all.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_flush_loses_nothing_for_good() {
    let disk = sparse_disk(SIZE, 6);
    let old = sparse_disk(SIZE, 7);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.journal");
    let mut at = 0;
    let mut failed = true;
    while failed {
        let target = MemTarget::used(old.clone());
        if at == 0 {
            let journal = Arc::new(Journal::create(&path, &header("boot-1")).unwrap());
            let mut body = body(&disk, &target, &Resumed::default());
            let fault = Fault::at_flush(1, Kind::Io);
            body.target = Arc::new(FaultyTarget::forgetful(&target, fault));
            copy(&engine(), &body, Some(journal)).await.unwrap_err();
            assert!(target.content() == old, "the only flush lost everything");
        } else {
            failed = crash(&disk, &target, &path, Fault::at_flush(at, Kind::Io)).await;
        }
        let (journal, resumed) = Journal::resume(&path, "boot-1").unwrap().unwrap();
        let again = body(&disk, &target, &resumed);
        copy(&engine(), &again, Some(Arc::new(journal))).await.unwrap();
        assert!(target.content() == disk, "flush {at}");
        at += 1;
    }
}

/// A disk of nothing.
#[derive(Debug)]
struct Hole(u64);

#[async_trait::async_trait]
impl Source for Hole {
    #[expect(clippy::unnecessary_literal_bound, reason = "the signature is the trait's")]
    fn name(&self) -> &str {
        "hole"
    }

    fn size(&self) -> u64 {
        self.0
    }

    async fn extents(&self, range: ByteRange, _: usize) -> carreto_error::Result<Vec<Extent>> {
        Ok(vec![Extent::new(range, Placement::Zero)])
    }

    async fn read_at(&self, _offset: u64, buf: &mut [u8]) -> carreto_error::Result<()> {
        buf.fill(0);
        Ok(())
    }

    async fn stamp(&self) -> carreto_error::Result<Stamp> {
        Ok(Stamp(String::new()))
    }
}

/// However many chunks differ, all of them are found, so that one more run repairs them all.
#[tokio::test]
async fn verification_finds_more_than_a_few_chunks() {
    let mut wanted = ContentDigest::default();
    wanted.extend((0..1000).map(|chunk| (2 * chunk * CHUNK, [1; 32])));
    let size = 2000 * CHUNK;
    let whole = ByteRange::whole(size);
    let bad = verify(&engine(), Arc::new(Hole(size)), whole, Arc::new(wanted)).await.unwrap();
    assert_eq!((bad.iter().count(), bad.total()), (1000, 1000 * CHUNK));
}
