//! VHDs over files that fail, and calls that are dropped in the middle.
#![expect(clippy::expect_used, reason = "a failed expectation of a test is a panic")]

mod vhd_support;

use carreto_block::{ByteRange, OpenGate, SourceExt as _};
use carreto_error::{Kind, Result};
use carreto_formats::{Format, Limits, OpenOptions, open, vhd};
use carreto_testkit::{Fault, FaultySource, MemSource, conformance, sparse_disk};
use std::sync::Arc;
use vhd_support::{DIFFERENCING, DYNAMIC, Disks, FIXED, Spec};

fn faulty(file: &[u8], fault: &Arc<Fault>) -> Arc<FaultySource> {
    let file = MemSource::new("/disks/a.vhd", file).remote();
    Arc::new(FaultySource::new(Arc::new(file), Arc::clone(fault)))
}

async fn all_of(file: &[u8], fault: &Arc<Fault>, disks: &Disks) -> Result<Vec<u8>> {
    let gate = disks.gate("a.vhd");
    let image = open(faulty(file, fault), &OpenOptions::default(), &gate).await?;
    image.check(&Limits::default()).await?;
    let size = usize::try_from(image.size()).expect("small");
    image.read_vec(0, size).await
}

#[tokio::test]
async fn a_failing_read_is_an_error_or_harmless_and_never_wrong_bytes() {
    let base = sparse_disk(600_064, 1);
    let top = sparse_disk(600_064, 2);
    let fixed = Spec::new(FIXED, 600_064);
    let dynamic = Spec::new(DYNAMIC, 600_064).block_size(65536);
    let child = Spec::new(DIFFERENCING, 600_064).block_size(65536).child_of(&fixed, "base.vhd");
    let disks = Disks::default().with("base.vhd", fixed.build(&base, &[]));
    let files = [
        (fixed.build(&base, &[]), &base),
        (dynamic.build(&base, &[]), &base),
        (child.build(&top, &base), &top),
    ];
    for (file, disk) in files {
        let counted = Fault::never();
        assert!(all_of(&file, &counted, &disks).await.expect("no fault") == *disk);
        let mut failures = 0;
        for at in 1..=counted.operations() {
            match all_of(&file, &Fault::at(at, Kind::Io), &disks).await {
                Ok(bytes) => assert!(bytes == *disk, "wrong bytes after fault {at}"),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Io, "{error}");
                    failures += 1;
                }
            }
        }
        assert!(failures > counted.operations() / 2, "faults are swallowed");
    }
}

#[tokio::test]
async fn dropped_calls_leave_the_image_as_it_was() {
    let disk = sparse_disk(600_064, 1);
    let file = Spec::new(DYNAMIC, 600_064).block_size(4096).build(&disk, &[]);
    let fault = Fault::never();
    let options = OpenOptions::default();
    let gate = OpenGate::closed();
    for polls in 0..12 {
        conformance::poll_then_drop(open(faulty(&file, &fault), &options, &gate), polls);
        let named = OpenOptions::default().for_reference(Format::Vhd);
        conformance::poll_then_drop(vhd::open(faulty(&file, &fault), &named, &gate), polls);
        let image = open(faulty(&file, &fault), &options, &gate).await.expect("open");
        let mut buf = vec![0; disk.len()];
        let limits = Limits::default();
        conformance::poll_then_drop(image.check(&limits), polls);
        conformance::poll_then_drop(image.extents(ByteRange::whole(600_064), 99), polls);
        conformance::poll_then_drop(image.read_at(0, &mut buf), polls);
        image.read_at(0, &mut buf).await.expect("read");
        assert!(buf == disk);
    }
    let image = open(faulty(&file, &fault), &options, &gate).await.expect("open");
    conformance::source(image.as_ref(), &disk).await;
}

/// The table is read once, and each bitmap once.
#[tokio::test]
async fn mapping_costs_one_read_a_block_at_most() {
    let disk = vec![1; 4 << 20];
    let file = Spec::new(DYNAMIC, 4 << 20).block_size(65536).build(&disk, &[]);
    let fault = Fault::never();
    let image = open(faulty(&file, &fault), &OpenOptions::default(), &OpenGate::closed())
        .await
        .expect("open");
    assert!(fault.operations() <= 5, "{} reads to open", fault.operations());
    let before = fault.operations();
    for range in ByteRange::whole(4 << 20).chunks(1 << 20) {
        image.extents(range, 64).await.expect("extents");
    }
    assert_eq!(fault.operations() - before, 1 + 64);
    for range in ByteRange::whole(4 << 20).chunks(65536) {
        image.extents(range, 64).await.expect("extents");
    }
    assert_eq!(fault.operations() - before, 1 + 64);
}
