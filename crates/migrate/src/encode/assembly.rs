//! From segments to parts of a fixed size.

use std::collections::BTreeSet;

/// The bytes of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// So many zeros.
    Zeros(u64),
    /// These.
    Bytes(Vec<u8>),
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Zeros(len) => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn push(&mut self, bytes: &[u8], room: u64) {
        match self {
            Self::Bytes(own) => own.extend(bytes),
            Self::Zeros(len) => {
                let mut own = Vec::with_capacity(usize_of(*len + room));
                own.resize(usize_of(*len), 0);
                own.extend(bytes);
                *self = Self::Bytes(own);
            }
        }
    }

    fn push_zeros(&mut self, count: u64) {
        match self {
            Self::Zeros(len) => *len += count,
            Self::Bytes(own) => own.resize(own.len() + usize_of(count), 0),
        }
    }
}

/// A part that is ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) index: u64,
    pub(super) content: Content,
}

/// Collects the bytes of a file in their order and hands them out as parts. The parts that hold
/// the head wait for it until the end.
#[derive(Debug)]
pub(super) struct Assembly {
    part_size: u64,
    /// The byte of the file that comes next.
    at: u64,
    /// So many parts begin with bytes of the head.
    head_parts: u64,
    held: Vec<Part>,
    current: Content,
    /// Parts whose bytes are not wanted: the store has them.
    done: BTreeSet<u64>,
    ready: Vec<Part>,
}

impl Assembly {
    /// For a file whose first `head` bytes come at the end.
    pub(super) fn new(part_size: u64, head: u64, mut done: BTreeSet<u64>) -> Self {
        let head_parts = head.div_ceil(part_size);
        done.retain(|index| *index >= head_parts);
        let (current, held, ready) = (Content::Zeros(0), Vec::new(), Vec::new());
        let mut assembly = Self { part_size, at: 0, head_parts, held, current, done, ready };
        assembly.push_zeros(head);
        assembly
    }

    /// Bytes of the file so far.
    pub(super) fn len(&self) -> u64 {
        self.at
    }

    /// Whether all parts that `len` bytes from `at` on fall into are there already.
    pub(super) fn is_done(&self, at: u64, len: u64) -> bool {
        let last = (at + len.max(1) - 1) / self.part_size;
        (at / self.part_size..=last).all(|index| self.done.contains(&index))
    }

    /// Goes on behind the next `len` bytes, of which [`Self::is_done`] is true.
    pub(super) fn skip(&mut self, len: u64) {
        self.push_zeros(len);
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, later) = bytes.split_at(usize_of(room).min(bytes.len()));
            if self.wants() {
                self.current.push(now, room);
            }
            self.advance(now.len() as u64);
            bytes = later;
        }
    }

    pub(super) fn push_zeros(&mut self, mut count: u64) {
        while count > 0 {
            let now = self.room().min(count);
            if self.wants() {
                self.current.push_zeros(now);
            }
            self.advance(now);
            count -= now;
        }
    }

    /// The parts that became complete.
    pub(super) fn take_ready(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.ready)
    }

    /// Ends the file with its head: gives the parts that are left.
    pub(super) fn finish(mut self, head: &[u8]) -> Vec<Part> {
        if !self.at.is_multiple_of(self.part_size) {
            self.end_part(self.at / self.part_size);
        }
        for part in &mut self.held {
            overlay(part, head, part.index * self.part_size);
        }
        self.held.append(&mut self.ready);
        self.held
    }

    fn room(&self) -> u64 {
        self.part_size - self.at % self.part_size
    }

    fn wants(&self) -> bool {
        !self.done.contains(&(self.at / self.part_size))
    }

    fn advance(&mut self, len: u64) {
        let index = self.at / self.part_size;
        self.at += len;
        if self.at.is_multiple_of(self.part_size) {
            self.end_part(index);
        }
    }

    fn end_part(&mut self, index: u64) {
        let content = std::mem::replace(&mut self.current, Content::Zeros(0));
        if index < self.head_parts {
            self.held.push(Part { index, content });
        } else if !self.done.contains(&index) {
            self.ready.push(Part { index, content });
        }
    }
}

/// Puts the bytes of the head that belong into `part`, which starts at byte `start` of the file.
fn overlay(part: &mut Part, head: &[u8], start: u64) {
    let Some(piece) = head.get(usize_of(start)..).filter(|piece| !piece.is_empty()) else {
        return;
    };
    let len = usize_of(part.content.len()).min(piece.len());
    let mut bytes = match std::mem::replace(&mut part.content, Content::Zeros(0)) {
        Content::Bytes(bytes) => bytes,
        Content::Zeros(len) => vec![0; usize_of(len)],
    };
    bytes[..len].copy_from_slice(&piece[..len]);
    part.content = Content::Bytes(bytes);
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All parts of a file, in order, as one.
    fn whole(parts: Vec<Part>, part_size: u64) -> Vec<u8> {
        let mut file = Vec::new();
        for (number, part) in (0..).zip(parts) {
            assert_eq!((part.index, file.len() as u64), (number, number * part_size));
            match part.content {
                Content::Zeros(len) => file.resize(file.len() + usize_of(len), 0),
                Content::Bytes(bytes) => file.extend(bytes),
            }
        }
        file
    }

    #[test]
    fn whatever_the_sizes_the_parts_are_the_file() {
        for part_size in [1_u64, 3, 8, 100] {
            for head in [0_usize, 1, 8, 20] {
                let (head_bytes, body) = (vec![9; head], (1..40).collect::<Vec<u8>>());
                let mut assembly = Assembly::new(part_size, head as u64, BTreeSet::new());
                assembly.push(&body[..7]);
                assembly.push_zeros(11);
                assembly.push(&body[7..]);
                let mut parts = assembly.take_ready();
                assert!(parts.iter().all(|part| part.index * part_size >= head as u64));
                assert_eq!(assembly.len(), head as u64 + 11 + 39);
                parts.extend(assembly.finish(&head_bytes));
                parts.sort_by_key(|part| part.index);
                let wanted = [&head_bytes[..], &body[..7], &[0; 11], &body[7..]].concat();
                assert_eq!(whole(parts, part_size), wanted, "{part_size} {head}");
            }
        }
    }

    #[test]
    fn long_zeros_are_no_bytes_and_done_parts_do_not_come_back() {
        let mut assembly = Assembly::new(10, 4, BTreeSet::from([0, 2]));
        assembly.push(&[1; 6]);
        assembly.push_zeros(10);
        assert!(assembly.is_done(20, 10) && !assembly.is_done(20, 11));
        assembly.skip(10);
        assembly.push_zeros(15);
        let indices = |parts: &[Part]| parts.iter().map(|part| part.index).collect::<Vec<_>>();
        let ready = assembly.take_ready();
        assert_eq!(indices(&ready), [1, 3]);
        assert!(ready.iter().all(|part| part.content == Content::Zeros(10)));
        assert_eq!(indices(&assembly.finish(&[2; 4])), [0, 4], "the head is never done");
    }
}
