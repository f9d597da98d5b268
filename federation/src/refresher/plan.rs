//! When each peer is asked: first at once, then four times within its refresh hint; after an error
//! after a minute, then less often.
//!
//! Pure: time is an argument, counted from any start by a clock that never goes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use steeple_spiffe_core::svid::x509::certificate_facts;
use steeple_spiffe_core::{Bundle, FederationRelationship, TrustDomain};

/// So often a peer is asked within its refresh hint, so that a failed try or three do no harm
/// (SPIRE).
const TRIES_PER_HINT: u32 = 4;

/// A hint of none stands for this part of the shortest lifetime of the bundle's roots (SPIRE).
const LIFETIME_PARTS: u32 = 10;

/// Minutes that a hint may have at most: a peer that says a year would not be heard of when it
/// rotates.
const HINT_MAX_MINUTES: u32 = 24 * 60;

/// Minutes between two tries of a peer that fails, at most: what is mended is to be seen soon.
const RETRY_MAX_MINUTES: u32 = 5;

/// What the schedule counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The shortest hint that is heeded, and the pause after a first error: a minute.
    minute: Duration,
}

/// How long a bundle may fail to be fetched before that is worth a person's eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// While there is time.
    pub usual: Duration,
    /// Once the last authority is in the last part of its life.
    pub late: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { minute: Duration::from_secs(60) }
    }
}

impl Timing {
    /// The schedule with a shorter minute, for tests. Hints of peers stay what they are.
    pub fn with_minute(minute: Duration) -> Self {
        Self { minute }
    }

    /// The refresh hint that a bundle is followed by: at least a minute, at most a day.
    pub fn hint(&self, bundle: &Bundle) -> Duration {
        let hint = match u64::try_from(bundle.refresh_hint_s) {
            Ok(0) | Err(_) => shortest_lifetime(bundle).unwrap_or_default() / LIFETIME_PARTS,
            Ok(seconds) => Duration::from_secs(seconds),
        };
        hint.clamp(self.minute, self.minute.saturating_mul(HINT_MAX_MINUTES))
    }

    /// How long after a good try the next one comes.
    pub fn pause(&self, bundle: &Bundle) -> Duration {
        self.hint(bundle) / TRIES_PER_HINT
    }

    /// How long a bundle may fail to be fetched before that is worth a person's eye: its hint; five
    /// minutes where there is none yet, or little time is left.
    pub fn patience(&self, bundle: Option<&Bundle>) -> Patience {
        let late = self.minute.saturating_mul(RETRY_MAX_MINUTES);
        let usual = bundle.map_or(late, |bundle| self.hint(bundle));
        Patience { usual, late }
    }

    /// How long after so many failures in a row the next try comes: 1, 2, 4, then 5 minutes.
    fn retry(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.minute.saturating_mul(doubled.clamp(1, RETRY_MAX_MINUTES))
    }
}

fn shortest_lifetime(bundle: &Bundle) -> Option<Duration> {
    let lifetime = |der: &[u8]| {
        let facts = certificate_facts(der).ok()?;
        Some(facts.not_after.since(facts.not_before))
    };
    bundle.x509_authorities.iter().filter_map(|one| lifetime(&one.certificate_der)).min()
}

/// Who is asked when.
#[derive(Debug)]
pub struct Plan {
    timing: Timing,
    peers: BTreeMap<TrustDomain, Peer>,
}

#[derive(Debug)]
struct Peer {
    relationship: Arc<FederationRelationship>,
    next: Next,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A try is due then.
    At(Duration),
    /// One is under way; whether another is wanted as soon as it has ended.
    UnderWay { again: bool },
}

/// What a look at the relationships has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Managed {
    /// A relationship that was not there.
    Begun(Arc<FederationRelationship>),
    /// Another URL or profile.
    Changed(Arc<FederationRelationship>),
    /// No more.
    Ended(TrustDomain),
}

impl Plan {
    /// A plan without peers.
    pub fn new(timing: Timing) -> Self {
        Self { timing, peers: BTreeMap::new() }
    }

    /// Takes the relationships as they are now. New and changed ones are due at once.
    pub fn take(
        &mut self,
        now: Duration,
        relationships: &BTreeMap<TrustDomain, Arc<FederationRelationship>>,
    ) -> Vec<Managed> {
        let mut changes = Vec::new();
        self.peers.retain(|trust_domain, _| {
            let stays = relationships.contains_key(trust_domain);
            if !stays {
                changes.push(Managed::Ended(trust_domain.clone()));
            }
            stays
        });
        for (trust_domain, relationship) in relationships {
            match self.peers.get_mut(trust_domain) {
                None => {
                    let relationship = Arc::clone(relationship);
                    changes.push(Managed::Begun(Arc::clone(&relationship)));
                    let peer = Peer { relationship, next: Next::At(now), failures: 0 };
                    self.peers.insert(trust_domain.clone(), peer);
                }
                Some(peer) if peer.relationship != *relationship => {
                    changes.push(Managed::Changed(Arc::clone(relationship)));
                    peer.relationship = Arc::clone(relationship);
                    peer.failures = 0;
                    peer.hurry(now);
                }
                Some(_) => {}
            }
        }
        changes
    }

