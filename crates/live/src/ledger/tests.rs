//! The ledger against BLAKE3 of whole disks.
#![allow(clippy::cast_possible_truncation, reason = "the disks of tests fit in memory")]

use super::*;
use crate::granule::bytes_of;
use proptest::prelude::*;

fn known(index: u64, bytes: &[u8]) -> Known {
    if bytes.iter().all(|byte| *byte == 0) {
        Known::Zero
    } else {
        Known::Leaf(leaf_of(index, bytes))
    }
}

fn enter(ledger: &mut Ledger, disk: &[u8], index: u64) {
    let range = bytes_of(index, disk.len() as u64);
    let bytes = &disk[range.start() as usize..range.end() as usize];
    ledger.set(index, known(index, bytes));
}

fn of(disk: &[u8]) -> Ledger {
    let mut ledger = Ledger::unknown(disk.len() as u64).expect("large enough");
    assert_eq!(ledger.root(), None);
    for index in 0..granules_in(disk.len() as u64) {
        enter(&mut ledger, disk, index);
    }
    ledger
}

fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn the_root_is_the_blake3_of_the_disk() {
    for size in [
        GRANULE + 512,
        2 * GRANULE,
        3 * GRANULE - 512,
        17 * GRANULE,
        64 * GRANULE,
        65 * GRANULE,
        5 << 20,
    ] {
        let mut disk = noise(size as usize, size);
        let mut ledger = of(&disk);
        assert_eq!(ledger.root(), Some(*blake3::hash(&disk).as_bytes()), "{size}");
        disk[GRANULE as usize..].fill(0);
        let mut ledger = of(&disk);
        assert_eq!(ledger.root(), Some(*blake3::hash(&disk).as_bytes()), "{size}, mostly zeros");
    }
}

#[test]
fn pages_of_zeros_and_data_make_one_root() {
    let size = (2 * PAGE + 3) * GRANULE + 4096;
    let mut disk = vec![0; size as usize];
    let mut ledger = of(&disk);
    assert_eq!(ledger.root(), Some(*blake3::hash(&disk).as_bytes()));
    for index in [5, PAGE, 2 * PAGE - 1, 2 * PAGE + 3] {
        let at = (index * GRANULE) as usize;
        disk[at..at + 512].copy_from_slice(&noise(512, index));
        enter(&mut ledger, &disk, index);
        assert_eq!(ledger.root(), Some(*blake3::hash(&disk).as_bytes()), "after {index}");
    }
    disk.fill(0);
    for index in [5, PAGE, 2 * PAGE - 1, 2 * PAGE + 3] {
        enter(&mut ledger, &disk, index);
    }
    assert_eq!(ledger.root(), Some(*blake3::hash(&disk).as_bytes()), "zeros again");
}

#[test]
fn a_disk_of_one_granule_is_refused() {
    assert_eq!(Ledger::unknown(GRANULE).map_err(|e| e.kind()).err(), Some(Kind::Unsupported));
}

proptest! {
    #[test]
    fn what_is_known_is_counted(
        granules in 2u64..2100,
        steps in prop::collection::vec((0u8..3, 0u64..2200), 0..60),
    ) {
        let mut ledger = Ledger::unknown(granules * GRANULE)?;
        let mut model = vec![None; granules as usize];
        for (what, index) in steps {
            let value = [None, Some(Known::Zero), Some(Known::Leaf([7; 32]))][usize::from(what)];
            match value {
                None => ledger.forget(index),
                Some(known) => ledger.set(index, known),
            }
            if let Some(slot) = model.get_mut(index as usize) {
                *slot = value;
            }
            prop_assert_eq!(ledger.get(index), model.get(index as usize).copied().flatten());
        }
        let unknown = model.iter().filter(|value| value.is_none()).count() as u64;
        prop_assert_eq!(ledger.unknown_count(), unknown);
        let set = ledger.unknown_set();
        prop_assert_eq!(set.len(), unknown);
        prop_assert!((0..granules).all(|i| set.contains(i) == model[i as usize].is_none()));
    }
}
