//! An export as a source.

use super::assembly::Assembly;
use super::connection::Request;
use super::export::Export;
use super::wire::{CMD_BLOCK_STATUS, CMD_READ, violation};
use super::{NbdAddress, NbdOptions};
use crate::StoreObserver;
use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, LocalRead, Placement, ReadHint, Source, SourceExt as _, Stamp,
};
use carreto_error::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::sync::Arc;

/// What one block status asks about at most, in bytes.
const STATUS_SPAN: u64 = 1 << 30;
/// Requests of one read that are under way at once.
const PARALLEL: usize = 8;

/// An export that is read.
///
/// A connection that breaks is opened again, and the read repeated. The protocol has no mark by
/// which a change of the disk could be noticed: whoever exports it must keep it still.
#[derive(Debug)]
pub struct NbdSource {
    pub(super) export: Arc<Export>,
}

impl NbdSource {
    /// Connects to `address`.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NotFound` when there is no such socket or export, `Denied`, `Unsupported` when the server
    /// insists on TLS or speaks an older protocol, `Unavailable` when it cannot be reached.
    pub async fn open(
        address: NbdAddress,
        options: NbdOptions,
        observer: Arc<dyn StoreObserver>,
    ) -> Result<Self> {
        Ok(Self { export: Arc::new(Export::open(address, options, observer).await?) })
    }

    /// The same text for the same export, whatever it is called here.
    pub fn identity(&self) -> String {
        self.export.address.identity()
    }

    async fn read_piece(&self, offset: u64, len: u32) -> Result<Vec<u8>> {
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        let request = || Request {
            command: CMD_READ,
            flags: 0,
            offset,
            len,
            payload: Vec::new(),
            wanted: Assembly::bytes(offset, size),
        };
        match self.export.call_again(request).await? {
            Assembly::Bytes { bytes, .. } => Ok(bytes),
            _ => Err(violation("another reply than to a read")),
        }
    }

    /// What is zero in the first part of `range`.
    async fn status(&self, range: ByteRange) -> Result<Vec<Extent>> {
        let asked = self.export.aligned(range.take(STATUS_SPAN));
        let request = || Request {
            command: CMD_BLOCK_STATUS,
            flags: 0,
            offset: asked.start(),
            len: u32::try_from(asked.len()).unwrap_or(u32::MAX),
            payload: Vec::new(),
            wanted: Assembly::status(),
        };
        let Assembly::Status { pieces, .. } = self.export.call_again(request).await? else {
            return Err(violation("another reply than to a block status"));
        };
        let (mut at, mut extents) = (asked.start(), Vec::new());
        for (len, zero) in pieces {
            let end = at.saturating_add(len).min(self.size());
            let placement = if zero { Placement::Zero } else { Placement::Opaque };
            let piece = ByteRange::new(at, end).map(|piece| Extent::new(piece, placement));
            extents.extend(piece.and_then(|extent| extent.clip(range)));
            at = end;
        }
        if extents.is_empty() {
            let text = format!("a block status that ends before byte {}", range.start());
            return Err(violation(text).path(&self.export.name).offset(asked.start()));
        }
        Ok(extents)
    }
}

#[async_trait]
impl Source for NbdSource {
    fn name(&self) -> &str {
        &self.export.name
    }

    fn size(&self) -> u64 {
        self.export.agreed.size
    }

    async fn extents(&self, range: ByteRange, _limit: usize) -> Result<Vec<Extent>> {
        let range = self.check_range(range.start(), range.len())?;
        match self.export.agreed.allocation {
            _ if range.is_empty() => Ok(Vec::new()),
            Some(_) => self.status(range).await,
            None => Ok(vec![Extent::new(range, Placement::Opaque)]),
        }
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = self.check_range(offset, buf.len() as u64)?;
        let whole = self.export.aligned(range);
        let reads = self
            .export
            .pieces(whole)
            .map(|(at, len)| async move { Ok((at, self.read_piece(at, len).await?)) });
        let mut reads = stream::iter(reads).buffered(PARALLEL);
        while let Some((at, bytes)) = reads.try_next().await? {
            let Some(piece) = ByteRange::from_len(at, bytes.len() as u64) else {
                continue;
            };
            let wanted = piece.intersect(range);
            let index = |from: u64, to: u64| usize::try_from(to - from).unwrap_or(usize::MAX);
            let len = index(wanted.start(), wanted.end());
            let (to, from) = (index(offset, wanted.start()), index(at, wanted.start()));
            buf[to..to + len].copy_from_slice(&bytes[from..from + len]);
        }
        Ok(())
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &[]
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        None
    }

    fn hint(&self) -> ReadHint {
        ReadHint::REMOTE
    }

    async fn stamp(&self) -> Result<Stamp> {
        Ok(Stamp(format!("nbd {} {}", self.name(), self.size())))
    }
}
