//! Who passes the TLS handshake of the API port with a certificate.
//!
//! Owns which trust domains are believed there: the own one, and those of administrators that
//! `admin_ids` lists, each by its own bundle. Everybody else is refused before a signature is
//! looked at. What a caller may do, and whether it still is whom it was at the handshake, is asked
//! with each call.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steeple_spiffe_core::bundle::Bundle;
use steeple_spiffe_core::tls::{AcceptId, BundleSource};
use steeple_spiffe_core::{Clock, SpiffeId, TrustDomain};

/// A trust domain without a bundle is told of once in this time (SPIRE: the same): a client that is
/// refused tries again and again.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// What handshakes are judged by.
pub struct HandshakeTrust {
    trust_domain: TrustDomain,
    admin_ids: Arc<BTreeSet<SpiffeId>>,
    bundles: Arc<dyn BundleSource>,
    clock: Arc<dyn Clock>,
    /// When each trust domain of a foreign administrator was last told of; no others get in.
    warned: Mutex<BTreeMap<TrustDomain, Duration>>,
}

impl HandshakeTrust {
    /// Believes the own trust domain and those of the administrators.
    pub fn new(
        trust_domain: TrustDomain,
        admin_ids: Arc<BTreeSet<SpiffeId>>,
        bundles: Arc<dyn BundleSource>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let warned = Mutex::default();
        Arc::new(Self { trust_domain, admin_ids, bundles, clock, warned })
    }

    /// The question whether an SVID that verified is let in.
    pub fn accept(self: &Arc<Self>) -> AcceptId {
        let this = Arc::clone(self);
        Arc::new(move |id| id.is_member_of(&this.trust_domain) || this.admin_ids.contains(id))
    }

    /// Whether to say now that a foreign trust domain has no bundle.
    fn is_due(&self, trust_domain: &TrustDomain) -> bool {
        let now = self.clock.boot_time();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let last = warned.get(trust_domain);
        let is_due = last.is_none_or(|last| now.saturating_sub(*last) >= WARN_INTERVAL);
        if is_due {
            warned.insert(trust_domain.clone(), now);
        }
        is_due
    }
}

impl BundleSource for HandshakeTrust {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        let is_own = *trust_domain == self.trust_domain;
        if !is_own && !self.admin_ids.iter().any(|id| id.is_member_of(trust_domain)) {
            return None;
        }
        let found = self.bundles.bundle(trust_domain);
        if found.is_none() && !is_own && self.is_due(trust_domain) {
            tracing::warn!(
                %trust_domain,
                subsystem_name = "endpoints",
                "No bundle found for foreign admin trust domain: its administrators cannot connect until it \
                 is federated or its bundle is set by \"bundle set\""
            );
        }
        found
    }
}

impl fmt::Debug for HandshakeTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeTrust").field("admin_ids", &self.admin_ids).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::Timestamp;

    use super::*;

    /// Every trust domain but one has a bundle.
    #[derive(Debug)]
    struct AllBut(&'static str);

    impl BundleSource for AllBut {
        fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
            let has = trust_domain.as_str() != self.0;
            has.then(|| Arc::new(Bundle::empty(trust_domain.clone())))
        }
    }

    /// A boot time that is moved by hand.
    #[derive(Debug, Default)]
    struct Boot(Mutex<Duration>);

    impl Clock for Boot {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn boot_time(&self) -> Duration {
            *self.0.lock().unwrap()
        }
    }

    fn trust(clock: Arc<Boot>) -> Arc<HandshakeTrust> {
        let listed = ["spiffe://foo.test/admin", "spiffe://bar.test/admin", "spiffe://gone.test/a"];
        let listed = listed.iter().map(|id| id.parse().unwrap()).collect();
        let foo = TrustDomain::parse("foo.test").unwrap();
        HandshakeTrust::new(foo, Arc::new(listed), Arc::new(AllBut("gone.test")), clock)
    }

    #[test]
    fn the_own_trust_domain_and_listed_administrators_pass_and_nobody_else() {
        let trust = trust(Arc::default());
        let accept = trust.accept();
        for (id, passes) in [
            ("spiffe://foo.test/admin", true),
            ("spiffe://foo.test/any", true),
            ("spiffe://foo.test/spire/agent/x", true),
            ("spiffe://bar.test/admin", true),
            ("spiffe://bar.test/admin/more", false),
            ("spiffe://bar.test/spire/agent/x", false),
            ("spiffe://bar.test/spire/server", false),
            ("spiffe://other.test/admin", false),
        ] {
            assert_eq!(accept(&id.parse().unwrap()), passes, "{id}");
        }
        for (name, believed) in
            [("foo.test", true), ("bar.test", true), ("gone.test", false), ("other.test", false)]
        {
            let found = trust.bundle(&TrustDomain::parse(name).unwrap());
            assert_eq!(found.is_some(), believed, "{name}");
        }
    }

    #[test]
    fn a_missing_bundle_is_told_of_once_a_minute_for_trust_domains_of_administrators_alone() {
        let clock = Arc::<Boot>::default();
        let trust = trust(Arc::clone(&clock));
        let gone = TrustDomain::parse("gone.test").unwrap();
        let told = |trust_domain: &TrustDomain| {
            trust.bundle(trust_domain);
            trust.warned.lock().unwrap().get(trust_domain).copied()
        };
        let s = Duration::from_secs;
        for (now, last) in [(0, 0), (1, 0), (59, 0), (60, 60), (119, 60), (300, 300)] {
            *clock.0.lock().unwrap() = s(now);
            assert_eq!(told(&gone), Some(s(last)), "after {now} s");
        }
        assert_eq!(told(&TrustDomain::parse("other.test").unwrap()), None, "a stranger's");
        assert_eq!(told(&TrustDomain::parse("bar.test").unwrap()), None, "it has one");
    }
}
