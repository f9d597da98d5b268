//! Choices that depend on nothing but a seed.

use std::ops::RangeInclusive;

use steeple_spiffe_core::random::{Random, SeededRandom};

/// A seeded source of choices.
#[derive(Debug)]
pub(crate) struct Dice {
    random: SeededRandom,
}

impl Dice {
    /// A source for one purpose of a seed: sources of other purposes draw independently.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mixed = SeededRandom::new(seed).u64() ^ SeededRandom::new(!purpose).u64();
        Self { random: SeededRandom::new(mixed) }
    }

    /// A number of the range.
    pub(crate) fn within(&self, range: RangeInclusive<u64>) -> u64 {
        let width = range.end().saturating_sub(*range.start()).saturating_add(1);
        range.start() + self.random.u64() % width.max(1)
    }

    /// True with the given probability.
    pub(crate) fn chance(&self, probability: f64) -> bool {
        self.random.unit_f64() < probability
    }

    /// One of several.
    pub(crate) fn pick<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        let last = among.len().checked_sub(1)? as u64;
        among.get(usize::try_from(self.within(0..=last)).unwrap_or(0))
    }

    /// In another order.
    pub(crate) fn shuffle<T>(&self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = usize::try_from(self.within(0..=at as u64)).unwrap_or(0);
            items.swap(at, other);
        }
    }

    /// A source for someone else.
    pub(crate) fn fork(&self) -> SeededRandom {
        SeededRandom::new(self.random.u64())
    }
}
