//! What the VHD tests share: a writer of small VHDs that follows the specification, a directory
//! in memory behind the gate, and the corpus.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "every test file uses a part of what they share; a failed expectation of a test is a \
              panic, a skipped test says so"
)]

pub mod corpus;

use async_trait::async_trait;
use carreto_block::{Grant, OpenBeneath, OpenGate, OpenedFile, Source};
use carreto_error::{Error, Kind, Result};
use carreto_testkit::{MemSource, Rng};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const FIXED: u32 = 2;
pub const DYNAMIC: u32 = 3;
pub const DIFFERENCING: u32 = 4;

/// What a VHD is to say about itself.
#[derive(Debug, Clone)]
pub struct Spec {
    pub kind: u32,
    pub creator: [u8; 4],
    pub current_size: u64,
    pub geometry: (u16, u8, u8),
    pub unique_id: [u8; 16],
    pub time_stamp: u32,
    pub block_size: u32,
    /// Entries of the table beyond those that the disk needs.
    pub spare_entries: u32,
    pub parent: Option<ParentSpec>,
}

/// What a differencing VHD is to say about its parent.
#[derive(Debug, Clone, Default)]
pub struct ParentSpec {
    pub unique_id: [u8; 16],
    pub time_stamp: u32,
    pub name: String,
    pub locators: Vec<(&'static [u8; 4], String)>,
}

impl Spec {
    pub fn new(kind: u32, size: u64) -> Self {
        Self {
            kind,
            creator: *b"win ",
            current_size: size,
            geometry: (65535, 16, 255),
            unique_id: [7; 16],
            time_stamp: 1000,
            block_size: 2 << 20,
            spare_entries: 0,
            parent: None,
        }
    }

    pub fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = bytes;
        self
    }

    pub fn child_of(mut self, parent: &Self, name: &str) -> Self {
        self.kind = DIFFERENCING;
        self.unique_id = parent.unique_id.map(|byte| byte + 1);
        self.parent = Some(ParentSpec {
            unique_id: parent.unique_id,
            time_stamp: parent.time_stamp,
            name: name.into(),
            locators: vec![(b"W2ru", format!(".\\{name}"))],
        });
        self
    }

    fn blocks(&self) -> usize {
        self.current_size.div_ceil(u64::from(self.block_size)) as usize
    }

    pub fn footer(&self) -> [u8; 512] {
        let mut bytes = [0; 512];
        bytes[..8].copy_from_slice(b"conectix");
        put(&mut bytes, 8, &2_u32.to_be_bytes());
        put(&mut bytes, 12, &0x0001_0000_u32.to_be_bytes());
        let data_offset = if self.kind == FIXED { u64::MAX } else { 512 };
        put(&mut bytes, 16, &data_offset.to_be_bytes());
        put(&mut bytes, 24, &self.time_stamp.to_be_bytes());
        put(&mut bytes, 28, &self.creator);
        put(&mut bytes, 36, b"Wi2k");
        put(&mut bytes, 40, &self.current_size.to_be_bytes());
        put(&mut bytes, 48, &self.current_size.to_be_bytes());
        put(&mut bytes, 56, &self.geometry.0.to_be_bytes());
        put(&mut bytes, 58, &[self.geometry.1, self.geometry.2]);
        put(&mut bytes, 60, &self.kind.to_be_bytes());
        put(&mut bytes, 68, &self.unique_id);
        seal(&mut bytes, 64);
        bytes
    }

    /// The header, and the data of the locators, which starts at `locators_at`.
    fn header(&self, table_at: u64, locators_at: u64) -> ([u8; 1024], Vec<u8>) {
        let mut bytes = [0; 1024];
        let mut data = Vec::new();
        bytes[..8].copy_from_slice(b"cxsparse");
        put(&mut bytes, 8, &u64::MAX.to_be_bytes());
        put(&mut bytes, 16, &table_at.to_be_bytes());
        put(&mut bytes, 24, &0x0001_0000_u32.to_be_bytes());
        let entries = self.blocks() as u32 + self.spare_entries;
        put(&mut bytes, 28, &entries.to_be_bytes());
        put(&mut bytes, 32, &self.block_size.to_be_bytes());
        if let Some(parent) = &self.parent {
            put(&mut bytes, 40, &parent.unique_id);
            put(&mut bytes, 56, &parent.time_stamp.to_be_bytes());
            let name: Vec<u8> = parent.name.encode_utf16().flat_map(u16::to_be_bytes).collect();
            put(&mut bytes, 64, &name);
            for (index, (code, text)) in parent.locators.iter().enumerate() {
                let wide = code.starts_with(b"W2");
                let text: Vec<u8> = if wide {
                    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
                } else {
                    text.clone().into_bytes()
                };
                let at = 576 + 24 * index;
                put(&mut bytes, at, *code);
                put(&mut bytes, at + 4, &512_u32.to_be_bytes());
                put(&mut bytes, at + 8, &(text.len() as u32).to_be_bytes());
                let place = locators_at + data.len() as u64;
                put(&mut bytes, at + 16, &place.to_be_bytes());
                data.extend(&text);
                data.resize(data.len().next_multiple_of(512), 0);
            }
        }
        seal(&mut bytes, 36);
        (bytes, data)
    }

