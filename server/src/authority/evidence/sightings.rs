//! Which bundle each agent was given last by this replica, and when.
//!
//! Owns the memory of it: 32 bytes an agent and one copy of each bundle that is still the last of
//! someone. Agents that are gone from the registry are forgotten before they outnumber the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use steeple_spiffe_core::SpiffeId;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::bundle::Bundle;

use crate::authority::chained::leads_to;

/// An agent, as members speak of it to each other: a hash of its id. Two agents with one mark would need
/// billions of agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::authority) struct Mark(pub(super) u64);

impl Mark {
    /// The mark of an agent.
    pub(super) fn of(agent: &SpiffeId) -> Self {
        let hash = digest::digest(&digest::SHA256, agent.to_string().as_bytes());
        let first = hash.as_ref().first_chunk::<8>();
        Self(first.map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }
}

/// What agents were given. Shared by the services that give it.
#[derive(Clone, Debug, Default)]
pub(in crate::authority) struct Sightings {
    last: Arc<Mutex<HashMap<Mark, Given>>>,
}

#[derive(Debug)]
struct Given {
    bundle: Arc<Bundle>,
    /// Boot time.
    at: Duration,
}

impl Sightings {
    /// An agent is given the bundle of its own trust domain; `at` is the boot time before it was looked up.
    pub(in crate::authority) fn given(&self, agent: &SpiffeId, bundle: &Arc<Bundle>, at: Duration) {
        let given = || Given { bundle: Arc::clone(bundle), at };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.entry(Mark::of(agent)).or_insert_with(given);
        if known.bundle.sequence_number <= bundle.sequence_number {
            *known = given();
        }
    }

    /// The agents whose last bundle holds an authority, with the boot time when they were given it.
    pub(super) fn with(&self, authority: &Authority) -> BTreeMap<Mark, Duration> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Many agents have the same bundle: it is looked into once.
        let mut judged: HashMap<*const Bundle, bool> = HashMap::new();
        let mut has = |bundle: &Arc<Bundle>| {
            *judged.entry(Arc::as_ptr(bundle)).or_insert_with(|| holds(bundle, authority))
        };
        let with = last.iter().filter(|(_, given)| has(&given.bundle));
        with.map(|(mark, given)| (*mark, given.at)).collect()
    }

    /// How many agents are remembered.
    pub(super) fn count(&self) -> usize {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets agents that are not among those that exist.
    pub(super) fn keep(&self, existing: &BTreeSet<Mark>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|mark, _| existing.contains(mark));
    }
}

/// Whether who has the bundle verifies what the authority signs: it holds the authority itself or, of one
/// that an upstream signed, an authority that its chain ends below.
fn holds(bundle: &Bundle, authority: &Authority) -> bool {
    match authority.kind {
        AuthorityKind::Jwt => {
            bundle.jwt_authorities.iter().any(|key| key.key_id == authority.id.as_str())
        }
        AuthorityKind::X509 => {
            let roots = &bundle.x509_authorities;
            match authority.upstream_chain.last() {
                None => roots.iter().any(|root| root.certificate_der == authority.public_der),
                Some(last) => leads_to(last, roots),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use steeple_spiffe_core::TrustDomain;
    use steeple_spiffe_core::bundle::{JwtAuthority, X509Authority};

    use super::super::report::tests::authority;
    use super::*;

    fn agent(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://example.org/spire/agent/{name}")).unwrap()
    }

    fn bundle(sequence_number: u64, x509: &[&str], jwt: &[&str]) -> Arc<Bundle> {
        let x509 = x509.iter().map(|name| X509Authority {
            certificate_der: name.as_bytes().to_vec(),
            tainted: false,
        });
        let jwt = jwt.iter().map(|name| JwtAuthority {
            key_id: (*name).to_owned(),
            public_key_der: Vec::new(),
            expires_at: None,
            tainted: false,
        });
        Arc::new(Bundle {
            x509_authorities: x509.collect(),
            jwt_authorities: jwt.collect(),
            sequence_number,
            ..Bundle::empty(TrustDomain::parse("example.org").unwrap())
        })
    }

    #[test]
    fn an_agent_has_what_its_newest_bundle_holds() {
        let sightings = Sightings::default();
        let (new, old) = (bundle(2, &["a", "b"], &["k"]), bundle(1, &["a"], &[]));
        let second = Duration::from_secs;
        sightings.given(&agent("one"), &old, second(1));
        sightings.given(&agent("two"), &new, second(2));
        sightings.given(&agent("two"), &old, second(3));
        let with = |kind, name| sightings.with(&authority(kind, name));
        let marks = |given: &[(&str, u64)]| {
            given.iter().map(|(name, at)| (Mark::of(&agent(name)), second(*at))).collect()
        };
        assert_eq!(with(AuthorityKind::X509, "a"), marks(&[("one", 1), ("two", 2)]));
        assert_eq!(
            with(AuthorityKind::X509, "b"),
            marks(&[("two", 2)]),
            "an older answer came late"
        );
        assert_eq!(with(AuthorityKind::Jwt, "k"), marks(&[("two", 2)]));
        assert_eq!(with(AuthorityKind::Jwt, "b"), marks(&[]), "of the other kind");
        sightings.given(&agent("one"), &new, second(4));
        sightings.given(&agent("two"), &new, second(5));
        assert_eq!(with(AuthorityKind::X509, "b"), marks(&[("one", 4), ("two", 5)]));
    }

    #[test]
    fn agents_that_are_gone_are_forgotten() {
        let sightings = Sightings::default();
        let bundle = bundle(1, &["a"], &[]);
        for name in ["one", "two", "three"] {
            sightings.given(&agent(name), &bundle, Duration::ZERO);
        }
        assert_eq!(sightings.count(), 3);
        sightings.keep(&BTreeSet::from([Mark::of(&agent("one")), Mark::of(&agent("new"))]));
        assert_eq!(sightings.count(), 1);
    }
}
