//! Reading integers out of header bytes without ever panicking.

use carreto_error::{Error, Kind, Result};

/// The `N` bytes at `at` of a header or table that was read whole.
///
/// # Errors
/// `Truncated` when the bytes end before.
pub(crate) fn bytes<const N: usize>(table: &[u8], at: usize) -> Result<[u8; N]> {
    at.checked_add(N)
        .and_then(|end| table.get(at..end))
        .and_then(|slice| slice.try_into().ok())
        .ok_or_else(|| {
            let text = format!("a field of {N} bytes at {at} lies outside {} bytes", table.len());
            Error::new(Kind::Truncated, text)
        })
}

/// A big-endian 32-bit field.
pub(crate) fn be32(table: &[u8], at: usize) -> Result<u32> {
    bytes(table, at).map(u32::from_be_bytes)
}

/// A big-endian 64-bit field.
pub(crate) fn be64(table: &[u8], at: usize) -> Result<u64> {
    bytes(table, at).map(u64::from_be_bytes)
}

/// A big-endian 16-bit field.
pub(crate) fn be16(table: &[u8], at: usize) -> Result<u16> {
    bytes(table, at).map(u16::from_be_bytes)
}

/// A little-endian 32-bit field.
pub(crate) fn le32(table: &[u8], at: usize) -> Result<u32> {
    bytes(table, at).map(u32::from_le_bytes)
}

/// A little-endian 64-bit field.
pub(crate) fn le64(table: &[u8], at: usize) -> Result<u64> {
    bytes(table, at).map(u64::from_le_bytes)
}

/// A little-endian 16-bit field.
pub(crate) fn le16(table: &[u8], at: usize) -> Result<u16> {
    bytes(table, at).map(u16::from_le_bytes)
}
