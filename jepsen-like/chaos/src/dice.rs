//! Choices that depend on nothing but a seed.

use std::ops::RangeInclusive;

use steeple_spiffe_core::random::{Random as _, SeededRandom};

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

    /// Any number.
    pub(crate) fn any(&self) -> u64 {
        self.random.u64()
    }

    /// A number of the range.
    pub(crate) fn within(&self, range: RangeInclusive<u64>) -> u64 {
        let width = range.end().saturating_sub(*range.start()).saturating_add(1);
        range.start() + self.random.u64() % width.max(1)
    }

    /// A place below `count`.
    pub(crate) fn place(&self, count: usize) -> usize {
        let last = count.saturating_sub(1) as u64;
        usize::try_from(self.within(0..=last)).unwrap_or(0)
    }

    /// True with the given probability.
    pub(crate) fn chance(&self, probability: f64) -> bool {
        self.random.unit_f64() < probability
    }

    /// One of several.
    pub(crate) fn pick<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        among.get(self.place(among.len()))
    }
}
