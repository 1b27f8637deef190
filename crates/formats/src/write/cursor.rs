//! Where the next byte of the file goes.

use super::Segment;
use carreto_error::{Error, Kind, Result};

/// The end of the file so far, and how the guest's units go on.
#[derive(Debug)]
pub(super) struct Cursor {
    /// The byte of the file that the next segment starts at.
    pub(super) at: u64,
    /// The guest byte behind the last unit that was placed.
    guest: u64,
    /// The size of the disk that is read, which the image may round up.
    size: u64,
    unit: u64,
}

impl Cursor {
    pub(super) fn new(head: u64, size: u64, unit: u64) -> Self {
        Self { at: head, guest: 0, size, unit }
    }

    /// Checks that `count` units from `guest` on follow what was placed before; gives the guest
    /// bytes between.
    pub(super) fn advance(&mut self, guest: u64, count: usize) -> Result<u64> {
        let end = (count as u64).checked_mul(self.unit).and_then(|len| guest.checked_add(len));
        let fits = end.is_some_and(|end| end < self.size.saturating_add(self.unit));
        if !guest.is_multiple_of(self.unit) || guest < self.guest || !fits {
            let text = format!("{count} units at guest byte {guest} do not follow {}", self.guest);
            return Err(Error::new(Kind::Internal, text));
        }
        let gap = guest - self.guest;
        self.guest = end.unwrap_or(guest);
        Ok(gap)
    }

    /// Appends a unit of guest bytes; what lies past the end of the disk is zero.
    pub(super) fn unit(&mut self, guest: u64, item: u64, out: &mut Vec<Segment>) {
        let len = self.available(guest);
        self.guest_bytes(guest - item, len, out);
        self.zero(self.unit - len, out);
    }

    /// How many bytes of the unit at guest byte `guest` there are.
    pub(super) fn available(&self, guest: u64) -> u64 {
        self.size.saturating_sub(guest).min(self.unit)
    }

    pub(super) fn guest_bytes(&mut self, at: u64, len: u64, out: &mut Vec<Segment>) {
        self.at += len;
        match out.last_mut() {
            Some(Segment::Guest { at: start, len: before }) if *start + *before == at => {
                *before += len;
            }
            _ if len == 0 => {}
            _ => out.push(Segment::Guest { at, len }),
        }
    }

    pub(super) fn packed(&mut self, at: u64, len: u64, out: &mut Vec<Segment>) {
        self.at += len;
        match out.last_mut() {
            Some(Segment::Packed { at: start, len: before }) if *start + *before == at => {
                *before += len;
            }
            _ => out.push(Segment::Packed { at, len }),
        }
    }

    pub(super) fn zero(&mut self, len: u64, out: &mut Vec<Segment>) {
        self.at += len;
        match out.last_mut() {
            Some(Segment::Zero(before)) => *before += len,
            _ if len == 0 => {}
            _ => out.push(Segment::Zero(len)),
        }
    }

    pub(super) fn bytes(&mut self, bytes: Vec<u8>, out: &mut Vec<Segment>) {
        self.at += bytes.len() as u64;
        match out.last_mut() {
            Some(Segment::Bytes(before)) => before.extend(bytes),
            _ => out.push(Segment::Bytes(bytes)),
        }
    }

    /// Appends zeros up to a multiple of `align`.
    pub(super) fn pad(&mut self, align: u64, out: &mut Vec<Segment>) {
        self.zero(self.at.next_multiple_of(align) - self.at, out);
    }
}
