//! Ranges, extents and buffers.

use carreto_block::{ALIGNMENT, AlignedBuf, ByteRange, Extent, Placement, merge_extents};

#[test]
fn chunks_are_aligned_and_cover() {
    let range = ByteRange::new(1000, 10_000).unwrap();
    let chunks: Vec<_> = range.chunks(4096).collect();
    assert_eq!(chunks.first().unwrap().end(), 4096);
    assert_eq!(chunks.iter().map(|c| c.len()).sum::<u64>(), range.len());
    assert!(chunks.windows(2).all(|w| w[0].end() == w[1].start()));
    assert_eq!(range.chunks(0).count(), 1);
    assert_eq!(ByteRange::new(u64::MAX - 1, u64::MAX).unwrap().chunks(512).count(), 1);
}

#[test]
fn overflow_is_none() {
    assert!(ByteRange::from_len(u64::MAX, 1).is_none());
    assert!(ByteRange::new(2, 1).is_none());
}

#[test]
fn extents_merge_only_when_they_continue() {
    let plain = |start, end, offset| {
        let file = carreto_block::FileId(0);
        Extent::new(ByteRange::new(start, end).unwrap(), Placement::Plain { file, offset })
    };
    let mut list = Vec::new();
    merge_extents(&mut list, plain(0, 10, 100));
    merge_extents(&mut list, plain(10, 20, 110));
    assert_eq!(list.len(), 1);
    merge_extents(&mut list, plain(20, 30, 500));
    assert_eq!(list.len(), 2);
}

#[test]
fn buffers_start_on_a_page() {
    let mut buf = AlignedBuf::zeroed(10_000).unwrap();
    assert_eq!(buf.as_ptr().addr() % ALIGNMENT, 0);
    assert_eq!(buf.len(), 10_000);
    assert_eq!(buf.capacity(), 12_288);
    buf.set_len(12_288).unwrap();
    assert!(buf.set_len(12_289).is_err());
}
