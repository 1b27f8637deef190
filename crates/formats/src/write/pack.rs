//! Finding zeros and compressing, unit by unit.

use super::{Form, PackCodec};
use carreto_error::{Error, Kind, Result};
use libdeflater::{CompressionError, CompressionLvl, Compressor};
use std::borrow::Cow;
use std::cell::RefCell;
use zstd::zstd_safe::{CCtx, get_error_name};

/// The level where none is asked for: the usual trade of the codec.
const DEFLATE_LEVEL: i32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// What became of an item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// How each unit is stored.
    pub forms: Vec<Form>,
    /// The compressed units, one after the other.
    pub bytes: Vec<u8>,
}

/// Turns guest bytes into [`Form`]s and compressed bytes. Knows no offsets: any thread may pack
/// any item.
#[derive(Debug, Clone, Copy)]
pub struct Packer {
    unit: usize,
    codec: Option<PackCodec>,
    level: i32,
}

thread_local! {
    /// Compressors cost more to set up than a unit to compress.
    static DEFLATE: RefCell<Option<(i32, Compressor)>> = const { RefCell::new(None) };
    static ZSTD: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
}

impl Packer {
    pub(super) fn new(unit: u64, codec: Option<PackCodec>, level: Option<i32>) -> Self {
        let usual = if codec == Some(PackCodec::Zstd) { ZSTD_LEVEL } else { DEFLATE_LEVEL };
        // Units are at most 2 MiB.
        let unit = usize::try_from(unit).unwrap_or(usize::MAX);
        Self { unit, codec, level: level.unwrap_or(usual) }
    }

    /// Packs an item that starts at a multiple of the unit; its last unit may be short at the end
    /// of the disk, and is then taken as if zeros followed.
    ///
    /// # Errors
    /// `System` class errors when there is no memory for a compressor.
    pub fn pack(&self, item: &[u8]) -> Result<Packed> {
        let mut packed = Packed::default();
        for unit in item.chunks(self.unit) {
            let form = match self.codec {
                _ if is_zero(unit) => Form::Zero,
                None => Form::Plain,
                Some(codec) => self.compress(codec, &self.whole(unit), &mut packed.bytes)?,
            };
            packed.forms.push(form);
        }
        Ok(packed)
    }

    /// The form of a unit that takes the most bytes: compressing never makes a file larger, but in
    /// formats that can hold nothing else.
    pub fn largest(&self) -> Form {
        match self.codec {
            Some(PackCodec::Zlib) => {
                Form::Packed(u32::try_from(zlib_bound(self.unit)).unwrap_or(u32::MAX))
            }
            _ => Form::Plain,
        }
    }

    fn whole<'a>(&self, unit: &'a [u8]) -> Cow<'a, [u8]> {
        if unit.len() == self.unit {
            return Cow::Borrowed(unit);
        }
        let mut whole = unit.to_vec();
        whole.resize(self.unit, 0);
        Cow::Owned(whole)
    }

    fn compress(&self, codec: PackCodec, unit: &[u8], out: &mut Vec<u8>) -> Result<Form> {
        let start = out.len();
        // Streams have no plain grains; elsewhere what does not shrink is stored as it is.
        let room = match codec {
            PackCodec::Zlib => zlib_bound(unit.len()),
            _ => unit.len() - 1,
        };
        out.resize(start + room, 0);
        let len = match codec {
            PackCodec::Zstd => zstd(self.level, unit, &mut out[start..])?,
            _ => deflate(self.level, codec, unit, &mut out[start..])?,
        };
        out.truncate(start + len.unwrap_or(0));
        Ok(match len.map(u32::try_from) {
            Some(Ok(len)) => Form::Packed(len),
            _ => Form::Plain,
        })
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|piece| *piece == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

/// The most bytes that libdeflate makes of `len` bytes: stored blocks of at least 5000 bytes with
/// five bytes each, and the zlib header and checksum.
const fn zlib_bound(len: usize) -> usize {
    len + (len / 5000 + 2) * 5 + 64
}

/// Compresses; `None` when the result does not fit.
fn deflate(level: i32, codec: PackCodec, unit: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
    DEFLATE.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(before, _)| *before != level) {
            let wanted = CompressionLvl::new(level)
                .map_err(|_| Error::new(Kind::Usage, format!("no deflate level {level}")))?;
            *slot = Some((level, Compressor::new(wanted)));
        }
        let Some((_, compressor)) = slot else {
            return Ok(None);
        };
        let done = match codec {
            PackCodec::Zlib => compressor.zlib_compress(unit, out),
            _ => compressor.deflate_compress(unit, out),
        };
        match done {
            Ok(len) => Ok(Some(len)),
            Err(CompressionError::InsufficientSpace) => Ok(None),
        }
    })
}

fn zstd(level: i32, unit: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
    ZSTD.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = CCtx::try_create();
        }
        let context = slot
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Internal, "there is no memory for a zstd encoder"))?;
        match context.compress(out, unit, level) {
            Ok(len) => Ok(Some(len)),
            Err(code) if get_error_name(code).contains("too small") => Ok(None),
            Err(code) => {
                let text = format!("zstd cannot compress: {}", get_error_name(code));
                Err(Error::new(Kind::Internal, text))
            }
        }
    })
}
