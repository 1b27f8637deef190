//! Raw disks are their bytes, to the last one.
#![expect(clippy::expect_used, reason = "a failed expectation of a test is a panic")]

use carreto_block::{ByteRange, OpenGate, Source, Window};
use carreto_error::Kind;
use carreto_formats::{Format, Image, Limits, OpenOptions, open, raw};
use carreto_testkit::{Fault, FaultySource, MemSource, conformance, sparse_disk};
use std::sync::Arc;

async fn opened(file: Arc<dyn Source>) -> Arc<dyn Image> {
    raw::open(file, &OpenOptions::default()).await.expect("open")
}

#[tokio::test]
async fn raw_disks_of_any_size_keep_every_byte() {
    for size in [0, 1, 3, 511, 512, 4097, 1_000_001, 3 << 20] {
        let disk = sparse_disk(size, 5);
        let image = opened(Arc::new(MemSource::new("a.raw", disk.clone()))).await;
        assert_eq!(image.info().format, Format::Raw);
        let odd = size % 512 != 0;
        let codes: Vec<_> = image.info().warnings.iter().map(|w| w.code).collect();
        assert_eq!(codes, if odd { vec!["odd_size"] } else { vec![] });
        conformance::source(image.as_ref(), &disk).await;
        let remote = Arc::new(MemSource::new("a.raw", disk.clone()).remote().dense());
        conformance::source(opened(remote).await.as_ref(), &disk).await;
        let report = image.check(&Limits::default()).await.expect("check");
        assert_eq!(report.allocated_size, None);
    }
}

/// A file can itself be made of files; its extents then count those.
#[tokio::test]
async fn a_raw_disk_over_an_image_reads_through_that_image() {
    let disk = sparse_disk(1 << 20, 6);
    let bytes = [vec![9; 4096], disk.clone()].concat();
    let inner = opened(Arc::new(MemSource::new("a.raw", bytes))).await;
    let part = ByteRange::new(4096, inner.size()).expect("a range");
    let window = Arc::new(Window::new(inner, part).expect("inside"));
    conformance::source(opened(window).await.as_ref(), &disk).await;
}

#[tokio::test]
async fn a_disk_above_the_bound_is_refused() {
    let mut options = OpenOptions::default();
    options.limits.max_virtual_size = 4095;
    let file = Arc::new(MemSource::new("a.raw", vec![0; 4096]));
    let error = raw::open(file, &options).await.expect_err("too large");
    assert_eq!(error.kind(), Kind::Limit);
}

#[tokio::test]
async fn failing_reads_are_errors_and_dropped_calls_have_no_effect() {
    let disk = sparse_disk(1 << 20, 7);
    let file = || Arc::new(MemSource::new("a.raw", disk.clone()).remote());
    let options = OpenOptions::default();
    let gate = OpenGate::closed();
    let mut failed = 0;
    for at in 1..6 {
        let file = Arc::new(FaultySource::new(file(), Fault::at(at, Kind::Io)));
        conformance::poll_then_drop(open(file.clone(), &options, &gate), 1);
        let image = match open(file, &options, &gate).await {
            Ok(image) => image,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Io);
                failed += 1;
                continue;
            }
        };
        let mut buf = vec![0; disk.len()];
        conformance::poll_then_drop(image.read_at(0, &mut buf), 1);
        match image.read_at(0, &mut buf).await {
            Ok(()) => assert!(buf == disk),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Io);
                failed += 1;
            }
        }
    }
    assert!(failed >= 2);
}
