//! One memory budget for everything in flight: it blocks and never grows.

use carreto_block::{ALIGNMENT, AlignedBuf};
use carreto_error::{Error, Kind, Result};
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
}

/// Idle buffers that are kept for reuse.
const KEEP: usize = 64;

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Self {
        let total = usize::try_from(bytes).unwrap_or(usize::MAX) / ALIGNMENT;
        let total = total.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let shared =
            Shared { pages: Arc::new(Semaphore::new(total)), total, idle: Mutex::default() };
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
        let pages = (first.div_ceil(ALIGNMENT) + second.div_ceil(ALIGNMENT)).min(self.shared.total);
        let wanted = u32::try_from(pages).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.shared.pages).acquire_many_owned(wanted).await;
        let permit = permit
            .map_err(|closed| Error::new(Kind::Internal, "the budget closed").caused_by(closed))?;
        let lease = Lease {
            buffer: Some(self.buffer(first)?),
            shared: Arc::clone(&self.shared),
            _permit: permit,
        };
        Ok((lease, self.buffer(second)?))
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

/// A lent buffer, and the share of the budget that goes back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    buffer: Option<AlignedBuf>,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
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
        if let Some(buffer) = self.buffer.take() {
            self.recycle(buffer);
        }
    }
}
