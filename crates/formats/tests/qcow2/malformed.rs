//! Broken images: each class gets its kind, and nothing panics or takes much memory.

use crate::builder::{Put, Spec, be32, be64, build, build_with_snapshots};
use crate::support::{open_bytes, verdict};
use carreto_block::SourceExt as _;
use carreto_error::Kind;
use carreto_formats::Limits;

const MIB: u64 = 1 << 20;
const CLUSTER: usize = 65_536;

/// Two plain clusters, a packed one, and nothing else, in 64 MiB. The file holds, a cluster each:
/// header, data, data, packed data, L2, L1, refcount table, refcount block.
fn sample() -> Vec<u8> {
    let plan = |index| if index < 2 { Put::Plain } else { Put::Packed };
    let disk = vec![b'x'; 3 * CLUSTER];
    let mut file = build(&Spec::new(disk.len() as u64), &disk, &[], plan).file;
    be64(&mut file, 24, 64 * MIB);
    file
}

const DATA: usize = CLUSTER;
const PACKED: usize = 3 * CLUSTER;
const L2: usize = 4 * CLUSTER;
const L1: usize = 5 * CLUSTER;
const REFTABLE: u64 = 6 * CLUSTER as u64;

#[tokio::test]
async fn the_sample_is_sound() {
    let file = sample();
    assert_eq!(file.len(), 8 * CLUSTER);
    assert_eq!(be(&file, 40), L1 as u64);
    assert_eq!(be(&file, L1), 1 << 63 | L2 as u64);
    assert_eq!(be(&file, L2), 1 << 63 | DATA as u64);
    assert_eq!(be(&file, L2 + 16) & 0xFFFF_FFFF, PACKED as u64);
    assert_eq!(be(&file, 48), REFTABLE);
    assert!(verdict(&file).await.unwrap().is_empty());
}

fn be(file: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(file[at..at + 8].try_into().unwrap())
}

/// What must come of a change: refusal, or success with a warning, or plain success.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Want {
    Fail(Kind),
    Warn(&'static str),
    Fine,
}
use Kind::{Corrupt, Encrypted, Limit, Truncated, Unsafe, Unsupported};
use Want::{Fail, Fine, Warn};

pub(crate) async fn expect(what: &str, file: &[u8], want: Want) {
    let found = verdict(file).await;
    let agrees = match (&found, want) {
        (Err(error), Fail(kind)) => error.kind() == kind,
        (Ok(codes), Warn(code)) => codes.contains(&code),
        (Ok(codes), Fine) => codes.is_empty(),
        _ => false,
    };
    assert!(agrees, "{what}: wanted {want:?}, found {found:?}");
    if let Err(error) = &found {
        assert_eq!(error.nearest_path(), Some("test.qcow2"), "{what}: {error:?}");
    }
}

