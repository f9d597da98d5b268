//! Requests that arrive twice: the same request id again, beside the first or long after it.
//!
//! Owns the copies under way. Whatever they are answered must be what the first was told: that is
//! `promises`' to judge. Histories do not mention them: they must have no effect.

use crate::client::{Call, End};
use steeple_spiffe_core::dice::Dice;

/// How much later than the answer a copy may arrive, in milliseconds.
const LATE_MS: u64 = 2_000;

/// The copies of a run.
#[derive(Debug)]
pub(crate) struct Echoes {
    dice: Dice,
    rate: f64,
    pub(crate) under_way: Vec<Call>,
}

impl Echoes {
    /// None yet; of this share of requests there will be some.
    pub(crate) fn new(seed: u64, rate: f64) -> Self {
        Self { dice: Dice::new(seed, 6), rate, under_way: Vec::new() }
    }

    /// A call is made: perhaps another member gets it at the same time.
    pub(crate) fn beside(&mut self, call: &mut Call, now_ms: u64) {
        if self.dice.chance(self.rate) {
            let at_ms = now_ms + self.dice.within(0..=20);
            self.under_way.extend(call.again(true, at_ms));
        }
    }

    /// A call was answered: perhaps it arrives once more.
    pub(crate) fn after(&mut self, call: &mut Call, now_ms: u64) {
        if self.dice.chance(self.rate) {
            let at_ms = now_ms + self.dice.within(1..=LATE_MS);
            self.under_way.extend(call.again(false, at_ms));
        }
    }

    /// Copies that have ended by now, and how.
    pub(crate) fn ended(&mut self, now_ms: u64) -> Vec<(Call, End)> {
        let mut ended = Vec::new();
        let mut left = Vec::new();
        for mut call in self.under_way.drain(..) {
            match call.poll(now_ms, &self.dice) {
                Some(end) => ended.push((call, end)),
                None => left.push(call),
            }
        }
        self.under_way = left;
        ended
    }
}
