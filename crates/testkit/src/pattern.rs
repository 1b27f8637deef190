//! Deterministic bytes.

/// A small generator of repeatable pseudo-random numbers (xorshift64*); not for secrets.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Starts from `seed`; zero is replaced.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound` (at least 1).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound.max(1)
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// A disk of `len` bytes whose 4 KiB blocks are zeros, text-like or random, in runs.
pub fn sparse_disk(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut disk = vec![0; len];
    let mut at = 0;
    while at < len {
        let run = (4096 * (1 + rng.below(24)) as usize).min(len - at);
        let bytes = &mut disk[at..at + run];
        match rng.below(4) {
            0 | 1 => {}
            2 => {
                for byte in bytes.iter_mut() {
                    *byte = b'a' + (rng.next_u64() % 7) as u8;
                }
            }
            _ => rng.fill(bytes),
        }
        at += run;
    }
    disk
}
