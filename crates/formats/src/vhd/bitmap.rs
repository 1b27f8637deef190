//! Which sectors of a block are its own.

/// The bitmap in front of a block; the first sector is the highest bit of the first byte.
#[derive(Debug)]
pub(super) enum Bitmap {
    /// Every sector that the disk has.
    Full,
    /// Those with a set bit.
    Bits(Vec<u8>),
}

impl Bitmap {
    /// The bitmap of a block of which the disk has `sectors`; the bits of others say nothing.
    pub(super) fn new(mut bits: Vec<u8>, sectors: usize) -> Self {
        bits.truncate(sectors.div_ceil(8));
        let full = (0..sectors).step_by(8).all(|sector| {
            let own = u8::MAX << 8_usize.saturating_sub(sectors - sector);
            bits.get(sector / 8).is_some_and(|byte| byte & own == own)
        });
        if full { Self::Full } else { Self::Bits(bits) }
    }

    /// Whether sector `first` is the block's own, and the sector up to which, of at most `end`,
    /// the answer is the same.
    pub(super) fn run(&self, first: u64, end: u64) -> (bool, u64) {
        let Self::Bits(bits) = self else {
            return (true, end);
        };
        let own = is_set(bits, first);
        let mut next = first + 1;
        while next < end && is_set(bits, next) == own {
            next += 1;
        }
        (own, next)
    }
}

fn is_set(bits: &[u8], sector: u64) -> bool {
    let byte = usize::try_from(sector / 8).ok().and_then(|at| bits.get(at));
    byte.is_some_and(|byte| byte & (0x80 >> (sector % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::Bitmap;

    #[test]
    fn bits_beyond_the_disk_do_not_matter() {
        assert!(matches!(Bitmap::new(vec![0xFF, 0xE0, 0], 11), Bitmap::Full));
        assert!(matches!(Bitmap::new(vec![0xFF, 0xC0, 0], 11), Bitmap::Bits(_)));
        assert!(matches!(Bitmap::new(vec![0xFF; 2], 16), Bitmap::Full));
        assert!(matches!(Bitmap::new(vec![0x7F; 2], 16), Bitmap::Bits(_)));
    }

    #[test]
    fn runs_end_where_the_bits_change_and_at_the_end() {
        let bitmap = Bitmap::new(vec![0b0011_0000, 0xFF], 16);
        assert_eq!(bitmap.run(0, 16), (false, 2));
        assert_eq!(bitmap.run(2, 16), (true, 4));
        assert_eq!(bitmap.run(3, 4), (true, 4));
        assert_eq!(bitmap.run(4, 16), (false, 8));
        assert_eq!(bitmap.run(8, 12), (true, 12));
    }
}