#[tokio::test]
async fn header_fields_of_four_bytes() {
    let max = u32::MAX;
    let table: &[(&str, usize, u32, Want)] = &[
        ("magic", 0, 0, Fail(Corrupt)),
        ("version 0", 4, 0, Fail(Unsupported)),
        ("version 1", 4, 1, Fail(Unsupported)),
        ("version 4", 4, 4, Fail(Unsupported)),
        ("version max", 4, max, Fail(Unsupported)),
        ("backing size without an offset", 16, max, Fine),
        ("cluster_bits 0", 20, 0, Fail(Corrupt)),
        ("cluster_bits 8", 20, 8, Fail(Corrupt)),
        ("cluster_bits 22", 20, 22, Fail(Limit)),
        ("cluster_bits 31", 20, 31, Fail(Limit)),
        ("cluster_bits 64", 20, 64, Fail(Corrupt)),
        ("cluster_bits max", 20, max, Fail(Corrupt)),
        ("crypt_method 1", 32, 1, Fail(Encrypted)),
        ("crypt_method 2", 32, 2, Fail(Encrypted)),
        ("crypt_method 3", 32, 3, Fail(Unsupported)),
        ("crypt_method max", 32, max, Fail(Unsupported)),
        ("l1_size 0", 36, 0, Fail(Corrupt)),
        ("l1_size 1000000", 36, 1_000_000, Fail(Truncated)),
        ("l1_size max", 36, max, Fail(Limit)),
        ("refcount_table_clusters 0", 56, 0, Warn("refcount_damage")),
        ("refcount_table_clusters 3", 56, 3, Warn("refcount_damage")),
        ("refcount_table_clusters max", 56, max, Warn("refcount_damage")),
        ("nb_snapshots 1 at 0", 60, 1, Warn("snapshot_damage")),
        ("nb_snapshots max", 60, max, Warn("snapshot_damage")),
        ("unknown incompatible bit 32", 72, 1, Fail(Unsupported)),
        ("unknown incompatible bit 5", 76, 1 << 5, Fail(Unsupported)),
        ("all incompatible bits", 76, max, Fail(Unsupported)),
        ("dirty", 76, 1, Warn("dirty_bit")),
        ("corrupt", 76, 2, Warn("corrupt_bit")),
        ("data file without a name", 76, 4, Fail(Unsafe)),
        ("compression bit, type 0", 76, 8, Fail(Corrupt)),
        ("extended L2", 76, 16, Fail(Corrupt)),
        ("compatible bits", 84, max, Fine),
        ("autoclear bits", 92, max, Fine),
        ("refcount_order 7", 96, 7, Fail(Corrupt)),
        ("refcount_order max", 96, max, Fail(Corrupt)),
        ("header_length 0", 100, 0, Fail(Corrupt)),
        ("header_length 72", 100, 72, Fail(Corrupt)),
        ("header_length 109", 100, 109, Fail(Corrupt)),
        ("header_length max", 100, max, Fail(Corrupt)),
        ("compression_type 1 without the bit", 104, 1 << 24, Fail(Corrupt)),
        ("compression_type 255 without the bit", 104, max, Fail(Corrupt)),
        ("extension of 2 GiB", 116, 1 << 31, Fail(Corrupt)),
        ("extension to the cluster's end", 116, 65_536 - 120, Fine),
        ("extension past the cluster's end", 116, 65_536 - 119, Fail(Corrupt)),
    ];
    for (what, at, value, want) in table {
        let mut file = sample();
        be32(&mut file, *at, *value);
        expect(what, &file, *want).await;
    }
}

