//! A small qcow2 writer of the tests' own, following the specification and not the reader.

use std::io::Write as _;

/// What becomes of a guest cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    Absent,
    Zero,
    /// Zero, with a host cluster of noise reserved.
    Reserved,
    Plain,
    Packed,
    /// Extended L2: which subclusters are allocated and which are zero.
    Sub(u32, u32),
}

/// The image to make.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) extended: bool,
    pub(crate) zstd: bool,
    pub(crate) size: u64,
    pub(crate) refcount_order: u32,
    /// The name and format of the backing file.
    pub(crate) backing: Option<(String, Option<String>)>,
    /// The name of the external data file.
    pub(crate) data_file: Option<String>,
    /// Bytes of a machine's state behind each disk of an image with snapshots.
    pub(crate) vm_state: usize,
}

impl Spec {
    pub(crate) fn new(size: u64) -> Self {
        Self {
            version: 3,
            cluster_bits: 16,
            extended: false,
            zstd: false,
            size,
            refcount_order: 4,
            backing: None,
            data_file: None,
            vm_state: 0,
        }
    }
}

/// What was made.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) file: Vec<u8>,
    pub(crate) data: Vec<u8>,
    /// The guest's bytes, where the backing file has `base`.
    pub(crate) wanted: Vec<u8>,
}

pub(crate) struct Writer {
    spec: Spec,
    file: Vec<u8>,
    data: Vec<u8>,
    refs: Vec<u64>,
}

