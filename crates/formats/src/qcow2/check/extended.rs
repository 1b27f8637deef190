//! Telling an image with extended L2 entries from a standard one whose feature bit was flipped.
//!
//! Read as extended entries, standard ones pair up: every other entry becomes a bitmap of
//! subclusters, and the data of whole clusters silently reads as zeros. Nothing in the tables is
//! against the rules then, so two signs together decide: not one bitmap looks as a writer of
//! extended entries would leave it, and clusters that nothing of is allocated hold data. Images
//! made with `preallocation=metadata` show the first sign, but their unwritten clusters are zeros.

use crate::qcow2::Qcow2;
use crate::qcow2::tables::index_of;
use carreto_block::SourceExt as _;
use carreto_error::{Error, Kind, Result};

/// Clusters that are looked into at most.
const MAX_SUSPECTS: usize = 16;
/// Bytes of each.
const SAMPLE: u64 = 64 << 10;

/// What the bitmaps of an image look like so far.
#[derive(Debug, Default)]
pub(super) struct Plausibility {
    /// A bitmap that no standard entry could be.
    genuine: bool,
    /// Host clusters with parts that are neither allocated nor zero, as offset and length of the
    /// first such part, and where the entry is.
    suspects: Vec<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    offset: u64,
    len: u64,
    entry_at: u64,
}

impl Plausibility {
    /// Takes an entry with a host cluster at `offset` into account.
    pub(super) fn add(&mut self, image: &Qcow2, offset: u64, bitmap: u64, entry_at: u64) {
        if bitmap != 0 && !looks_standard(image, bitmap) {
            self.genuine = true;
            self.suspects.clear();
        }
        if self.genuine || self.suspects.len() >= MAX_SUSPECTS {
            return;
        }
        let unused = !(low(bitmap) | low(bitmap >> 32));
        if unused == 0 {
            return;
        }
        let size = image.layout.subcluster_size();
        let first = unused.trailing_zeros();
        let run = (unused >> first).trailing_ones();
        self.suspects.push(Suspect {
            offset: offset + u64::from(first) * size,
            len: (u64::from(run) * size).min(SAMPLE),
            entry_at,
        });
    }

    /// Looks into the suspects.
    ///
    /// # Errors
    /// `Corrupt` when one holds data; what reading meets.
    pub(super) async fn verdict(self, image: &Qcow2) -> Result<()> {
        if self.genuine {
            return Ok(());
        }
        for suspect in self.suspects {
            let Some(file) = image.files.last() else {
                return Ok(());
            };
            let end = (suspect.offset + suspect.len).min(file.size());
            let len = index_of(end.saturating_sub(suspect.offset));
            let bytes = file.read_vec(suspect.offset, len).await?;
            if bytes.iter().any(|byte| *byte != 0) {
                let text = format!(
                    "the feature bit for extended L2 entries is set, but the tables look standard: \
                     the cluster at {} holds data and no subcluster of it is allocated",
                    suspect.offset
                );
                return Err(Error::new(Kind::Corrupt, text)
                    .during("check the L2 tables")
                    .offset(suspect.entry_at));
            }
        }
        Ok(())
    }
}

/// Whether a bitmap could be a standard entry for a cluster of this file.
fn looks_standard(image: &Qcow2, bitmap: u64) -> bool {
    const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
    let layout = &image.layout;
    let offset = bitmap & OFFSET;
    let compressed = bitmap >> 62 == 1;
    let standard =
        bitmap & !(OFFSET | 1 << 63) == 0 && offset.is_multiple_of(layout.cluster_size());
    compressed || (standard && offset != 0 && offset < layout.data_size)
}

fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(0)
}
