//! A peer whose servers contradict each other: under one sequence number each gives out another
//! bundle, and which one is fetched is chance.
//!
//! Pure. A new bundle under a known number is taken at once, as SPIRE takes any: there are peers
//! that count nothing, and an authority that is missed cuts off whom it signs for. One that returns
//! is taken when it has come four times in a row, since then the peer means it (it has taken a key
//! back without counting), or after an hour. So two servers that disagree do not have the registry
//! written at each try, and all agents told of it. What was seen is known to whoever leads: the
//! next leader takes one return before it knows.

use std::collections::VecDeque;
use std::time::Duration;

use aws_lc_rs::digest::{self, Context};
use steeple_spiffe_core::Bundle;

/// So long a bundle that returns waits for its turn, at most.
const TURN_EVERY: Duration = Duration::from_secs(3600);

/// So often a bundle that returns must come, with no other between, to be what the peer means: as
/// often as a peer is asked within its refresh hint.
const MEANT_AFTER: u32 = 4;

/// Bundles of one sequence number that are remembered of a peer, newest last.
const REMEMBERED_MAX: usize = 8;

/// What becomes of a bundle that differs from the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is stored.
    Taken,
    /// It is not, for now: it was stored before, and another one of its number after it.
    Waits {
        /// Whether that is found for the first time of this number: worth a line in the log.
        is_news: bool,
    },
}

/// What one peer has given out under its newest sequence number.
#[derive(Clone, Debug, Default)]
pub struct Flips {
    sequence: u64,
    seen: VecDeque<[u8; 32]>,
    /// When the last of several was taken.
    turned_at: Option<Duration>,
    /// What came last instead of the stored one, and how often in a row.
    waiting: Option<([u8; 32], u32)>,
    is_told: bool,
}

impl Flips {
    /// Judges a bundle that is to take the place of the stored one; `now` counts from any start, by
    /// a clock that never goes back. What is taken is remembered.
    pub fn turn(&mut self, stored: &Bundle, fetched: &Bundle, now: Duration) -> Turn {
        if stored.sequence_number != fetched.sequence_number {
            *self = Self::default();
            return Turn::Taken;
        }
        if self.sequence != fetched.sequence_number {
            *self = Self { sequence: fetched.sequence_number, ..Self::default() };
        }
        self.remember(content(stored));
        let content = content(fetched);
        let is_due = self.turned_at.is_none_or(|at| now.saturating_sub(at) >= TURN_EVERY);
        if self.seen.contains(&content) && !is_due && !self.is_meant(content) {
            return Turn::Waits { is_news: !std::mem::replace(&mut self.is_told, true) };
        }
        self.remember(content);
        self.turned_at = Some(now);
        self.waiting = None;
        Turn::Taken
    }

    /// The peer gave out what is stored.
    pub fn agreed(&mut self) {
        self.waiting = None;
    }

    /// Counts a bundle that waits: whether it has come so often in a row that the peer means it.
    fn is_meant(&mut self, content: [u8; 32]) -> bool {
        let before = self.waiting.filter(|(waiting, _)| *waiting == content);
        let times = before.map_or(1, |(_, times)| times.saturating_add(1));
        self.waiting = Some((content, times));
        times >= MEANT_AFTER
    }

    fn remember(&mut self, content: [u8; 32]) {
        if self.seen.contains(&content) {
            return;
        }
        if self.seen.len() >= REMEMBERED_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(content);
    }
}

