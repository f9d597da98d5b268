//! Which bundle each agent was given last by this replica, when, and which of these it has applied.
//!
//! Owns the memory of it: some 80 bytes an agent and one copy of each bundle that is still the last of
//! someone. Agents that are gone from the registry are forgotten before they outnumber the others.
//!
//! An agent of ours gets a receipt with each answer and gives it back when workloads get what was in it.
//! It names one answer to one agent, so nothing else can be acknowledged than what was given; and the
//! time that counts is the answer's, not that of the acknowledgement, which may arrive much later.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use steeple_spiffe_core::SpiffeId;
use steeple_spiffe_core::authority::{Authority, AuthorityKind};
use steeple_spiffe_core::bundle::Bundle;

use crate::authority::chained::leads_to;
use crate::mutants::{self, Mutant};

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
    last: Arc<Mutex<HashMap<Mark, Seen>>>,
}

#[derive(Clone, Debug)]
struct Given {
    bundle: Arc<Bundle>,
    /// Boot time.
    at: Duration,
}

#[derive(Debug)]
struct Seen {
    given: Given,
    /// Stands for what was given; `None`: the agent does not acknowledge.
    receipt: Option<u64>,
    /// What it has acknowledged last.
    applied: Option<Given>,
}

impl Seen {
    /// What the agent is taken to have: of one that acknowledges nothing else counts.
    fn has(&self) -> Option<&Given> {
        if mutants::on(Mutant::AnsweredIsApplied) || self.receipt.is_none() {
            return Some(&self.given);
        }
        self.applied.as_ref()
    }
}

impl Sightings {
    /// An agent is given the bundle of its own trust domain; `at` is the boot time before it was looked up.
    /// An agent that acknowledges is told the receipt with it.
    pub(in crate::authority) fn given(
        &self,
        agent: &SpiffeId,
        bundle: &Arc<Bundle>,
        at: Duration,
        receipt: Option<u64>,
    ) {
        let given = Given { bundle: Arc::clone(bundle), at };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.entry(Mark::of(agent)) {
            Entry::Vacant(place) => {
                place.insert(Seen { given, receipt, applied: None });
            }
            Entry::Occupied(mut place) => {
                let seen = place.get_mut();
                if seen.given.bundle.sequence_number <= bundle.sequence_number {
                    (seen.given, seen.receipt) = (given, receipt);
                }
            }
        }
    }

    /// An agent has applied what it was given with this receipt. What it was not given last by this
    /// replica says nothing.
    pub(in crate::authority) fn applied(&self, agent: &SpiffeId, receipt: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = last.get_mut(&Mark::of(agent));
        if let Some(seen) = seen.filter(|seen| seen.receipt == Some(receipt)) {
            seen.applied = Some(seen.given.clone());
        }
    }

    /// The agents that have a bundle with an authority, with the boot time when they were given it.
    pub(super) fn with(&self, authority: &Authority) -> BTreeMap<Mark, Duration> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Many agents have the same bundle: it is looked into once.
        let mut judged: HashMap<*const Bundle, bool> = HashMap::new();
        let mut has = |bundle: &Arc<Bundle>| {
            *judged.entry(Arc::as_ptr(bundle)).or_insert_with(|| holds(bundle, authority))
        };
        let known = last.iter().filter_map(|(mark, seen)| Some((mark, seen.has()?)));
        let with = known.filter(|(_, given)| has(&given.bundle));
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
        AuthorityKind::Jwt | AuthorityKind::Wit => {
            let mut keys = bundle.keys(authority.kind).iter();
            keys.any(|key| key.key_id == authority.id.as_str())
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
        sightings.given(&agent("one"), &old, second(1), None);
        sightings.given(&agent("two"), &new, second(2), None);
        sightings.given(&agent("two"), &old, second(3), None);
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
        sightings.given(&agent("one"), &new, second(4), None);
        sightings.given(&agent("two"), &new, second(5), None);
        assert_eq!(with(AuthorityKind::X509, "b"), marks(&[("one", 4), ("two", 5)]));
    }

    #[test]
    fn an_agent_that_acknowledges_has_what_it_acknowledged_and_no_more() {
        let sightings = Sightings::default();
        let (old, new) = (bundle(1, &["a"], &[]), bundle(2, &["a", "b"], &[]));
        let second = Duration::from_secs;
        let [ours, stock] = ["ours", "stock"].map(agent);
        let has = |name| {
            let with = sightings.with(&authority(AuthorityKind::X509, name));
            [&ours, &stock].map(|one| with.get(&Mark::of(one)).map(Duration::as_secs))
        };
        sightings.given(&ours, &old, second(1), Some(11));
        sightings.applied(&ours, 11);
        sightings.given(&stock, &new, second(2), None);
        sightings.given(&ours, &new, second(3), Some(12));
        assert_eq!(has("a"), [Some(1), Some(2)]);
        assert_eq!(has("b"), [None, Some(2)], "answered is not applied");
        sightings.applied(&ours, 11);
        sightings.applied(&ours, 0);
        sightings.applied(&stock, 12);
        assert_eq!(has("b"), [None, Some(2)], "of an older answer, of none, of another agent's");
        sightings.applied(&ours, 12);
        assert_eq!(has("b"), [Some(3), Some(2)], "by the time of the answer");

        // The same bundle again: what counts is the last answer that was acknowledged.
        sightings.given(&ours, &new, second(5), Some(13));
        assert_eq!(has("b"), [Some(3), Some(2)]);
        sightings.applied(&ours, 13);
        assert_eq!(has("b"), [Some(5), Some(2)]);

        // It is put back to a release that does not acknowledge, and upgraded again.
        sightings.given(&ours, &new, second(6), None);
        assert_eq!(has("b"), [Some(6), Some(2)]);
        sightings.given(&ours, &bundle(3, &["a", "b", "c"], &[]), second(7), Some(14));
        assert_eq!((has("b"), has("c")), ([Some(5), Some(2)], [None, None]));
    }

    #[test]
    fn nobody_is_remembered_for_an_acknowledgement() {
        let sightings = Sightings::default();
        sightings.applied(&agent("unseen"), 1);
        assert_eq!(sightings.count(), 0);
    }

    #[test]
    fn agents_that_are_gone_are_forgotten() {
        let sightings = Sightings::default();
        let bundle = bundle(1, &["a"], &[]);
        for name in ["one", "two", "three"] {
            sightings.given(&agent(name), &bundle, Duration::ZERO, None);
        }
        assert_eq!(sightings.count(), 3);
        sightings.keep(&BTreeSet::from([Mark::of(&agent("one")), Mark::of(&agent("new"))]));
        assert_eq!(sightings.count(), 1);
    }
}