#[tokio::test]
async fn fields_of_eight_bytes() {
    let copied = 1 << 63;
    let (data, l2, l1) = (DATA as u64, L2 as u64, L1 as u64);
    let end = 8 * CLUSTER as u64;
    let packed = |offset: u64, sectors: u64| 1 << 62 | (sectors - 1) << 54 | offset;
    let table: &[(&str, usize, u64, Want)] = &[
        ("size 0", 24, 0, Fine),
        ("size in the middle of a sector", 24, (64 << 20) - 511, Fine),
        ("size beyond the L1 table", 24, (512 << 20) + 1, Fail(Corrupt)),
        ("size 2^52 + 1", 24, (1 << 52) + 1, Fail(Limit)),
        ("size 2^63", 24, 1 << 63, Fail(Limit)),
        ("size max", 24, u64::MAX, Fail(Limit)),
        ("L1 at 0", 40, 0, Fail(Corrupt)),
        ("L1 misaligned", 40, l1 + 8, Fail(Corrupt)),
        ("L1 past the end", 40, end, Fail(Truncated)),
        ("L1 far past the end", 40, 0x7FFF_FFFF_0000, Fail(Truncated)),
        ("L1 overflowing", 40, 0x7FFF_FFFF_FFFF_0000, Fail(Corrupt)),
        ("L1 at the last cluster of 64 bits", 40, 0xFFFF_FFFF_FFFF_0000, Fail(Corrupt)),
        ("L1 at L2, so that data is read as L2", 40, l2, Fail(Truncated)),
        ("refcount table at 0", 48, 0, Warn("refcount_damage")),
        ("refcount table misaligned", 48, REFTABLE + 1, Warn("refcount_damage")),
        ("refcount table past the end", 48, end, Warn("refcount_damage")),
        ("refcount table overflowing", 48, 0xFFFF_FFFF_FFFF_0000, Warn("refcount_damage")),
        ("refcount table at L1", 48, l1, Warn("refcount_damage")),
        ("refcount table at L2", 48, l2, Warn("refcount_damage")),
        ("refcount table at data", 48, data, Warn("refcount_damage")),
        ("first refcount block past the end", REFTABLE as usize, end, Warn("refcount_damage")),
        ("first refcount block misaligned", REFTABLE as usize, 77, Warn("refcount_damage")),
        ("refcounts of zero", REFTABLE as usize + CLUSTER, 0, Warn("refcount_damage")),
        ("backing name past the cluster", 8, 65_536, Fail(Corrupt)),
        ("backing name overflowing", 8, u64::MAX, Fail(Corrupt)),
        ("backing name in the header", 8, 16, Fail(Corrupt)),
        ("backing name of no length", 8, 512, Fail(Corrupt)),
        ("L1 entry 0", L1, 0, Fine),
        ("L1 entry with only the flag", L1, copied, Warn("l1_flag")),
        ("L1 entry reserved low bit", L1, copied | l2 | 1, Fail(Corrupt)),
        ("L1 entry reserved high bit", L1, copied | l2 | 1 << 56, Fail(Corrupt)),
        ("L1 entry misaligned", L1, copied | (l2 + 512), Fail(Corrupt)),
        ("L1 entry to the header", L1, copied | 512, Fail(Corrupt)),
        ("L1 entry to itself", L1, copied | l1, Fail(Corrupt)),
        ("L1 entry to the refcount table", L1, copied | REFTABLE, Fail(Corrupt)),
        ("L1 entry past the end", L1, copied | end, Fail(Truncated)),
        ("L1 entry far past the end", L1, copied | 0xFF_FFFF_FFFF_0000, Fail(Truncated)),
        ("L2 entry reserved low bit", L2, copied | data | 2, Fail(Corrupt)),
        ("L2 entry reserved high bit", L2, copied | data | 1 << 61, Fail(Corrupt)),
        ("L2 entry misaligned", L2, copied | (data + 512), Fail(Corrupt)),
        ("L2 entry into the header", L2, copied | 512, Fail(Corrupt)),
        ("L2 entry to its own table", L2, copied | l2, Fail(Corrupt)),
        ("L2 entry to L1", L2, copied | l1, Fail(Corrupt)),
        ("L2 entry to the refcount table", L2, copied | REFTABLE, Fail(Corrupt)),
        ("L2 entry to a refcount block", L2, copied | (REFTABLE + 65_536), Fail(Corrupt)),
        ("L2 entry with only the flag", L2, copied, Fail(Corrupt)),
        ("L2 entry past the end", L2, copied | end, Fail(Truncated)),
        ("L2 entries that share", L2, copied | (data + 65_536), Warn("shared_cluster")),
        ("L2 entry shares with packed data", L2, copied | PACKED as u64, Warn("shared_cluster")),
        ("zero entry misaligned", L2, data | 0x201, Fail(Corrupt)),
        ("zero entry at metadata", L2, l1 | 1, Fail(Corrupt)),
        ("zero entry with a cluster past the end", L2, end | 1, Fine),
        ("packed entry in the header", L2, packed(100, 1), Fail(Corrupt)),
        ("packed entry at metadata", L2, packed(l1 - 500, 2), Fail(Corrupt)),
        ("packed entry past the end", L2, packed(end, 1), Fail(Truncated)),
        ("packed entry far past the end", L2, packed((1 << 54) - 65_536, 1), Fail(Truncated)),
        ("packed entry with sectors past the end", L2, packed(end - 512, 3), Fail(Truncated)),
        (
            "packed entry with the flag",
            L2 + 16,
            copied | packed(PACKED as u64, 1),
            Warn("copied_flag"),
        ),
        ("entry past the virtual end", L2 + 8 * 1024, u64::MAX, Fine),
    ];
    for (what, at, value, want) in table {
        let mut file = sample();
        be64(&mut file, *at, *value);
        expect(what, &file, *want).await;
    }
}

#[tokio::test]
async fn what_the_check_accepts_can_be_mapped_and_what_not_cannot_be_read() {
    for entry in [1 << 63 | 0x10200, 1 << 63 | 0x100_0000, 1 << 63 | 2, 1 << 63 | 512] {
        let mut file = sample();
        be64(&mut file, L2, 1 << 63 | entry);
        let image = open_bytes(&file).await.unwrap();
        let error = image.read_vec(10, 10).await.unwrap_err();
        assert!(matches!(error.kind(), Corrupt | Truncated), "{error}");
        assert_eq!(error.nearest_offset(), Some(L2 as u64), "{error}");
        image.read_vec(CLUSTER as u64, 10).await.unwrap();
    }
}

