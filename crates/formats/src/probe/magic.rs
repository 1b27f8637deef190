//! Formats that are known by fixed bytes at a fixed place.

use super::detect::Verdict;
use crate::Format;
use carreto_error::Kind;

/// A signature at a place from the start of a file.
pub(super) struct Magic {
    pub(super) name: &'static str,
    pub(super) at: usize,
    pub(super) bytes: &'static [u8],
    pub(super) verdict: Verdict,
}

const CONVERT: Verdict = Verdict::Refused {
    kind: Kind::Unsupported,
    remedy: "convert the image to qcow2, vpc (VHD), vmdk or raw first, for example with qemu-img",
};
const DECOMPRESS: Verdict =
    Verdict::Refused { kind: Kind::Unsupported, remedy: "decompress the file first" };
const UNPACK: Verdict = Verdict::Refused {
    kind: Kind::Unsupported,
    remedy: "unpack the archive first, then migrate the disk image in it",
};
const ENCRYPTED: Verdict = Verdict::Refused {
    kind: Kind::Encrypted,
    remedy: "decrypt the image first; to copy an encrypted raw disk as it is, say --format raw",
};

const fn magic(name: &'static str, at: usize, bytes: &'static [u8], verdict: Verdict) -> Magic {
    Magic { name, at, bytes, verdict }
}

/// All of them. Sources: the specifications for VHD, VHDX, VMDK, LUKS and the compressed files;
/// QEMU's block drivers for seSparse, VDI, QED, Parallels and Bochs; libyal's documentation for EWF;
/// the Linux and Android sources for the rest.
pub(super) const MAGICS: &[Magic] = &[
    magic("vmdk", 0, b"KDMV", Verdict::Read(Format::Vmdk)),
    magic("vmdk", 0, b"COWD", Verdict::Read(Format::Vmdk)),
    magic("vmdk", 0, &0xcafe_babe_u64.to_le_bytes(), Verdict::Read(Format::Vmdk)),
    magic("VHDX", 0, b"vhdxfile", CONVERT),
    magic("VDI", 64, &0xbeda_107f_u32.to_le_bytes(), CONVERT),
    magic("QED", 0, b"QED\0", CONVERT),
    magic("Parallels", 0, b"WithoutFreeSpace", CONVERT),
    magic("Parallels", 0, b"WithouFreSpacExt", CONVERT),
    magic("Bochs", 0, b"Bochs Virtual HD Image", CONVERT),
    magic("cloop", 0, b"#!/bin/sh\n#V2.0 Format", CONVERT),
    magic("EWF (EnCase)", 0, b"EVF\x09\x0d\x0a\xff\x00", CONVERT),
    magic("EWF (EnCase)", 0, b"EVF2\x0d\x0a\x81\x00", CONVERT),
    magic("EWF (EnCase)", 0, b"LVF\x09\x0d\x0a\xff\x00", CONVERT),
    magic("AFF", 0, b"AFF10\r\n\0", CONVERT),
    magic("WIM", 0, b"MSWIM\0\0\0", CONVERT),
    magic("VMA", 0, b"VMA\0", CONVERT),
    magic("ASIF", 0, b"shdw", CONVERT),
    magic("Android sparse", 0, &0xed26_ff3a_u32.to_le_bytes(), CONVERT),
    magic("LUKS", 0, b"LUKS\xba\xbe", ENCRYPTED),
    magic("encrypted DMG", 0, b"encrcdsa", ENCRYPTED),
    magic("gzip", 0, b"\x1f\x8b\x08", DECOMPRESS),
    magic("xz", 0, b"\xfd7zXZ\0", DECOMPRESS),
    magic("zstd", 0, b"\x28\xb5\x2f\xfd", DECOMPRESS),
    magic("lz4", 0, b"\x04\x22\x4d\x18", DECOMPRESS),
    magic("lzop", 0, b"\x89LZO\0\x0d\x0a\x1a\x0a", DECOMPRESS),
    magic("zip", 0, b"PK\x03\x04", UNPACK),
    magic("7z", 0, b"7z\xbc\xaf\x27\x1c", UNPACK),
    magic("rar", 0, b"Rar!\x1a\x07", UNPACK),
    magic("tar (OVA)", 257, b"ustar", UNPACK),
];

/// What a DMG ends with.
pub(super) const DMG: Verdict = CONVERT;
/// The first version of qcow.
pub(super) const QCOW1: Verdict = CONVERT;
/// bzip2, whose signature has a digit in it.
pub(super) const BZIP2: Verdict = DECOMPRESS;
/// The description of a virtual machine beside its disks.
pub(super) const OVF: Verdict = Verdict::Refused {
    kind: Kind::Unsupported,
    remedy: "this file only describes a machine: migrate the disk image that it names",
};