pub(crate) fn be32(file: &mut [u8], at: usize, value: u32) {
    file[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn be64(file: &mut [u8], at: usize, value: u64) {
    file[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// Makes an image whose clusters go where `plan` says.
pub(crate) fn build(spec: &Spec, guest: &[u8], base: &[u8], plan: impl Fn(u64) -> Put) -> Built {
    let mut writer = Writer::new(spec.clone());
    let (l1, wanted) = writer.tables(guest, base, plan);
    writer.header(l1, None);
    writer.finish(wanted)
}

/// Makes an image with the internal snapshots `(id, name, guest)` and the active disk `guest`.
pub(crate) fn build_with_snapshots(
    spec: &Spec,
    guest: &[u8],
    snapshots: &[(&str, &str, &[u8])],
) -> Built {
    build_snapshots(spec, &[], guest, snapshots, |_| Put::Plain).0
}

/// The same over a backing file of `base`, with clusters that go where `plan` says, and with the
/// state of a machine behind the disks where `spec` wants it. Says also how the snapshots read.
pub(crate) fn build_snapshots(
    spec: &Spec,
    base: &[u8],
    guest: &[u8],
    snapshots: &[(&str, &str, &[u8])],
    plan: impl Fn(u64) -> Put + Copy,
) -> (Built, Vec<Vec<u8>>) {
    let mut writer = Writer::new(spec.clone());
    let mut table = Vec::new();
    let mut all_wanted = Vec::new();
    for (id, name, disk) in snapshots {
        let (l1, wanted) = writer.tables_with_state(disk, base, plan);
        all_wanted.push(wanted);
        let mut entry = Vec::new();
        entry.extend(l1.0.to_be_bytes());
        entry.extend(l1.1.to_be_bytes());
        entry.extend((id.len() as u16).to_be_bytes());
        entry.extend((name.len() as u16).to_be_bytes());
        entry.extend([0; 16]);
        entry.extend((spec.vm_state as u32).to_be_bytes());
        entry.extend(16u32.to_be_bytes());
        entry.extend((spec.vm_state as u64).to_be_bytes());
        entry.extend((disk.len() as u64).to_be_bytes());
        entry.extend(id.as_bytes());
        entry.extend(name.as_bytes());
        entry.resize(entry.len().next_multiple_of(8), 0);
        table.extend(entry);
    }
    let at = writer.allocate(table.len() as u64);
    writer.file[at as usize..at as usize + table.len()].copy_from_slice(&table);
    let (l1, wanted) = writer.tables_with_state(guest, base, plan);
    writer.header(l1, Some((at, snapshots.len() as u32)));
    (writer.finish(wanted), all_wanted)
}

impl Writer {
    fn new(spec: Spec) -> Self {
        let mut writer = Self { spec, file: Vec::new(), data: Vec::new(), refs: Vec::new() };
        writer.allocate(1);
        writer
    }

    fn cluster(&self) -> u64 {
        1 << self.spec.cluster_bits
    }

    /// Takes whole clusters at the end of the file.
    fn allocate(&mut self, len: u64) -> u64 {
        let at = (self.file.len() as u64).next_multiple_of(self.cluster());
        let end = (at + len).next_multiple_of(self.cluster());
        self.file.resize(end as usize, 0);
        self.refs.resize((end / self.cluster()) as usize, 0);
        for number in at / self.cluster()..end / self.cluster() {
            self.refs[number as usize] += 1;
        }
        at
    }

    /// Appends compressed bytes, sharing the last cluster with earlier ones where `packed_end`
    /// says there are any.
    fn append_packed(&mut self, bytes: &[u8], packed_end: &mut Option<u64>) -> u64 {
        let start = match *packed_end {
            Some(end) if end == self.file.len() as u64 => end,
            _ => (self.file.len() as u64).next_multiple_of(self.cluster()),
        };
        self.file.resize(start as usize, 0);
        self.file.extend_from_slice(bytes);
        let end = self.file.len() as u64;
        self.refs.resize(end.div_ceil(self.cluster()) as usize, 0);
        for number in start / self.cluster()..end.div_ceil(self.cluster()) {
            self.refs[number as usize] += 1;
        }
        *packed_end = Some(end);
        start
    }

    fn packed_entry(&mut self, cluster: &[u8], packed_end: &mut Option<u64>) -> u64 {
        let bytes = if self.spec.zstd {
            zstd::bulk::compress(cluster, 3).unwrap()
        } else {
            let mut encoder =
                flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(cluster).unwrap();
            encoder.finish().unwrap()
        };
        let offset = self.append_packed(&bytes, packed_end);
        let sectors = (offset + bytes.len() as u64 - 1) / 512 - offset / 512;
        let shift = 62 - (self.spec.cluster_bits - 8);
        1 << 62 | sectors << shift | offset
    }

    fn plain_entry(&mut self, cluster: &[u8]) -> u64 {
        let place = if self.spec.data_file.is_some() {
            let at = self.data.len();
            self.data.extend_from_slice(cluster);
            at as u64
        } else {
            let at = self.allocate(cluster.len() as u64);
            self.file[at as usize..at as usize + cluster.len()].copy_from_slice(cluster);
            at
        };
        1 << 63 | place
    }

    /// As [`Self::tables`], with the machine's state behind the last L1 entry of the disk.
    fn tables_with_state(
        &mut self,
        guest: &[u8],
        base: &[u8],
        plan: impl Fn(u64) -> Put,
    ) -> ((u64, u32), Vec<u8>) {
        if self.spec.vm_state == 0 {
            return self.tables(guest, base, plan);
        }
        let size = self.cluster() as usize;
        let width = if self.spec.extended { 2 } else { 1 };
        let mut all = guest.to_vec();
        all.resize(guest.len().next_multiple_of(size / (8 * width) * size), 0);
        let disk_clusters = guest.len().div_ceil(size) as u64;
        let state_from = (all.len() / size) as u64;
        all.resize(all.len() + self.spec.vm_state, 0x5A);
        let plan = |index| match index {
            index if index < disk_clusters => plan(index),
            index if index < state_from => Put::Absent,
            _ => Put::Plain,
        };
        let (l1, mut wanted) = self.tables(&all, base, plan);
        wanted.truncate(guest.len());
        (l1, wanted)
    }

    /// Writes L1, L2 and data; returns the place and length of the L1 table and what the guest
    /// reads.
    fn tables(
        &mut self,
        guest: &[u8],
        base: &[u8],
        plan: impl Fn(u64) -> Put,
    ) -> ((u64, u32), Vec<u8>) {
        let size = self.cluster() as usize;
        let width = if self.spec.extended { 2 } else { 1 };
        let per_table = size / (8 * width);
        let clusters = guest.len().div_ceil(size);
        let mut wanted = guest.to_vec();
        let mut packed_end = None;
        let mut l1 = Vec::new();
        for first in (0..clusters).step_by(per_table) {
            let mut table = vec![0u64; per_table * width];
            for index in first..(first + per_table).min(clusters) {
                let range = index * size..((index + 1) * size).min(guest.len());
                let mut cluster = guest[range.clone()].to_vec();
                cluster.resize(size, 0);
                let part = &mut wanted[range];
                let at = (index - first) * width;
                let below = &base[base.len().min(index * size)..];
                let put = plan(index as u64);
                let (entry, bitmap) = self.entry(put, &cluster, &mut packed_end);
                show(put, part, below, size / 32);
                table[at] = entry;
                if width == 2 {
                    table[at + 1] = bitmap;
                }
            }
            if table.iter().all(|word| *word == 0) {
                l1.push(0);
                continue;
            }
            let bytes: Vec<u8> = table.iter().flat_map(|word| word.to_be_bytes()).collect();
            let at = self.allocate(bytes.len() as u64);
            self.file[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
            l1.push(1 << 63 | at);
        }
        let at = self.allocate(l1.len() as u64 * 8);
        for (index, entry) in l1.iter().enumerate() {
            be64(&mut self.file, at as usize + index * 8, *entry);
        }
        ((at, l1.len() as u32), wanted)
    }

    fn entry(&mut self, put: Put, cluster: &[u8], packed_end: &mut Option<u64>) -> (u64, u64) {
        let noise = vec![0x77; cluster.len()];
        let all = if self.spec.extended { u64::from(u32::MAX) } else { 0 };
        match put {
            Put::Absent => (0, 0),
            Put::Zero if self.spec.extended => (0, all << 32),
            Put::Zero => (1, 0),
            Put::Reserved if self.spec.extended => (self.plain_entry(&noise), all << 32),
            Put::Reserved => (self.plain_entry(&noise) | 1, 0),
            Put::Plain => (self.plain_entry(cluster), all),
            Put::Packed => (self.packed_entry(cluster, packed_end), 0),
            Put::Sub(data, zero) => {
                let mut host = noise;
                let step = cluster.len() / 32;
                for index in (0..32).filter(|index| data >> index & 1 == 1) {
                    let range = index * step..(index + 1) * step;
                    host[range.clone()].copy_from_slice(&cluster[range]);
                }
                let entry = if data == 0 { 0 } else { self.plain_entry(&host) };
                (entry, u64::from(zero) << 32 | u64::from(data))
            }
        }
    }

    fn header(&mut self, l1: (u64, u32), snapshots: Option<(u64, u32)>) {
        let spec = self.spec.clone();
        let mut head = vec![0; 112];
        head[..4].copy_from_slice(b"QFI\xFB");
        be32(&mut head, 4, spec.version);
        be32(&mut head, 20, spec.cluster_bits);
        be64(&mut head, 24, spec.size);
        be32(&mut head, 36, l1.1);
        be64(&mut head, 40, l1.0);
        if let Some((at, count)) = snapshots {
            be32(&mut head, 60, count);
            be64(&mut head, 64, at);
        }
        if spec.version == 2 {
            head.truncate(72);
        } else {
            let bits = u64::from(spec.data_file.is_some()) << 2
                | u64::from(spec.zstd) << 3
                | u64::from(spec.extended) << 4;
            be64(&mut head, 72, bits);
            be32(&mut head, 96, spec.refcount_order);
            be32(&mut head, 100, 112);
            head[104] = u8::from(spec.zstd);
        }
        let mut extension = |kind: u32, text: &str| {
            head.extend(kind.to_be_bytes());
            head.extend((text.len() as u32).to_be_bytes());
            head.extend(text.as_bytes());
            head.resize(head.len().next_multiple_of(8), 0);
        };
        if let Some((_, Some(format))) = &spec.backing {
            extension(0xE279_2ACA, format);
        }
        if let Some(name) = &spec.data_file {
            extension(0x4441_5441, name);
        }
        extension(0x1234_5678, "not known to anybody");
        extension(0, "");
        if let Some((name, _)) = &spec.backing {
            let at = head.len() as u64;
            be64(&mut head, 8, at);
            be32(&mut head, 16, name.len() as u32);
            head.extend(name.as_bytes());
        }
        assert!(head.len() as u64 <= self.cluster(), "the header fits its cluster");
        self.file[..head.len()].copy_from_slice(&head);
    }

    /// Writes refcounts for everything and for themselves.
    fn finish(mut self, wanted: Vec<u8>) -> Built {
        let cluster = self.cluster();
        let bits = 1u64 << self.spec.refcount_order;
        let per_block = cluster * 8 / bits;
        // The last data may end inside a cluster only if nothing follows it.
        let (mut blocks, mut table_len) = (1u64, 1u64);
        loop {
            let all = self.refs.len() as u64 + blocks + table_len;
            let (b, t) = (all.div_ceil(per_block), (blocks * 8).div_ceil(cluster));
            if b <= blocks && t <= table_len {
                break;
            }
            (blocks, table_len) = (b.max(blocks), t.max(table_len));
        }
        let table_at = self.allocate(table_len * cluster);
        let blocks_at = self.allocate(blocks * cluster);
        for block in 0..blocks {
            be64(&mut self.file, (table_at + block * 8) as usize, blocks_at + block * cluster);
        }
        for (number, count) in self.refs.clone().into_iter().enumerate() {
            let count = if bits < 64 { count.min((1 << bits) - 1) } else { count };
            let bit = number as u64 * bits;
            let at = (blocks_at + bit / 8) as usize;
            if bits < 8 {
                self.file[at] |= (count << (bit % 8)) as u8;
            } else {
                let bytes = count.to_be_bytes();
                let len = (bits / 8) as usize;
                self.file[at..at + len].copy_from_slice(&bytes[8 - len..]);
            }
        }
        be64(&mut self.file, 48, table_at);
        be32(&mut self.file, 56, table_len as u32);
        Built { file: self.file, data: self.data, wanted }
    }
}

/// Overwrites `part` of the guest's bytes with what reading must give.
fn show(put: Put, part: &mut [u8], base: &[u8], step: usize) {
    let below = |at: usize| base.get(at).copied().unwrap_or(0);
    for (at, byte) in part.iter_mut().enumerate() {
        let index = (at / step.max(1)) as u32;
        match put {
            Put::Zero | Put::Reserved => *byte = 0,
            Put::Absent => *byte = below(at),
            Put::Plain | Put::Packed => {}
            Put::Sub(data, zero) => match (data >> index & 1, zero >> index & 1) {
                (1, _) => {}
                (_, 1) => *byte = 0,
                _ => *byte = below(at),
            },
        }
    }
}
