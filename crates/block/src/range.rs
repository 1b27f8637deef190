//! Half-open byte ranges with checked arithmetic.

use std::fmt;

/// The bytes `start..end` of one address space; `start <= end` always holds.
///
/// Which space is meant follows from whom it is handed to: a [`crate::Source`] is asked in its
/// own bytes. Bytes of a file underneath never travel as a `ByteRange`; they are a
/// [`crate::Placement`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// `start..end`, or `None` if that runs backwards.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end { Some(Self { start, end }) } else { None }
    }

    /// `len` bytes from `start`, or `None` if the end does not fit in 64 bits.
    pub const fn from_len(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// All bytes of something `size` bytes long.
    pub const fn whole(size: u64) -> Self {
        Self { start: 0, end: size }
    }

    /// The first byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The byte after the last one.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// The number of bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether there are no bytes.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether every byte of `other` is a byte of `self`.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The bytes in both; empty (at the later start) when there are none.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self { start, end: self.end.min(other.end).max(start) }
    }

    /// The part before `at` and the part from `at` on; `at` is clamped into the range.
    pub fn split_at(self, at: u64) -> (Self, Self) {
        let at = at.clamp(self.start, self.end);
        (Self { start: self.start, end: at }, Self { start: at, end: self.end })
    }

    /// The part of at most `len` bytes at the start.
    #[must_use]
    pub fn take(self, len: u64) -> Self {
        self.split_at(self.start.saturating_add(len)).0
    }

    /// The range cut at every multiple of `step`. A `step` of zero does not cut.
    pub fn chunks(self, step: u64) -> impl Iterator<Item = Self> {
        let mut rest = self;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let next = match rest.start.checked_div(step) {
                Some(index) => (index + 1).saturating_mul(step),
                None => rest.end,
            };
            let (head, tail) = rest.split_at(next);
            rest = tail;
            Some(head)
        })
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.start, self.end)
    }
}
