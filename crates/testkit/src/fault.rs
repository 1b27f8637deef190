//! Wrappers that fail on purpose.

use crate::MemTarget;
use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, LocalRead, LocalWrite, ReadHint, Source, Stamp, Target, TargetCaps,
};
use carreto_error::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// When a wrapped object fails: at the N-th operation, counted from 1 over all its methods.
#[derive(Debug)]
pub struct Fault {
    at: u64,
    kind: Kind,
    /// The operation that counts; all of them when absent.
    only: Option<&'static str>,
    done: AtomicU64,
}

impl Fault {
    /// Fails operation number `at`, once, with an error of `kind`.
    pub fn at(at: u64, kind: Kind) -> Arc<Self> {
        Arc::new(Self { at, kind, only: None, done: AtomicU64::new(0) })
    }

    /// Fails flush number `at`, counted from 1, once, with an error of `kind`.
    pub fn at_flush(at: u64, kind: Kind) -> Arc<Self> {
        Arc::new(Self { at, kind, only: Some("flush"), done: AtomicU64::new(0) })
    }

    /// Never fails; only counts.
    pub fn never() -> Arc<Self> {
        Self::at(u64::MAX, Kind::Internal)
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    fn check(&self, what: &str) -> Result<()> {
        if self.only.is_some_and(|only| only != what) {
            return Ok(());
        }
        let number = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        if number == self.at {
            return Err(Error::new(self.kind, format!("injected fault at {what}, step {number}")));
        }
        Ok(())
    }
}

/// A source that fails when its [`Fault`] says so, and yields to the scheduler before each
/// operation, so that a dropped future is dropped in the middle.
#[derive(Debug)]
pub struct FaultySource {
    inner: Arc<dyn Source>,
    fault: Arc<Fault>,
}

impl FaultySource {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Source>, fault: Arc<Fault>) -> Self {
        Self { inner, fault }
    }
}

#[async_trait]
impl Source for FaultySource {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        tokio::task::yield_now().await;
        self.fault.check("extents")?;
        self.inner.extents(range, limit).await
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        tokio::task::yield_now().await;
        self.fault.check("read")?;
        self.inner.read_at(offset, buf).await
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        self.inner.files()
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        self.inner.as_local().is_some().then_some(self as &dyn LocalRead)
    }

    fn hint(&self) -> ReadHint {
        self.inner.hint()
    }

    async fn stamp(&self) -> Result<Stamp> {
        self.fault.check("stamp")?;
        self.inner.stamp().await
    }
}

impl LocalRead for FaultySource {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.fault.check("read")?;
        self.inner.as_local().expect("checked in as_local").read_local(offset, buf)
    }
}

/// A target that fails when its [`Fault`] says so.
#[derive(Debug)]
pub struct FaultyTarget {
    inner: Arc<dyn Target>,
    fault: Arc<Fault>,
    /// The disk that forgets what was not flushed when a flush fails.
    forgetful: Option<MemTarget>,
}

impl FaultyTarget {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Target>, fault: Arc<Fault>) -> Self {
        Self { inner, fault, forgetful: None }
    }

    /// Wraps `disk`, which loses what was not flushed when a flush fails, as a kernel that could
    /// not write a page drops it and calls it clean.
    pub fn forgetful(disk: &MemTarget, fault: Arc<Fault>) -> Self {
        Self { inner: Arc::new(disk.clone()), fault, forgetful: Some(disk.clone()) }
    }
}

#[async_trait]
impl Target for FaultyTarget {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn caps(&self) -> TargetCaps {
        self.inner.caps()
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        tokio::task::yield_now().await;
        self.fault.check("write")?;
        self.inner.write_at(offset, data).await
    }

    async fn write_zeroes(&self, range: ByteRange) -> Result<()> {
        tokio::task::yield_now().await;
        self.fault.check("write zeroes")?;
        self.inner.write_zeroes(range).await
    }

    async fn discard(&self, range: ByteRange) -> Result<()> {
        self.fault.check("discard")?;
        self.inner.discard(range).await
    }

    async fn flush(&self) -> Result<()> {
        tokio::task::yield_now().await;
        self.fault.check("flush").inspect_err(|_| {
            if let Some(disk) = &self.forgetful {
                disk.lose_unflushed();
            }
        })?;
        self.inner.flush().await
    }

    async fn reader(&self) -> Result<Arc<dyn Source>> {
        self.fault.check("reader")?;
        self.inner.reader().await
    }

    fn is_exclusive(&self) -> bool {
        self.inner.is_exclusive()
    }

    fn as_local(&self) -> Option<&dyn LocalWrite> {
        self.inner.as_local().is_some().then_some(self as &dyn LocalWrite)
    }
}

impl LocalWrite for FaultyTarget {
    fn write_local(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.fault.check("write")?;
        self.inner.as_local().expect("checked in as_local").write_local(offset, data)
    }

    fn zero_local(&self, range: ByteRange) -> Result<()> {
        self.fault.check("write zeroes")?;
        self.inner.as_local().expect("checked in as_local").zero_local(range)
    }
}
