//! The structure check: one walk over all tables of the disk that is read.
//!
//! Tables come first, so that whatever data overlaps them is found while L2 entries stream by.
//! L2 tables are read in batches, neighbours in one request, and nothing of them is kept: memory
//! is the L1 table and a few bits for each host cluster. Refcounts and other snapshots are not
//! needed to read the disk; their damage is a warning.

mod claims;
mod extended;
mod refcounts;

use super::Qcow2;
use super::entry::{COPIED, Cluster};
use super::header::TableRef;
use super::l2::Slice;
use super::snapshot;
use super::tables::{BATCH_BYTES, BATCH_PIECES, Piece, read_pieces};
use crate::pace::Pace;
use crate::repeats::Repeats;
use crate::{CheckReport, Limits, Warning};
use carreto_error::{Error, Kind, Result};
use claims::{Claims, Use};
use extended::Plausibility;

/// Walks all metadata of `image`; see [`crate::Image::check`].
pub(super) async fn check(image: &Qcow2, limits: &Limits) -> Result<CheckReport> {
    let mut warnings = Vec::new();
    let mut claims = Claims::new(&image.layout, limits);
    let mut refcounts = None;
    if let Some(claims) = &mut claims {
        claim_first_tables(image, claims);
        refcounts = refcounts::read(image, claims, &mut warnings).await?;
    } else {
        let text = "the image has too many clusters for the memory limit: \
             overlaps were not looked for";
        warnings.push(Warning::new("overlaps_unchecked", text));
    }
    check_snapshots(image, claims.as_mut(), limits, &mut warnings).await?;
    let l1 = image.tables.l1(image.file()).await?;
    let mut walk = Walk::new(image, claims);
    walk.claim_l2_tables(l1)?;
    walk.l2_tables(l1).await?;
    let allocated = walk.allocated;
    let claims = walk.finish(&mut warnings).await?;
    if let (Some(refcounts), Some(claims)) = (refcounts, claims) {
        let stale = image.header.features.has(super::features::DIRTY);
        if !stale {
            refcounts.compare(image, &claims, &mut warnings).await?;
        }
    }
    // What a raw data file holds is not in the tables.
    let allocated_size = (!image.raw_data).then_some(allocated);
    Ok(CheckReport { allocated_size, warnings })
}

/// The header and the L1 table, which opening the image has kept apart.
fn claim_first_tables(image: &Qcow2, claims: &mut Claims) {
    claims.metadata(0, image.layout.cluster_size());
    claim_table(claims, image.l1);
}

fn claim_table(claims: &mut Claims, table: TableRef) -> bool {
    let len = u64::from(table.entries) * 8;
    len == 0 || claims.metadata(table.offset, len)
}

