//! The size of an image before it is written.
//!
//! What an encoder lays out depends on how many units are stored and in how many spans of tables,
//! so ranges of data are counted, however large they are, and nothing is laid out.

use super::{Encoder, Form, WriteOptions, encoder};
use carreto_block::ByteRange;
use carreto_error::Result;

/// Counts the data of a disk.
#[derive(Debug)]
pub struct Gauge {
    encoder: Box<dyn Encoder>,
    form: Form,
    size: u64,
    units: Count,
    spans: Count,
}

/// Blocks of one size that data touches, each counted once.
#[derive(Debug, Default)]
struct Count {
    total: u64,
    /// The number behind the last block that was counted.
    next: u64,
}

impl Count {
    fn add(&mut self, range: ByteRange, block: u64) {
        if range.is_empty() {
            return;
        }
        let (first, end) = ((range.start() / block).max(self.next), range.end().div_ceil(block));
        self.total += end.saturating_sub(first);
        self.next = self.next.max(end);
    }
}

/// Begins to measure a disk of `size` bytes.
///
/// # Errors
/// As [`encoder`].
pub fn gauge(options: &WriteOptions, size: u64) -> Result<Gauge> {
    let (encoder, packer) = encoder(options, size)?;
    let (units, spans) = Default::default();
    Ok(Gauge { encoder, form: packer.largest(), size, units, spans })
}

impl Gauge {
    /// Counts data in guest bytes `range`, which does not begin before the range of the last call.
    pub fn data(&mut self, range: ByteRange) {
        self.units.add(range, self.encoder.unit());
        self.spans.add(range, self.encoder.span());
    }

    /// The most bytes that the file takes with the data that was counted. Exactly so many where
    /// nothing is compressed and no unit with data holds nothing but zeros.
    pub fn required(&self) -> u64 {
        self.encoder.file_len(self.units.total, self.spans.total, self.form)
    }

    /// The most bytes that the file takes when the whole disk is data.
    pub fn fully_allocated(&self) -> u64 {
        let (unit, span) = (self.encoder.unit(), self.encoder.span());
        self.encoder.file_len(self.size.div_ceil(unit), self.size.div_ceil(span), self.form)
    }

    /// The size in bytes of the disk that a guest will see.
    pub fn virtual_size(&self) -> u64 {
        self.encoder.virtual_size()
    }
}
