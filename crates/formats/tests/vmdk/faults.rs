//! Failing reads and dropped futures.

use crate::build::{Hosted, SECTOR, Stream, hosted, stream};
use crate::support::open_source;
use carreto_block::{ByteRange, OpenGate, Source};
use carreto_error::{Kind, Result};
use carreto_formats::Limits;
use carreto_testkit::conformance::poll_then_drop;
use carreto_testkit::{Fault, FaultySource, MemSource, sparse_disk};
use std::sync::Arc;

fn images() -> (Vec<u8>, Vec<Vec<u8>>) {
    let disk = sparse_disk(6000 * SECTOR, 3);
    let images = vec![
        hosted(&disk, &Hosted { grain: 8, ..Hosted::default() }).0,
        stream(&disk, Stream::Footer, "", true).0,
    ];
    (disk, images)
}

async fn everything(source: Arc<dyn Source>, disk: &[u8]) -> Result<()> {
    let image = open_source(source, &OpenGate::closed()).await?;
    image.check(&Limits::default()).await?;
    image.extents(ByteRange::whole(image.size()), 1000).await?;
    let mut buf = vec![0; disk.len()];
    image.read_at(0, &mut buf).await?;
    assert!(buf == disk, "a wrong byte after a fault");
    image.stamp().await?;
    Ok(())
}

/// The n-th operation fails, for every n: the error is that one, and never wrong bytes.
#[tokio::test]
async fn every_failing_read_is_reported() {
    let (disk, images) = images();
    for bytes in images {
        let memory: Arc<dyn Source> = Arc::new(MemSource::new("x.vmdk", bytes).remote());
        for at in 1.. {
            let faulty = FaultySource::new(Arc::clone(&memory), Fault::at(at, Kind::Io));
            match everything(Arc::new(faulty), &disk).await {
                Ok(()) => {
                    assert!(at > 4, "only {at} operations");
                    break;
                }
                Err(error) => assert_eq!(error.kind(), Kind::Io, "{error:?}"),
            }
        }
    }
}

/// A failure passes: the same image reads well the next time.
#[tokio::test]
async fn a_failure_is_not_remembered() {
    let (disk, images) = images();
    for bytes in images {
        let memory: Arc<dyn Source> = Arc::new(MemSource::new("x.vmdk", bytes).remote());
        let count = Fault::never();
        let counted = FaultySource::new(Arc::clone(&memory), Arc::clone(&count));
        open_source(Arc::new(counted), &OpenGate::closed()).await.unwrap();
        for later in 1..=3 {
            let fault = Fault::at(count.operations() + later, Kind::Io);
            let faulty = FaultySource::new(Arc::clone(&memory), fault);
            let image = open_source(Arc::new(faulty), &OpenGate::closed()).await.unwrap();
            let mut buf = vec![0; disk.len()];
            image.read_at(0, &mut buf).await.unwrap_err();
            image.read_at(0, &mut buf).await.unwrap();
            assert!(buf == disk);
        }
    }
}

#[tokio::test]
async fn dropped_futures_leave_nothing_behind() {
    let (disk, images) = images();
    for bytes in images {
        let memory: Arc<dyn Source> = Arc::new(MemSource::new("x.vmdk", bytes).remote());
        let slow = || -> Arc<dyn Source> {
            Arc::new(FaultySource::new(Arc::clone(&memory), Fault::never()))
        };
        for polls in 0..12 {
            poll_then_drop(open_source(slow(), &OpenGate::closed()), polls);
            let image = open_source(slow(), &OpenGate::closed()).await.unwrap();
            let mut buf = vec![0; disk.len()];
            poll_then_drop(image.check(&Limits::default()), polls);
            poll_then_drop(image.extents(ByteRange::whole(image.size()), 1000), polls);
            poll_then_drop(image.read_at(0, &mut buf), polls);
            poll_then_drop(image.stamp(), polls);
            image.read_at(0, &mut buf).await.unwrap();
            assert!(buf == disk, "after {polls} polls");
        }
    }
}
