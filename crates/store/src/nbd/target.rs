//! An export as a target.

use super::assembly::Assembly;
use super::connection::Request;
use super::export::Export;
use super::wire::{
    CMD_FLUSH, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES, FLAG_FAST_ZERO, may_be_too_long,
};
use super::{NbdAddress, NbdOptions, NbdSource};
use crate::StoreObserver;
use async_trait::async_trait;
use carreto_block::{
    ByteRange, LocalWrite, Source, SourceExt as _, Target, TargetCaps, TargetExt as _,
};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Mutex;

/// Zeroed or trimmed by one request at most, in bytes.
const ZERO_SPAN: u64 = 1 << 30;
/// The same where the server writes the zeros one by one.
const SLOW_ZERO_SPAN: u64 = 32 << 20;
/// Written by one request at most where zeros have to be sent.
const ZERO_WRITE: u64 = 2 << 20;

/// An export that is written.
///
/// A connection that breaks is not opened again: what the server had not flushed may be lost, so
/// the target has failed, and a new run continues from what was flushed.
#[derive(Debug)]
pub struct NbdTarget {
    export: Arc<Export>,
    edges: Mutex<()>,
    /// The server says at once where zeroing is no faster than writing.
    fast: AtomicBool,
    /// Zeroed or trimmed by one request at most; less once the server found that too much.
    span: AtomicU64,
    /// Something was changed since the last flush.
    unflushed: AtomicBool,
}

impl NbdTarget {
    /// Connects to `address`.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`NbdSource::open`]; `TargetUnusable` when the export is read-only or cannot be
    /// flushed.
    pub async fn open(
        address: NbdAddress,
        options: NbdOptions,
        observer: Arc<dyn StoreObserver>,
    ) -> Result<Self> {
        let export = Arc::new(Export::open(address, options, observer).await?);
        let why = match &export.agreed {
            agreed if agreed.read_only() => "the export is read-only",
            agreed if !agreed.can_flush() => "the server cannot flush, so nothing is ever safe",
            agreed => {
                let fast = AtomicBool::new(agreed.can_zero_fast());
                let (edges, unflushed) = (Mutex::new(()), AtomicBool::new(false));
                let span = AtomicU64::new(ZERO_SPAN);
                return Ok(Self { export, edges, fast, span, unflushed });
            }
        };
        Err(Error::new(Kind::TargetUnusable, why)
            .path(&export.name)
            .remedied_by("export the disk writable, with a server that can flush"))
    }

    /// The same text for the same export, whatever it is called here.
    pub fn identity(&self) -> String {
        self.export.address.identity()
    }

    /// A connection broke: what was not flushed before may be lost, and nothing can be written
    /// any more.
    pub fn is_interrupted(&self) -> bool {
        self.export.is_interrupted()
    }

    async fn command(
        &self,
        (command, flags): (u16, u16),
        offset: u64,
        len: u32,
        payload: Vec<u8>,
    ) -> Result<()> {
        self.unflushed.store(true, Ordering::Release);
        let wanted = Assembly::Nothing;
        let request = Request { command, flags, offset, len, payload, wanted };
        self.export.call_unbroken(request).await.map(drop).map_err(|error| match error.kind() {
            Kind::Denied => {
                let text = "the server does not let the export be written";
                Error::new(Kind::TargetUnusable, text).or_path(&self.export.name).caused_by(error)
            }
            _ => error,
        })
    }