#[tokio::test]
async fn version_2_has_no_zero_flag() {
    let spec = Spec { version: 2, ..Spec::new(MIB) };
    let mut file = build(&spec, &[7; 1 << 20], &[], |_| Put::Plain).file;
    assert!(verdict(&file).await.unwrap().is_empty());
    let l1 = be(&file, 40) as usize;
    let l2 = (be(&file, l1) & !(1 << 63)) as usize;
    file[l2 + 7] |= 1;
    expect("zero flag in version 2", &file, Fail(Corrupt)).await;
    let image = open_bytes(&file).await.unwrap();
    assert_eq!(image.read_vec(0, 1).await.unwrap_err().kind(), Corrupt);
}

#[tokio::test]
async fn truncation_anywhere_is_noticed() {
    let file = sample();
    for len in [0, 3, 4, 7, 8, 60, 71, 72, 103, 104, 111, 112, 119, 512, 65_535, 65_536] {
        expect(&format!("{len} bytes"), &file[..len], Fail(Truncated)).await;
    }
    for len in (CLUSTER..=L1).step_by(4096).chain([L1 + 7]) {
        expect(&format!("{len} bytes"), &file[..len], Fail(Truncated)).await;
    }
    // Behind the L1 table there are only refcounts.
    expect("no refcounts", &file[..L1 + 8], Warn("refcount_damage")).await;
}

#[tokio::test]
async fn data_clusters_cut_short_are_noticed() {
    // The data is the last thing in the file here.
    let mut file = sample();
    let end = file.len();
    file.extend(vec![5; 2 * CLUSTER]);
    be64(&mut file, L2, 1 << 63 | end as u64);
    be64(&mut file, L2 + 8, 1 << 63 | (end + CLUSTER) as u64);
    expect("whole", &file, Warn("refcount_damage")).await;
    for cut in [1, 100, 512, CLUSTER - 1, CLUSTER, CLUSTER + 1] {
        let cut = file.len() - cut;
        expect(&format!("{cut} bytes"), &file[..cut], Fail(Truncated)).await;
    }
}

#[tokio::test]
async fn the_last_cluster_needs_only_what_the_guest_sees() {
    let mut file = sample();
    let end = file.len();
    be64(&mut file, 24, CLUSTER as u64 + 100);
    be64(&mut file, L2 + 8, 1 << 63 | end as u64);
    file.extend([9; 100]);
    let image = open_bytes(&file).await.unwrap();
    assert_eq!(image.read_vec(CLUSTER as u64, 100).await.unwrap(), [9; 100]);
    expect("visible bytes only", &file, Warn("refcount_damage")).await;
    file.pop();
    expect("one byte less", &file, Fail(Truncated)).await;
}

#[tokio::test]
async fn damaged_packed_data_is_an_error_when_it_is_read() {
    let mut short = sample();
    short[PACKED..PACKED + 100].fill(0xFF);
    let mut wrapped = sample();
    let inner = wrapped[PACKED..PACKED + 400].to_vec();
    wrapped[PACKED..PACKED + 2].copy_from_slice(&[0x78, 0x9C]);
    wrapped[PACKED + 2..PACKED + 402].copy_from_slice(&inner);
    for file in [short, wrapped] {
        assert!(verdict(&file).await.is_ok());
        let image = open_bytes(&file).await.unwrap();
        let error = image.read_vec(2 * CLUSTER as u64, 10).await.unwrap_err();
        assert_eq!(error.kind(), Corrupt, "{error}");
        assert_eq!(error.nearest_offset(), Some(PACKED as u64));
    }
}

#[tokio::test]
async fn many_entries_for_one_cluster_are_a_bomb() {
    for entry in [1 << 62 | 0x3_0000, 1 << 63 | 0x1_0000] {
        let mut file = sample();
        be64(&mut file, 24, 512 << 20);
        for index in 0..8192 {
            be64(&mut file, L2 + 8 * index, entry);
        }
        expect("bomb", &file, Fail(Limit)).await;
    }
}