    /// The image of `disk`. `below` is what the parent reads as (zeros for a dynamic disk): only
    /// sectors that differ from it are stored, and the rest of a stored block is rubbish that
    /// must never be read. Blocks lie in another order than on the disk.
    pub fn build(&self, disk: &[u8], below: &[u8]) -> Vec<u8> {
        assert_eq!(disk.len() as u64, self.current_size);
        if self.kind == FIXED {
            return [disk, &self.footer()].concat();
        }
        let table_len = (self.blocks() + self.spare_entries as usize) * 4;
        let locators_at = (512 + 1024 + table_len).next_multiple_of(512);
        let (header, locators) = self.header(512 + 1024, locators_at as u64);
        let mut file = [self.footer().as_slice(), &header].concat();
        file.resize(locators_at, 0xFF);
        file.extend(locators);
        let mut order: Vec<usize> = (0..self.blocks()).collect();
        let mut rng = Rng::new(self.current_size);
        for index in (1..order.len()).rev() {
            order.swap(index, rng.below(index as u64 + 1) as usize);
        }
        for index in order {
            self.push_block(index, disk, below, &mut file);
        }
        file.extend(self.footer());
        file
    }

    fn push_block(&self, index: usize, disk: &[u8], below: &[u8], file: &mut Vec<u8>) {
        let size = self.block_size as usize;
        let start = index * size;
        let mut bitmap = vec![0_u8; (size / 512).div_ceil(8).next_multiple_of(512)];
        let mut data = vec![0xEE; size];
        for sector in 0..size / 512 {
            let at = start + sector * 512;
            let end = (at + 512).min(disk.len());
            let Some(bytes) = disk.get(at..end) else {
                break;
            };
            let zeros = [0; 512];
            let old = below.get(at..end).unwrap_or(&zeros[..bytes.len()]);
            if bytes != old {
                bitmap[sector / 8] |= 0x80 >> (sector % 8);
                data[sector * 512..sector * 512 + bytes.len()].copy_from_slice(bytes);
            }
        }
        if bitmap.iter().any(|byte| *byte != 0) {
            let entry = (file.len() / 512) as u32;
            put(file, 512 + 1024 + index * 4, &entry.to_be_bytes());
            file.extend(bitmap);
            file.extend(data);
        }
    }
}

pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Computes the checksum at `at` anew.
pub fn seal(bytes: &mut [u8], at: usize) {
    put(bytes, at, &[0; 4]);
    let sum = bytes.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
    put(bytes, at, &(!sum).to_be_bytes());
}

/// Makes checksums of the footers and the header right again after a field was changed.
pub fn reseal(image: &mut [u8]) {
    let len = image.len();
    seal(&mut image[..512], 64);
    seal(&mut image[len - 512..], 64);
    if image[512..].starts_with(b"cxsparse") {
        seal(&mut image[512..1536], 36);
    }
}

/// Changes a field in both copies of the footer.
pub fn put_footers(image: &mut [u8], at: usize, value: &[u8]) {
    let len = image.len();
    put(image, at, value);
    put(image, len - 512 + at, value);
}

pub fn source(name: &str, image: Vec<u8>) -> Arc<dyn Source> {
    Arc::new(MemSource::new(name, image))
}

/// A directory `/disks` in memory.
#[derive(Debug, Clone, Default)]
pub struct Disks(pub BTreeMap<String, Vec<u8>>);

impl Disks {
    pub fn with(mut self, name: &str, image: Vec<u8>) -> Self {
        self.0.insert(name.into(), image);
        self
    }

    pub fn source(&self, name: &str) -> Arc<dyn Source> {
        source(&format!("/disks/{name}"), self.0[name].clone())
    }

    /// A gate for the image `name` that opens everything in the directory.
    pub fn gate(&self, name: &str) -> OpenGate {
        let grants = vec![Grant("/disks".into())];
        OpenGate::new(Arc::new(self.clone()), grants, "/disks", name)
    }
}

#[async_trait]
impl OpenBeneath for Disks {
    async fn open_beneath(&self, directory: &str, relative: &str) -> Result<OpenedFile> {
        let path = format!("{directory}/{relative}");
        let image = self.0.get(relative).ok_or_else(|| {
            Error::new(Kind::NotFound, "there is no such file").path(path.clone())
        })?;
        Ok(OpenedFile { source: source(&path, image.clone()), identity: relative.into() })
    }
}
