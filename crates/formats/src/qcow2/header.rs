//! The header: fields, their rules, and what they say together.
//!
//! Facts: qcow2 specification, "Header", and the limits that QEMU's `qcow2_do_open` applies.

use super::codec::Compression;
use super::extensions::Extensions;
use super::features::{self, Features};
use crate::{Limits, field};
use carreto_block::{Source, SourceExt as _};
use carreto_error::{Error, Kind, Result};
use std::borrow::Cow;

const MAGIC: [u8; 4] = *b"QFI\xFB";
/// The header of version 2, and the part that both versions share.
const V2_LEN: usize = 72;
/// The shortest header of version 3.
const V3_LEN: usize = 104;
/// Read at first; holds the whole first cluster of most images.
const FIRST_READ: u64 = 64 << 10;
/// Host offsets have 56 bits everywhere in the format, so nothing can lie beyond.
pub(super) const MAX_OFFSET: u64 = 1 << 56;
/// The longest name of a backing file.
const MAX_BACKING_NAME: u32 = 1023;

/// A table in the file, as a header or a snapshot points at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableRef {
    pub(super) offset: u64,
    pub(super) entries: u32,
}

/// What the header points at for reference counting.
#[derive(Debug, Clone, Copy)]
pub(super) struct RefcountRef {
    pub(super) offset: u64,
    pub(super) clusters: u32,
    /// A refcount has `1 << order` bits.
    pub(super) order: u32,
}

/// A header whose fields are valid one by one and fit the file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) virtual_size: u64,
    pub(super) l1: TableRef,
    pub(super) refcounts: RefcountRef,
    pub(super) snapshots: TableRef,
    pub(super) features: Features,
    pub(super) compression: Compression,
    pub(super) backing: Option<Vec<u8>>,
    pub(super) extensions: Extensions,
}

/// An error about the header, found at byte `at` of the file.
pub(super) fn broken(kind: Kind, at: u64, text: impl Into<Cow<'static, str>>) -> Error {
    Error::new(kind, text).during("read the qcow2 header").offset(at)
}

impl Header {
    /// Reads and validates header, extensions and the backing file's name.
    ///
    /// # Errors
    /// `Corrupt`, `Truncated`, `Unsupported`, `Encrypted` or `Limit`, naming field and value.
    pub(super) async fn read(file: &dyn Source, limits: &Limits) -> Result<Self> {
        let mut head = read_head(file, FIRST_READ).await?;
        let version = version(&head)?;
        let cluster_bits = cluster_bits(&head)?;
        if FIRST_READ < 1 << cluster_bits {
            head = read_head(file, 1 << cluster_bits).await?;
        }
        let header = Self::parse(&head, version, cluster_bits)?;
        header.check_size(limits)?;
        header.check_l1(file.size(), limits)?;
        Ok(header)
    }

    fn parse(head: &[u8], version: u32, cluster_bits: u32) -> Result<Self> {
        let cluster_size = 1 << cluster_bits;
        let features = match version {
            2 => Features::default(),
            _ => Features::parse(head)?,
        };
        let length = length(head, version, cluster_size)?;
        let backing = backing_range(head, length, cluster_size)?;
        let end = backing.as_ref().map_or(cluster_size, |range| range.start);
        let extensions = Extensions::parse(head, length, end);
        let names = extensions.as_ref().ok();
        features.refuse_unknown(names.and_then(|found| found.feature_names.as_deref()))?;
        refuse_encrypted(field::be32(head, 32)?)?;
        let backing = match backing {
            None => None,
            Some(range) => Some(slice(head, range)?),
        };
        if features.has(features::EXTENDED_L2) && cluster_bits < 14 {
            let text = format!("cluster_bits is {cluster_bits}, extended L2 needs at least 14");
            return Err(broken(Kind::Corrupt, 20, text));
        }
        Ok(Self {
            version,
            cluster_bits,
            virtual_size: field::be64(head, 24)?,
            l1: TableRef { offset: field::be64(head, 40)?, entries: field::be32(head, 36)? },
            refcounts: RefcountRef {
                offset: field::be64(head, 48)?,
                clusters: field::be32(head, 56)?,
                order: refcount_order(head, version)?,
            },
            snapshots: TableRef { offset: field::be64(head, 64)?, entries: field::be32(head, 60)? },
            features,
            compression: compression(head, length, features)?,
            backing,
            extensions: extensions?,
        })
    }

