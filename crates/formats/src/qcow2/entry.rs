//! What L1 and L2 entries mean, and which of them are broken.
//!
//! Facts: qcow2 specification, "Cluster mapping", "Standard Cluster Descriptor", "Compressed
//! Clusters Descriptor" and "Extended L2 Entries". Reserved bits that are set are damage.

use super::features;
use super::header::Header;
use carreto_error::{Error, Kind, Result};

const COMPRESSED: u64 = 1 << 62;
/// Bit 63: the refcount is exactly one. Says nothing for reading, with one exception.
pub(super) const COPIED: u64 = 1 << 63;
const ZERO: u64 = 1;
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
const L1_RESERVED: u64 = 0x7F00_0000_0000_01FF;
const L2_RESERVED: u64 = 0x3F00_0000_0000_01FE;
/// Compressed lengths count in these units.
const SECTOR: u64 = 512;

/// What an L2 entry says about its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    /// The backing file decides.
    Unallocated,
    /// Zeros; a host cluster may be reserved for later writes.
    Zero { reserved: Option<u64> },
    /// In the data file, as it is.
    Plain { offset: u64 },
    /// In the image file, compressed; `len` may reach past the end of the file.
    Compressed { offset: u64, len: u64 },
    /// Every subcluster by itself: bit `i` of `data` and `zero` is subcluster `i`, neither means
    /// that the backing file decides.
    Sub { offset: u64, data: u32, zero: u32 },
}

/// The numbers that entries are interpreted and checked with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) cluster_bits: u32,
    /// Guest bytes of one L1 entry, as a power of two.
    pub(super) span_bits: u32,
    pub(super) extended: bool,
    version: u32,
    /// Guest clusters live in an external file.
    pub(super) data_file: bool,
    pub(super) virtual_size: u64,
    /// The size of the image file.
    pub(super) file_size: u64,
    /// The size of the file that guest clusters live in.
    pub(super) data_size: u64,
}

