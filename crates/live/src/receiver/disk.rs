//! One target and what is known of it.

use super::head::{HEAD, Head};
use super::journal::Journal;
use super::violation;
use crate::granule::{GRANULE, GranuleSet, bytes_of, granules_in};
use crate::ledger::{Known, Leaf, Ledger, PAGE};
use crate::wire::{Knowledge, LedgerPage};
use async_trait::async_trait;
use carreto_block::{ByteRange, Source, Target};
use carreto_error::{Error, Kind, Result};
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Opens targets by the names that the configuration gives them.
#[async_trait]
pub trait Targets: Send + Sync + Debug {
    /// Looks at `target`. Changes nothing. What is open through [`Self::open`] is no problem for
    /// being in use.
    ///
    /// Cancel safe.
    async fn look(&self, target: &str) -> Look;

    /// Opens `target` for this process alone; makes a missing file of `size` bytes.
    ///
    /// # Errors
    /// What opening it meets; `TargetTooSmall`.
    async fn open(&self, target: &str, size: u64) -> Result<OpenedTarget>;
}

/// What is to be seen of a target without opening it.
#[derive(Debug, Default)]
pub struct Look {
    /// Bytes; `None` while it does not exist.
    pub size: Option<u64>,
    /// Bytes that the file system of a file can hold for it, with what it takes already; `None`
    /// for what is no file.
    pub free: Option<u64>,
    /// Why it cannot be used.
    pub problem: Option<Error>,
}

impl Look {
    /// At a target that cannot be used because of `problem`.
    pub fn failed(problem: Error) -> Self {
        Self { problem: Some(problem), ..Self::default() }
    }
}

/// A target that is open for writing.
#[derive(Debug)]
pub struct OpenedTarget {
    /// The target.
    pub target: Arc<dyn Target>,
    /// Names it, however it is reached.
    pub identity: String,
    /// A text that changes when writes that were not flushed may have been lost.
    pub trusted_while: String,
}

/// One disk of a migration.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) number: u16,
    /// As the configuration calls it.
    pub(super) target_name: String,
    target: Arc<dyn Target>,
    size: u64,
    head: Head,
    book: Mutex<Book>,
    reader: tokio::sync::Mutex<Option<Arc<dyn Source>>>,
    pub(super) knowledge: Mutex<Knowledge>,
    /// A flush failed: what was written since the last good one may be gone.
    lost: AtomicBool,
}

/// What is known of the content, in memory and in the file.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) ledger: Ledger,
    pub(super) journal: Journal,
    /// Written since it was last read back.
    pub(super) written: GranuleSet,
}

/// What makes a [`Disk`].
pub(super) struct Parts {
    pub(super) number: u16,
    pub(super) target_name: String,
    pub(super) target: Arc<dyn Target>,
    pub(super) head: Head,
    pub(super) ledger: Ledger,
    pub(super) journal: Journal,
    pub(super) knowledge: Knowledge,
}