/// Stands for what a bundle says, in whatever order it lists its keys.
fn content(bundle: &Bundle) -> [u8; 32] {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for one in &bundle.x509_authorities {
        let head: &[u8] = &[0, u8::from(one.tainted)];
        parts.push([head, &one.certificate_der].concat());
    }
    for one in &bundle.jwt_authorities {
        let expires_at = one.expires_at.map_or(0, |at| at.unix_ms()).to_be_bytes();
        let head: &[u8] = &[1, u8::from(one.tainted)];
        let key = digest::digest(&digest::SHA256, &one.public_key_der);
        parts.push([head, &expires_at, key.as_ref(), one.key_id.as_bytes()].concat());
    }
    parts.sort_unstable();
    let mut whole = Context::new(&digest::SHA256);
    whole.update(&bundle.refresh_hint_s.to_be_bytes());
    for part in &parts {
        whole.update(digest::digest(&digest::SHA256, part).as_ref());
    }
    let mut content = [0; 32];
    content.iter_mut().zip(whole.finish().as_ref()).for_each(|(to, from)| *to = *from);
    content
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::TrustDomain;
    use steeple_spiffe_core::bundle::JwtAuthority;

    use super::*;

    fn bundle(sequence_number: u64, keys: &[&str]) -> Bundle {
        let key = |key_id: &&str| JwtAuthority {
            key_id: (*key_id).to_owned(),
            public_key_der: vec![1],
            expires_at: None,
            tainted: false,
        };
        let jwt_authorities = keys.iter().map(key).collect();
        let trust_domain = TrustDomain::parse("b.test").unwrap();
        Bundle { jwt_authorities, sequence_number, ..Bundle::empty(trust_domain) }
    }

    const fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    #[test]
    fn two_servers_that_disagree_take_turns_by_the_hour_and_are_told_of_once() {
        let (one, other) = (bundle(4, &["a"]), bundle(4, &["b"]));
        let mut flips = Flips::default();
        assert_eq!(flips.turn(&one, &other, minutes(0)), Turn::Taken, "it is new");
        for minute in 1..60 {
            let waits = flips.turn(&other, &one, minutes(minute));
            assert_eq!(waits, Turn::Waits { is_news: minute == 1 }, "{minute}");
            if minute % 3 == 0 {
                flips.agreed();
            }
        }
        assert_eq!(flips.turn(&other, &one, minutes(60)), Turn::Taken);
        let back = flips.turn(&one, &other, minutes(61));
        assert_eq!(back, Turn::Waits { is_news: false });
    }

    #[test]
    fn a_peer_that_takes_a_key_back_without_counting_is_followed_within_its_hint() {
        let (before, with_key) = (bundle(0, &["a"]), bundle(0, &["a", "b"]));
        let mut flips = Flips::default();
        assert_eq!(flips.turn(&before, &with_key, minutes(0)), Turn::Taken);
        for time in 1..MEANT_AFTER {
            let waits = flips.turn(&with_key, &before, minutes(1));
            assert_eq!(waits, Turn::Waits { is_news: time == 1 }, "{time}");
        }
        assert_eq!(flips.turn(&with_key, &before, minutes(1)), Turn::Taken);
    }

    #[test]
    fn what_nobody_has_seen_is_taken_at_once_whatever_its_number() {
        let mut flips = Flips::default();
        let all = ["a", "b", "c", "d"].map(|key| bundle(0, &[key]));
        for pair in all.windows(2) {
            assert_eq!(flips.turn(&pair[0], &pair[1], minutes(0)), Turn::Taken);
        }
        // A number that has risen ends the dispute.
        assert_eq!(flips.turn(&all[3], &bundle(5, &["a"]), minutes(1)), Turn::Taken);
        assert_eq!(flips.turn(&bundle(5, &["a"]), &bundle(6, &["b"]), minutes(1)), Turn::Taken);
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_order_says_nothing() {
        let mut flips = Flips::default();
        let mut stored = bundle(4, &["x", "y"]);
        assert_eq!(flips.turn(&bundle(4, &["z"]), &stored, minutes(0)), Turn::Taken);
        let turned = bundle(4, &["y", "x"]);
        let waits = flips.turn(&bundle(4, &["z"]), &turned, minutes(1));
        assert_eq!(waits, Turn::Waits { is_news: true });
        for number in 0..REMEMBERED_MAX * 2 {
            let next = bundle(4, &[&number.to_string()]);
            assert_eq!(flips.turn(&stored, &next, minutes(2)), Turn::Taken);
            stored = next;
        }
        assert_eq!(flips.seen.len(), REMEMBERED_MAX);
    }
}