    /// The relationships that are due, at most so many, longest due first; they are under way from
    /// now on, until [`Self::succeeded`] or [`Self::failed`].
    pub fn start(&mut self, now: Duration, limit: usize) -> Vec<Arc<FederationRelationship>> {
        let mut due: Vec<(Duration, TrustDomain)> = Vec::new();
        for (trust_domain, peer) in &self.peers {
            if let Next::At(at) = peer.next
                && at <= now
            {
                due.push((at, trust_domain.clone()));
            }
        }
        due.sort();
        let mut started = Vec::new();
        for (_, trust_domain) in due.into_iter().take(limit) {
            if let Some(peer) = self.peers.get_mut(&trust_domain) {
                peer.next = Next::UnderWay { again: false };
                started.push(Arc::clone(&peer.relationship));
            }
        }
        started
    }

    /// When the next try is due; `None`: all are under way, or there are none.
    pub fn next_due(&self) -> Option<Duration> {
        self.peers.values().filter_map(|peer| peer.next_due()).min()
    }

    /// When the next try of a peer is due; `None` while one is under way.
    pub fn due(&self, trust_domain: &TrustDomain) -> Option<Duration> {
        self.peers.get(trust_domain)?.next_due()
    }

    /// The trust domains that are followed.
    pub fn peers(&self) -> impl Iterator<Item = &TrustDomain> {
        self.peers.keys()
    }

    /// Whether there is a relationship with a trust domain.
    pub fn follows(&self, trust_domain: &TrustDomain) -> bool {
        self.peers.contains_key(trust_domain)
    }

    /// Failures of a peer in a row.
    pub fn failures(&self, trust_domain: &TrustDomain) -> u32 {
        self.peers.get(trust_domain).map_or(0, |peer| peer.failures)
    }

    /// A try has ended well; the next one follows after the pause.
    pub fn succeeded(&mut self, now: Duration, trust_domain: &TrustDomain, pause: Duration) {
        let Some(peer) = self.peers.get_mut(trust_domain) else { return };
        peer.failures = 0;
        peer.end(now, pause);
    }

    /// A try has failed. Returns how many have in a row.
    pub fn failed(&mut self, now: Duration, trust_domain: &TrustDomain) -> u32 {
        let Some(peer) = self.peers.get_mut(trust_domain) else { return 0 };
        peer.failures = peer.failures.saturating_add(1);
        let failures = peer.failures;
        peer.end(now, self.timing.retry(failures));
        failures
    }

    /// A try came to nothing since what it began with has changed meanwhile: it is due again.
    pub fn overtaken(&mut self, now: Duration, trust_domain: &TrustDomain) {
        let Some(peer) = self.peers.get_mut(trust_domain) else { return };
        peer.next = Next::At(now);
    }

    /// Tries at once a peer that failed: what kept it may be gone.
    pub fn hurry_failed(&mut self, now: Duration, trust_domain: &TrustDomain) {
        if let Some(peer) = self.peers.get_mut(trust_domain).filter(|peer| peer.failures > 0) {
            peer.hurry(now);
        }
    }
}

impl Peer {
    fn next_due(&self) -> Option<Duration> {
        match self.next {
            Next::At(at) => Some(at),
            Next::UnderWay { .. } => None,
        }
    }

    fn hurry(&mut self, now: Duration) {
        self.next = match self.next {
            Next::At(at) => Next::At(at.min(now)),
            Next::UnderWay { .. } => Next::UnderWay { again: true },
        };
    }

