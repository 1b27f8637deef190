//! Good images of every layout give the bytes that were put in.

use crate::build::{self, CID, Hosted, SECTOR, Stream, cowd, descriptor, hosted, sesparse, stream};
use crate::support::{MemFolder, open_alone, open_with};
use carreto_block::{ByteRange, Placement, Source as _};
use carreto_formats::{Image, Limits};
use carreto_testkit::{conformance, sparse_disk};
use std::sync::Arc;

/// Checks the structure, then the bytes.
async fn passes(image: &Arc<dyn Image>, disk: &[u8], warnings: &[&str]) {
    let report = image.check(&Limits::default()).await.expect("check");
    let found: Vec<&str> = image
        .info()
        .warnings
        .iter()
        .chain(&report.warnings)
        .map(|w| w.code)
        .collect();
    assert_eq!(found, warnings);
    conformance::source(image.as_ref(), disk).await;
}

#[tokio::test]
async fn monolithic_sparse() {
    for (sectors, grain, backwards) in [
        (1, 128, false),
        (1954, 128, true),
        (40_000, 8, false),
        (20_480, 128, false),
    ] {
        let disk = sparse_disk(sectors * SECTOR, sectors as u64);
        for (zero_entries, redundant) in [(false, true), (true, false)] {
            let how = Hosted {
                grain,
                zero_entries,
                redundant,
                backwards,
                ..Hosted::default()
            };
            let image = open_alone(hosted(&disk, &how).0).await.unwrap();
            assert_eq!(image.info().subformat, "monolithicSparse");
            assert_eq!(image.info().cluster_size, Some((grain * SECTOR) as u64));
            passes(&image, &disk, &[]).await;
        }
    }
}

#[tokio::test]
async fn streams_of_all_five_layouts() {
    for layout in Stream::ALL {
        for sectors in [1954, 66_000] {
            for full_last in [false, true] {
                let disk = sparse_disk(sectors * SECTOR, 5);
                let (bytes, _) = stream(&disk, layout, "", full_last);
                let image = open_alone(bytes).await.unwrap();
                assert_eq!(image.info().subformat, "streamOptimized");
                passes(&image, &disk, &[]).await;
            }
        }
        let disk = vec![0; 100_000 * SECTOR];
        let image = open_alone(stream(&disk, layout, "", true).0).await.unwrap();
        assert_eq!(
            image
                .check(&Limits::default())
                .await
                .unwrap()
                .allocated_size,
            Some(0)
        );
        let whole = ByteRange::whole(image.size());
        assert_eq!(
            image.extents(whole, 9).await.unwrap().len(),
            1,
            "{layout:?}"
        );
    }
}
