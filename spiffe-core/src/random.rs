//! Randomness as an argument.
//!
//! Owns the source that the product is handed (the crypto library's), the seeded one of tests and
//! simulation, and what is derived from either: numbers and UUIDs. Key generation does not come
//! through here: the crypto library draws for itself.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A source of random bytes.
pub trait Random: Send + Sync + fmt::Debug {
    /// Fills the buffer.
    fn fill(&self, bytes: &mut [u8]);

    /// A uniform number.
    fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// A uniform number in `[0, 1)`, for jitter.
    fn unit_f64(&self) -> f64 {
        // The top 53 bits are what a double can hold exactly.
        const STEPS: f64 = (1_u64 << 53) as f64;
        (self.u64() >> 11) as f64 / STEPS
    }

    /// A random (version 4) UUID in its usual text form.
    fn uuid_v4(&self) -> String {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        let mut number = u128::from_be_bytes(bytes);
        number = (number & !(0xf << 76)) | (0x4 << 76); // version 4
        number = (number & !(0x3 << 62)) | (0x2 << 62); // variant of RFC 9562
        let hex = format!("{number:032x}");
        let mut text = String::with_capacity(36);
        for (index, digit) in hex.chars().enumerate() {
            if matches!(index, 8 | 12 | 16 | 20) {
                text.push('-');
            }
            text.push(digit);
        }
        text
    }
}

/// The crypto library's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes)
            .expect("the crypto library's generator never fails once the process runs");
    }
}

/// A reproducible source for tests and simulation. Not for anything secret.
#[derive(Debug)]
pub struct SeededRandom {
    state: AtomicU64,
}

impl SeededRandom {
    /// A source whose output depends on nothing but the seed.
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// One step of SplitMix64.
    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            for (byte, drawn) in chunk.iter_mut().zip(self.next().to_be_bytes()) {
                *byte = drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_version_and_variant_in_place() {
        let random = SeededRandom::new(7);
        for _ in 0..200 {
            let uuid = random.uuid_v4();
            let bytes = uuid.as_bytes();
            assert_eq!(uuid.len(), 36);
            assert_eq!(bytes[14], b'4', "{uuid}");
            assert!(b"89ab".contains(&bytes[19]), "{uuid}");
            assert_eq!([bytes[8], bytes[13], bytes[18], bytes[23]], *b"----", "{uuid}");
        }
    }

    #[test]
    fn seeded_source_repeats_and_system_source_does_not() {
        let (a, b) = (SeededRandom::new(1), SeededRandom::new(1));
        assert_eq!(a.uuid_v4(), b.uuid_v4());
        assert_ne!(a.u64(), SeededRandom::new(2).u64());
        assert_ne!(SystemRandom.uuid_v4(), SystemRandom.uuid_v4());
    }

    #[test]
    fn unit_numbers_stay_below_one() {
        let random = SeededRandom::new(3);
        let drawn: Vec<f64> = (0..1000).map(|_| random.unit_f64()).collect();
        assert!(drawn.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = drawn.iter().sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}