    /// Carries `command` out over `range`, in requests of `span` bytes. A server may find those
    /// too long, although they have no payload, and is asked again in requests as long as a write.
    async fn over(&self, command: (u16, u16), range: ByteRange, span: u64) -> Result<()> {
        let span = span.min(self.span.load(Ordering::Relaxed));
        let least = u64::from(self.export.agreed.max_block);
        match self.each(command, range, span).await {
            Err(error) if may_be_too_long(&error) && span.min(range.len()) > least => {
                self.each(command, range, least).await?;
                self.span.store(least, Ordering::Relaxed);
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn each(&self, command: (u16, u16), range: ByteRange, span: u64) -> Result<()> {
        for piece in range.chunks(span) {
            let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            self.command(command, piece.start(), len, Vec::new()).await?;
        }
        Ok(())
    }

    /// Zeroes whole blocks without sending zeros. The server may make holes of them.
    ///
    /// # Errors
    /// As [`Target::write_zeroes`]; `Unsupported` when the server cannot do this to this range.
    async fn zero_blocks(&self, range: ByteRange) -> Result<()> {
        if self.fast.load(Ordering::Relaxed) {
            let command = (CMD_WRITE_ZEROES, FLAG_FAST_ZERO);
            match self.over(command, range, ZERO_SPAN).await {
                Err(error) if error.kind() == Kind::Unsupported => {
                    self.fast.store(false, Ordering::Relaxed);
                }
                outcome => return outcome,
            }
        }
        self.over((CMD_WRITE_ZEROES, 0), range, SLOW_ZERO_SPAN).await
    }

    /// Whether `range` can be asked for as it is.
    fn is_aligned(&self, range: ByteRange) -> bool {
        self.export.aligned(range) == range
    }

    /// Writes whole blocks.
    async fn write_blocks(&self, range: ByteRange, data: &[u8]) -> Result<()> {
        let mut rest = data;
        for (at, len) in self.export.pieces(range) {
            let (now, later) = rest.split_at(usize::try_from(len).unwrap_or(rest.len()));
            rest = later;
            self.command((CMD_WRITE, 0), at, len, now.to_vec()).await?;
        }
        Ok(())
    }

    /// Writes parts of blocks: reads the blocks, changes them, and writes them back.
    async fn write_parts(&self, range: ByteRange, data: &[u8]) -> Result<()> {
        // Two writers of one block must not overtake each other.
        let _turn = self.edges.lock().await;
        let whole = self.export.aligned(range);
        let reader = NbdSource { export: Arc::clone(&self.export) };
        let len = usize::try_from(whole.len()).unwrap_or(usize::MAX);
        let mut blocks = reader.read_vec(whole.start(), len).await?;
        let start = usize::try_from(range.start() - whole.start()).unwrap_or(usize::MAX);
        blocks[start..start + data.len()].copy_from_slice(data);
        self.write_blocks(whole, &blocks).await
    }
}

#[async_trait]
impl Target for NbdTarget {
    fn name(&self) -> &str {
        &self.export.name
    }

    fn size(&self) -> u64 {
        self.export.agreed.size
    }

    fn caps(&self) -> TargetCaps {
        TargetCaps {
            alignment: self.export.agreed.min_block,
            known_zero: false,
            fast_zero: self.export.agreed.can_zero(),
            device: true,
        }
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = self.check_range(offset, data.len() as u64)?;
        if self.is_aligned(range) {
            self.write_blocks(range, data).await
        } else {
            self.write_parts(range, data).await
        }
    }

    async fn write_zeroes(&self, range: ByteRange) -> Result<()> {
        let range = self.check_range(range.start(), range.len())?;
        if self.export.agreed.can_zero() && self.is_aligned(range) {
            match self.zero_blocks(range).await {
                Err(error) if error.kind() == Kind::Unsupported => {}
                outcome => return outcome,
            }
        }
        for piece in range.chunks(ZERO_WRITE.min(u64::from(self.export.agreed.max_block))) {
            let zeros = vec![0; usize::try_from(piece.len()).unwrap_or(0)];
            self.write_at(piece.start(), &zeros).await?;
        }
        Ok(())
    }

    async fn discard(&self, range: ByteRange) -> Result<()> {
        let range = self.check_range(range.start(), range.len())?;
        let can = self.export.agreed.can_trim() && self.is_aligned(range);
        if can { self.over((CMD_TRIM, 0), range, ZERO_SPAN).await } else { Ok(()) }
    }

    async fn flush(&self) -> Result<()> {
        self.unflushed.store(false, Ordering::Release);
        let make = || Request {
            command: CMD_FLUSH,
            flags: 0,
            offset: 0,
            len: 0,
            payload: Vec::new(),
            wanted: Assembly::Nothing,
        };
        let flushed = self.export.flush(make).await;
        if flushed.is_err() {
            self.unflushed.store(true, Ordering::Release);
        }
        flushed
    }

    /// Reads over new connections what the server has. Those of the target end first, because
    /// some servers serve one client at a time.
    async fn reader(&self) -> Result<Arc<dyn Source>> {
        if self.unflushed.load(Ordering::Acquire) {
            self.flush().await?;
        }
        self.export.release().await;
        Ok(Arc::new(NbdSource { export: Arc::new(self.export.again().await?) }))
    }

    /// A server that does not promise that several clients see the same may take one only.
    fn is_exclusive(&self) -> bool {
        !self.export.agreed.can_multiply()
    }

    fn as_local(&self) -> Option<&dyn LocalWrite> {
        None
    }
}
