//! One memory budget for everything in flight: it blocks and never grows.

use carreto_block::{ALIGNMENT, AlignedBuf};
use carreto_error::{Error, Kind, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory for work items: a number of bytes that are lent and given back.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pages: Arc<Semaphore>,
    total: usize,
    /// Buffers that came back, kept because fresh memory costs page faults.
    idle: Mutex<Vec<AlignedBuf>>,
    /// Bytes lent now, and the most that ever were.
    lent: AtomicU64,
    peak: AtomicU64,
}

/// Idle buffers that are kept for reuse.
const KEEP: usize = 64;

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Self {
        let total = usize::try_from(bytes).unwrap_or(usize::MAX) / ALIGNMENT;
        let total = total.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let shared = Shared {
            pages: Arc::new(Semaphore::new(total)),
            total,
            idle: Mutex::default(),
            lent: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits until `first` and `second` bytes are free together, and lends a buffer of each size.
    /// The content of the buffers is unspecified.
    ///
    /// A wish larger than the whole budget gets the whole budget accounted, so that a single
    /// item always goes through; its size is bounded by the caller. Cancel safe and fair.
    ///
    /// # Errors
    /// `Limit` when the system has not that much memory.
    pub async fn lend(&self, first: usize, second: usize) -> Result<(Lease, AlignedBuf)> {
        let permit = self.take(pages(first) + pages(second)).await?;
        Ok((self.lease(first, second, Arc::new(permit))?, self.buffer(second)?))
    }

    /// [`Self::lend`] for two items that are needed together: waits for both at once, so that
    /// nobody holds one while waiting for the other. Cancel safe and fair.
    ///
    /// # Errors
    /// As [`Self::lend`].
    pub(crate) async fn lend_pair(&self, wishes: [(usize, usize); 2]) -> Result<[Lent; 2]> {
        let [one, two] = wishes.map(|(first, second)| pages(first) + pages(second));
        // Shared, so that where both exceed the budget neither gives back what covers the other.
        let permit = Arc::new(self.take(one + two).await?);
        let [(a, b), (c, d)] = wishes;
        let one = (self.lease(a, b, Arc::clone(&permit))?, self.buffer(b)?);
        Ok([one, (self.lease(c, d, permit)?, self.buffer(d)?)])
    }

    /// The most bytes that were lent at a time.
    pub fn peak(&self) -> u64 {
        self.shared.peak.load(Ordering::Relaxed)
    }

    async fn take(&self, pages: usize) -> Result<OwnedSemaphorePermit> {
        let wanted = u32::try_from(pages.min(self.shared.total)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.shared.pages).acquire_many_owned(wanted).await;
        permit.map_err(|closed| Error::new(Kind::Internal, "the budget closed").caused_by(closed))
    }

    fn lease(
        &self,
        first: usize,
        second: usize,
        permit: Arc<OwnedSemaphorePermit>,
    ) -> Result<Lease> {
        let buffer = Some(self.buffer(first)?);
        let bytes = (first + second) as u64;
        let lent = self.shared.lent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.shared.peak.fetch_max(lent, Ordering::Relaxed);
        Ok(Lease { buffer, bytes, shared: Arc::clone(&self.shared), _permit: permit })
    }

    fn buffer(&self, len: usize) -> Result<AlignedBuf> {
        if len == 0 {
            return AlignedBuf::zeroed(0);
        }
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &AlignedBuf| (len..=len.saturating_mul(4)).contains(&buffer.capacity());
        if let Some(at) = idle.iter().rposition(fits) {
            let mut buffer = idle.swap_remove(at);
            buffer.set_len(len)?;
            return Ok(buffer);
        }
        drop(idle);
        AlignedBuf::zeroed(len)
    }
}

/// A buffer that carries the share of the budget, and one beside it.
pub(crate) type Lent = (Lease, AlignedBuf);

fn pages(bytes: usize) -> usize {
    bytes.div_ceil(ALIGNMENT)
}

/// A lent buffer, and the share of the budget that goes back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    buffer: Option<AlignedBuf>,
    /// Bytes of both buffers that were asked for.
    bytes: u64,
    shared: Arc<Shared>,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Lease {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default()
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or_default()
    }

    /// Gives a second buffer back for reuse before the lease ends.
    pub(crate) fn recycle(&self, buffer: AlignedBuf) {
        if buffer.capacity() == 0 {
            return;
        }
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEEP {
            idle.push(buffer);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.lent.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(buffer) = self.buffer.take() {
            self.recycle(buffer);
        }
    }
}
