//! Every format that is written, with its options.

use std::fmt;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const CLUSTERS: [&str; 4] = ["512", "4K", "64K", "2M"];

const COMPRESSIONS: [&[&str]; 7] = [
    &[],
    &["--compress", "zlib"],
    &["--compress", "zlib", "--level", "1"],
    &["--compress", "zlib", "--level", "12"],
    &["--compress", "zstd"],
    &["--compress", "zstd", "--level", "1"],
    &["--compress", "zstd", "--level", "19"],
];

const OTHERS: [(&str, &[&str]); 9] = [
    ("raw", &["--to", "raw"]),
    ("qcow2", &["--to", "qcow2"]),
    ("vpc", &["--to", "vhd", "--subformat", "dynamic"]),
    ("vpc", &["--to", "vhd", "--subformat", "fixed"]),
    ("vmdk", &["--to", "vmdk", "--subformat", "monolithicSparse"]),
    ("vmdk", &["--to", "vmdk", "--subformat", "streamOptimized"]),
    ("vmdk", &["--to", "vmdk", "--subformat", "streamOptimized", "--level", "1"]),
    ("vmdk", &["--to", "vmdk", "--subformat", "streamOptimized", "--level", "6"]),
    ("vmdk", &["--to", "vmdk", "--subformat", "streamOptimized", "--level", "12"]),
];

/// A format and its options.
pub(super) struct Output {
    /// The format as QEMU calls it.
    pub(super) qemu: &'static str,
    pub(super) options: Vec<&'static str>,
}

/// Every combination.
pub(super) fn all() -> Vec<Output> {
    let others = OTHERS.iter().map(|(qemu, options)| Output { qemu, options: options.to_vec() });
    let qcow2 = CLUSTERS.iter().flat_map(|cluster| {
        COMPRESSIONS.iter().map(|compression| Output {
            qemu: "qcow2",
            options: [&["--to", "qcow2", "--cluster-size", *cluster], *compression].concat(),
        })
    });
    others.chain(qcow2).collect()
}

impl Output {
    pub(super) fn has(&self, word: &str) -> bool {
        self.options.contains(&word)
    }

    /// The size that the guest of a disk of `size` bytes sees: whole sectors, and whole MiB where
    /// Azure wants them.
    pub(super) fn virtual_size(&self, size: u64) -> u64 {
        match self.qemu {
            "raw" => size,
            _ if self.has("fixed") => size.next_multiple_of(MIB),
            _ => size.next_multiple_of(512),
        }
    }

    /// Disks with little in them: of 2 TiB unless the format holds less, and none for formats
    /// that have a byte for every byte.
    pub(super) fn sparse_sizes(&self) -> Vec<u64> {
        match self.qemu {
            "raw" => Vec::new(),
            _ if self.has("fixed") => Vec::new(),
            "vpc" => vec![2040 * GIB],
            "vmdk" => vec![32 * GIB, 2 * TIB],
            // QEMU reads a refcount table of up to 8 MiB, which is for a file of 128 GiB.
            _ if self.has("512") => vec![64 * GIB],
            _ => vec![2 * TIB],
        }
    }

    /// A disk that the format does not hold.
    pub(super) fn too_large(&self) -> Option<u64> {
        (self.has("dynamic") || self.has("512")).then_some(2 * TIB)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.options.join(" "))
    }
}
