//! Files that fail, calls that are dropped, and images with random damage.

use crate::builder::{Put, Spec, build, build_with_snapshots};
use crate::support::{Folder, open_bytes, qcow2};
use carreto_block::{ByteRange, OpenGate, Source, SourceExt as _};
use carreto_error::{Kind, Result};
use carreto_formats::{Image, OpenOptions, open};
use carreto_testkit::conformance::poll_then_drop;
use carreto_testkit::{Fault, FaultySource, MemSource, Rng, sparse_disk};
use proptest::prelude::*;
use std::sync::Arc;

/// Everything that is done to an image, with the bytes at the end.
async fn everything(file: Arc<dyn Source>, options: &OpenOptions) -> Result<Vec<u8>> {
    let image = open(file, options, &OpenGate::closed()).await?;
    image.check(&options.limits).await?;
    let mut todo = ByteRange::whole(image.size());
    while !todo.is_empty() {
        let list = image.extents(todo, 3).await?;
        let end = list.last().expect("progress").range.end();
        todo = todo.split_at(end).1;
    }
    let len = usize::try_from(image.size()).unwrap();
    image.read_vec(0, len).await
}

/// An image with its disk, and with the disk of its snapshot.
fn picture_of_both() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let spec = Spec { cluster_bits: 12, ..Spec::new(6 << 20) };
    let disk = sparse_disk(6 << 20, 5);
    let old = sparse_disk(1 << 20, 6);
    let built = build_with_snapshots(&spec, &disk, &[("1", "old", &old)]);
    (built.file, built.wanted, old)
}

fn picture() -> (Vec<u8>, Vec<u8>) {
    let (file, wanted, _) = picture_of_both();
    (file, wanted)
}

#[tokio::test]
async fn every_failing_read_is_reported_and_nothing_is_made_up() {
    let (file, active, old) = picture_of_both();
    let file: Arc<dyn Source> = Arc::new(MemSource::new("mem", file).remote());
    let snapshot = OpenOptions { snapshot: Some("old".into()), ..qcow2() };
    for (options, wanted) in [(qcow2(), active), (snapshot, old)] {
        let mut at = 1;
        loop {
            let fault = Fault::at(at, Kind::Unavailable);
            let faulty = Arc::new(FaultySource::new(file.clone(), fault.clone()));
            match everything(faulty, &options).await {
                Ok(bytes) => {
                    assert!(fault.operations() < at, "fault {at} was swallowed");
                    assert!(bytes == wanted, "the bytes differ");
                    break;
                }
                Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "step {at}: {error}"),
            }
            at += 1;
        }
        assert!(at > 5, "only {at} operations");
    }
}

#[tokio::test]
async fn an_image_works_after_a_failure() {
    let (file, wanted) = picture();
    let file: Arc<dyn Source> = Arc::new(MemSource::new("mem", file).remote());
    for at in 2..12 {
        let fault = Fault::at(at, Kind::Io);
        let faulty = Arc::new(FaultySource::new(file.clone(), fault));
        let image = open(faulty, &qcow2(), &OpenGate::closed()).await.unwrap();
        let mut failures = 0;
        for _ in 0..2 {
            failures += u32::from(image.check(&qcow2().limits).await.is_err());
            failures += u32::from(image.read_vec(0, wanted.len()).await.is_err());
        }
        assert!(failures <= 1, "one fault, {failures} failures");
        assert!(image.read_vec(0, wanted.len()).await.unwrap() == wanted);
    }
}

#[tokio::test]
async fn dropped_calls_leave_no_trace() {
    let (file, wanted) = picture();
    let file: Arc<dyn Source> = Arc::new(MemSource::new("mem", file).remote());
    for polls in 0..30 {
        let slow: Arc<dyn Source> = Arc::new(FaultySource::new(file.clone(), Fault::never()));
        let named = OpenOptions { snapshot: Some("old".into()), ..qcow2() };
        poll_then_drop(open(slow.clone(), &named, &OpenGate::closed()), polls);
        let image = open(slow, &qcow2(), &OpenGate::closed()).await.unwrap();
        let mut buf = vec![0; wanted.len()];
        poll_then_drop(image.check(&qcow2().limits), polls);
        poll_then_drop(image.extents(ByteRange::whole(image.size()), 100), polls);
        poll_then_drop(image.read_at(0, &mut buf), polls);
        poll_then_drop(image.stamp(), polls);
        image.read_at(0, &mut buf).await.unwrap();
        assert!(buf == wanted, "after {polls} polls");
        image.check(&qcow2().limits).await.unwrap();
    }
}

