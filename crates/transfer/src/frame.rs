//! Framing for append-only files: a torn tail is recognised and cut off.
//!
//! A frame is `kind: u8`, `len: u32` (little endian), `len` bytes, and the first four bytes of
//! the BLAKE3 hash of all that. Whatever follows the first damaged frame is not read.

/// Bytes around a payload.
const OVERHEAD: usize = 1 + 4 + 4;

/// The bytes of one frame.
pub(crate) fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(OVERHEAD + payload.len());
    frame.push(kind);
    frame.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend(payload);
    let check = check_of(&frame);
    frame.extend(check);
    frame
}

/// Splits the first frame off: its kind, its payload and the rest. `None` at the end or at damage.
pub(crate) fn decode(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let len = u32::from_le_bytes(bytes.get(1..5)?.try_into().ok()?);
    let end = 5usize.checked_add(usize::try_from(len).ok()?)?;
    let (frame, rest) = bytes.split_at_checked(end)?;
    let (check, rest) = rest.split_at_checked(4)?;
    (check == check_of(frame)).then(|| (frame[0], &frame[5..], rest))
}

fn check_of(frame: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(frame);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_and_every_flip_is_noticed() {
        let mut bytes = encode(1, b"first");
        let first = bytes.len();
        bytes.extend(encode(2, &[7; 100]));
        let (kind, payload, rest) = decode(&bytes).unwrap();
        assert_eq!((kind, payload), (1, b"first".as_slice()));
        assert_eq!(decode(rest).unwrap().0, 2);
        for cut in 0..first {
            assert!(decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        for at in 0..first {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(decode(&damaged).is_none(), "flip at {at}");
        }
    }
}
