//! Contents that the receiver has somewhere, so that they need not travel again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Contents that are remembered: about 16 MiB of memory, 16 GiB of distinct content.
const MOST: usize = 256 << 10;

/// Where the receiver has which content.
///
/// Only what was flushed counts. A place that was overwritten since is no harm: the receiver
/// compares the digest of what it finds there and refuses the reference.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    flushed: Mutex<HashMap<u128, (u16, u64)>>,
    waiting: Mutex<Vec<(u128, (u16, u64))>>,
}

impl Blocks {
    /// Names a content, wherever it lies.
    pub(super) fn content_of(bytes: &[u8]) -> u128 {
        let hash = blake3::hash(bytes);
        let (first, _) = hash.as_bytes().split_first_chunk().unwrap_or((&[0; 16], &[]));
        u128::from_le_bytes(*first)
    }

    /// A disk and granule with this content.
    pub(super) fn find(&self, content: u128) -> Option<(u16, u64)> {
        lock(&self.flushed).get(&content).copied()
    }

    /// The receiver wrote `content` there.
    pub(super) fn written(&self, content: u128, place: (u16, u64)) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() < MOST {
            waiting.push((content, place));
        }
    }

    /// The receiver flushed everything that it wrote.
    pub(super) fn flushed(&self) {
        let mut flushed = lock(&self.flushed);
        for (content, place) in lock(&self.waiting).drain(..) {
            if flushed.len() < MOST {
                flushed.insert(content, place);
            }
        }
    }

    /// A reference to this content did not hold.
    pub(super) fn forget(&self, content: u128) {
        lock(&self.flushed).remove(&content);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_flushed_is_referred_to() {
        let blocks = Blocks::default();
        let content = Blocks::content_of(b"some block");
        blocks.written(content, (0, 7));
        assert_eq!(blocks.find(content), None);
        blocks.flushed();
        assert_eq!(blocks.find(content), Some((0, 7)));
        blocks.forget(content);
        assert_eq!(blocks.find(content), None);
    }
}
