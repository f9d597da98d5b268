//! Growing pauses between attempts, with jitter.
//!
//! Owns SPIRE's rule (`spire-semantics` 1): multiplier 1.5, ±10 %, a cap. Pure: the random number is
//! an argument; whoever uses it sleeps.

use std::time::Duration;

const MULTIPLIER: f64 = 1.5;
const JITTER: f64 = 0.1;

/// The pauses of one kind of attempt.
#[derive(Clone, Debug)]
pub struct Backoff {
    start: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `start` to `max`.
    pub fn new(start: Duration, max: Duration) -> Self {
        Self { start, max, next: start.min(max) }
    }

    /// The pause before the next attempt; `unit` is a random number in [0, 1).
    pub fn pause(&mut self, unit: f64) -> Duration {
        let pause = self.next;
        self.next = self.next.mul_f64(MULTIPLIER).min(self.max);
        pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * unit.clamp(0.0, 1.0))
    }

    /// Forgets past failures.
    pub fn reset(&mut self) {
        self.next = self.start.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_half_to_the_cap_and_start_anew_after_success() {
        let mut backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(8));
        let seconds: Vec<f64> = (0..4).map(|_| backoff.pause(0.5).as_secs_f64()).collect();
        assert_eq!(seconds, [4.0, 6.0, 8.0, 8.0]);
        backoff.reset();
        assert_eq!(backoff.pause(0.5), Duration::from_secs(4));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        for (unit, want_ms) in [(0.0, 900), (0.5, 1000), (1.0, 1100)] {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
            assert_eq!(backoff.pause(unit).as_millis(), want_ms, "unit {unit}");
        }
    }
}