    fn end(&mut self, now: Duration, pause: Duration) {
        let again = self.next == Next::UnderWay { again: true };
        self.next = Next::At(if again { now } else { now.saturating_add(pause) });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use steeple_spiffe_core::bundle::X509Authority;
    use steeple_spiffe_core::{EndpointProfile, EndpointUrl};

    use super::*;
    use crate::refresher::peer::authority;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn td(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    fn relationship(name: &str, path: &str) -> Arc<FederationRelationship> {
        Arc::new(FederationRelationship {
            trust_domain: td(name),
            endpoint_url: EndpointUrl::parse(&format!("https://{name}/{path}")).unwrap(),
            profile: EndpointProfile::HttpsWeb,
        })
    }

    fn all(names: &[&str]) -> BTreeMap<TrustDomain, Arc<FederationRelationship>> {
        names.iter().map(|name| (td(name), relationship(name, ""))).collect()
    }

    fn started(plan: &mut Plan, at: u64, limit: usize) -> Vec<String> {
        let started = plan.start(seconds(at), limit).into_iter();
        started.map(|one| one.trust_domain.to_string()).collect()
    }

    #[test]
    fn a_hint_is_heeded_between_a_minute_and_a_day() {
        let timing = Timing::default();
        let day = 24 * 3600;
        for (hint_s, expected_s, pause_s) in [
            (300, 300, 75),
            (60, 60, 15),
            (1, 60, 15),
            (-1, 60, 15),
            (0, 60, 15),
            (3600, 3600, 900),
            (15_768_000, day, day / 4),
            (i64::MAX, day, day / 4),
        ] {
            let bundle = Bundle { refresh_hint_s: hint_s, ..Bundle::empty(td("b.test")) };
            assert_eq!(timing.hint(&bundle), seconds(expected_s), "{hint_s}");
            assert_eq!(timing.pause(&bundle), seconds(pause_s), "{hint_s}");
        }
    }

    #[test]
    fn without_a_hint_the_shortest_lifetime_says_how_often() {
        let authorities = [2, 1].map(|hours| {
            let certificate_der = authority("spiffe://b.test", seconds(hours * 3600)).der;
            X509Authority { certificate_der, tainted: false }
        });
        let bundle =
            Bundle { x509_authorities: authorities.to_vec(), ..Bundle::empty(td("b.test")) };
        assert_eq!(Timing::default().hint(&bundle), seconds(360));
    }

    #[test]
    fn a_peer_is_asked_at_once_then_after_its_pause_and_less_often_while_it_fails() {
        let mut plan = Plan::new(Timing::default());
        assert_eq!(plan.next_due(), None);
        let begun = plan.take(seconds(100), &all(&["b.test"]));
        assert_eq!(begun, [Managed::Begun(relationship("b.test", ""))]);
        assert_eq!(started(&mut plan, 100, 9), ["b.test"]);
        assert_eq!(started(&mut plan, 500, 9), [] as [&str; 0], "it is under way");
        assert_eq!(plan.next_due(), None);
        plan.succeeded(seconds(101), &td("b.test"), seconds(75));
        assert_eq!(plan.next_due(), Some(seconds(176)));
        assert_eq!(started(&mut plan, 175, 9), [] as [&str; 0]);

        let mut now = 176;
        for (failures, pause) in [(1, 60), (2, 120), (3, 240), (4, 300), (5, 300)] {
            assert_eq!(started(&mut plan, now, 9), ["b.test"]);
            assert_eq!(plan.failed(seconds(now), &td("b.test")), failures);
            assert_eq!(plan.next_due(), Some(seconds(now + pause)), "{failures}");
            now += pause;
        }
        assert_eq!(started(&mut plan, now, 9), ["b.test"]);
        plan.succeeded(seconds(now), &td("b.test"), seconds(75));
        assert_eq!(plan.failures(&td("b.test")), 0);
    }

    #[test]
    fn whoever_failed_is_tried_at_once_when_it_may_help_and_nobody_else_is() {
        let mut plan = Plan::new(Timing::default());
        plan.take(seconds(0), &all(&["a.test", "b.test", "c.test"]));
        assert_eq!(started(&mut plan, 0, 9), ["a.test", "b.test", "c.test"]);
        plan.succeeded(seconds(0), &td("a.test"), seconds(75));
        plan.failed(seconds(0), &td("b.test"));
        for name in ["a.test", "b.test", "c.test"] {
            plan.hurry_failed(seconds(1), &td(name));
        }
        assert_eq!(started(&mut plan, 1, 9), ["b.test"]);
        // What helps may come while a try is under way: then there is another.
        plan.hurry_failed(seconds(2), &td("b.test"));
        plan.failed(seconds(3), &td("b.test"));
        assert_eq!(started(&mut plan, 3, 9), ["b.test"]);
        plan.overtaken(seconds(4), &td("b.test"));
        assert_eq!(plan.due(&td("b.test")), Some(seconds(4)));
    }

    #[test]
    fn changes_are_told_once_and_what_changed_is_due_at_once() {
        let mut plan = Plan::new(Timing::default());
        plan.take(seconds(0), &all(&["a.test", "b.test"]));
        started(&mut plan, 0, 9);
        plan.succeeded(seconds(0), &td("a.test"), seconds(75));
        assert_eq!(plan.take(seconds(1), &all(&["a.test", "b.test"])), []);

        let moved = relationship("a.test", "moved");
        let now = BTreeMap::from([(td("a.test"), Arc::clone(&moved))]);
        let changes = plan.take(seconds(2), &now);
        assert_eq!(changes, [Managed::Ended(td("b.test")), Managed::Changed(moved)]);
        assert_eq!(plan.due(&td("a.test")), Some(seconds(2)));
        // The end of a try of a relationship that is gone changes nothing.
        plan.succeeded(seconds(3), &td("b.test"), seconds(75));
        assert_eq!(plan.failed(seconds(3), &td("b.test")), 0);
        assert_eq!(plan.next_due(), Some(seconds(2)));
    }

    #[test]
    fn a_limit_puts_off_and_forgets_nobody() {
        let names = ["a.test", "b.test", "c.test", "d.test", "e.test"];
        let mut plan = Plan::new(Timing::default());
        plan.take(seconds(0), &all(&names));
        let mut seen = BTreeSet::new();
        for round in 0..3 {
            for name in started(&mut plan, round, 2) {
                plan.succeeded(seconds(round), &td(&name), seconds(75));
                assert!(seen.insert(name), "{seen:?}");
            }
        }
        assert_eq!(seen.len(), names.len());
    }
}
