//! Targets in memory that are open once at a time, can be held up, and can fail.
//!
//! (`carreto_testkit::MemTarget` reads from a copy of the whole disk, which is too slow here.)

use async_trait::async_trait;
use carreto_block::{ByteRange, Extent, Placement, Source, Stamp, Target, TargetCaps};
use carreto_error::{Error, Kind, Result};
use carreto_live::receiver::{Look, OpenedTarget, Targets};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

/// What a target is stored on.
#[derive(Debug)]
pub(crate) struct Platter {
    bytes: Mutex<Vec<u8>>,
    is_open: AtomicBool,
    /// Bytes written as data.
    pub(crate) written: AtomicU64,
    pub(crate) fail_flush: AtomicBool,
    pub(crate) fail_write: AtomicBool,
    /// Nothing can be written while somebody reads.
    pub(crate) exclusive: AtomicBool,
    readers: AtomicU64,
    /// Writing and reading wait while this is locked for writing.
    hold_writes: Arc<RwLock<()>>,
    hold_reads: Arc<RwLock<()>>,
    hold_head: Arc<RwLock<()>>,
    waiting: AtomicU64,
    /// Writing data into the first MiB fails.
    pub(crate) fail_head: AtomicBool,
    /// Something was in the first MiB.
    pub(crate) showed_head: AtomicBool,
}

impl Platter {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            is_open: AtomicBool::new(false),
            written: AtomicU64::new(0),
            fail_flush: AtomicBool::new(false),
            fail_write: AtomicBool::new(false),
            exclusive: AtomicBool::new(false),
            readers: AtomicU64::new(0),
            hold_writes: Arc::default(),
            hold_reads: Arc::default(),
            hold_head: Arc::default(),
            waiting: AtomicU64::new(0),
            fail_head: AtomicBool::new(false),
            showed_head: AtomicBool::new(false),
        })
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    /// Writes wait until the guard is dropped. Nothing may be written at this moment.
    pub(crate) fn hold_writes(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.hold_writes).try_write_owned().unwrap()
    }

    /// Reads wait until the guard is dropped. Nothing may be read at this moment.
    pub(crate) fn hold_reads(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.hold_reads).try_write_owned().unwrap()
    }

    /// Data for the first MiB waits until the guard is dropped.
    pub(crate) fn hold_head(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.hold_head).try_write_owned().unwrap()
    }

    /// Until somebody waits to write.
    pub(crate) async fn until_waiting(&self) {
        while self.waiting.load(Ordering::Acquire) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn corrupt(&self, offset: usize) {
        self.bytes.lock().unwrap()[offset] ^= 0x40;
    }

    pub(crate) fn has_blank_head(&self) -> bool {
        self.bytes.lock().unwrap()[..1 << 20].iter().all(|byte| *byte == 0)
    }

    fn expect_no_reader(&self) -> Result<()> {
        if self.exclusive.load(Ordering::Acquire) && self.readers.load(Ordering::Acquire) > 0 {
            return Err(Error::new(Kind::Unavailable, "the server has a client already"));
        }
        Ok(())
    }

    pub(crate) fn take_written(&self) -> u64 {
        self.written.swap(0, Ordering::AcqRel)
    }
}

/// Targets by name.
#[derive(Debug, Default)]
pub(crate) struct FakeTargets {
    pub(crate) platters: Mutex<BTreeMap<String, Arc<Platter>>>,
    /// Counts the times that the receiver's system started.
    pub(crate) boot: AtomicU64,
    /// Counts the targets that were opened.
    pub(crate) opens: AtomicU64,
    pub(crate) refusal: Mutex<Option<(Kind, &'static str)>>,
    /// What the file system of every target can hold.
    pub(crate) free: Mutex<Option<u64>>,
}

impl FakeTargets {
    pub(crate) fn platter(&self, name: &str) -> Arc<Platter> {
        Arc::clone(&self.platters.lock().unwrap()[name])
    }
}

#[async_trait]
impl Targets for FakeTargets {
    async fn look(&self, target: &str) -> Look {
        if let Some((kind, text)) = *self.refusal.lock().unwrap() {
            return Look::failed(Error::new(kind, text));
        }
        let size = self.platter(target).bytes.lock().unwrap().len() as u64;
        Look { size: Some(size), free: *self.free.lock().unwrap(), problem: None }
    }