/// Claims the snapshot table and the L1 tables it points at, if all of it can be believed.
async fn check_snapshots(
    image: &Qcow2,
    claims: Option<&mut Claims>,
    limits: &Limits,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    let header = &image.header;
    let mut tables = Vec::new();
    let mut bad_l1 = 0u32;
    let walked = snapshot::walk(image.file(), header, limits, |found| {
        let size = found.disk_size(header.virtual_size);
        let fits = header.check_l1_of(found.l1, size, image.layout.file_size, limits);
        match fits {
            Ok(()) => tables.push(found.l1),
            Err(_) => bad_l1 += 1,
        }
        true
    })
    .await;
    let end = match walked {
        Ok(end) => end,
        Err(error) if is_damage(error.kind()) => {
            let text = format!("the snapshots cannot be read: {}", error.detail());
            warnings.push(Warning::new("snapshot_damage", text).offset(header.snapshots.offset));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let Some(claims) = claims else {
        return Ok(());
    };
    let TableRef { offset, entries } = header.snapshots;
    let own = |table: &TableRef| table.offset == image.l1.offset;
    let fits = bad_l1 == 0 && (entries == 0 || claims.metadata(offset, end - offset));
    // Tables that overlap are damage enough: claiming them all could take forever.
    let mut tables = tables.iter().filter(|table| !own(table));
    let fits = fits && tables.all(|table| claim_table(claims, *table));
    if !fits {
        let text = "L1 tables of snapshots, or the snapshot table, lie where they cannot";
        warnings.push(Warning::new("snapshot_damage", text).offset(offset));
    }
    Ok(())
}

const fn is_damage(kind: Kind) -> bool {
    matches!(kind, Kind::Corrupt | Kind::Truncated | Kind::Limit)
}

/// The state of the walk over L2 tables.
struct Walk<'a> {
    image: &'a Qcow2,
    claims: Option<Claims>,
    allocated: u64,
    repeats: Repeats,
    shared: Odd,
    copied: Odd,
    flags: Odd,
    plausibility: Plausibility,
}

/// Something odd that can happen often: how often, and where first.
#[derive(Debug, Default)]
struct Odd {
    count: u64,
    first: u64,
}

impl Odd {
    fn add(&mut self, offset: u64) {
        if self.count == 0 {
            self.first = offset;
        }
        self.count += 1;
    }

    fn report(&self, code: &'static str, what: &str, warnings: &mut Vec<Warning>) {
        if self.count > 0 {
            let text = format!("{} {what}", self.count);
            warnings.push(Warning::new(code, text).offset(self.first));
        }
    }
}

impl<'a> Walk<'a> {
    fn new(image: &'a Qcow2, claims: Option<Claims>) -> Self {
        let clusters = image.layout.virtual_size >> image.layout.cluster_bits;
        Self {
            image,
            claims,
            allocated: 0,
            repeats: Repeats::new(clusters, image.layout.cluster_size()),
            shared: Odd::default(),
            copied: Odd::default(),
            flags: Odd::default(),
            plausibility: Plausibility::default(),
        }
    }

    fn claim_l2_tables(&mut self, l1: &[u64]) -> Result<()> {
        let layout = &self.image.layout;
        let at = |index: usize| self.image.l1.offset + index as u64 * 8;
        let place = |error: Error, index| error.during("check the L1 table").offset(at(index));
        let taken = |entry: u64, index| {
            let text = format!("the L1 entry {entry:#018x} points at the header or another table");
            Err(place(Error::new(Kind::Corrupt, text), index))
        };
        let count = if self.claims.is_some() { 0 } else { l1.iter().filter(|e| **e != 0).count() };
        let mut tables = Vec::with_capacity(count);
        for (index, entry) in l1.iter().enumerate() {
            let Some(table) = layout.l2_table(*entry).map_err(|error| place(error, index))? else {
                if *entry != 0 {
                    self.flags.add(at(index));
                }
                continue;
            };
            let size = layout.cluster_size();
            match self.claims.as_mut().map(|claims| claims.metadata(table, size)) {
                Some(true) => {}
                Some(false) => return taken(*entry, index),
                None => tables.push(table),
            }
        }
        // Without claims at least no table may be walked twice.
        tables.sort_unstable();
        let Some(pair) = tables.windows(2).find(|pair| pair[0] == pair[1]) else {
            return Ok(());
        };
        let index = l1.iter().position(|entry| layout.l2_table(*entry).ok() == Some(Some(pair[0])));
        taken(pair[0], index.unwrap_or(0))
    }

    async fn l2_tables(&mut self, l1: &[u64]) -> Result<()> {
        let size = self.image.layout.virtual_size;
        let mut pace = Pace::default();
        let mut guest = 0;
        while guest < size {
            let mut batch: Vec<Slice> = Vec::new();
            let mut bytes = 0;
            while guest < size && batch.len() < BATCH_PIECES && bytes < BATCH_BYTES {
                guest = match self.image.tables.locate(l1, guest)? {
                    Ok(slice) => {
                        bytes += slice.piece.len;
                        batch.push(slice);
                        slice.guest.end()
                    }
                    Err(hole_end) => hole_end,
                };
            }
            let pieces: Vec<Piece> = batch.iter().map(|slice| slice.piece).collect();
            let words = read_pieces(self.image.file(), &pieces).await?;
            for (slice, words) in batch.iter().zip(&words) {
                self.slice(slice, words)?;
                pace.step(words.len() as u64).await;
            }
            self.repeats.verdict()?;
        }
        Ok(())
    }

    fn slice(&mut self, slice: &Slice, words: &[u64]) -> Result<()> {
        let layout = self.image.layout;
        let width = layout.entry_words();
        let (mut guest, end) = (slice.guest.start(), slice.guest.end());
        for (index, entry) in words.chunks_exact(width).enumerate() {
            if guest >= end {
                break;
            }
            let bitmap = if width == 2 { entry[1] } else { 0 };
            if entry[0] | bitmap != 0 {
                let at = slice.piece.offset + (index * width * 8) as u64;
                let place = |error: Error| error.during("check an L2 table").offset(at);
                let cluster = self.image.cluster(guest, entry[0], bitmap).map_err(place)?;
                self.cluster(guest, cluster, (entry[0], bitmap), at).map_err(place)?;
            }
            guest += layout.cluster_size();
        }
        Ok(())
    }

    fn cluster(
        &mut self,
        guest: u64,
        cluster: Cluster,
        (entry, bitmap): (u64, u64),
        at: u64,
    ) -> Result<()> {
        let layout = &self.image.layout;
        let visible = layout.cluster_size().min(layout.virtual_size - guest);
        match cluster {
            Cluster::Unallocated | Cluster::Zero { reserved: None } => return Ok(()),
            Cluster::Zero { reserved: Some(offset) } => {
                self.host_cluster((guest, offset), (entry, bitmap), at)?;
            }
            Cluster::Plain { offset } => {
                self.allocated += visible;
                self.host_cluster((guest, offset), (entry, bitmap), at)?;
            }
            Cluster::Sub { offset, data, .. } => {
                let used = u64::from(data.count_ones()) * layout.subcluster_size();
                self.allocated += used.min(visible);
                if offset != 0 || data != 0 {
                    self.host_cluster((guest, offset), (entry, bitmap), at)?;
                }
            }
            Cluster::Compressed { offset, len } => {
                self.allocated += visible;
                if entry & COPIED != 0 {
                    self.copied.add(at);
                }
                self.repeats.add(offset);
                let inside = len.min(layout.file_size.saturating_sub(offset));
                let found = self.claims.as_mut().map(|c| c.packed(offset, inside));
                self.judge(found, offset, at)?;
            }
        }
        Ok(())
    }

    fn host_cluster(
        &mut self,
        (guest, offset): (u64, u64),
        (entry, bitmap): (u64, u64),
        at: u64,
    ) -> Result<()> {
        if self.image.raw_data && offset != guest {
            let text = format!(
                "the entry points at {offset} of the data file, which is said to be a raw image \
                 and so has these bytes at {guest}"
            );
            return Err(Error::new(Kind::Corrupt, text));
        }
        if self.image.layout.extended && entry >> 62 & 1 == 0 {
            self.plausibility.add(self.image, offset, bitmap, at);
        }
        self.repeats.add(offset);
        let found = self.claims.as_mut().map(|claims| claims.plain(offset));
        self.judge(found, offset, at)
    }

    fn judge(&mut self, found: Option<Use>, offset: u64, at: u64) -> Result<()> {
        match found {
            None | Some(Use::Free) => Ok(()),
            Some(Use::Data) => {
                self.shared.add(at);
                Ok(())
            }
            Some(Use::Metadata) => {
                let text = format!("the entry points at {offset}, where metadata is");
                Err(Error::new(Kind::Corrupt, text))
            }
        }
    }

    /// Says what was odd and hands the claims back.
    async fn finish(self, warnings: &mut Vec<Warning>) -> Result<Option<Claims>> {
        self.plausibility.verdict(self.image).await?;
        let what = "L2 entries point at host clusters that others point at";
        self.shared.report("shared_cluster", what, warnings);
        let what = "compressed clusters have the flag for a refcount of one";
        self.copied.report("copied_flag", what, warnings);
        let what = "L1 entries have the flag for a refcount of one, but no table";
        self.flags.report("l1_flag", what, warnings);
        Ok(self.claims)
    }
}