    /// Whether the external data file can be read as a raw image, without any table.
    pub(super) fn has_raw_data(&self) -> bool {
        self.features.has(features::DATA_FILE)
            && self.features.autoclear & features::RAW_DATA_FILE != 0
    }

    /// The bytes of a cluster.
    pub(super) const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How many guest bytes one L2 table describes.
    pub(super) const fn l1_span_bits(&self) -> u32 {
        let entry_bits = if self.features.has(features::EXTENDED_L2) { 4 } else { 3 };
        self.cluster_bits * 2 - entry_bits
    }

    fn check_size(&self, limits: &Limits) -> Result<()> {
        check_virtual_size(self.virtual_size, limits)
            .map_err(|error| error.during("read the qcow2 header").offset(24))
    }

    fn check_l1(&self, file_size: u64, limits: &Limits) -> Result<()> {
        self.check_l1_of(self.l1, self.virtual_size, file_size, limits)
            .map_err(|error| error.during("read the qcow2 header").offset(40))
    }

    /// Checks an L1 table, of the active image or of a snapshot, for a disk of `size` bytes.
    ///
    /// # Errors
    /// `Limit`, `Corrupt` or `Truncated`, without a place.
    pub(super) fn check_l1_of(
        &self,
        l1: TableRef,
        size: u64,
        file_size: u64,
        limits: &Limits,
    ) -> Result<()> {
        let TableRef { offset, entries } = l1;
        let fail = |kind, text| Err(Error::new(kind, text));
        let needed = l1_entries(size, self.l1_span_bits());
        if u64::from(entries) < needed {
            let text = format!("the L1 table has {entries} entries, {size} bytes need {needed}");
            return fail(Kind::Corrupt, text);
        }
        let len = u64::from(entries) * 8;
        if len > limits.max_table {
            let max = limits.max_table;
            let text = format!("the L1 table has {len} bytes, at most {max} are accepted");
            return fail(Kind::Limit, text);
        }
        if !offset.is_multiple_of(self.cluster_size()) {
            let text = format!("the L1 table lies at {offset}, not at a cluster boundary");
            return fail(Kind::Corrupt, text);
        }
        if entries == 0 {
            return Ok(());
        }
        if offset < self.cluster_size() {
            let text = format!("the L1 table lies at {offset}, inside the header cluster");
            return fail(Kind::Corrupt, text);
        }
        if offset >= MAX_OFFSET {
            let text = format!("the L1 table lies at {offset}, beyond 2^56");
            return fail(Kind::Corrupt, text);
        }
        if offset + len > file_size {
            let end = offset + len;
            let text = format!("the L1 table ends at {end}, the file at {file_size}");
            return fail(Kind::Truncated, text);
        }
        Ok(())
    }
}

/// How many L1 entries a disk of `size` bytes needs.
pub(super) const fn l1_entries(size: u64, span_bits: u32) -> u64 {
    size.div_ceil(1 << span_bits)
}

/// Refuses a disk that is larger than the caller accepts.
pub(super) fn check_virtual_size(size: u64, limits: &Limits) -> Result<()> {
    // Far below the end of 64 bits, so that no sum of guest offsets can overflow.
    let max = limits.max_virtual_size.min(1 << 62);
    if size > max {
        let text = format!("the virtual size is {size} bytes, at most {max} are accepted");
        return Err(Error::new(Kind::Limit, text));
    }
    Ok(())
}

async fn read_head(file: &dyn Source, len: u64) -> Result<Vec<u8>> {
    let len = usize::try_from(len.min(file.size())).unwrap_or(0);
    file.read_vec(0, len).await
}

fn version(head: &[u8]) -> Result<u32> {
    let magic = &head[..head.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) {
        let text = format!("the magic is {magic:02x?}, expected {MAGIC:02x?}");
        return Err(broken(Kind::Corrupt, 0, text));
    }
    let version = field::be32(head, 4).map_err(|_| too_short(head))?;
    let needed = match version {
        2 => V2_LEN,
        3 => V3_LEN,
        _ => {
            let text = format!("version is {version}, expected 2 or 3");
            return Err(broken(Kind::Unsupported, 4, text));
        }
    };
    if head.len() < needed {
        return Err(too_short(head));
    }
    Ok(version)
}