    async fn open(&self, target: &str, size: u64) -> Result<OpenedTarget> {
        if let Some((kind, text)) = *self.refusal.lock().unwrap() {
            return Err(Error::new(kind, text).remedied_by("attach a larger disk"));
        }
        let platter = self.platter(target);
        if (platter.bytes.lock().unwrap().len() as u64) < size {
            return Err(Error::new(Kind::TargetTooSmall, format!("{size} bytes do not fit"))
                .remedied_by("attach a larger disk"));
        }
        if platter.is_open.swap(true, Ordering::AcqRel) {
            return Err(Error::new(Kind::Locked, format!("{target} is open already")));
        }
        self.opens.fetch_add(1, Ordering::AcqRel);
        Ok(OpenedTarget {
            target: Arc::new(Handle { platter, size }),
            identity: format!("platter {target}"),
            trusted_while: format!("boot {}", self.boot.load(Ordering::Acquire)),
        })
    }
}

#[derive(Debug)]
struct Handle {
    platter: Arc<Platter>,
    size: u64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.platter.is_open.store(false, Ordering::Release);
    }
}

fn place(offset: u64, len: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap();
    start..start + len
}

#[async_trait]
impl Target for Handle {
    #[expect(clippy::unnecessary_literal_bound, reason = "the signature is the trait's")]
    fn name(&self) -> &str {
        "a platter"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn caps(&self) -> TargetCaps {
        TargetCaps { alignment: 1, known_zero: false, fast_zero: true, device: false }
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.platter.expect_no_reader()?;
        self.platter.waiting.fetch_add(1, Ordering::AcqRel);
        let _free = self.platter.hold_writes.read().await;
        self.platter.waiting.fetch_sub(1, Ordering::AcqRel);
        let is_head = offset < 1 << 20;
        let _free = if is_head { Some(self.platter.hold_head.read().await) } else { None };
        if self.platter.fail_write.load(Ordering::Acquire)
            || (is_head && self.platter.fail_head.load(Ordering::Acquire))
        {
            return Err(Error::new(Kind::TargetUnusable, "the target is full"));
        }
        if is_head {
            self.platter.showed_head.store(true, Ordering::Release);
        }
        self.platter.written.fetch_add(data.len() as u64, Ordering::AcqRel);
        self.platter.bytes.lock().unwrap()[place(offset, data.len())].copy_from_slice(data);
        Ok(())
    }

    async fn write_zeroes(&self, range: ByteRange) -> Result<()> {
        self.platter.expect_no_reader()?;
        let _free = self.platter.hold_writes.read().await;
        let len = usize::try_from(range.len()).unwrap();
        self.platter.bytes.lock().unwrap()[place(range.start(), len)].fill(0);
        Ok(())
    }

    async fn discard(&self, _range: ByteRange) -> Result<()> {
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.platter.expect_no_reader()?;
        if self.platter.fail_flush.swap(false, Ordering::AcqRel) {
            return Err(Error::new(Kind::Io, "the cache could not be written"));
        }
        Ok(())
    }

    async fn reader(&self) -> Result<Arc<dyn Source>> {
        self.platter.readers.fetch_add(1, Ordering::AcqRel);
        Ok(Arc::new(Reader { platter: Arc::clone(&self.platter), size: self.size }))
    }

    fn is_exclusive(&self) -> bool {
        self.platter.exclusive.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Reader {
    platter: Arc<Platter>,
    size: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.platter.readers.fetch_sub(1, Ordering::AcqRel);
    }
}

#[async_trait]
impl Source for Reader {
    #[expect(clippy::unnecessary_literal_bound, reason = "the signature is the trait's")]
    fn name(&self) -> &str {
        "a platter"
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn extents(&self, range: ByteRange, _limit: usize) -> Result<Vec<Extent>> {
        Ok(vec![Extent::new(range, Placement::Opaque)])
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let _free = self.platter.hold_reads.read().await;
        buf.copy_from_slice(&self.platter.bytes.lock().unwrap()[place(offset, buf.len())]);
        Ok(())
    }

    async fn stamp(&self) -> Result<Stamp> {
        Ok(Stamp("platter".to_owned()))
    }
}