/// Claiming the same table for every one of 65,536 snapshots could take forever: the first
/// that is taken twice is damage enough, and none of it keeps the active disk from being read.
#[tokio::test]
async fn snapshots_that_share_a_table_are_damage() {
    let disk = vec![7; 3 * CLUSTER];
    let list: Vec<(&str, &str, &[u8])> = vec![("1", "same", disk.as_slice()); 3];
    let mut file = build_with_snapshots(&Spec::new(disk.len() as u64), &disk, &list).file;
    assert!(verdict(&file).await.unwrap().is_empty());
    let table = be(&file, 64) as usize;
    let entry = (40 + 16 + 5_usize).next_multiple_of(8);
    file.copy_within(table..table + 12, table + 2 * entry);
    expect("a shared table", &file, Warn("snapshot_damage")).await;
}

#[tokio::test]
async fn a_flipped_extended_bit_is_noticed_and_preallocation_is_not_mistaken_for_it() {
    let guest = vec![3; 64 * CLUSTER];
    for used in [1, 2, 3, 40] {
        let plan = |index| {
            if index < used { Put::Plain } else { Put::Absent }
        };
        let mut file = build(&Spec::new(64 * 65_536), &guest, &[], plan).file;
        file[79] |= 16;
        expect(&format!("{used} clusters"), &file, Fail(Corrupt)).await;
    }
    let spec = Spec { extended: true, ..Spec::new(64 * 65_536) };
    let mut file = build(&spec, &[0; 64 * CLUSTER], &[], |_| Put::Plain).file;
    let l1 = be(&file, 40) as usize;
    let l2 = (be(&file, l1) & !(1 << 63)) as usize;
    for index in 0..64 {
        be64(&mut file, l2 + 16 * index + 8, 0);
    }
    expect("preallocated", &file, Fine).await;
}

#[tokio::test]
async fn extended_entries_have_rules_of_their_own() {
    let spec = Spec { extended: true, ..Spec::new(MIB) };
    let file =
        build(&spec, &[3; 1 << 20], &[], |i| if i == 0 { Put::Packed } else { Put::Sub(1, 2) });
    let file = file.file;
    assert!(verdict(&file).await.unwrap().is_empty());
    let l1 = be(&file, 40) as usize;
    let l2 = (be(&file, l1) & !(1 << 63)) as usize;
    let table: &[(&str, usize, u64)] = &[
        ("bitmap of a packed cluster", 8, 1),
        ("both allocated and zero", 24, 3 | 2 << 32),
        ("bit 0", 16, be(&file, l2 + 16) | 1),
        ("allocated subclusters of no cluster", 16, 0),
    ];
    for (what, at, value) in table {
        let mut file = file.clone();
        be64(&mut file, l2 + at, *value);
        expect(what, &file, Fail(Corrupt)).await;
    }
    let small = Spec { cluster_bits: 13, ..Spec::new(MIB) };
    let mut file = build(&small, &[0; 1 << 20], &[], |_| Put::Absent).file;
    file[79] |= 16;
    expect("clusters of 8 KiB", &file, Fail(Corrupt)).await;
}

#[tokio::test]
async fn features_are_called_by_the_names_in_the_image() {
    let mut file = sample();
    be32(&mut file, 112, 0x6803_F857);
    be32(&mut file, 116, 48);
    file[120..168].fill(0);
    file[121] = 9;
    file[122..130].copy_from_slice(b"teleport");
    be64(&mut file, 72, 1 << 9);
    let error = open_bytes(&file).await.unwrap_err();
    assert_eq!(error.kind(), Unsupported);
    assert!(error.to_string().contains("teleport"), "{error}");
}

#[tokio::test]
async fn without_memory_for_overlaps_the_check_says_so_and_goes_on() {
    let limits = Limits { max_check_memory: 0, ..Limits::default() };
    let mut file = sample();
    let image = open_bytes(&file).await.unwrap();
    let report = image.check(&limits).await.unwrap();
    assert_eq!(report.warnings.len(), 1);
    assert_eq!(report.warnings[0].code, "overlaps_unchecked");
    assert_eq!(report.allocated_size, Some(3 * CLUSTER as u64));
    let mut twice = file.clone();
    be64(&mut twice, 24, 1 << 30);
    be32(&mut twice, 36, 2);
    twice.copy_within(L1..L1 + 8, L1 + 8);
    be64(&mut file, L2 + 8, 3);
    for file in [file, twice] {
        let image = open_bytes(&file).await.unwrap();
        assert_eq!(image.check(&limits).await.unwrap_err().kind(), Corrupt);
    }
}
