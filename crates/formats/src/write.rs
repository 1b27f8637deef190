//! Writing images: which bytes of a guest go where in a new file.
//!
//! An [`Encoder`] does no I/O and sees no payload. It is told, in the order of the disk, how each
//! unit (cluster, grain, block) is to be stored, and answers with the segments that follow each
//! other in the file; only the first [`Encoder::head_len`] bytes are known at the very end. So the
//! same encoder serves a file that is written anywhere and an object whose parts can be uploaded
//! only once, and replaying the recorded [`Form`]s brings an interrupted encoder back to where it
//! was without reading or compressing anything again.
//!
//! A [`Packer`] finds zeros and compresses; it is pure and runs on any number of threads.
//!
//! ```
//! use carreto_formats::write::{Form, OutputFormat, Segment, WriteOptions, encoder};
//! let options = WriteOptions::new(OutputFormat::Qcow2);
//! let (mut image, packer) = encoder(&options, 1 << 30)?;
//! let packed = packer.pack(&[7; 65536])?;
//! assert_eq!(packed.forms, [Form::Plain]);
//! let mut segments = Vec::new();
//! image.place(0, &packed.forms, &mut segments)?;
//! assert_eq!(segments, [Segment::Guest { at: 0, len: 65536 }]);
//! let head = image.finish(&mut segments)?;
//! assert_eq!(head.len() as u64, image.head_len());
//! # Ok::<(), carreto_error::Error>(())
//! ```

mod cursor;
mod descriptor;
mod flat;
mod forms;
mod gauge;
mod options;
mod pack;
mod qcow2;
mod refcounts;
mod vhd;
mod vmdk;

pub use forms::{forms_from_bytes, forms_to_bytes};
pub use gauge::{Gauge, gauge};
pub use options::{OutputFormat, PackCodec, WriteOptions};
pub use pack::{Packed, Packer};

use carreto_error::Result;
use std::fmt::Debug;

/// How one unit of guest space is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Not at all: it reads as zeros.
    Zero,
    /// As it is.
    Plain,
    /// Compressed to this many bytes.
    Packed(u32),
}

/// A piece of the image file; it follows the piece before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Bytes of the item's guest space.
    Guest {
        /// From this byte of the item on.
        at: u64,
        /// So many bytes.
        len: u64,
    },
    /// Bytes of the item's [`Packed::bytes`].
    Packed {
        /// From this byte on.
        at: u64,
        /// So many bytes.
        len: u64,
    },
    /// Metadata.
    Bytes(Vec<u8>),
    /// So many zero bytes.
    Zero(u64),
}

impl Segment {
    /// How many bytes of the file the piece takes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Guest { len, .. } | Self::Packed { len, .. } | Self::Zero(len) => *len,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether the piece takes no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An image under construction.
///
/// What it answers depends on nothing but its options, the size and the forms it was given, so a
/// second encoder that is told the same answers the same.
pub trait Encoder: Send + Debug {
    /// The guest bytes of a unit.
    fn unit(&self) -> u64;

    /// The size in bytes that a guest will see: the size asked for, rounded up to what the format
    /// can express.
    fn virtual_size(&self) -> u64;

    /// The bytes at the start of the file that [`Self::finish`] gives. The first segment follows
    /// them.
    fn head_len(&self) -> u64;

    /// Stores the units from guest byte `guest` on, which is a multiple of the unit and not below
    /// the end of the last call. What lies between two calls reads as zeros.
    ///
    /// Appends to `segments`.
    ///
    /// # Errors
    /// `Limit` when the file would become larger than the format can address; `Internal` when the
    /// units are out of order or reach past the end of the disk.
    fn place(&mut self, guest: u64, forms: &[Form], segments: &mut Vec<Segment>) -> Result<()>;

    /// The guest bytes that one table of units describes; the unit where there are no such tables.
    fn span(&self) -> u64 {
        self.unit()
    }

    /// The size in bytes of a file with so many stored units, of so many spans, when each of them
    /// takes what `form` takes.
    fn file_len(&self, units: u64, spans: u64, form: Form) -> u64;

    /// Ends the image: appends what follows the last unit, and gives the head.
    ///
    /// # Errors
    /// As [`Self::place`].
    fn finish(&mut self, segments: &mut Vec<Segment>) -> Result<Vec<u8>>;
}

/// The encoder and the packer for a disk of `size` bytes.
///
/// # Errors
/// `Usage` when the options do not fit together, `Limit` when the format cannot hold so large a
/// disk.
pub fn encoder(options: &WriteOptions, size: u64) -> Result<(Box<dyn Encoder>, Packer)> {
    options.check()?;
    let encoder: Box<dyn Encoder> = match options.format {
        OutputFormat::Raw => Box::new(flat::Flat::raw(size)),
        OutputFormat::Qcow2 => Box::new(qcow2::Qcow2::new(options, size)?),
        OutputFormat::VhdFixed => Box::new(flat::Flat::vhd(options, size)?),
        OutputFormat::VhdDynamic => Box::new(vhd::Dynamic::new(options, size)?),
        OutputFormat::VmdkSparse | OutputFormat::VmdkStream => {
            Box::new(vmdk::Sparse::new(options, size)?)
        }
    };
    let packer = Packer::new(encoder.unit(), options.pack_codec(), options.level);
    Ok((encoder, packer))
}
