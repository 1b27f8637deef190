//! A source and a target in memory.

use async_trait::async_trait;
use carreto_block::{
    ByteRange, Extent, LocalRead, LocalWrite, Placement, Source, SourceExt as _, Stamp, Target,
    TargetCaps, TargetExt as _, merge_extents,
};
use carreto_error::Result;
use std::sync::{Arc, Mutex};

/// Bytes in memory as a [`Source`]; blocks of 4 KiB that are all zero are reported as holes.
#[derive(Clone)]
pub struct MemSource {
    name: String,
    bytes: Arc<Vec<u8>>,
    local: bool,
    holes: bool,
}

impl MemSource {
    /// A source named `name` with the given content.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: Arc::new(bytes.into()), local: true, holes: true }
    }

    /// The same source without the blocking fast path, as a remote object has none.
    #[must_use]
    pub fn remote(mut self) -> Self {
        self.local = false;
        self
    }

    /// The same source with every byte reported as data, as an object store does.
    #[must_use]
    pub fn dense(mut self) -> Self {
        self.holes = false;
        self
    }
}

impl std::fmt::Debug for MemSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemSource({}, {} bytes)", self.name, self.bytes.len())
    }
}

#[async_trait]
impl Source for MemSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn extents(&self, range: ByteRange, limit: usize) -> Result<Vec<Extent>> {
        let range = self.check_range(range.start(), range.len())?;
        let mut list = Vec::new();
        for block in range.chunks(4096) {
            let bytes = &self.bytes[block.start() as usize..block.end() as usize];
            let zero = self.holes && bytes.iter().all(|byte| *byte == 0);
            let placement = if zero { Placement::Zero } else { Placement::Opaque };
            let before = list.len();
            merge_extents(&mut list, Extent::new(block, placement));
            if list.len() > limit.max(1) && list.len() > before {
                list.pop();
                break;
            }
        }
        Ok(list)
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read_local(offset, buf)
    }

    fn as_local(&self) -> Option<&dyn LocalRead> {
        self.local.then_some(self as &dyn LocalRead)
    }

    async fn stamp(&self) -> Result<Stamp> {
        Ok(Stamp(format!("mem:{:p}:{}", Arc::as_ptr(&self.bytes), self.bytes.len())))
    }
}

impl LocalRead for MemSource {
    fn read_local(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = self.check_range(offset, buf.len() as u64)?;
        buf.copy_from_slice(&self.bytes[range.start() as usize..range.end() as usize]);
        Ok(())
    }
}

/// What a [`MemTarget`] holds and what was done to it.
#[derive(Debug, Default)]
struct Disk {
    /// What has been written.
    now: Vec<u8>,
    /// What would survive a loss of power: `now` as of the last flush.
    flushed: Vec<u8>,
    written: u64,
    zeroed: u64,
}

/// A disk in memory that remembers what a loss of power would leave.
#[derive(Clone)]
pub struct MemTarget {
    disk: Arc<Mutex<Disk>>,
    size: u64,
    caps: TargetCaps,
    local: bool,
}

impl MemTarget {
    /// A blank disk of `size` bytes, known to be zero.
    pub fn blank(size: u64) -> Self {
        Self::with_content(vec![0; size as usize], true)
    }

    /// A disk with old content.
    pub fn used(content: Vec<u8>) -> Self {
        Self::with_content(content, false)
    }

    fn with_content(content: Vec<u8>, known_zero: bool) -> Self {
        let size = content.len() as u64;
        let disk = Disk { flushed: content.clone(), now: content, ..Disk::default() };
        let caps = TargetCaps { alignment: 1, known_zero, fast_zero: true, device: false };
        Self { disk: Arc::new(Mutex::new(disk)), size, caps, local: true }
    }

    /// The same disk without the blocking fast path.
    #[must_use]
    pub fn remote(mut self) -> Self {
        self.local = false;
        self
    }

    /// What reading the disk now gives.
    pub fn content(&self) -> Vec<u8> {
        self.disk.lock().unwrap().now.clone()
    }

    /// The disk as a loss of power would leave it.
    #[must_use]
    pub fn after_power_loss(&self) -> Self {
        let mut target = Self::with_content(self.disk.lock().unwrap().flushed.clone(), false);
        target.caps = self.caps;
        target.local = self.local;
        target
    }

    /// Changes a byte behind everybody's back.
    pub fn corrupt(&self, offset: u64) {
        let mut disk = self.disk.lock().unwrap();
        disk.now[offset as usize] ^= 0x40;
        disk.flushed[offset as usize] ^= 0x40;
    }

    /// What a failed flush leaves: the system gave up what it had not written yet, and the disk
    /// reads as it did after the last flush.
    pub fn lose_unflushed(&self) {
        let mut disk = self.disk.lock().unwrap();
        disk.now = disk.flushed.as_slice().to_vec();
    }

    /// Bytes written as data so far.
    pub fn written(&self) -> u64 {
        self.disk.lock().unwrap().written
    }

    /// Bytes zeroed without data so far.
    pub fn zeroed(&self) -> u64 {
        self.disk.lock().unwrap().zeroed
    }
}

impl std::fmt::Debug for MemTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemTarget({} bytes)", self.size)
    }
}

#[async_trait]
impl Target for MemTarget {
    #[expect(clippy::unnecessary_literal_bound, reason = "the signature is the trait's")]
    fn name(&self) -> &str {
        "mem:target"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn caps(&self) -> TargetCaps {
        self.caps
    }

    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_local(offset, data)
    }

    async fn write_zeroes(&self, range: ByteRange) -> Result<()> {
        self.zero_local(range)
    }

    async fn discard(&self, _range: ByteRange) -> Result<()> {
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.flushed = disk.now.as_slice().to_vec();
        Ok(())
    }

    async fn reader(&self) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(MemSource::new("mem:target", self.content())))
    }

    fn as_local(&self) -> Option<&dyn LocalWrite> {
        self.local.then_some(self as &dyn LocalWrite)
    }
}

impl LocalWrite for MemTarget {
    fn write_local(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = self.check_range(offset, data.len() as u64)?;
        let mut disk = self.disk.lock().unwrap();
        disk.now[range.start() as usize..range.end() as usize].copy_from_slice(data);
        disk.written += data.len() as u64;
        Ok(())
    }

    fn zero_local(&self, range: ByteRange) -> Result<()> {
        self.check_range(range.start(), range.len())?;
        let mut disk = self.disk.lock().unwrap();
        disk.now[range.start() as usize..range.end() as usize].fill(0);
        disk.zeroed += range.len();
        Ok(())
    }
}
