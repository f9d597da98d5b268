//! Choices that depend on nothing but a seed, for the harnesses that replay what they did.

use std::ops::RangeInclusive;

use crate::random::{Random as _, SeededRandom};

/// A seeded source of choices. Not for anything secret.
#[derive(Debug)]
pub struct Dice {
    random: SeededRandom,
}

impl Dice {
    /// A source for one purpose of a seed: sources of other purposes draw independently.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mixed = SeededRandom::new(seed).u64() ^ SeededRandom::new(!purpose).u64();
        Self { random: SeededRandom::new(mixed) }
    }

    /// Any number.
    pub fn any(&self) -> u64 {
        self.random.u64()
    }

    /// A number of the range.
    pub fn within(&self, range: RangeInclusive<u64>) -> u64 {
        let width = range.end().saturating_sub(*range.start()).saturating_add(1);
        range.start() + self.random.u64() % width.max(1)
    }

    /// A place below `count`; 0 where there is none.
    pub fn place(&self, count: usize) -> usize {
        let last = count.saturating_sub(1) as u64;
        usize::try_from(self.within(0..=last)).unwrap_or(0)
    }

    /// True with the given probability, a number from 0 to 1.
    pub fn chance(&self, probability: f64) -> bool {
        self.random.unit_f64() < probability
    }

    /// One of several; none of none, and then nothing is drawn.
    pub fn pick<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        if among.is_empty() {
            return None;
        }
        among.get(self.place(among.len()))
    }

    /// Puts the items in another order.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.place(at + 1));
        }
    }

    /// A source for someone else.
    pub fn fork(&self) -> SeededRandom {
        SeededRandom::new(self.random.u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_purpose_choose_the_same_and_others_do_not() {
        let drawn = |seed, purpose| {
            let dice = Dice::new(seed, purpose);
            let mut order: Vec<u32> = (0..40).collect();
            dice.shuffle(&mut order);
            (order, dice.any())
        };
        assert_eq!(drawn(1, 2), drawn(1, 2));
        assert_ne!(drawn(1, 2).0, drawn(1, 3).0);
        assert_ne!(drawn(1, 2).0, drawn(2, 2).0);
    }

    #[test]
    fn choices_stay_in_their_bounds_and_reach_both_ends() {
        let dice = Dice::new(7, 7);
        let drawn: Vec<u64> = (0..500).map(|_| dice.within(3..=5)).collect();
        assert!(
            drawn.iter().all(|n| (3..=5).contains(n)) && drawn.contains(&3) && drawn.contains(&5)
        );
        let places: Vec<usize> = (0..500).map(|_| dice.place(2)).collect();
        assert!(places.contains(&0) && places.contains(&1) && !places.contains(&2));
        assert_eq!(dice.pick::<u8>(&[]), None);
        assert!(!dice.chance(0.0) && dice.chance(1.0));
    }
}
