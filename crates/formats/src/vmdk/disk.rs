//! A VMDK as a source: its extents one behind the other.

use super::cache::Cache;
use super::check;
use super::flat::Flat;
use super::sparse::{Answer, Sparse};
use crate::{CheckReport, Image, ImageInfo, Limits};
use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, Placement, ReadHint, Source, SourceExt as _, Stamp, fetch_range,
};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;

/// How an extent is stored.
#[derive(Debug)]
pub(super) enum Body {
    /// It reads as zeros.
    Zero,
    Flat(Flat),
    Sparse(Box<Sparse>),
}

/// An extent and the guest bytes it holds.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) range: ByteRange,
    pub(super) body: Body,
}

/// The parts of an image while they are being opened.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) files: Vec<Arc<dyn Source>>,
    pub(super) pieces: Vec<Piece>,
    pub(super) cache: Arc<Cache>,
    /// Guest bytes so far.
    pub(super) size: u64,
}

impl Parts {
    pub(super) fn new() -> Self {
        Self { files: Vec::new(), pieces: Vec::new(), cache: Arc::new(Cache::new()), size: 0 }
    }

    /// Appends an extent of `len` bytes.
    pub(super) fn push(&mut self, len: u64, body: Body) -> Result<()> {
        let range = ByteRange::from_len(self.size, len)
            .ok_or_else(|| Error::new(Kind::Limit, "the disk is larger than 64 bits can count"))?;
        self.size = range.end();
        self.pieces.push(Piece { range, body });
        Ok(())
    }

    /// The grain size, if all sparse extents have the same.
    pub(super) fn grain(&self) -> Option<u64> {
        let mut grains = self.pieces.iter().filter_map(|piece| match &piece.body {
            Body::Sparse(sparse) => Some(sparse.tables.layout.grain),
            _ => None,
        });
        let first = grains.next()?;
        grains.all(|grain| grain == first).then_some(first)
    }
}

/// An image without its parents.
#[derive(Debug)]
pub(super) struct Disk {
    name: String,
    info: ImageInfo,
    files: Vec<Arc<dyn Source>>,
    pieces: Vec<Piece>,
    absent: Placement,
}

impl Disk {
    /// Puts the parts together. What no extent has comes from the parent where there is one.
    pub(super) fn new(name: String, info: ImageInfo, parts: Parts, has_parent: bool) -> Self {
        Self {
            name,
            info,
            files: parts.files,
            pieces: parts.pieces,
            absent: if has_parent { Placement::Absent } else { Placement::Zero },
        }
    }

    async fn map_piece(
        &self,
        piece: &Piece,
        range: ByteRange,
        limit: usize,
        list: &mut Vec<Extent>,
    ) -> Result<()> {
        let base = piece.range.start();
        let mut answer = Answer { list, limit, base, absent: self.absent };
        let own = ByteRange::new(range.start() - base, range.end() - base)
            .ok_or_else(|| Error::new(Kind::Internal, "a piece runs backwards"))?;
        match &piece.body {
            Body::Zero => answer.push(own, Placement::Zero),
            Body::Flat(flat) => flat.map(own, &mut answer).await,
            Body::Sparse(sparse) => sparse.map(own, &mut answer).await,
        }
    }
}

#[async_trait]
impl Source for Disk {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.info.virtual_size
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        let mut todo = self.check_range(range.start(), range.len())?;
        let limit = limit.max(1);
        let mut list = Vec::new();
        let first = self.pieces.partition_point(|piece| piece.range.end() <= range.start());
        for piece in &self.pieces[first..] {
            let (here, after) = todo.split_at(piece.range.end());
            if here.is_empty() {
                break;
            }
            self.map_piece(piece, here, limit, &mut list).await?;
            let covered = list.last().map_or(range.start(), |last| last.range.end());
            if list.len() >= limit || covered != here.end() {
                break;
            }
            todo = after;
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        fetch_range(self, offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn hint(&self) -> ReadHint {
        self.files.first().map_or(ReadHint::LOCAL, |file| file.hint())
    }

    async fn stamp(&self) -> Result<Stamp> {
        Stamp::of_files(&self.files).await
    }
}

#[async_trait]
impl Image for Disk {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    async fn check(&self, limits: &Limits) -> Result<CheckReport> {
        check::disk(&self.pieces, limits).await
    }
}