fn too_short(head: &[u8]) -> Error {
    let text = format!("the file ends inside the header, after {} bytes", head.len());
    broken(Kind::Truncated, head.len() as u64, text)
}

fn cluster_bits(head: &[u8]) -> Result<u32> {
    let bits = field::be32(head, 20)?;
    let kind = match bits {
        9..=21 => return Ok(bits),
        // QEMU's bound, not the format's: offsets of 56 bits could hold such clusters.
        22..=55 => Kind::Limit,
        _ => Kind::Corrupt,
    };
    let text = format!("cluster_bits is {bits}, expected 9 to 21");
    Err(broken(kind, 20, text))
}

fn length(head: &[u8], version: u32, cluster_size: usize) -> Result<usize> {
    if version == 2 {
        return Ok(V2_LEN);
    }
    let found = field::be32(head, 100)?;
    let length = usize::try_from(found).unwrap_or(usize::MAX);
    if length < V3_LEN || length > cluster_size || !length.is_multiple_of(8) {
        let text = format!(
            "header_length is {found}, expected a multiple of 8 from {V3_LEN} to {cluster_size}"
        );
        return Err(broken(Kind::Corrupt, 100, text));
    }
    if length > head.len() {
        return Err(too_short(head));
    }
    Ok(length)
}

/// Where the backing file's name is, if there is one.
fn backing_range(
    head: &[u8],
    length: usize,
    cluster_size: usize,
) -> Result<Option<std::ops::Range<usize>>> {
    let (offset, len) = (field::be64(head, 8)?, field::be32(head, 16)?);
    if offset == 0 {
        return Ok(None);
    }
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    if start < length || start >= cluster_size {
        let text = format!(
            "the backing file's name lies at {offset}, expected {length} to {cluster_size}"
        );
        return Err(broken(Kind::Corrupt, 8, text));
    }
    let room = u32::try_from(cluster_size - start).unwrap_or(u32::MAX);
    let most = room.min(MAX_BACKING_NAME);
    if len == 0 || len > most {
        let text = format!("the backing file's name has {len} bytes, expected 1 to {most}");
        return Err(broken(Kind::Corrupt, 16, text));
    }
    Ok(Some(start..start + len as usize))
}

fn slice(head: &[u8], range: std::ops::Range<usize>) -> Result<Vec<u8>> {
    let start = range.start as u64;
    head.get(range).map(<[u8]>::to_vec).ok_or_else(|| {
        let text = "the file ends inside the backing file's name";
        broken(Kind::Truncated, start, text)
    })
}

fn refuse_encrypted(method: u32) -> Result<()> {
    let (kind, text) = match method {
        0 => return Ok(()),
        1 => (Kind::Encrypted, "the image is encrypted (AES)".into()),
        2 => (Kind::Encrypted, "the image is encrypted (LUKS)".into()),
        _ => {
            let text = format!("crypt_method is {method}, expected 0 to 2");
            (Kind::Unsupported, text)
        }
    };
    Err(broken(kind, 32, text))
}

fn refcount_order(head: &[u8], version: u32) -> Result<u32> {
    let order = match version {
        2 => 4,
        _ => field::be32(head, 96)?,
    };
    if order > 6 {
        let text = format!("refcount_order is {order}, expected 0 to 6");
        return Err(broken(Kind::Corrupt, 96, text));
    }
    Ok(order)
}

fn compression(head: &[u8], length: usize, features: Features) -> Result<Compression> {
    let kind = if length > V3_LEN { head[V3_LEN] } else { 0 };
    let announced = features.has(features::COMPRESSION);
    match (kind, announced) {
        (0, false) => Ok(Compression::Zlib),
        (1, true) => Ok(Compression::Zstd),
        (_, false) | (0, true) => {
            let text = format!(
                "compression_type is {kind}, but incompatible bit 3 (compression type) is {}",
                u8::from(announced)
            );
            Err(broken(Kind::Corrupt, V3_LEN as u64, text))
        }
        _ => {
            let text = format!("compression_type is {kind}, expected 0 (zlib) or 1 (zstd)");
            Err(broken(Kind::Unsupported, V3_LEN as u64, text))
        }
    }
}