#[tokio::test]
async fn an_image_that_is_its_own_backing_file_is_refused() {
    let spec = Spec { backing: Some(("b".into(), Some("qcow2".into()))), ..Spec::new(1 << 20) };
    let other = Spec { backing: Some(("a".into(), Some("qcow2".into()))), ..Spec::new(1 << 20) };
    let make = |spec: &Spec| build(spec, &[0; 1 << 20], &[], |_| Put::Absent).file;
    let folder = Folder::default().with("a", &make(&spec)).with("b", &make(&other));
    let error = folder.open("a").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsafe, "{error}");
    let mut chain = Folder::default();
    for number in 0..40 {
        let next = Spec {
            backing: Some((format!("{}", number + 1), Some("qcow2".into()))),
            ..Spec::new(1 << 20)
        };
        chain = chain.with(&number.to_string(), &make(&next));
    }
    let error = chain.open("0").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{error}");
}

/// Opens, checks, maps and reads whatever is there; only the kinds of a broken image may come.
async fn survive(file: &[u8]) {
    let expected = |kind| {
        use Kind::{Corrupt, Encrypted, Limit, Truncated, Unsafe, Unsupported};
        let known = [Corrupt, Encrypted, Limit, Truncated, Unsafe, Unsupported];
        assert!(known.contains(&kind), "{kind}");
    };
    let image: Arc<dyn Image> = match open_bytes(file).await {
        Ok(image) => image,
        Err(error) => return expected(error.kind()),
    };
    let report = image.check(&qcow2().limits).await;
    let mut todo = ByteRange::whole(image.size());
    let mut unmapped = None;
    for _ in 0..100 {
        match image.extents(todo, 1000).await {
            Ok(list) => {
                let end = list.last().map_or(todo.end(), |extent| extent.range.end());
                todo = todo.split_at(end).1;
            }
            Err(error) => {
                expected(error.kind());
                unmapped = Some(error);
                break;
            }
        }
        if todo.is_empty() {
            break;
        }
    }
    match report {
        Ok(_) => assert!(unmapped.is_none(), "checked, but: {unmapped:?}"),
        Err(error) => expected(error.kind()),
    }
    let len = usize::try_from(image.size().min(2 << 20)).unwrap();
    let (first, second) = (image.read_vec(0, len).await, image.read_vec(0, len).await);
    match (first, second) {
        (Ok(first), Ok(second)) => assert!(first == second, "two reads differ"),
        (Err(first), Err(second)) => {
            expected(first.kind());
            assert_eq!(first.kind(), second.kind());
        }
        _ => panic!("one of two reads failed"),
    }
}

fn victim(extended: bool) -> Vec<u8> {
    let spec = Spec {
        extended,
        zstd: extended,
        cluster_bits: if extended { 14 } else { 9 },
        ..Spec::new((200 << 10) + 99)
    };
    let disk = sparse_disk(spec.size as usize, 3);
    let plan = |index: u64| match index % 5 {
        0 => Put::Plain,
        1 | 2 => Put::Packed,
        3 => Put::Zero,
        _ => Put::Absent,
    };
    build(&spec, &disk, &[], plan).file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damage in the header and in the tables, mostly with the values that hurt.
    #[test]
    fn random_damage_never_panics(seed in any::<u64>(), changes in 1usize..6, extended in any::<bool>()) {
        let mut file = victim(extended);
        let mut rng = Rng::new(seed);
        let l1 = u64::from_be_bytes(file[40..48].try_into().unwrap()) as usize;
        for _ in 0..changes {
            let at = match rng.below(4) {
                0 => rng.below(120) as usize,
                1 => (rng.below(14) * 8) as usize,
                2 => l1 + (rng.below(64) * 8) as usize,
                _ => (rng.below(file.len() as u64 / 8) * 8) as usize,
            };
            let at = at.min(file.len() - 8);
            let value = match rng.below(6) {
                0 => 0,
                1 => u64::MAX,
                2 => 1 << rng.below(64),
                3 => rng.next_u64(),
                4 => 1 << 63 | rng.below(file.len() as u64 + 4096) & !511,
                _ => 1 << 62 | rng.below(file.len() as u64 + 4096),
            };
            let len = 1 << rng.below(4);
            file[at..at + len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
        }
        if rng.below(4) == 0 {
            file.truncate(rng.below(file.len() as u64) as usize);
        }
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(survive(&file));
    }
}