impl Layout {
    /// The layout of the disk of `virtual_size` bytes in an image of `file_size` bytes.
    pub(super) fn new(header: &Header, virtual_size: u64, file_size: u64, data_size: u64) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            span_bits: header.l1_span_bits(),
            extended: header.features.has(features::EXTENDED_L2),
            version: header.version,
            data_file: header.features.has(features::DATA_FILE),
            virtual_size,
            file_size,
            data_size,
        }
    }

    /// The bytes of a cluster.
    pub(super) const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The 64-bit words of an L2 entry.
    pub(super) const fn entry_words(&self) -> usize {
        if self.extended { 2 } else { 1 }
    }

    /// The bytes of a subcluster.
    pub(super) const fn subcluster_size(&self) -> u64 {
        self.cluster_size() / 32
    }

    /// The L2 table that an L1 entry points at, if it does: offset 0 is none, whatever the flag
    /// says.
    ///
    /// # Errors
    /// `Corrupt` or `Truncated`, without a place.
    pub(super) fn l2_table(&self, entry: u64) -> Result<Option<u64>> {
        let fail = |kind, what: &str| {
            let text = format!("the L1 entry {entry:#018x} {what}");
            Err(Error::new(kind, text))
        };
        if entry & L1_RESERVED != 0 {
            return fail(Kind::Corrupt, "has reserved bits set");
        }
        let offset = entry & OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        if !offset.is_multiple_of(self.cluster_size()) {
            return fail(Kind::Corrupt, "is not at a cluster boundary");
        }
        if offset + self.cluster_size() > self.file_size {
            return fail(Kind::Truncated, "points past the end of the file");
        }
        Ok(Some(offset))
    }

    /// What the L2 entry of the cluster at guest byte `guest` says. `bitmap` is the second word
    /// of an extended entry.
    ///
    /// # Errors
    /// `Corrupt` or `Truncated`, without a place.
    pub(super) fn cluster(&self, guest: u64, entry: u64, bitmap: u64) -> Result<Cluster> {
        let found = self.meaning(entry, bitmap);
        let visible = self.cluster_size().min(self.virtual_size.saturating_sub(guest));
        found.and_then(|cluster| self.place(cluster, visible).map(|()| cluster)).map_err(
            |(kind, what)| {
                let text = if self.extended {
                    format!("the L2 entry {entry:#018x} {bitmap:#018x} {what}")
                } else {
                    format!("the L2 entry {entry:#018x} {what}")
                };
                Error::new(kind, text)
            },
        )
    }

    fn meaning(&self, entry: u64, bitmap: u64) -> Result<Cluster, Problem> {
        if entry & COMPRESSED != 0 {
            return self.compressed(entry, bitmap);
        }
        if entry & L2_RESERVED != 0 {
            return corrupt("has reserved bits set");
        }
        let offset = entry & OFFSET;
        // Offset 0 of a data file is as good as any other; the flag tells it from "unallocated".
        let allocated = offset != 0 || (self.data_file && entry & COPIED != 0);
        if !allocated && entry & COPIED != 0 {
            return corrupt("points at the header");
        }
        if self.extended {
            return subclusters(entry, offset, allocated, bitmap);
        }
        match (entry & ZERO != 0, allocated) {
            (true, _) if self.version < 3 => corrupt("has the zero flag, which version 2 reserves"),
            (true, _) => Ok(Cluster::Zero { reserved: allocated.then_some(offset) }),
            (false, true) => Ok(Cluster::Plain { offset }),
            (false, false) => Ok(Cluster::Unallocated),
        }
    }

    fn compressed(&self, entry: u64, bitmap: u64) -> Result<Cluster, Problem> {
        if self.data_file {
            return corrupt("is compressed, which an external data file rules out");
        }
        if bitmap != 0 {
            return corrupt("is compressed and has a subcluster bitmap");
        }
        let offset_bits = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> offset_bits) + 1;
        let len = sectors * SECTOR - offset % SECTOR;
        Ok(Cluster::Compressed { offset, len })
    }

    /// Checks where a cluster is, of which the guest sees `visible` bytes.
    fn place(&self, cluster: Cluster, visible: u64) -> Result<(), Problem> {
        match cluster {
            Cluster::Unallocated
            | Cluster::Zero { reserved: None }
            | Cluster::Sub { offset: 0, data: 0, .. } => Ok(()),
            Cluster::Zero { reserved: Some(offset) } | Cluster::Sub { offset, data: 0, .. } => {
                self.aligned(offset)
            }
            Cluster::Plain { offset } => {
                self.aligned(offset)?;
                self.inside(offset + visible)
            }
            Cluster::Sub { offset, data, .. } => {
                self.aligned(offset)?;
                let used = u64::from(32 - data.leading_zeros()) * self.subcluster_size();
                self.inside(offset + used.min(visible))
            }
            Cluster::Compressed { offset, len } => {
                if offset < self.cluster_size() {
                    return corrupt("points into the header cluster");
                }
                // The last sector holds at least one byte of the data.
                let least = offset.max(offset + len - SECTOR) + 1;
                if least > self.file_size {
                    return truncated("points past the end of the file");
                }
                Ok(())
            }
        }
    }

    fn aligned(&self, offset: u64) -> Result<(), Problem> {
        if !offset.is_multiple_of(self.cluster_size()) {
            return corrupt("is not at a cluster boundary");
        }
        if offset < self.cluster_size() && !self.data_file {
            return corrupt("points into the header cluster");
        }
        Ok(())
    }

    fn inside(&self, end: u64) -> Result<(), Problem> {
        if end > self.data_size {
            let what = "points past the end of the external data file";
            return truncated(if self.data_file {
                what
            } else {
                "points past the end of the file"
            });
        }
        Ok(())
    }
}

type Problem = (Kind, &'static str);

fn corrupt<T>(what: &'static str) -> Result<T, Problem> {
    Err((Kind::Corrupt, what))
}

fn truncated<T>(what: &'static str) -> Result<T, Problem> {
    Err((Kind::Truncated, what))
}

fn subclusters(entry: u64, offset: u64, allocated: bool, bitmap: u64) -> Result<Cluster, Problem> {
    let zero = u32::try_from(bitmap >> 32).unwrap_or(0);
    let data = u32::try_from(bitmap & u64::from(u32::MAX)).unwrap_or(0);
    if entry & ZERO != 0 {
        return corrupt("has bit 0 set, which extended entries reserve");
    }
    if data & zero != 0 {
        return corrupt("calls a subcluster both allocated and zero");
    }
    match (allocated, data, zero) {
        (false, 0, 0) => Ok(Cluster::Unallocated),
        (false, 0, u32::MAX) => Ok(Cluster::Zero { reserved: None }),
        (false, 0, _) => Ok(Cluster::Sub { offset: 0, data: 0, zero }),
        (false, ..) => corrupt("has allocated subclusters but no cluster"),
        (true, u32::MAX, _) => Ok(Cluster::Plain { offset }),
        (true, _, u32::MAX) => Ok(Cluster::Zero { reserved: Some(offset) }),
        (true, ..) => Ok(Cluster::Sub { offset, data, zero }),
    }
}
