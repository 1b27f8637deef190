//! Images that hold every byte of the disk at its place: raw, and VHD of fixed size.

use super::cursor::Cursor;
use super::vhd::{self, Kind as Disk};
use super::{Encoder, Form, Segment, WriteOptions};
use carreto_error::Result;

/// Zeros are found in units of this many bytes.
const UNIT: u64 = 64 << 10;

/// A raw image, or one with a VHD footer.
#[derive(Debug)]
pub(super) struct Flat {
    cursor: Cursor,
    size: u64,
    footer: Option<Vec<u8>>,
}

impl Flat {
    /// The bytes of the disk, of any size.
    pub(super) fn raw(size: u64) -> Self {
        Self { cursor: Cursor::new(0, size, UNIT), size, footer: None }
    }

    /// The same with a footer.
    ///
    /// # Errors
    /// `Limit` when the disk is too large for the format.
    pub(super) fn vhd(options: &WriteOptions, size: u64) -> Result<Self> {
        let rounded = vhd::rounded(size, options.align, vhd::MAX_FIXED)?;
        let footer = vhd::footer(options, Disk::Fixed, rounded);
        let cursor = Cursor::new(0, size, UNIT);
        Ok(Self { cursor, size: rounded, footer: Some(footer) })
    }
}

impl Encoder for Flat {
    fn unit(&self) -> u64 {
        UNIT
    }

    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn head_len(&self) -> u64 {
        0
    }

    fn place(&mut self, guest: u64, forms: &[Form], out: &mut Vec<Segment>) -> Result<()> {
        self.cursor.advance(guest, forms.len())?;
        self.cursor.zero(guest - self.cursor.at, out);
        for (index, form) in forms.iter().enumerate() {
            let at = index as u64 * UNIT;
            let len = self.cursor.available(guest + at);
            match form {
                Form::Zero => self.cursor.zero(len, out),
                _ => self.cursor.guest_bytes(at, len, out),
            }
        }
        Ok(())
    }

    fn file_len(&self, _units: u64, _spans: u64, _form: Form) -> u64 {
        self.size + self.footer.as_ref().map_or(0, |footer| footer.len() as u64)
    }

    fn finish(&mut self, out: &mut Vec<Segment>) -> Result<Vec<u8>> {
        self.cursor.zero(self.size - self.cursor.at, out);
        if let Some(footer) = self.footer.take() {
            self.cursor.bytes(footer, out);
        }
        Ok(Vec::new())
    }
}