impl Disk {
    /// Everything that is known was not read back by this process yet.
    pub(super) fn new(parts: Parts) -> Self {
        let size = parts.ledger.size();
        let mut written = GranuleSet::full(granules_in(size));
        written.subtract(&parts.ledger.unknown_set());
        Self {
            number: parts.number,
            target_name: parts.target_name,
            target: parts.target,
            size,
            head: parts.head,
            book: Mutex::new(Book { ledger: parts.ledger, journal: parts.journal, written }),
            reader: tokio::sync::Mutex::default(),
            knowledge: Mutex::new(parts.knowledge),
            lost: AtomicBool::new(false),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    pub(super) fn target(&self) -> &dyn Target {
        self.target.as_ref()
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of `granule`.
    ///
    /// # Errors
    /// `Unavailable` when the disk has no such granule.
    pub(super) fn range(&self, granule: u64) -> Result<ByteRange> {
        let range = bytes_of(granule, self.size);
        if range.is_empty() {
            let text = format!("granule {granule} is past the end of disk {}", self.number);
            return Err(violation(text));
        }
        Ok(range)
    }

    /// Nothing is known of `start..end` until they were written.
    pub(super) fn forget(&self, start: u64, end: u64) -> Result<()> {
        let mut book = self.book();
        book.journal.forget(start, end)?;
        (start..end).for_each(|granule| book.ledger.forget(granule));
        Ok(())
    }

    /// The granules from `first` on were written and have this content.
    pub(super) fn remember(&self, first: u64, leaves: &[Leaf]) -> Result<()> {
        let mut book = self.sound_book()?;
        book.journal.set(first, leaves)?;
        for (granule, leaf) in (first..).zip(leaves) {
            book.ledger.set(granule, Known::Leaf(*leaf));
        }
        book.written.insert_range(first, first + leaves.len() as u64);
        Ok(())
    }

    /// `start..end` were made zero.
    pub(super) fn remember_zeros(&self, start: u64, end: u64) -> Result<()> {
        let mut book = self.sound_book()?;
        book.journal.set_zero(start, end)?;
        (start..end).for_each(|granule| book.ledger.set(granule, Known::Zero));
        book.written.insert_range(start, end);
        Ok(())
    }

    /// Writes `data`, the head beside the target.
    ///
    /// Not cancel safe.
    pub(super) async fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let kept = usize::try_from(self.head.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let (head, rest) = data.split_at(kept.min(data.len()));
        if !head.is_empty() {
            self.head.write(offset, head)?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.writable().await.write_at(offset + head.len() as u64, rest).await
    }

    /// Makes `range` zero, the head beside the target.
    ///
    /// Not cancel safe.
    pub(super) async fn zero(&self, range: ByteRange) -> Result<()> {
        let (head, rest) = range.split_at(self.head.len());
        if !head.is_empty() {
            let len = usize::try_from(head.len()).unwrap_or(0);
            self.head.write(head.start(), &vec![0; len])?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.writable().await.write_zeroes(rest).await
    }

    /// The target itself, with nothing in the way of writing.
    pub(super) async fn writable(&self) -> &dyn Target {
        self.make_room().await;
        self.target.as_ref()
    }

    /// Ends reading where nothing can be written meanwhile.
    async fn make_room(&self) {
        if self.is_exclusive() {
            self.reader.lock().await.take();
        }
    }

    /// Whether it is either read or written, and changing from one to the other takes long.
    pub(super) fn is_exclusive(&self) -> bool {
        self.target.is_exclusive()
    }

    /// Reads what was written, the head from beside the target.
    ///
    /// Cancel safe.
    pub(super) async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let kept = usize::try_from(self.head.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let kept = kept.min(buf.len());
        let (head, rest) = buf.split_at_mut(kept);
        if !head.is_empty() {
            self.head.read(offset, head)?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let reader = self.open_reader().await?;
        reader.read_at(offset + head.len() as u64, rest).await
    }

    async fn open_reader(&self) -> Result<Arc<dyn Source>> {
        let mut reader = self.reader.lock().await;
        if let Some(reader) = reader.as_ref() {
            return Ok(Arc::clone(reader));
        }
        self.flush_target().await?;
        Ok(Arc::clone(reader.insert(self.target.reader().await?)))
    }

    /// Makes everything durable and lets what is read from now on show it.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub(super) async fn flush_for_reading(&self) -> Result<()> {
        self.flush().await?;
        self.reader.lock().await.take();
        Ok(())
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// What flushing meets, and again at every later call: what was lost is not known, so the
    /// target has to be opened and read again.
    pub(super) async fn flush(&self) -> Result<()> {
        self.make_room().await;
        self.flush_target().await
    }

    async fn flush_target(&self) -> Result<()> {
        if self.is_lost() {
            return Err(self.lost());
        }
        let flushed = match self.head.flush() {
            Ok(()) => self.target.flush().await,
            Err(error) => Err(error),
        };
        if flushed.is_err() {
            let book = self.book();
            self.lost.store(true, Ordering::Release);
            book.journal.forget(0, granules_in(self.size))?;
        }
        flushed
    }

    /// The book, unless what was written may be gone.
    fn sound_book(&self) -> Result<MutexGuard<'_, Book>> {
        let book = self.book();
        if self.is_lost() {
            return Err(self.lost());
        }
        Ok(book)
    }

    fn lost(&self) -> Error {
        let text = "an earlier flush failed, so what the disk holds is not known";
        Error::new(Kind::Io, text).path(self.target.name())
    }

    /// Whether the disk has to be opened anew.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// The value of every page of the ledger.
    pub(super) fn page_values(&self) -> Vec<Option<Leaf>> {
        let mut book = self.book();
        (0..book.ledger.pages()).map(|page| book.ledger.page_value(page)).collect()
    }

    /// One page of the ledger.
    pub(super) fn page(&self, page: u64) -> Result<LedgerPage> {
        let book = self.book();
        if page >= book.ledger.pages() {
            return Err(violation(format!("disk {} has no page {page}", self.number)));
        }
        let end = (page * PAGE + PAGE).min(granules_in(self.size));
        let granules = (page * PAGE..end).map(|granule| book.ledger.get(granule)).collect();
        Ok(LedgerPage { disk: self.number, page, granules })
    }
}

/// Granules of the head.
pub(super) const HEAD_GRANULES: u64 = HEAD / GRANULE;
